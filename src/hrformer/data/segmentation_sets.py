"""Opens a segmentation set in whichever layout its source names."""

from __future__ import annotations

from collections.abc import Callable

from hrformer.data.annotation_files import annotation_file, coco_files, has_outlines, instance_files
from hrformer.data.class_lists import class_list
from hrformer.data.coco_masks import CocoMasks
from hrformer.data.huggingface import HuggingFaceSegmentation
from hrformer.data.labels.search import found_labels
from hrformer.data.mask_reading import MASK_SUFFIXES
from hrformer.data.mask_search import find_pairs, folders_below, holds, own_part
from hrformer.data.mask_sets import MaskFiles, part_name
from hrformer.data.published_classes import PUBLISHED_TABLES
from hrformer.data.published_sets import found_as_voc, open_published, open_voc
from hrformer.data.set_types import DataError, SegmentationSet
from hrformer.data.source_config import SegmentationSource, Split
from hrformer.data.validation_split import own_part_error, split_part
from hrformer.data.views import open_joined
from hrformer.data.wrong_roots import advising, telling_task


def open_segmentation(source: SegmentationSource, split: Split) -> SegmentationSet:
    """Open one part of a set.

    The published sets may be named by their own folder or one above it, and know their parts' own names: "val" is
    ADE20K's ``validation`` and COCO-Stuff-10K's list ``test``. Their classes are fixed, ``source.classes`` is not read.
    A test part without masks is opened without labels. With ``val_share`` train and val are views of the training part.

    Raises:
        DataError: there is no such part, a picture has no mask or a mask no picture, or the classes cannot be read.
        ImportError: a Hugging Face set without the package ``datasets``, polygons without faster-coco-eval.
    """
    if source.more_roots:
        return open_joined(source, lambda one: open_segmentation(one, split))
    if source.format not in _READERS:
        raise DataError(f"SegmentationSource.format must be one of {', '.join(_READERS)}, got {source.format!r}")
    if source.format != "huggingface" and not source.root.is_dir():
        raise DataError(f"{source.root}: no such folder; SegmentationSource.root is that of the set")
    if source.exif != "auto" and source.format not in ("folders", "voc", "coco"):
        raise DataError(
            f"SegmentationSource.exif is for the formats folders, voc and coco; {source.format} reads pictures upright"
        )
    shared = bool(source.val_share) and split != "test"
    part: Split = "train" if shared else split
    wanted = _wanted(source, part)
    with (
        telling_task("segmentation", source.root, layout_known=not source.untouched("images")),
        advising("SegmentationSource.root", source.root, wanted),
    ):
        if source.format == "folders":
            source = found_as_voc(source, part)
        opened = _READERS[source.format](source, part)
    opened.name = source.name or opened.name
    if not shared:
        return opened
    if source.format == "folders" and (val := own_part(source, "val")) is not None:
        instead = ", or name the folders to split in SegmentationSource.images and SegmentationSource.masks"
        raise own_part_error(source, val, instead)
    return split_part(opened, split, source)


def open_folders(source: SegmentationSource, split: Split) -> SegmentationSet:
    """Open ``images/{split}/NAME.jpg`` and ``labels/{split}/NAME.png``, or whatever the source calls these folders.

    Other layouts are found, see :func:`hrformer.data.mask_search.find_pairs`. Masks hold ids, or with
    ``palette_masks`` the colours of the classes file. A test part may be without masks. Where there is no folder of
    masks but one of COCO's instances files, or labels of a tool, masks are drawn from it.

    Raises:
        DataError: a folder or file is missing, or the classes cannot be read.
    """
    try:
        files = find_pairs(source, split)
    except DataError:
        if not _has_outlines(source, split):
            raise
        return CocoMasks(source, split)
    if files[1] is None and _has_outlines(source, split):
        return CocoMasks(source, split)
    name, classes = source.root.expanduser().resolve().name, class_list(source)
    table = classes.table(source.palette_masks)
    return MaskFiles(name, classes.names, classes.palette, files, table, source.exif)


def _has_outlines(source: SegmentationSource, split: Split) -> bool:
    """Whether there is an annotation file with outlines in place of a folder of masks."""
    part = part_name(source, split)
    if _has_tool_labels(source):
        return True
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


def _has_tool_labels(source: SegmentationSource) -> bool:
    """Whether there are labels of a tool in its own form, and neither a folder of masks nor a file in COCO's form."""
    if not source.untouched("masks") or coco_files(source.root):
        return False
    filled = (one for one in folders_below(source.root) if one.kind == "masks" and holds(one.path, MASK_SUFFIXES))
    return next(filled, None) is None and bool(found_labels(source.root))


def _wanted(source: SegmentationSource, split: Split) -> list[str]:
    """What the root must hold, where the source says so; readers of published sets look for their layouts."""
    part: str = getattr(source, split)
    if source.format in ("folders", "voc"):
        return [text.replace("{split}", part) for text in (source.images, source.masks)]
    return [part] if source.format == "huggingface" else []


_READERS: dict[str, Callable[[SegmentationSource, Split], SegmentationSet]] = {
    "folders": open_folders,
    "voc": open_voc,
    "coco": CocoMasks,
    **dict.fromkeys(("official", *PUBLISHED_TABLES), open_published),
    "huggingface": HuggingFaceSegmentation,
}
