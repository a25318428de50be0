"""PASCAL-Context: the pictures of VOC 2010 with every pixel labelled, 59 classes. Pictures under Flickr's terms."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hrformer.data.class_names import KNOWN_SETS
from hrformer.data.label_ids import LabelTable, one_based, pascal_context_full
from hrformer.data.mask_files import (
    MaskFiles,
    files_below,
    find_folder,
    find_root,
    listed,
    names_in,
    part_name,
    pictures_below,
)
from hrformer.data.masks import MASK_SUFFIXES, decode_ids
from hrformer.data.sets import DataError
from hrformer.data.sources import SegmentationSource, Split

_LAYOUT = (
    "VOCdevkit/VOC2010 with JPEGImages/NAME.jpg, SegmentationClassContext/NAME.png (0..59; or NAME.mat, and trainval/"
    "NAME.mat, with all 459 labels) and ImageSets/SegmentationContext/{train,val}.txt"
)
_MASKS = ("SegmentationClassContext", "trainval")


def open_pascal_context(source: SegmentationSource, split: Split) -> MaskFiles:
    """Open VOC 2010 with masks of PASCAL-Context.

    8-bit masks hold 0 for none and 1..59; 16-bit ones and ``.mat`` files the original 459 labels, of which all but
    the 59 classes are ignored.

    Raises:
        DataError: a folder, a list or a listed file is missing.
    """
    part = part_name(source, split)
    root = find_root(source.root, ["VOC2010", "VOCdevkit/VOC2010"], ["JPEGImages"])
    pictures_in = find_folder(root, ["JPEGImages"], "pictures", _LAYOUT)
    origin = _list_file(root, part)
    names = names_in(origin)
    pictures = listed(
        names, pictures_below(pictures_in), pictures_in, "picture", origin, skip_broken=source.skip_broken
    )
    masks, table = None, one_based(len(KNOWN_SETS["pascal_context"].classes))
    if split != "test" or any((root / folder).is_dir() for folder in _MASKS):
        masks_in = _mask_folder(root)
        found = files_below(masks_in, MASK_SUFFIXES)
        if split != "test" or not found.keys().isdisjoint(names):
            masks = listed(names, found, masks_in, "mask", origin, skip_broken=source.skip_broken)
            table = context_table(masks[0])
    known = KNOWN_SETS["pascal_context"]
    return MaskFiles(name=known.title, classes=known.classes, pictures=pictures, masks=masks, table=table)


def context_table(first: Path) -> LabelTable:
    """Meaning of the ids, as the first mask of a set shows: all 459 labels need 16 bits, the 59 classes only 8."""
    if first.suffix == ".mat":
        return pascal_context_full()
    try:
        wide = decode_ids(first.read_bytes(), str(first)).dtype == np.uint16
    except (OSError, DataError):
        # A file that cannot be read is reported when its turn comes, like any other.
        wide = False
    return pascal_context_full() if wide else one_based(len(KNOWN_SETS["pascal_context"].classes))


def _list_file(root: Path, part: str) -> Path:
    path = root / "ImageSets" / "SegmentationContext" / f"{part}.txt"
    if not path.is_file() and _needs_detail(root):
        raise DataError(f"{path}: no such file. {_NO_DETAIL}")
    return path


def _mask_folder(root: Path) -> Path:
    if not any((root / folder).is_dir() for folder in _MASKS) and _needs_detail(root):
        raise DataError(f"{root}: no folder {_MASKS[0]}. {_NO_DETAIL}")
    return find_folder(root, _MASKS, "masks", _LAYOUT)


_NO_DETAIL = (
    "trainval_merged.json alone is not read: its labels can only be decoded by the package 'detail', which is not on "
    f"the package index. Convert it once to PNG masks, for instance by mmsegmentation's converter. Expected: {_LAYOUT}"
)


def _needs_detail(root: Path) -> bool:
    return any((folder / "trainval_merged.json").is_file() for folder in (root, root.parent))
