"""Sets in the layout of PASCAL VOC: all pictures in one folder, the parts as lists of names."""

from __future__ import annotations

from dataclasses import fields

from hrformer.data.class_lists import ClassList, class_list, void_ids
from hrformer.data.class_names import PASCAL_VOC, voc_palette
from hrformer.data.folders import set_name
from hrformer.data.mask_files import (
    MaskFiles,
    find_folder,
    find_root,
    listed,
    masks_below,
    names_in,
    part_name,
    pictures_below,
)
from hrformer.data.sources import SegmentationSource, Split

_LAYOUT = "JPEGImages/NAME.jpg, SegmentationClass/NAME.png, ImageSets/Segmentation/{train,val}.txt with a NAME per line"


def open_voc(source: SegmentationSource, split: Split) -> MaskFiles:
    """Open a set whose parts are lists of names.

    Folders that the source leaves at their defaults are VOC's own; without a ``classes.txt`` the classes are VOC's 21,
    of which 0 is the background. Masks hold ids, also as palette pictures, 255 on the borders of objects.

    Raises:
        DataError: a folder, a list or a listed file is missing.
    """
    defaults = {field.name: field.default for field in fields(SegmentationSource)}
    root = find_root(source.root, ["VOC2012", "VOCdevkit/VOC2012"], ["JPEGImages"])
    part = part_name(source, split)
    pictures_at, masks_at = (
        (own if text == defaults[name] else text).replace("{split}", part)
        for name, text, own in (
            ("images", source.images, "JPEGImages"),
            ("masks", source.masks, "SegmentationClass"),
        )
    )
    origin = root / source.lists.replace("{split}", part)
    names = names_in(origin)
    usual = _usual_classes(void_ids(source))
    classes = class_list(source, usual)
    pictures_in = find_folder(root, [pictures_at], "pictures", _LAYOUT)
    pictures = listed(
        names, pictures_below(pictures_in), pictures_in, "picture", origin, skip_broken=source.skip_broken
    )
    masks = None
    if split != "test" or (root / masks_at).is_dir():
        masks_in = find_folder(root, [masks_at], "masks", _LAYOUT)
        found = masks_below(masks_in)
        # VOC's own test part is listed beside the others but has no masks.
        if split != "test" or not found.keys().isdisjoint(names):
            masks = listed(names, found, masks_in, "mask", origin, skip_broken=source.skip_broken)
    return MaskFiles(
        name="PASCAL VOC" if classes is usual else set_name(root),
        classes=classes.names,
        pictures=pictures,
        masks=masks,
        table=classes.table(source.palette_masks),
        palette=classes.palette,
        exif=source.exif,
    )


def _usual_classes(ignore: tuple[int, ...]) -> ClassList:
    """VOC's classes, less those that are to be ignored."""
    ids = tuple(number for number in range(len(PASCAL_VOC)) if number not in ignore)
    palette = voc_palette(256)
    return ClassList(
        names=tuple(PASCAL_VOC[number] for number in ids),
        ids=ids,
        palette=tuple(palette[number] for number in ids),
        ignored=ignore,
        # Borders of objects have the colour of 255.
        ignored_colours=tuple(palette[number] for number in ignore if number < len(palette)),
        origin="PASCAL VOC",
    )
