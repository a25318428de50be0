"""What people and tools call the parts of a set in the names of files and folders."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path, PurePath

from hrformer.data.sources import Split

WORDS: dict[Split, tuple[str, ...]] = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
"""Of each part, in lower case; they are recognised in any."""

PICTURE_WORDS = frozenset("image images img imgs picture pictures photo photos rgb".split())
"""By which a folder says that it holds pictures."""

MASK_WORDS = frozenset(
    "mask masks label labels lbl annotation annotations annot ann anns gt groundtruth seg segmentation "
    "segmentations target targets".split()
)
"""By which a folder or file says that it holds labels."""

ROBOFLOW_MARK = re.compile(r"(_[A-Za-z]{3,4})?\.rf\.[0-9A-Za-z]+(?=\.\w+$)")
"""What Roboflow puts into the name of each copy that it exports: "x.jpg" becomes "x_jpg.rf.0a1b2c3d.jpg"."""

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")


def words_of(name: str) -> list[str]:
    """Words of a name in lower case: "person_keypoints_Train2017" has "person", "keypoints" and "train"."""
    return [word.lower() for word in _WORD.findall(name)]


def part_of(path: str | PurePath) -> Split | None:
    """The part that a relative path speaks of; None where it names none, or several at once.

    The last component that has such a word decides: ``train/val.json`` is of the validation part.
    """
    for component in reversed(PurePath(path).parts):
        said = {part for part, words in WORDS.items() if not {*words}.isdisjoint(words_of(component))}
        if said:
            return said.pop() if len(said) == 1 else None
    return None


def folders_in(folder: Path, depth: int = 1) -> Iterator[Path]:
    """Folders in a folder, in those of it and so on, sorted by name; hidden ones do not count."""
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir())
    except OSError:
        return
    for name in names:
        yield folder / name
        if depth > 1:
            yield from folders_in(folder / name, depth - 1)


def walked(
    top: str | Path, onerror: Callable[[OSError], object] | None = None
) -> Iterator[tuple[str, list[str], list[str]]]:
    """What ``os.walk`` gives, with links followed but each folder visited once: links may lead back.

    Folders above ``top`` are not visited either. Taking names out of the second list keeps these from being visited.
    """
    real = Path(os.path.realpath(top))
    seen = {*map(str, real.parents)}
    for place, folders, files in os.walk(top, followlinks=True, onerror=onerror):
        here = os.path.realpath(place)
        if here in seen:
            folders.clear()
            continue
        seen.add(here)
        # What lies here comes before links to it.
        folders.sort(key=lambda name, place=place: (os.path.islink(os.path.join(place, name)), name))  # type: ignore[misc]
        yield place, folders, files
