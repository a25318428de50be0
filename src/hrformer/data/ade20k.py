"""ADE20K in the form of SceneParse150: 150 classes. Pictures for non-commercial research."""

from __future__ import annotations

from hrformer.data.class_names import KNOWN_SETS
from hrformer.data.label_ids import one_based
from hrformer.data.mask_files import (
    MaskFiles,
    find_folder,
    find_root,
    masks_below,
    paired,
    part_name,
    pictures_below,
)
from hrformer.data.sources import SegmentationSource, Split

_LAYOUT = "{images,annotations}/{training,validation} with NAME.jpg and NAME.png, from ADEChallengeData2016.zip"
_PARTS = {"train": "training", "val": "validation", "test": "testing"}


def open_ade20k(source: SegmentationSource, split: Split) -> MaskFiles:
    """Open ``images`` and ``annotations``; 0 in the masks is no class.

    Raises:
        DataError: a folder or file is missing.
    """
    part = part_name(source, split)
    part = _PARTS.get(part, part)
    root = find_root(source.root, ["ADEChallengeData2016", "ade/ADEChallengeData2016"], ["images"])
    pictures_in = find_folder(root, [f"images/{part}"], "pictures", _LAYOUT)
    pictures = pictures_below(pictures_in)
    files, masks = list(pictures.values()), None
    if split != "test" or (root / "annotations" / part).is_dir():
        masks_in = find_folder(root, [f"annotations/{part}"], "masks", _LAYOUT)
        files, masks = paired(pictures, masks_below(masks_in), (pictures_in, masks_in), skip_broken=source.skip_broken)
    known = KNOWN_SETS["ade20k"]
    table = one_based(len(known.classes))
    return MaskFiles(name=known.title, classes=known.classes, pictures=files, masks=masks, table=table)
