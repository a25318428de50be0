"""Sets of picture files with mask files beside them, and what their readers share: finding folders, pairing by name."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from hrformer.data.class_names import Palette
from hrformer.data.images import SUFFIXES, load_image, unread_below, unread_text
from hrformer.data.mask_reading import MASK_SUFFIXES, MaskTable, read_mask, size_of_mask
from hrformer.data.part_patterns import walked
from hrformer.data.set_types import DataError, PackedNames, SegmentationSet
from hrformer.data.source_config import Exif, SegmentationSource, Split
from hrformer.data.turned_masks import Turns, turns_of
from hrformer.geometry.orientation import UPRIGHT, upright_pixels
from hrformer.wording import counted, listed

Pairs: TypeAlias = "tuple[list[Path], list[Path] | None]"
"""Pictures and their masks in the same order; no masks for a part without labels."""

_log = logging.getLogger(__name__)


class PictureFiles(SegmentationSet):
    """Pictures in files, wherever their masks come from; readers set the two fields."""

    _pictures: PackedNames
    _upright: bool

    def __len__(self) -> int:
        return len(self._pictures)

    def file(self, index: int) -> str:
        return self._pictures[index]

    def pixels(self, index: int) -> NDArray[np.uint8]:
        return load_image(self._pictures[index], upright=self._upright).pixels


class MaskFiles(PictureFiles):
    """Pictures in files, each with a mask in a file, unless the part has no labels.

    Args:
        name: of the set.
        classes: names, in the order of the class numbers; ``palette`` has an RGB colour for each, or is empty.
        files: pictures, in the order of the items, and their masks; None for a part without labels.
        table: what the ids or colours in the masks mean.
        exif: what to do about turned pictures, see :func:`hrformer.data.turned_masks.turns_of`; None where it is known
            that there are none.
    """

    def __init__(
        self, name: str, classes: tuple[str, ...], palette: Palette, files: Pairs, table: MaskTable, exif: Exif | None
    ) -> None:
        self.name, self.classes, self.palette = name, classes, palette
        pictures, masks = files
        self.labelled = masks is not None
        self._pictures, self._masks = PackedNames(map(str, pictures)), PackedNames(map(str, masks or ()))
        self._table = table
        self._upright = exif != "ignore"
        self._turns = turns_of(pictures, lambda place: size_of_mask(masks[place]), exif) if exif and masks else Turns()
        self.notes = self._turns.notes
        for note in self.notes:
            _log.warning("%s", note.text)

    def mask(self, index: int) -> NDArray[np.uint8]:
        if not self.labelled:
            raise DataError(f"{self.file(index)}: this part of {self.name} has no masks")
        mask = read_mask(Path(self._masks[index]), self._table)
        turn = self._turns.of(index, self._pictures[index], (mask.shape[1], mask.shape[0]))
        return mask if turn == UPRIGHT else upright_pixels(mask, turn)

    def mask_file(self, index: int) -> str:
        return self._masks[index] if self.labelled else self.file(index)


def part_name(source: SegmentationSource, split: Split) -> str:
    """What a source calls a part; a ``DataError`` if it names none."""
    if name := getattr(source, split):
        return str(name)
    missing = f"the source names no {split} part; set SegmentationSource.{split} to what it is called there"
    raise DataError(f"{source.root}: {missing}")


def find_folder(
    root: Path, candidates: Sequence[str], what: str, layout: str, raising: type[DataError] = DataError
) -> Path:
    """The first of several folders, relative to the root of a set, that exists.

    The message says ``what`` is looked for, and the ``layout`` that the set should have.

    Raises:
        DataError: there is none; the message says what is there instead. Or another kind of error, ``raising``.
    """
    for candidate in candidates:
        if (root / candidate).is_dir():
            return root / candidate
    first = root / candidates[0]
    place = next(folder for folder in (first, *first.parents) if folder == root or folder.is_dir())
    folders = f"folder{'s' if len(candidates) > 1 else ''} {' and '.join(candidates)}"
    raise raising(
        f"{root}: no {what} here; looked for the {folders}, found {_contents(place)} in {place}. "
        f"Expected layout: {layout}{_unread(root)}"
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class NamedFiles:
    """Files of one kind, "picture" or "mask", in a folder or in folders below it.

    ``files`` are by their paths in the folder without suffix, and without what all such names have at their end.
    """

    what: str
    folder: Path
    files: dict[str, Path]

    def example(self) -> str:
        """Name of the first file."""
        return next(iter(self.files.values())).name if self.files else "nothing"


def pictures_below(folder: Path, ending: str = "") -> NamedFiles:
    """Pictures of a folder and the folders in it whose names have an ending before the suffix.

    Raises:
        DataError: there are none, or two have one name.
    """
    found, unread = _files_below(folder, SUFFIXES, ending), unread_text(unread_below(folder))
    if unread and not found:
        raise DataError(f"{folder}: no pictures here that can be read. {unread}")
    if unread:
        _log.warning("left out %s", unread)
    return _some("picture", folder, found, SUFFIXES)


def masks_below(folder: Path) -> NamedFiles:
    """Masks of a folder and the folders in it.

    Raises:
        DataError: there are none, or two have one name.
    """
    found = _files_below(folder, MASK_SUFFIXES)
    if not found and (jpegs := _files_below(folder, (".jpg", ".jpeg"))):
        raise DataError(
            f"{next(iter(jpegs.values()))}: JPEG changes values and colours, so it cannot hold a mask, and there are "
            "no masks here of another format; save them as PNG from the tool that drew them"
        )
    return _some("mask", folder, found, MASK_SUFFIXES)


def paired(pictures: NamedFiles, masks: NamedFiles, *, skip_broken: bool) -> Pairs:
    """Pictures and masks of equal name, in the order of the names.

    With ``skip_broken`` masks without a picture are left out, with a warning, and the masks that pictures lack are
    named all the same: whoever looks for files that cannot be read finds them.

    Raises:
        DataError: a picture has no mask, or a mask no picture.
    """
    if not skip_broken or pictures.files.keys().isdisjoint(masks.files):
        _require_all(pictures, masks)
        _require_all(masks, pictures)
    elif alone := sorted(masks.files.keys() - pictures.files.keys()):
        # Often those of the other part, which has its masks in the same folder.
        what, first = counted(len(alone), "mask"), masks.files[alone[0]]
        _log.warning("left out %s without a picture of its name in %s, such as %s", what, pictures.folder, first)
    names = sorted(pictures.files)
    labels = [masks.files.get(name, masks.folder / f"{name}.png") for name in names]
    return [pictures.files[name] for name in names], labels


def _require_all(ours: NamedFiles, others: NamedFiles) -> None:
    """Refuse files without one of the same name among the others."""
    alone = sorted(ours.files.keys() - others.files.keys())
    if not alone:
        return
    what, other, name = ours.what, others.what, alone[0]
    raise DataError(
        f"{ours.files[name]}: this {what} has no {other}: no file of the name {name} in {others.folder}, which holds "
        f"{counted(len(others.files), other)} such as {others.example()}; {len(alone)} of "
        f"{counted(len(ours.files), what)} in {ours.folder} without one. A {what} and its {other} must have the same "
        f"name but for the ending{_unread(others.folder, name)}; SegmentationSource.skip_broken leaves out what is "
        "alone"
    )


def names_in(path: Path) -> list[str]:
    """First word of every line of a list file, without the ending of a picture or mask.

    Raises:
        DataError: it cannot be read, is empty, or a name comes twice.
    """
    try:
        words = [line.split()[0] for line in path.read_text("utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        reason, beside = getattr(error, "strerror", None) or error, _contents(path.parent)
        raise DataError(f"{path}: {reason}; a list has one name per line. Beside it: {beside}") from error
    if not words:
        raise DataError(f"{path}: the list is empty")
    split = (os.path.splitext(word) for word in words)
    names = [stem if suffix.lower() in SUFFIXES else stem + suffix for stem, suffix in split]
    name, count = Counter(names).most_common(1)[0]
    if count > 1:
        raise DataError(f"{path}: {name} is listed twice")
    return names


def files_of_list(names: Sequence[str], found: NamedFiles, origin: Path, *, skip_broken: bool) -> list[Path]:
    """The files that a list names, sorted by name; with ``skip_broken`` missing ones are named as in :func:`paired`.

    Raises:
        DataError: a file of the list is missing.
    """
    missing = [name for name in names if name not in found.files]
    if missing and not (skip_broken and len(missing) < len(names)):
        raise DataError(
            f"{found.folder}: the {found.what} {missing[0]}, listed in {origin}, is not here, one of {len(missing)} "
            f"missing; there are {counted(len(found.files), found.what)}, such as {found.example()}"
            f"{_unread(found.folder, missing[0])}; SegmentationSource.skip_broken leaves out what is missing"
        )
    suffix = Path(found.example()).suffix
    return [found.files.get(name, found.folder / f"{name}{suffix}") for name in sorted(names)]


def _files_below(folder: Path, suffixes: Collection[str], ending: str = "") -> dict[str, Path]:
    """Files by name, in the order of the names; hidden files and folders are passed over."""
    found: dict[str, Path] = {}
    for place, folders, files in walked(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        inside = Path(place).relative_to(folder)
        for file in files:
            stem, suffix = os.path.splitext(file)
            if file.startswith(".") or suffix.lower() not in suffixes or not stem.endswith(ending):
                continue
            name, path = (inside / stem.removesuffix(ending)).as_posix(), Path(place, file)
            if other := found.get(name):
                first, second = sorted((other, path))
                raise DataError(f"{first} and {second}: two files of one name; which one belongs to the set?")
            found[name] = path
    return dict(sorted(found.items()))


def _some(what: str, folder: Path, found: dict[str, Path], suffixes: Collection[str]) -> NamedFiles:
    if not found:
        raise DataError(f"{folder}: no {what}s here ({' '.join(sorted(suffixes))}); found {_contents(folder)}")
    return NamedFiles(what=what, folder=folder, files=found)


def _unread(folder: Path, name: str = "") -> str:
    """What to add about pictures of a folder that are not read here, of one name if given; empty for none."""
    text = unread_text([file for file in unread_below(folder) if not name or Path(file).stem == Path(name).name])
    return text and f". {text}"


def _contents(folder: Path) -> str:
    """What a folder holds, in a few words."""
    if not folder.is_dir():
        return "no such folder" if not folder.exists() else "a file, not a folder"
    names = sorted(entry.name + ("/" if entry.is_dir() else "") for entry in os.scandir(folder))
    return listed(names, 8) or "an empty folder"
