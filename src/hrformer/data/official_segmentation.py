"""The layout that the HRFormer repository's own scripts prepare: ``NAME/{train,val}/{image,label}``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from hrformer.data.class_names import KNOWN_SETS
from hrformer.data.label_ids import LabelTable, cityscapes_label_ids, coco_stuff_10k, one_based
from hrformer.data.mask_files import (
    MaskFiles,
    find_folder,
    find_root,
    masks_below,
    paired,
    part_name,
    pictures_below,
)
from hrformer.data.pascal_context import context_table
from hrformer.data.sets import DataError
from hrformer.data.sources import SegmentationSource, Split

_TABLES: dict[str, Callable[[Path], LabelTable]] = {
    "cityscapes": lambda _: cityscapes_label_ids(),
    "pascal_context": context_table,
    "coco_stuff_10k": lambda _: coco_stuff_10k(),
    "ade20k": lambda _: one_based(len(KNOWN_SETS["ade20k"].classes)),
}


def open_official(source: SegmentationSource, split: Split) -> MaskFiles:
    """Open a prepared set; its masks hold the ids of ``source.dataset``, not class numbers.

    Cityscapes: label ids. PASCAL-Context and ADE20K: 0 for none, classes from 1. COCO-Stuff-10K: 0..182 with gaps.
    The root is the folder of the set or the one that holds it. COCO-Stuff's pictures may lie in ``images``, where its
    script writes them, though the repository reads ``image``.

    Raises:
        DataError: a folder or file is missing, or the set is unknown.
    """
    if source.dataset not in _TABLES:
        raise DataError(f"SegmentationSource.dataset must be one of {', '.join(_TABLES)}, got {source.dataset!r}")
    part = part_name(source, split)
    layout = f"{source.dataset}/{{train,val}}/{{image,label}} with NAME.jpg or NAME.png, and NAME.png"
    root = find_root(source.root, [source.dataset], [part])
    pictures_in = find_folder(root, [f"{part}/image", f"{part}/images"], "pictures", layout)
    pictures = pictures_below(pictures_in)
    known = KNOWN_SETS[source.dataset]
    files, masks = list(pictures.values()), None
    if split != "test" or (root / part / "label").is_dir():
        masks_in = find_folder(root, [f"{part}/label"], "masks", layout)
        files, masks = paired(pictures, masks_below(masks_in), (pictures_in, masks_in), skip_broken=source.skip_broken)
    table = _TABLES[source.dataset](masks[0] if masks else Path())
    return MaskFiles(
        name=known.title, classes=known.classes, pictures=files, masks=masks, table=table, palette=known.palette
    )
