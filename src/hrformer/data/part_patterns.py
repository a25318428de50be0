"""What people and tools call the parts of a set in the names of files and folders, and the files that a name means."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from pathlib import Path, PurePath

from hrformer.data.set_types import DataError
from hrformer.data.source_config import Split

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
    seen = {*map(str, Path(os.path.realpath(top)).parents)}
    for place, folders, files in os.walk(top, followlinks=True, onerror=onerror):
        here = os.path.realpath(place)
        if here in seen:
            folders.clear()
            continue
        seen.add(here)
        # What lies here comes before links to it.
        folders.sort(key=lambda name, place=place: (os.path.islink(os.path.join(place, name)), name))  # type: ignore[misc]
        yield place, folders, files


def part_files(root: Path, part: str, suffixes: Sequence[str]) -> list[Path]:
    """Find the files of a part, sorted by name unless a brace pattern gives an order.

    Args:
        root: folder of the set.
        part: relative to ``root``: a folder, whose files with these suffixes are meant; a file or a pattern with
            ``*``, ``?``, ``[...]``, ``{000..146}`` (a range with its zeros) or ``{a,b}``; or a word, which must stand
            by itself in the names of files in ``root`` or ``root/data``: "train" finds
            ``data/train-00000-of-00004.parquet``.
        suffixes: endings with the dot.

    Raises:
        DataError: there is none, or a file that the pattern names is missing.
    """
    if (root / part).is_dir():
        found = _with_suffix(root / part, suffixes)
    elif re.search(r"[{}*?\[\]]", part) or part.endswith(tuple(suffixes)):
        found = []
        for pattern in expand_braces(part):
            if re.search(r"[*?\[]", pattern):
                found += sorted(path for path in root.glob(pattern) if path.is_file())
            elif not (root / pattern).is_file():
                raise DataError(f"{root / pattern}: no such file")
            else:
                found.append(root / pattern)
    else:
        word = re.compile(rf"(?<![0-9A-Za-z]){re.escape(part)}(?![0-9A-Za-z])")
        candidates = [*_with_suffix(root, suffixes), *_with_suffix(root / "data", suffixes)]
        found = [path for path in candidates if word.search(path.stem)]
    if not found:
        endings = " or ".join(suffixes)
        raise DataError(
            f"{root}: no {endings} files for {part!r}; there must be a folder of that name, {endings} files with "
            f"{part!r} in their names, or a pattern such as {part + '-{000..146}' + suffixes[0]!r}"
        )
    return found


def expand_braces(pattern: str) -> list[str]:
    """All strings that a pattern with ``{000..146}`` and ``{a,b}`` stands for, in order, as a shell would.

    Raises:
        DataError: a brace is not closed, or a range runs backwards.
    """
    pieces = re.split(r"\{([^{}]*)\}", pattern)
    if re.search("[{}]", "".join(pieces[::2])):
        raise DataError(f"{pattern!r}: the braces do not pair up; write {{000..146}} or {{a,b}}")
    choices = [[text] for text in pieces]
    for place in range(1, len(pieces), 2):
        choices[place] = pieces[place].split(",")
        if limits := re.fullmatch(r"(\d+)\.\.(\d+)", pieces[place]):
            first, last = int(limits[1]), int(limits[2])
            if last < first:
                raise DataError(f"{pattern!r}: the range {{{pieces[place]}}} runs backwards")
            choices[place] = [str(number).zfill(len(limits[1])) for number in range(first, last + 1)]
    return ["".join(chosen) for chosen in product(*choices)]


def _with_suffix(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted(path for path in found if path.suffix in suffixes and path.is_file())
