"""The published segmentation sets, as their archives are unpacked and as the tools around them prepare them; and the
layout of PASCAL VOC, which other sets have too.

Terms of use: Cityscapes asks for registration, is for non-commercial use and may not be redistributed; ADE20K's
pictures are for non-commercial research; COCO-Stuff's annotations are CC BY 4.0, its pictures and PASCAL-Context's
under Flickr's terms.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from hrformer.data.class_lists import ClassList, class_list, void_ids
from hrformer.data.class_names import KNOWN_SETS, PASCAL_VOC, voc_palette
from hrformer.data.label_ids import PUBLISHED_TABLES, one_based, pascal_context_full, train_ids
from hrformer.data.mask_reading import decode_ids
from hrformer.data.mask_sets import (
    MaskFiles,
    Pairs,
    files_of_list,
    find_folder,
    masks_below,
    names_in,
    paired,
    part_name,
    pictures_below,
)
from hrformer.data.part_patterns import part_of
from hrformer.data.set_types import DataError, NoPartError
from hrformer.data.source_config import SegmentationSource, Split
from hrformer.data.validation_split import own_part_error


@dataclass(frozen=True, kw_only=True, slots=True)
class _Layout:
    """Where a published set has its files; in paths ``{split}`` stands for the set's own name of the part.

    Attributes:
        text: the layout in words, for messages.
        below: folders below the given root in which the set may lie.
        pictures: folder of the pictures, or several of which one is there; ``masks`` likewise.
        kinds: endings of the masks' names, and what masks with such names hold: the ids "published" with the set, or
            "class numbers" from 0 on or "class numbers from 1"; the first kind that is there is taken.
        picture_ending: of the pictures' names, where they have one.
        parts: the set's own names of the parts.
        lists: files with the names of the part, of which one is there; empty where parts have folders of their own.
        without_labels: own name of a part whose masks are published empty.
        prepared: fields that differ where a tool has prepared the set, known by its folders of pictures.
    """

    text: str
    below: Sequence[str]
    pictures: Sequence[str]
    masks: Sequence[str]
    kinds: Mapping[str, str] = field(default_factory=dict)
    picture_ending: str = ""
    parts: Mapping[str, str] = field(default_factory=dict)
    lists: Sequence[str] = ()
    without_labels: str = ""
    prepared: Mapping[str, Any] = field(default_factory=dict)

    def of(self, part: str) -> _Layout:
        """With the name of a part in all paths."""

        def filled(paths: Sequence[str]) -> list[str]:
            return [path.replace("{split}", part) for path in paths]

        return replace(self, pictures=filled(self.pictures), masks=filled(self.masks), lists=filled(self.lists))

    def root(self, given: Path) -> Path:
        """Folder of the set itself, known by the folder of its pictures; the given one if it is nowhere."""
        places, wanted = (given, *map(given.joinpath, self.below)), self.pictures[0].split("/")[0]
        return next((folder for folder in places if (folder / wanted).is_dir()), given)


_PREPARED = ("cityscapes", "pascal_context", "coco_stuff_10k", "ade20k")
"""Sets for which the HRFormer repository has scripts."""


def open_published(source: SegmentationSource, split: Split) -> MaskFiles:
    """Open a published set, by the name of its format, or for "official" as the HRFormer repository's scripts write it.

    The root is the folder of the set or one that holds it.

    Raises:
        DataError: a folder, a list or a file is missing, or the set is unknown.
    """
    dataset: str = source.format
    if dataset == "official":
        dataset = source.dataset
        if dataset not in _PREPARED:
            raise DataError(f"SegmentationSource.dataset must be one of {', '.join(_PREPARED)}, got {dataset!r}")
    part = part_name(source, split)
    layout = _prepared(dataset) if source.format == "official" else _published()[dataset]
    root = layout.of(part).root(source.root)
    if layout.prepared:
        own = replace(layout, **layout.prepared, prepared={})
        layout = own if any((root / "images" / folder).is_dir() for folder in own.parts.values()) else layout
    layout = layout.of(name := layout.parts.get(part, part))
    has_no_labels = name == layout.without_labels
    files, kind = _found(layout, root, split, unlabelled=has_no_labels, skip_broken=source.skip_broken)
    known = KNOWN_SETS[dataset]
    if kind == "published":
        table = PUBLISHED_TABLES[dataset]()
    else:
        table = (train_ids if kind == "class numbers" else one_based)(len(known.classes))
    if dataset == "pascal_context" and (masks := files[1]):
        # All 459 labels, or only the 59 classes? A file that cannot be read is reported when its turn comes.
        with suppress(OSError, DataError):
            if masks[0].suffix == ".mat" or decode_ids(masks[0].read_bytes(), str(masks[0])).dtype == np.uint16:
                table = pascal_context_full()
    return MaskFiles(known.title, known.classes, known.palette, files, table, None)


@cache
def _published() -> dict[str, _Layout]:
    text = resources.files("hrformer").joinpath("data/published_sets.toml").read_text(encoding="utf-8")
    return {name: _Layout(**fields) for name, fields in tomllib.loads(text).items()}


def _prepared(dataset: str) -> _Layout:
    """``NAME/{train,val}/{image,label}``; COCO-Stuff's script writes ``images``, the repository reads ``image``."""
    return _Layout(
        text=f"{dataset}/{{train,val}}/{{image,label}} with NAME.jpg or NAME.png, and NAME.png",
        below=(dataset,),
        pictures=("{split}/image", "{split}/images"),
        masks=("{split}/label",),
        kinds={"": "published"},
    )


def _found(
    layout: _Layout, root: Path, split: Split, *, unlabelled: bool = False, skip_broken: bool
) -> tuple[Pairs, str]:
    """Pictures and masks, and of which of the kinds the masks are."""
    first = next(iter(layout.kinds.values()), "")
    pictures = pictures_below(find_folder(root, layout.pictures, "pictures", layout.text), layout.picture_ending)
    files = list(pictures.files.values())
    if layout.lists:
        places = [str(Path(path).parent) for path in layout.lists]
        origin = find_folder(root, places, "lists of the parts", layout.text) / Path(layout.lists[0]).name
        names = names_in(origin)
        files = files_of_list(names, pictures, origin, skip_broken=skip_broken)
    if unlabelled or (split == "test" and not any((root / folder).is_dir() for folder in layout.masks)):
        return (files, None), first
    masks = masks_below(find_folder(root, layout.masks, "masks", layout.text))
    if layout.lists:
        # Pictures of a test part without labels are listed beside the others.
        if split == "test" and masks.files.keys().isdisjoint(names):
            return (files, None), first
        return (files, files_of_list(names, masks, origin, skip_broken=skip_broken)), first
    for ending, kind in layout.kinds.items():
        others = tuple(other for other in layout.kinds if other not in ("", ending))
        of_kind = {
            name.removesuffix(ending): file
            for name, file in masks.files.items()
            if name.endswith(ending) and not name.endswith(others)
        }
        if of_kind:
            return paired(pictures, replace(masks, files=of_kind), skip_broken=skip_broken), kind
    wanted = " or ".join(f"*{ending}.png" for ending in layout.kinds)
    raise DataError(f"{masks.folder}: no files {wanted}. Expected layout: {layout.text}")


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
        raise own_part_error(source, lists / f"{own['val'][0]}.txt")
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
    voc = _published()["voc"]
    pictures = voc.pictures if source.untouched("images") else [source.images]
    masks = voc.masks if source.untouched("masks") else [source.masks]
    layout = replace(voc, lists=[source.lists], pictures=pictures, masks=masks).of(part)
    root = voc.root(source.root)
    # Classes that are to be ignored are none; borders of objects have the colour of 255.
    ignored, colours = void_ids(source), voc_palette(256)
    nothing = {number: ("", colours[number]) for number in ignored if number < len(colours)}
    rows = dict(enumerate(zip(PASCAL_VOC, colours, strict=False))) | nothing
    usual = ClassList(rows=rows, ignored=ignored, origin="PASCAL VOC")
    classes = class_list(source, usual)
    files, _ = _found(layout, root, split, skip_broken=source.skip_broken)
    name = "PASCAL VOC" if classes is usual else root.expanduser().resolve().name
    return MaskFiles(name, classes.names, classes.palette, files, classes.table(source.palette_masks), source.exif)
