"""The published segmentation sets, as their archives are unpacked and as the tools around them prepare them; and the
layout of PASCAL VOC, which other sets have too.

Terms of use: Cityscapes asks for registration, is for non-commercial use and may not be redistributed; ADE20K's
pictures are for non-commercial research; COCO-Stuff's annotations are CC BY 4.0, its pictures and PASCAL-Context's
under Flickr's terms.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from hrformer.data.class_lists import ClassList, class_list, void_ids
from hrformer.data.label_ids import LabelTable
from hrformer.data.mask_files import (
    MaskFiles,
    files_of_list,
    find_folder,
    find_root,
    masks_below,
    names_in,
    paired,
    part_name,
    pictures_below,
)
from hrformer.data.masks import decode_ids
from hrformer.data.part_words import part_of
from hrformer.data.published_classes import (
    PUBLISHED_TABLES,
    known_set,
    one_based,
    pascal_context_full,
    train_ids,
    voc_palette,
)
from hrformer.data.sets import DataError, NoPartError
from hrformer.data.sources import SegmentationSource, Split
from hrformer.data.val_share import own_part_error


@dataclass(frozen=True, kw_only=True, slots=True)
class _Layout:
    """Where a published set has its files; in paths ``{part}`` stands for the set's own name of the part.

    Attributes:
        text: the layout in words, for messages.
        below: folders below the given root in which the set may lie.
        pictures: folder of the pictures, or several of which one is there.
        masks: likewise.
        kinds: endings of the masks' names, and what masks with such names hold; the first kind that is there is taken.
        picture_ending: of the pictures' names, where they have one.
        parts: the set's own names of the parts.
        lists: files with the names of the part, of which one is there; empty where parts have folders of their own.
        without_labels: own name of a part whose masks are published empty.
    """

    text: str
    below: tuple[str, ...]
    pictures: tuple[str, ...]
    masks: tuple[str, ...]
    kinds: tuple[tuple[str, Callable[[], LabelTable]], ...] = ()
    picture_ending: str = ""
    parts: Mapping[str, str] = field(default_factory=dict)
    lists: tuple[str, ...] = ()
    without_labels: str = ""


_CONVERTED = "_labelTrainIds"
"""What mmsegmentation's converters put behind the names; they write beside the published masks."""

_COCO_STUFF_10K = _Layout(
    text="images/NAME.jpg, annotations/NAME.mat and imageLists/{train,test}.txt, from cocostuff-10k-v1.1.zip; or "
    "mmsegmentation's {images,annotations}/{train2014,test2014} with NAME.jpg and NAME_labelTrainIds.png",
    below=("coco_stuff10k", "coco_stuff_10k", "cocostuff-10k-v1.1"),
    pictures=("images",),
    masks=("annotations",),
    kinds=(("", PUBLISHED_TABLES["coco_stuff_10k"]), (_CONVERTED, lambda: one_based(171))),
    # The set has two parts; papers score on the one that it calls test.
    parts={"val": "test"},
    lists=("imageLists/{part}.txt", "imagesLists/{part}.txt"),
)
_COCO_STUFF_10K_PREPARED = replace(
    _COCO_STUFF_10K,
    pictures=("images/{part}",),
    masks=("annotations/{part}",),
    parts={"train": "train2014", "val": "test2014", "test": "test2014"},
    lists=(),
)

_LAYOUTS: dict[str, _Layout] = {
    "ade20k": _Layout(
        text="{images,annotations}/{training,validation} with NAME.jpg and NAME.png, from ADEChallengeData2016.zip",
        below=("ADEChallengeData2016", "ade/ADEChallengeData2016"),
        pictures=("images/{part}",),
        masks=("annotations/{part}",),
        kinds=(("", PUBLISHED_TABLES["ade20k"]),),
        parts={"train": "training", "val": "validation", "test": "testing"},
    ),
    "cityscapes": _Layout(
        text="leftImg8bit/{train,val}/CITY/*_leftImg8bit.png and gtFine/{train,val}/CITY/*_gtFine_labelIds.png (or "
        "*_gtFine_labelTrainIds.png), from leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip",
        below=("cityscapes",),
        pictures=("leftImg8bit/{part}",),
        masks=("gtFine/{part}",),
        kinds=(
            ("_gtFine_labelIds", PUBLISHED_TABLES["cityscapes"]),
            ("_gtFine_labelTrainIds", lambda: train_ids(19)),
        ),
        picture_ending="_leftImg8bit",
        without_labels="test",
    ),
    "coco_stuff_164k": _Layout(
        text="{images,annotations}/{train2017,val2017} with NAME.jpg and NAME.png, from "
        "stuffthingmaps_trainval2017.zip",
        below=("coco_stuff164k", "coco_stuff_164k"),
        pictures=("images/{part}",),
        masks=("annotations/{part}",),
        kinds=(("", PUBLISHED_TABLES["coco_stuff_164k"]), (_CONVERTED, lambda: train_ids(171))),
        parts={"train": "train2017", "val": "val2017", "test": "test2017"},
    ),
    "coco_stuff_10k": _COCO_STUFF_10K,
    "pascal_context": _Layout(
        text="VOCdevkit/VOC2010 with JPEGImages/NAME.jpg, SegmentationClassContext/NAME.png (0..59; or NAME.mat, "
        "and trainval/NAME.mat, with all 459 labels) and ImageSets/SegmentationContext/{train,val}.txt. "
        "trainval_merged.json alone is not read: only the package 'detail', which is not on the package index, decodes "
        "its labels. Convert it once to PNG masks, for instance by mmsegmentation's converter",
        below=("VOC2010", "VOCdevkit/VOC2010"),
        pictures=("JPEGImages",),
        masks=("SegmentationClassContext", "trainval"),
        kinds=(("", PUBLISHED_TABLES["pascal_context"]),),
        lists=("ImageSets/SegmentationContext/{part}.txt",),
    ),
}

_PREPARED = ("cityscapes", "pascal_context", "coco_stuff_10k", "ade20k")
"""Sets for which the HRFormer repository has scripts."""

_VOC = _Layout(
    text="JPEGImages/NAME.jpg, SegmentationClass/NAME.png, ImageSets/Segmentation/{train,val}.txt with a NAME per line",
    below=("VOC2012", "VOCdevkit/VOC2012"),
    pictures=("JPEGImages",),
    masks=("SegmentationClass",),
)


def open_published(source: SegmentationSource, split: Split) -> MaskFiles:
    """Open a published set, by the name of its format, or for "official" as the HRFormer repository's scripts write it.

    The root is the folder of the set or one that holds it. The masks hold the ids of the set, not class numbers.

    Raises:
        DataError: a folder, a list or a file is missing, or the set is unknown.
    """
    dataset: str = source.format
    if dataset == "official":
        dataset = source.dataset
        if dataset not in _PREPARED:
            raise DataError(f"SegmentationSource.dataset must be one of {', '.join(_PREPARED)}, got {dataset!r}")
    part = part_name(source, split)
    layout = _prepared(dataset) if source.format == "official" else _LAYOUTS[dataset]
    root = _root(source.root, layout, part)
    folders = _COCO_STUFF_10K_PREPARED.parts.values()
    if layout is _COCO_STUFF_10K and any((root / "images" / folder).is_dir() for folder in folders):
        layout = _COCO_STUFF_10K_PREPARED
    own = layout.parts.get(part, part)
    files, masks, kind = _found(layout, root, own, split, skip_broken=source.skip_broken)
    table = layout.kinds[kind][1]()
    if dataset == "pascal_context" and masks and _holds_all_labels(masks[0]):
        table = pascal_context_full()
    known = known_set(dataset)
    return MaskFiles(
        name=known.title, classes=known.classes, pictures=files, masks=masks, table=table, palette=known.palette
    )


def _prepared(dataset: str) -> _Layout:
    """``NAME/{train,val}/{image,label}``; COCO-Stuff's script writes ``images``, the repository reads ``image``."""
    return _Layout(
        text=f"{dataset}/{{train,val}}/{{image,label}} with NAME.jpg or NAME.png, and NAME.png",
        below=(dataset,),
        pictures=("{part}/image", "{part}/images"),
        masks=("{part}/label",),
        kinds=(("", PUBLISHED_TABLES[dataset]),),
    )


def _filled(paths: Sequence[str], part: str) -> list[str]:
    return [path.replace("{part}", part) for path in paths]


def _root(given: Path, layout: _Layout, part: str) -> Path:
    """Folder of the set itself, known by the folder of its pictures."""
    return find_root(given, layout.below, _filled(layout.pictures, part)[0].split("/")[0])


def _found(
    layout: _Layout, root: Path, part: str, split: Split, *, skip_broken: bool
) -> tuple[list[Path], list[Path] | None, int]:
    """Pictures, masks (None for a part without labels), and of which of the kinds the masks are."""
    pictures_in = find_folder(root, _filled(layout.pictures, part), "pictures", layout.text)
    pictures = pictures_below(pictures_in, layout.picture_ending)
    files = list(pictures.files.values())
    if layout.lists:
        lists = [Path(path) for path in _filled(layout.lists, part)]
        lists_in = find_folder(root, [str(path.parent) for path in lists], "lists of the parts", layout.text)
        origin = lists_in / lists[0].name
        names = names_in(origin)
        files = files_of_list(names, pictures, origin, skip_broken=skip_broken)
    masks_at = _filled(layout.masks, part)
    there = any((root / folder).is_dir() for folder in masks_at)
    if part == layout.without_labels or (split == "test" and not there):
        return files, None, 0
    masks_in = find_folder(root, masks_at, "masks", layout.text)
    masks = masks_below(masks_in)
    if layout.lists:
        # Pictures of a test part without labels are listed beside the others.
        if split == "test" and masks.files.keys().isdisjoint(names):
            return files, None, 0
        return files, files_of_list(names, masks, origin, skip_broken=skip_broken), 0
    endings = [ending for ending, _ in layout.kinds]
    for kind, ending in enumerate(endings):
        others = tuple(other for other in endings if other not in ("", ending))
        of_kind = {
            name.removesuffix(ending): file
            for name, file in masks.files.items()
            if name.endswith(ending) and not name.endswith(others)
        }
        if of_kind:
            return *paired(pictures, replace(masks, files=of_kind), skip_broken=skip_broken), kind
    wanted = " or ".join(f"*{ending}.png" for ending in endings)
    raise DataError(f"{masks_in}: no files {wanted}. Expected layout: {layout.text}")


def _holds_all_labels(mask: Path) -> bool:
    """Whether masks of PASCAL-Context hold all 459 labels, which need 16 bits, or only the 59 classes (8 bits)."""
    if mask.suffix == ".mat":
        return True
    try:
        return decode_ids(mask.read_bytes(), str(mask)).dtype == np.uint16
    except (OSError, DataError):
        # A file that cannot be read is reported when its turn comes, like any other.
        return False


def found_as_voc(source: SegmentationSource, split: Split) -> SegmentationSource:
    """A source whose folders turn out to be VOC's, such as CVAT's "Segmentation mask 1.1", in the layout "voc".

    The list of a part is the one whose name speaks of it; for training also the only one that speaks of none, such as
    CVAT's ``default.txt``. Any other source comes back as it is.

    Raises:
        DataError: there is no validation list and no share to keep, or both.
    """
    lists, name = source.root / "ImageSets/Segmentation", getattr(source, split)
    needed = (lists, source.root / "JPEGImages", source.root / "SegmentationClass")
    if not source.untouched("images", "masks") or not all(folder.is_dir() for folder in needed):
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
    part = part_name(source, split)
    layout = replace(_VOC, lists=(source.lists.replace("{split}", part),))
    if not source.untouched("images"):
        layout = replace(layout, pictures=(source.images.replace("{split}", part),))
    if not source.untouched("masks"):
        layout = replace(layout, masks=(source.masks.replace("{split}", part),))
    root = _root(source.root, _VOC, part)
    usual = _voc_classes(void_ids(source))
    classes = class_list(source, usual)
    pictures, masks, _ = _found(layout, root, part, split, skip_broken=source.skip_broken)
    return MaskFiles(
        name="PASCAL VOC" if classes is usual else root.expanduser().resolve().name,
        classes=classes.names,
        pictures=pictures,
        masks=masks,
        table=classes.table(source.palette_masks),
        palette=classes.palette,
        exif=source.exif,
    )


def _voc_classes(ignored: tuple[int, ...]) -> ClassList:
    """VOC's classes, less those that are to be ignored; borders of objects have the colour of 255."""
    palette = voc_palette(256)
    nothing = {number: ("", palette[number]) for number in ignored if number < len(palette)}
    rows = dict(enumerate(zip(known_set("pascal_voc").classes, palette, strict=False)))
    return ClassList(rows=rows | nothing, ignored=ignored, origin="PASCAL VOC")
