"""Sets of picture files with mask files beside them, and what their readers share: finding folders, pairing by name."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hrformer.data.class_names import Palette
from hrformer.data.images import SUFFIXES, load_image, unread_below, unread_text
from hrformer.data.masks import MASK_SUFFIXES, MaskTable, read_mask, size_of_mask
from hrformer.data.packed_names import PackedNames
from hrformer.data.part_words import walked
from hrformer.data.sets import DataError, SegmentationSet
from hrformer.data.sources import Exif, SegmentationSource, Split
from hrformer.data.turned_masks import Turns, turns_of
from hrformer.geometry.orientation import UPRIGHT, upright_pixels
from hrformer.wording import counted, listed

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
        classes: names, in the order of the class numbers.
        pictures: files, in the order of the items.
        masks: files in the same order; None for a part without labels.
        table: what the ids or colours in the masks mean.
        palette: an RGB colour per class, or empty.
        exif: what to do about turned pictures, see :func:`hrformer.data.turned_masks.turns_of`; None where it is known
            that there are none.
    """

    def __init__(
        self,
        *,
        name: str,
        classes: tuple[str, ...],
        pictures: Sequence[Path],
        masks: Sequence[Path] | None,
        table: MaskTable,
        palette: Palette = (),
        exif: Exif | None = None,
    ) -> None:
        self.name, self.classes, self.palette = name, classes, palette
        self.labelled = masks is not None
        self._pictures, self._masks = PackedNames(map(str, pictures)), PackedNames(map(str, masks or ()))
        self._table = table
        self._upright = exif != "ignore"
        self._turns = turns_of(pictures, lambda place: size_of_mask(masks[place]), exif) if exif and masks else Turns()
        self.notes = self._turns.notes
        for note in self.notes:
            _log.warning("%s", note.text)

    def mask(self, index: int) -> NDArray[np.uint8]:
        """The decoded mask, as class numbers, turned with its picture."""
        if not self.labelled:
            raise DataError(f"{self.file(index)}: this part of {self.name} has no masks")
        mask = read_mask(Path(self._masks[index]), self._table)
        turn = self._turns.of(index, self._pictures[index], (mask.shape[1], mask.shape[0]))
        return mask if turn == UPRIGHT else upright_pixels(mask, turn)

    def mask_file(self, index: int) -> str:
        return self._masks[index] if self.labelled else self.file(index)


def part_name(source: SegmentationSource, split: Split) -> str:
    """What a source calls a part.

    Raises:
        DataError: it names none.
    """
    name: str = getattr(source, split)
    if not name:
        raise DataError(
            f"{source.root}: the source names no {split} part; set SegmentationSource.{split} to what it is called "
            "there"
        )
    return name


def find_folder(
    root: Path, candidates: Sequence[str], what: str, layout: str, raising: type[DataError] = DataError
) -> Path:
    """The first of several folders that exists.

    Args:
        root: of the set.
        candidates: relative to ``root``.
        what: is looked for, for the message.
        layout: the set should have, for the message.
        raising: kind of the error.

    Raises:
        DataError: there is none; the message says what is there instead.
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


def find_root(root: Path, inside: Sequence[str], wanted: Sequence[str]) -> Path:
    """The folder that holds the set, when its root or a folder above it is given.

    Args:
        root: as given.
        inside: where the set may lie below it.
        wanted: folders of which the set has at least one.

    Returns:
        The first of ``root`` and ``root / inside`` that has one of ``wanted``; ``root`` if none has.
    """
    for folder in (root, *(root / part for part in inside)):
        if any((folder / name).is_dir() for name in wanted):
            return folder
    return root


def _files_below(folder: Path, suffixes: Collection[str], ending: str = "") -> dict[str, Path]:
    """Files of a folder and the folders in it, by their paths in the folder without suffix and ending, sorted.

    Args:
        folder: to search; hidden files and folders are passed over.
        suffixes: that count, lower case.
        ending: of the names that count, before the suffix.
    """
    found: dict[str, Path] = {}
    for place, folders, files in walked(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        inside = Path(place).relative_to(folder)
        for name in files:
            stem, suffix = os.path.splitext(name)
            if name.startswith(".") or suffix.lower() not in suffixes or not stem.endswith(ending):
                continue
            paired_by = (inside / stem.removesuffix(ending)).as_posix()
            path = Path(place, name)
            if paired_by in found:
                first, second = sorted((found[paired_by], path))
                raise DataError(f"{first} and {second}: two files of one name; which one belongs to the set?")
            found[paired_by] = path
    return dict(sorted(found.items()))


def pictures_below(folder: Path, ending: str = "") -> dict[str, Path]:
    """Pictures of a folder and the folders in it, by their paths there without suffix and ``ending``, sorted.

    Raises:
        DataError: there are none, or two have one name.
    """
    found, unread = _files_below(folder, SUFFIXES, ending), unread_text(unread_below(folder))
    if unread and not found:
        raise DataError(f"{folder}: no pictures here that can be read. {unread}")
    if unread:
        _log.warning("left out %s", unread)
    return _some(found, folder, "pictures", SUFFIXES)


def masks_below(folder: Path) -> dict[str, Path]:
    """Masks of a folder and the folders in it, by their paths there without suffix, sorted.

    Raises:
        DataError: there are none, or two have one name.
    """
    found = _files_below(folder, MASK_SUFFIXES)
    if not found and (jpegs := _files_below(folder, (".jpg", ".jpeg"))):
        first = next(iter(jpegs.values()))
        raise DataError(
            f"{first}: JPEG changes values and colours, so it cannot hold a mask, and there are no masks here of "
            "another format; save them as PNG from the tool that drew them"
        )
    return _some(found, folder, "masks", MASK_SUFFIXES)


def paired(
    pictures: Mapping[str, Path], masks: Mapping[str, Path], folders: tuple[Path, Path], *, skip_broken: bool
) -> tuple[list[Path], list[Path]]:
    """Pictures and masks of equal name, in the order of the names.

    Args:
        pictures: by name.
        masks: by name.
        folders: of the pictures and of the masks, for the message.
        skip_broken: leave masks without a picture out, with a warning, and name the masks that pictures lack
            all the same: whoever looks for files that cannot be read finds them.

    Raises:
        DataError: a picture has no mask, or a mask no picture.
    """
    if skip_broken and not pictures.keys().isdisjoint(masks):
        if alone := sorted(masks.keys() - pictures.keys()):
            # Often those of the other part, which has its masks in the same folder.
            what, first = counted(len(alone), "mask"), masks[alone[0]]
            _log.warning("left out %s without a picture of its name in %s, such as %s", what, folders[0], first)
        names = sorted(pictures)
        return [pictures[name] for name in names], [masks.get(name, folders[1] / f"{name}.png") for name in names]
    sides = (pictures, "picture", folders[0]), (masks, "mask", folders[1])
    for (ours, what, own), (others, other, place) in (sides, sides[::-1]):
        if alone := sorted(ours.keys() - others.keys()):
            raise DataError(
                f"{ours[alone[0]]}: this {what} has no {other}: no file of the name {alone[0]} in {place}, which holds "
                f"{counted(len(others), other)} such as {_example(others)}; {len(alone)} of {counted(len(ours), what)} "
                f"in {own} without one. A {what} and its {other} must have the same name but for the ending"
                f"{_unread(place, alone[0])}; SegmentationSource.skip_broken leaves out what is "
                "alone"
            )
    names = sorted(pictures)
    return [pictures[name] for name in names], [masks[name] for name in names]


def names_in(path: Path) -> list[str]:
    """First word of every line of a list file, without the ending of a picture or mask.

    Raises:
        DataError: it cannot be read, is empty, or a name comes twice.
    """
    try:
        words = [line.split()[0] for line in path.read_text("utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(
            f"{path}: {reason}; a list has one name per line. Beside it: {_contents(path.parent)}"
        ) from error
    names = [
        stem if ending.lower() in SUFFIXES else word for word in words for stem, ending in [os.path.splitext(word)]
    ]
    if not names:
        raise DataError(f"{path}: the list is empty")
    if len(set(names)) < len(names):
        twice = next(name for place, name in enumerate(names) if name in names[:place])
        raise DataError(f"{path}: {twice} is listed twice")
    return names


def files_of_list(
    names: Sequence[str], found: Mapping[str, Path], folder: Path, what: str, origin: Path, *, skip_broken: bool
) -> list[Path]:
    """The files of a list, sorted by name.

    Args:
        names: from the list.
        found: files of ``folder`` by name.
        folder: searched.
        what: the files are, for the message.
        origin: the list file, for the message.
        skip_broken: name missing files all the same: whoever looks for files that cannot be read finds them.

    Raises:
        DataError: a file of the list is missing.
    """
    missing = [name for name in names if name not in found]
    if missing and not (skip_broken and len(missing) < len(names)):
        raise DataError(
            f"{folder}: the {what} {missing[0]}, listed in {origin}, is not here, one of {len(missing)} missing; "
            f"there are {counted(len(found), what)}, such as {_example(found)}"
            f"{_unread(folder, missing[0])}; SegmentationSource.skip_broken leaves out what is "
            "missing"
        )
    ending = next(iter(found.values())).suffix if found else ""
    return [found.get(name, folder / f"{name}{ending}") for name in sorted(names)]


def _example(files: Mapping[str, Path]) -> str:
    return next(iter(files.values())).name if files else "nothing"


def _unread(folder: Path, name: str = "") -> str:
    """What to add about pictures of a folder that are not read here, of one name if given; empty for none."""
    text = unread_text([file for file in unread_below(folder) if not name or Path(file).stem == Path(name).name])
    return text and f". {text}"


def _some(found: dict[str, Path], folder: Path, what: str, suffixes: Collection[str]) -> dict[str, Path]:
    if not found:
        raise DataError(f"{folder}: no {what} here ({' '.join(sorted(suffixes))}); found {_contents(folder)}")
    return found


def _contents(folder: Path) -> str:
    """What a folder holds, in a few words."""
    if not folder.is_dir():
        return "no such folder" if not folder.exists() else "a file, not a folder"
    names = sorted(entry.name + ("/" if entry.is_dir() else "") for entry in os.scandir(folder))
    return listed(names, 8) or "an empty folder"
