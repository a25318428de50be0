"""Sets in the layout of PASCAL VOC: all pictures in one folder, the parts as lists of names."""

from __future__ import annotations

from dataclasses import fields, replace

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
from hrformer.data.part_words import part_of
from hrformer.data.sets import NoPartError
from hrformer.data.sources import SegmentationSource, Split
from hrformer.data.val_share import own_part_error

_DEFAULTS = {field.name: field.default for field in fields(SegmentationSource)}
_LAYOUT = "JPEGImages/NAME.jpg, SegmentationClass/NAME.png, ImageSets/Segmentation/{train,val}.txt with a NAME per line"


def found_as_voc(source: SegmentationSource, split: Split) -> SegmentationSource:
    """A source whose folders turn out to be VOC's, such as CVAT's "Segmentation mask 1.1", in the layout "voc".

    The list of a part is the one whose name speaks of it; for training also the only one that speaks of none, such as
    CVAT's ``default.txt``. Any other source comes back as it is.

    Raises:
        DataError: there is no validation list and no share to keep, or both.
    """
    lists, name = source.root / "ImageSets/Segmentation", getattr(source, split)
    if (source.images, source.masks) != (_DEFAULTS["images"], _DEFAULTS["masks"]) or not all(
        folder.is_dir() for folder in (lists, source.root / "JPEGImages", source.root / "SegmentationClass")
    ):
        return source
    stems = sorted(file.stem for file in lists.glob("*.txt"))
    own = {part: [stem for stem in stems if part_of(stem) == part] for part in ("train", "val", "test", None)}
    if source.val_share and own["val"]:
        raise own_part_error("SegmentationSource.val_share", source.val_share, lists / f"{own['val'][0]}.txt")
    fitting = own[split] or (own[None] if split == "train" else [])
    if name not in stems and len(fitting) == 1:
        name = fitting[0]
    if split == "val" and name not in stems:
        raise NoPartError(
            f"{lists}: no list of the validation part, only {', '.join(stems)}; SegmentationSource.val_share 0.2 keeps "
            "about a fifth of the pictures for validation"
        )
    return replace(source, format="voc", **{split: name})


def open_voc(source: SegmentationSource, split: Split) -> MaskFiles:
    """Open a set whose parts are lists of names.

    Folders that the source leaves at their defaults are VOC's own; without a ``classes.txt`` the classes are VOC's 21,
    of which 0 is the background. Masks hold ids, also as palette pictures, 255 on the borders of objects.

    Raises:
        DataError: a folder, a list or a listed file is missing.
    """
    root = find_root(source.root, ["VOC2012", "VOCdevkit/VOC2012"], ["JPEGImages"])
    part = part_name(source, split)
    pictures_at, masks_at = (
        (own if text == _DEFAULTS[name] else text).replace("{split}", part)
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
