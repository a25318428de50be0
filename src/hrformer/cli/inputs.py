"""From what the user typed to a list of pictures, and a name for each one's results."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from hrformer.data.images import SUFFIXES, is_url, is_web
from hrformer.data.picture_lists import MANIFEST, find_pictures, manifest_rows

_LONGEST = 100  # Bytes of a name, or of its folder's name before it; file systems allow 255 for all


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """Pictures to work on."""

    # paths and URLs, each once, in the order given; those of folders and patterns sorted by name
    files: list[str] = field(default_factory=list)
    # arguments that led to no picture, and entries of folders that cannot be read, with the reason
    missing: dict[str, str] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)  # files in folders whose endings are not those of pictures


def expand(arguments: Iterable[str], out: Path) -> Inputs:
    """List the pictures behind files, folders, glob patterns, addresses and manifests.

    What is found in the pictures/ and masks/ of ``out``, the folder of results, is no input to a second run.
    """
    inputs, seen = Inputs(), set()
    for argument in arguments:
        files, reason = _pictures_of(argument, out.resolve(), inputs)
        if not files:
            inputs.missing.setdefault(argument, reason)
        for file in files:
            identity = file if is_url(file) else os.path.abspath(file)
            if identity not in seen:
                seen.add(identity)
                inputs.files.append(file)
    return inputs


class OutputNames:
    """Hands out file names without suffix, none ``taken`` and no two alike, even where case does not count."""

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self._taken = {name.casefold() for name in taken}

    def choose(self, source: str) -> str:
        """Stem of the source; with its folder's name before it if that is taken; with a number if both are."""
        try:
            path = PurePosixPath(unquote(urlsplit(source).path)) if is_url(source) else Path(source).absolute()
        except ValueError:  # the download will say what is wrong with the address
            path = PurePosixPath()
        stem = _safe(path.stem) or "picture"
        name = stem
        if name.casefold() in self._taken and path.parent.name:
            name = f"{_safe(path.parent.name)}_{stem}"
        base, number = name, 2
        while name.casefold() in self._taken:
            name, number = f"{base}_{number}", number + 1
        self._taken.add(name.casefold())
        return name


def _pictures_of(argument: str, out: Path, inputs: Inputs) -> tuple[list[str], str]:
    """Pictures and, in case there are none, why."""
    if is_web(argument) and not argument.lower().endswith(MANIFEST):
        return [argument], ""
    if argument.lower().endswith(MANIFEST):
        rows = [file for some in manifest_rows(argument) for file in some]
        return [file for file in rows if file], "no path in any row of this manifest"
    if is_url(argument):
        try:
            return find_pictures(argument), "no pictures at this address"
        except OSError as error:
            return [], getattr(error, "strerror", None) or str(error)
    path = Path(argument).expanduser()
    if os.path.isdir(path):
        return _pictures_in(path, out, inputs), "no pictures in this folder"
    if os.path.exists(path):
        return [str(path)], ""
    if not glob.has_magic(argument):
        try:
            path.stat()
        except FileNotFoundError:
            return [], "no such file or folder"
        except (OSError, ValueError) as error:
            return [], getattr(error, "strerror", None) or str(error)
        return [], "cannot be opened"
    files: list[str] = []
    for found in sorted(glob.glob(str(path), recursive=True)):
        if os.path.isdir(found):
            files += _pictures_in(Path(found), out, inputs)
        # A pattern with a plain suffix of its own is taken at its word: '*.dat' means those files.
        elif Path(found).suffix.lower() in SUFFIXES or Path(found).suffix == path.suffix:
            files += [found] if not _is_result(Path(found), out) else []
    return files, "no picture matches this pattern"


def _pictures_in(folder: Path, out: Path, inputs: Inputs) -> list[str]:
    """Pictures of a folder and those in it, sorted; what is passed over is noted in ``inputs``."""

    def unreadable(error: OSError) -> None:
        inputs.missing[str(error.filename)] = error.strerror or str(error)

    found: list[Path] = []
    for place, folders, files in os.walk(folder, onerror=unreadable):
        for name in folders:
            if os.path.islink(link := os.path.join(place, name)):
                inputs.missing[link] = "a link to a folder; give the folder itself to have it searched"
        for entry in (Path(place, name) for name in files):
            if _is_result(entry, out):
                continue
            if entry.suffix.lower() in SUFFIXES:
                found.append(entry)
            elif os.path.exists(entry) and not os.path.isfile(entry):
                inputs.missing[str(entry)] = "is a pipe, socket or device"
            elif os.path.islink(entry) and not os.path.exists(entry):
                inputs.missing[str(entry)] = "a link that leads nowhere"
            elif os.path.realpath(place) != str(out):
                inputs.left_out.append(str(entry))
    return [str(file) for file in sorted(found)]


def _is_result(file: Path, out: Path) -> bool:
    return not {out / "pictures", out / "masks"}.isdisjoint(Path(os.path.realpath(file)).parents)


def _safe(name: str) -> str:
    """Without the characters that some file system forbids, and short enough for a suffix and a temporary name."""
    allowed = re.sub(r'[\\/:*?"<>|\x00-\x1f]', "_", name)
    return os.fsdecode(os.fsencode(allowed)[:_LONGEST]).strip(" .")
