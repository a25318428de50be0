"""COCO-Stuff: things and stuff in COCO's pictures, 171 classes, in sets of 10k and 164k pictures.

Annotations CC BY 4.0, pictures under Flickr's terms.
"""

from __future__ import annotations

from pathlib import Path

from hrformer.data.class_names import KNOWN_SETS
from hrformer.data.images import SUFFIXES
from hrformer.data.label_ids import LabelTable, coco_stuff_10k, coco_stuff_164k, one_based, train_ids
from hrformer.data.mask_files import (
    MaskFiles,
    files_below,
    find_folder,
    find_root,
    listed,
    names_in,
    paired,
    part_name,
    pictures_below,
)
from hrformer.data.masks import MASK_SUFFIXES
from hrformer.data.sets import DataError
from hrformer.data.sources import SegmentationSource, Split

_RAW_LAYOUT = (
    "images/NAME.jpg, annotations/NAME.mat and imageLists/{train,test}.txt, from cocostuff-10k-v1.1.zip; or "
    "mmsegmentation's {images,annotations}/{train2014,test2014} with NAME.jpg and NAME_labelTrainIds.png"
)
_LAYOUT_164K = (
    "{images,annotations}/{train2017,val2017} with NAME.jpg and NAME.png, from stuffthingmaps_trainval2017.zip"
)
_CONVERTED = "_labelTrainIds"
# The set has two parts; the papers report scores on the one that it calls test.
_PARTS_10K = {"val": "test"}
_PARTS_MMSEG = {"train": "train2014", "val": "test2014", "test": "test2014"}
_PARTS_164K = {"train": "train2017", "val": "val2017", "test": "test2017"}


def open_coco_stuff_10k(source: SegmentationSource, split: Split) -> MaskFiles:
    """Open the 10k set, as published or as mmsegmentation prepares it; the part "val" is its test part.

    Raises:
        DataError: a folder, a list or a file is missing.
    """
    part = part_name(source, split)
    root = find_root(source.root, ["coco_stuff10k", "coco_stuff_10k", "cocostuff-10k-v1.1"], ["annotations"])
    prepared = _PARTS_MMSEG.get(part, part)
    if (root / "images" / prepared).is_dir():
        count = len(KNOWN_SETS["coco_stuff_10k"].classes)
        return _open_by_folder(source, root, prepared, split, "coco_stuff_10k", (coco_stuff_10k(), one_based(count)))
    pictures_in = find_folder(root, ["images"], "pictures", _RAW_LAYOUT)
    masks_in = find_folder(root, ["annotations"], "masks", _RAW_LAYOUT)
    lists_in = find_folder(root, ["imageLists", "imagesLists"], "lists of the parts", _RAW_LAYOUT)
    origin = lists_in / f"{_PARTS_10K.get(part, part)}.txt"
    names = names_in(origin)
    known = KNOWN_SETS["coco_stuff_10k"]
    return MaskFiles(
        name=known.title,
        classes=known.classes,
        pictures=listed(
            names, pictures_below(pictures_in), pictures_in, "picture", origin, skip_broken=source.skip_broken
        ),
        masks=listed(
            names, files_below(masks_in, MASK_SUFFIXES), masks_in, "mask", origin, skip_broken=source.skip_broken
        ),
        table=coco_stuff_10k(),
    )


def open_coco_stuff_164k(source: SegmentationSource, split: Split) -> MaskFiles:
    """Open the 164k set: masks as published, or where there are only those, mmsegmentation's ``*_labelTrainIds.png``.

    Raises:
        DataError: a folder or file is missing.
    """
    part = part_name(source, split)
    part = _PARTS_164K.get(part, part)
    root = find_root(source.root, ["coco_stuff164k", "coco_stuff_164k"], ["images"])
    tables = (coco_stuff_164k(), train_ids(len(KNOWN_SETS["coco_stuff_164k"].classes)))
    return _open_by_folder(source, root, part, split, "coco_stuff_164k", tables)


def _open_by_folder(
    source: SegmentationSource, root: Path, part: str, split: Split, dataset: str, tables: tuple[LabelTable, LabelTable]
) -> MaskFiles:
    """A folder per part. ``tables``: of masks as published, and of converted ones."""
    layout = _LAYOUT_164K if dataset == "coco_stuff_164k" else _RAW_LAYOUT
    pictures_in = find_folder(root, [f"images/{part}"], "pictures", layout)
    pictures = pictures_below(pictures_in)
    files, masks, table = list(pictures.values()), None, tables[0]
    if split != "test" or (root / "annotations" / part).is_dir():
        masks_in = find_folder(root, [f"annotations/{part}"], "masks", layout)
        # The converter writes its masks beside the published ones.
        found = files_below(masks_in, SUFFIXES, lambda stem: None if stem.endswith(_CONVERTED) else stem)
        if not found:
            found = files_below(masks_in, SUFFIXES, lambda stem: stem.removesuffix(_CONVERTED))
            table = tables[1]
        if not found:
            raise DataError(f"{masks_in}: no masks here. Expected layout: {layout}")
        files, masks = paired(pictures, found, (pictures_in, masks_in), skip_broken=source.skip_broken)
    known = KNOWN_SETS[dataset]
    return MaskFiles(name=known.title, classes=known.classes, pictures=files, masks=masks, table=table)
