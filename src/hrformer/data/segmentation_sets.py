"""Opens a segmentation set in whichever layout its source names."""

from __future__ import annotations

from collections.abc import Callable

from hrformer.data.ade20k import open_ade20k
from hrformer.data.cityscapes import open_cityscapes
from hrformer.data.coco_masks import CocoMasks
from hrformer.data.coco_stuff import open_coco_stuff_10k, open_coco_stuff_164k
from hrformer.data.folders import open_folders
from hrformer.data.huggingface_masks import HuggingFaceSegmentation
from hrformer.data.mask_layout import own_part
from hrformer.data.official_segmentation import open_official
from hrformer.data.other_tasks import telling_task
from hrformer.data.pascal_context import open_pascal_context
from hrformer.data.places import advising
from hrformer.data.sets import DataError, SegmentationSet
from hrformer.data.sources import SegmentationSource, Split
from hrformer.data.val_share import names_below, own_part_error, split_part
from hrformer.data.views import open_joined
from hrformer.data.voc import found_as_voc, open_voc

_READERS: dict[str, Callable[[SegmentationSource, Split], SegmentationSet]] = {
    "folders": open_folders,
    "voc": open_voc,
    "coco": CocoMasks,
    "official": open_official,
    "cityscapes": open_cityscapes,
    "pascal_context": open_pascal_context,
    "coco_stuff_10k": open_coco_stuff_10k,
    "coco_stuff_164k": open_coco_stuff_164k,
    "ade20k": open_ade20k,
    "huggingface": HuggingFaceSegmentation,
}


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
        telling_task("segmentation", source.root, layout_known=source.images != SegmentationSource().images),
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
        raise own_part_error("SegmentationSource.val_share", source.val_share, val, instead)
    return split_part(opened, split, names_below(opened, source.root), source.val_share, "SegmentationSource.val_share")


def _wanted(source: SegmentationSource, split: Split) -> list[str]:
    """What the root must hold, where the source says so; readers of published sets look for their layouts."""
    part: str = getattr(source, split)
    if source.format in ("folders", "voc"):
        return [text.replace("{split}", part) for text in (source.images, source.masks)]
    return [part] if source.format == "huggingface" else []
