"""Any set laid out as a folder of pictures and a folder of masks per part."""

from __future__ import annotations

from pathlib import Path

from hrformer.data.annotation_files import annotation_file, has_outlines, instance_files
from hrformer.data.class_lists import class_list
from hrformer.data.coco_masks import CocoMasks
from hrformer.data.mask_files import MaskFiles, part_name
from hrformer.data.mask_layout import find_pairs
from hrformer.data.sets import DataError, SegmentationSet
from hrformer.data.sources import SegmentationSource, Split


def open_folders(source: SegmentationSource, split: Split) -> SegmentationSet:
    """Open ``images/{split}/NAME.jpg`` and ``labels/{split}/NAME.png``, or whatever the source calls these folders.

    Pictures and masks are paired by name without the ending, in folders below too; other layouts are found, see
    :func:`hrformer.data.mask_layout.find_pairs`. Masks hold ids, or with ``palette_masks`` the colours of the classes
    file. A test part may be without masks.
    Where there is no folder of masks but one of COCO's instances files, masks are drawn from it.

    Raises:
        DataError: a folder or file is missing, or the classes cannot be read.
    """
    part = part_name(source, split)
    try:
        files, masks = find_pairs(source, split)
    except DataError:
        if _is_coco(source, split, part):
            return CocoMasks(source, split)
        raise
    if masks is None and _is_coco(source, split, part):
        return CocoMasks(source, split)
    classes = class_list(source)
    return MaskFiles(
        name=set_name(source.root),
        classes=classes.names,
        pictures=files,
        masks=masks,
        table=classes.table(source.palette_masks),
        palette=classes.palette,
        exif=source.exif,
    )


def _is_coco(source: SegmentationSource, split: Split, part: str) -> bool:
    """Whether there is an annotation file with outlines in place of a folder of masks."""
    masks = source.root / source.masks.replace("{split}", part)
    if masks.is_dir() or (masks.exists() and masks.suffix != ".json"):
        return False
    try:
        if has_outlines(annotation_file(source, split, part)):
            return True
    except DataError:
        pass
    # Several, none, or one without any object: words about them are the right ones only where others have outlines.
    return any(map(has_outlines, instance_files(source.root)))


def set_name(root: Path) -> str:
    """Name of the folder, whichever way it was given."""
    return root.expanduser().resolve().name
