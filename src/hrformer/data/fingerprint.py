"""What a set consists of, in a few kilobytes: enough to see later that files came, went or changed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hrformer.data.set_types import ClassificationSet, ImageSet, PoseSet, SegmentationSet
from hrformer.wording import counted, listed

NAMED = 2000
"""Up to so many files each is remembered; of larger sets all names together, and so many files spread over them."""

_END = 1 << 16

Fingerprint = dict[str, Any]
"""JSON types: "count" of the files, "names" (digest of all), "labels" (digest), "files" (digest by name)."""


def fingerprint(source: ImageSet, roots: Sequence[Path]) -> Fingerprint:
    """Names, relative to the folders ``roots``, contents and labels of a set.

    Files of more than 128 KB count by their size and both ends. Where the set lies and when its files were written
    changes nothing.
    """
    paths = _files(source)
    names = [relative_name(path, roots) for path in paths]
    step = max(-(-len(paths) // NAMED), 1)
    files = {name: _content(path) for name, path in zip(names[::step], paths[::step], strict=True)}
    return {
        "count": len(paths),
        "names": _digest(name.encode("utf-8", "surrogateescape") for name in names),
        "labels": _digest(_labels(source)),
        "files": files,
    }


def changes(before: Mapping[str, Any], now: Mapping[str, Any], ignored: Collection[str] = ()) -> str:
    """How a set differs from what it was, in a few words; empty if it does not.

    Files whose names are ``ignored`` may have changed, since they are left out; they must still be there.
    """
    old, new = before["files"], now["files"]
    all_named = max(before["count"], now["count"]) <= NAMED
    other = sorted(name for name in old.keys() & new.keys() if old[name] != new[name])
    # Labels may still name a file that is gone.
    gone = [name for name in other if not new[name]]
    groups = {
        "added": sorted(new.keys() - old.keys()) if all_named else [],
        "removed": sorted({*gone, *(old.keys() - new.keys() if all_named else ())}),
        "changed": [name for name in other if name not in gone and name not in ignored],
    }
    texts = [f"{counted(len(names), 'file')} {how} ({listed(names, 3)})" for how, names in groups.items() if names]
    if not all_named and before["names"] != now["names"]:
        texts.append(f"files added, removed or renamed ({before['count']} before, {now['count']} now)")
    if before["labels"] != now["labels"]:
        texts.append("labels changed")
    return ", ".join(texts)


def _files(source: ImageSet) -> list[str]:
    """Pictures and mask files once each, in the order of the set; of members of an archive the archive."""
    found: dict[str, None] = {}
    for index in range(len(source)):
        found.setdefault(source.file(index).partition("::")[0])
        if isinstance(source, SegmentationSet) and source.labelled:
            mask = source.mask_file(index).partition("::")[0]
            if os.path.isfile(mask):
                found.setdefault(mask)
    return list(found)


def _labels(source: ImageSet) -> Iterable[bytes]:
    """Everything that training reads beside pixels and mask files."""
    if isinstance(source, PoseSet):
        yield repr(source.skeleton.keypoints).encode()
        for index in range(len(source)):
            person = source.person(index)
            yield person.box.tobytes() + person.keypoints.tobytes() + repr(person.area).encode()
    elif isinstance(source, ClassificationSet | SegmentationSet):
        yield repr(source.classes).encode()
    if isinstance(source, ClassificationSet):
        for index in range(len(source)):
            yield source.label(index).to_bytes(4, "little")


def relative_name(path: str, roots: Sequence[Path]) -> str:
    """A file's name in a fingerprint: relative to the root that holds it."""
    for number, root in enumerate(roots):
        prefix = os.path.join(os.fspath(root), "")
        if path.startswith(prefix):
            return f"{number}/" * (number > 0) + path[len(prefix) :]
    return os.path.basename(path)


def _content(path: str) -> str:
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(_END)
            file.seek(max(size - _END, len(start)))
            return _digest([str(size).encode(), start, file.read(_END)])
    except OSError:
        return ""


def _digest(parts: Iterable[bytes]) -> str:
    whole = hashlib.blake2b(digest_size=8)
    for part in parts:
        whole.update(part)
        whole.update(b"\0")
    return whole.hexdigest()
