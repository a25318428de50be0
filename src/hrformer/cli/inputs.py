"""From what the user typed to a list of pictures, and a name for each one's results."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from hrformer.predict.images import SUFFIXES


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """Pictures to work on.

    Attributes:
        files: paths and URLs, each once, in the order given; folders and patterns sorted by name.
        missing: what led to no picture, with the reason.
    """

    files: list[str] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)


def expand(arguments: Iterable[str], out: Path) -> Inputs:
    """List the pictures behind files, folders, glob patterns and URLs.

    Args:
        arguments: as typed.
        out: folder of results; nothing inside it counts as input, so that a second run does not read the first's.
    """
    inputs, seen = Inputs(), set()
    for argument in arguments:
        found = list(_pictures_of(argument, out))
        if isinstance(found[0] if found else None, LookupError):
            inputs.missing[argument] = str(found[0])
            continue
        for file in found:
            key = file if _is_url(str(file)) else str(Path(str(file)).resolve())
            if key not in seen:
                seen.add(key)
                inputs.files.append(str(file))
    return inputs
