"""Cityscapes: street scenes of 2048 x 1024 pixels, 19 classes. Registration, non-commercial use, no redistribution."""

from __future__ import annotations

from hrformer.data.class_names import KNOWN_SETS
from hrformer.data.label_ids import cityscapes_label_ids, train_ids
from hrformer.data.mask_files import (
    MaskFiles,
    files_below,
    find_folder,
    find_root,
    paired,
    part_name,
    pictures_below,
)
from hrformer.data.sets import DataError
from hrformer.data.sources import SegmentationSource, Split

_LAYOUT = (
    "leftImg8bit/{train,val}/CITY/*_leftImg8bit.png and gtFine/{train,val}/CITY/*_gtFine_labelIds.png (or "
    "*_gtFine_labelTrainIds.png), from leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip"
)
_PICTURE, _LABEL_IDS, _TRAIN_IDS = "_leftImg8bit", "_gtFine_labelIds", "_gtFine_labelTrainIds"


def open_cityscapes(source: SegmentationSource, split: Split) -> MaskFiles:
    """Open ``leftImg8bit`` and ``gtFine``; label ids are taken where both kinds of masks are there.

    The part "test" counts as without labels: its masks are published empty.

    Raises:
        DataError: a folder or file is missing.
    """
    part = part_name(source, split)
    root = find_root(source.root, ["cityscapes"], ["leftImg8bit"])
    pictures_in = find_folder(root, [f"leftImg8bit/{part}"], "pictures", _LAYOUT)
    pictures = pictures_below(pictures_in, lambda stem: _without(stem, _PICTURE))
    known = KNOWN_SETS["cityscapes"]
    files, masks, table = list(pictures.values()), None, cityscapes_label_ids()
    if part != "test":
        masks_in = find_folder(root, [f"gtFine/{part}"], "masks", _LAYOUT)
        found = files_below(masks_in, {".png"}, lambda stem: _without(stem, _LABEL_IDS))
        if not found:
            found = files_below(masks_in, {".png"}, lambda stem: _without(stem, _TRAIN_IDS))
            table = train_ids(len(known.classes))
        if not found:
            raise DataError(f"{masks_in}: no files *{_LABEL_IDS}.png or *{_TRAIN_IDS}.png. Expected layout: {_LAYOUT}")
        files, masks = paired(pictures, found, (pictures_in, masks_in), skip_broken=source.skip_broken)
    return MaskFiles(
        name=known.title, classes=known.classes, pictures=files, masks=masks, table=table, palette=known.palette
    )


def _without(stem: str, ending: str) -> str | None:
    return stem[: -len(ending)] if stem.endswith(ending) else None
