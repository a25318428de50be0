"""Masks drawn from the outlines in COCO's instances files (https://cocodataset.org/#format-data), as CVAT, Roboflow,
Label Studio and others write them: polygons, or run lengths, compressed or not.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrformer.data.class_lists import means_void, void_ids
from hrformer.data.coco_fields import as_number, number, read_json, shown, whole
from hrformer.data.coco_outlines import Outlines, OutlineWriter
from hrformer.data.coco_pictures import find_pictures, picture_folders
from hrformer.data.headers import Header, read_header
from hrformer.data.images import ImageError
from hrformer.data.instance_files import annotation_file
from hrformer.data.mask_files import PictureFiles, part_name
from hrformer.data.packed_names import PackedNames
from hrformer.data.sets import IGNORE, DataError, Note
from hrformer.data.sources import SegmentationSource, Split
from hrformer.data.turned_masks import turns_of
from hrformer.geometry.orientation import UPRIGHT, upright_pixels
from hrformer.wording import counted

_log = logging.getLogger(__name__)

_BACKGROUND = frozenset(("background", "_background_", "bg"))


class CocoMasks(PictureFiles):
    """Pictures whose masks are drawn when they are read.

    Pixels of no object are the class 0, ``background``; the categories follow in the order of their ids. A category
    of the name background is that class itself, one of a name such as void, or whose id is in ``source.ignore``, is
    no class: its pixels are ``IGNORE``. So are crowds (``iscrowd``), and the boxes of objects without an outline, where
    no other object lies. Where objects overlap, the one of the smaller area is on top.

    Args:
        source: of the set; ``masks`` may name the file, else it is looked for.
        split: to open.

    Raises:
        DataError: a file or picture is missing, a record is not as it should be (file, annotation and field are
            named), or there are boxes only.
        ImportError: the package that draws polygons is not installed.
    """

    def __init__(self, source: SegmentationSource, split: Split) -> None:
        part = part_name(source, split)
        self.annotations = file = annotation_file(source, split, part)
        content = _tables(file)
        numbers, self.classes = _classes(content, file, source, split)
        images = _images(content["images"], file)
        names = [image["file_name"] for image in images.values()]
        folders = picture_folders(source.root, [source.root / source.images.replace("{split}", part)], split, file)
        advice = "SegmentationSource.images says where they are"
        paths = find_pictures(names, folders, source.root, file, advice, skip_broken=source.skip_broken)
        pictures = [Path(path) for path in paths]
        self.name = source.root.expanduser().resolve().name
        self._pictures = PackedNames(map(str, pictures))
        self._ids = list(images)
        headers = {} if all(_size(image) for image in images.values()) else dict(zip(images, pictures, strict=True))
        self._upright = source.exif != "ignore"
        self._sizes = [
            _size(image) or self._read_size(headers[key], source.skip_broken) for key, image in images.items()
        ]
        self._turns = turns_of(pictures, self._sizes.__getitem__, source.exif, self._refuse_size)
        self._rest = IGNORE if source.ignore != "none" and 0 in source.ignore and 0 not in numbers else 0
        self._outlines, notes = _outlines(
            content["annotations"], file, numbers, dict(zip(self._ids, self._sizes, strict=True))
        )
        self.notes = (*self._turns.notes, *notes)
        for note in self.notes:
            _log.warning("%s", note.text)

    def mask(self, index: int) -> NDArray[np.uint8]:
        """The mask, drawn on the picture's size in the file and turned upright where the outlines are as stored."""
        mask = self._outlines.draw(index, self._sizes[index], self._rest)
        turn = self._turns.of(index, self._pictures[index], self._sizes[index])
        return mask if turn == UPRIGHT else upright_pixels(mask, turn)

    def _read_size(self, picture: Path, skip_broken: bool) -> tuple[int, int]:
        try:
            header = read_header(picture)
        except ImageError:
            if skip_broken:
                return 0, 0
            raise
        return header.size if self._upright else header.stored

    def _refuse_size(self, index: int, header: Header) -> None:
        width, height = self._sizes[index]
        raise DataError(
            f"{self.mask_file(index)}: 'width' and 'height' are {width} and {height}, but the picture "
            f"{self.file(index)} is {header.size[0]} x {header.size[1]} pixels: outlines can only be drawn on "
            "the picture that was labelled; bring that picture back, or correct the numbers if the outlines are in the "
            "pixels of this one"
        )

    def mask_file(self, index: int) -> str:
        """``<annotation file>::image <id>``."""
        return f"{self.annotations}::image {self._ids[index]}"


def _tables(file: Path) -> dict[str, list[dict[str, Any]]]:
    content = read_json(file)
    for name in ("images", "annotations", "categories"):
        table = content.get(name) if isinstance(content, dict) else None
        if not isinstance(table, list) or not all(isinstance(record, dict) for record in table):
            raise DataError(f"{file}: a COCO file has a list of records {name!r}; this one has none")
    if not content["images"]:
        raise DataError(f"{file}: lists no picture")
    tables: dict[str, list[dict[str, Any]]] = content
    return tables


def _images(records: list[dict[str, Any]], file: Path) -> dict[int, dict[str, Any]]:
    """Pictures by id, sorted by their names."""
    images: dict[int, dict[str, Any]] = {}
    for place, record in enumerate(records):
        key = whole(record, "id", f"{file}: images[{place}]")
        if key in images:
            raise DataError(f"{file}: two images have the id {key}; every picture needs one of its own")
        if not isinstance(record.get("file_name"), str) or not record["file_name"].strip():
            raise DataError(f"{file}: image {key}: 'file_name' must be a name, got {shown(record, 'file_name')}")
        images[key] = record
    return dict(sorted(images.items(), key=lambda item: (item[1]["file_name"], item[0])))


def _size(image: Mapping[str, Any]) -> tuple[int, int] | None:
    """(width, height) of the record; None where it says nothing of use."""
    width, height = (as_number(image.get(side)) for side in ("width", "height"))
    return (int(width), int(height)) if 1 <= width <= 1e6 and 1 <= height <= 1e6 else None


def _classes(
    content: Mapping[str, list[dict[str, Any]]], file: Path, source: SegmentationSource, split: Split
) -> tuple[dict[int, int], tuple[str, ...]]:
    """Class number, or ``IGNORE``, by category id; and the names of the classes."""
    names: dict[int, str] = {}
    for place, record in enumerate(content["categories"]):
        key = whole(record, "id", f"{file}: categories[{place}]")
        name = str(record.get("name") or "").strip()
        if key in names or not name or name in names.values():
            raise DataError(
                f"{file}: categories[{place}]: every category needs an id and a 'name' of its own, got id {key} and "
                f"name {name!r}"
            )
        names[key] = name
    if parent := _unused_parent(content, file, source, split):
        _log.info("%s: the category %r only names a group and is left out", file, names.pop(parent[0]))
    asked = (
        {*void_ids(source)} if source.ignore == "none" or IGNORE in source.ignore else {*void_ids(source)} - {IGNORE}
    )
    numbers: dict[int, int] = {}
    classes = ["background"]
    for key in sorted(names):
        name = names[key]
        if key in asked or means_void(name):
            numbers[key] = IGNORE
        elif name.lower() in _BACKGROUND:
            numbers[key], classes[0] = 0, name
        else:
            numbers[key] = len(classes)
            classes.append(name)
    if not 2 <= len(classes) <= IGNORE:
        raise DataError(f"{file}: a set has 1 to {IGNORE - 1} categories beside the background, got {len(classes) - 1}")
    return numbers, tuple(classes)


def _unused_parent(
    content: Mapping[str, list[dict[str, Any]]], file: Path, source: SegmentationSource, split: Split
) -> tuple[int] | None:
    """Id of the group that Roboflow lists as the first category, if no part has an object of it."""
    first, *others = sorted(content["categories"], key=lambda record: whole(record, "id", str(file)))
    key = whole(first, "id", str(file))
    if not others or any(record.get("supercategory") != first.get("name") for record in others):
        return None
    if first.get("supercategory") == first.get("name"):
        return None
    tables = [content["annotations"]]
    for part in ("train", "val"):
        # The classes of all parts must be the same.
        if part != split and getattr(source, part):
            try:
                tables.append(_tables(annotation_file(source, part, getattr(source, part)))["annotations"])
            except DataError:
                continue
    used = any(as_number(record.get("category_id")) == key for table in tables for record in table)
    return None if used else (key,)


def _outlines(
    records: list[dict[str, Any]], file: Path, numbers: Mapping[int, int], sizes: Mapping[int, tuple[int, int]]
) -> tuple[Outlines, list[Note]]:
    places = {key: place for place, key in enumerate(sizes)}
    writer = OutlineWriter()
    boxes_only = crowds = 0
    for place, record in enumerate(records):
        where = f"{file}: annotation {record.get('id', f'number {place}')}"
        image, category = whole(record, "image_id", where), whole(record, "category_id", where)
        if image not in sizes:
            raise DataError(f"{where}: 'image_id' {image} is not among the images of the file")
        if category not in numbers:
            known = ", ".join(map(str, sorted(numbers)[:20]))
            raise DataError(f"{where}: 'category_id' {category} is not among the categories of the file: {known}")
        if not all(sizes[image]):
            continue  # nobody will see a mask of a picture that cannot be read
        outline = record.get("segmentation")
        crowd = bool(whole(record, "iscrowd", where, 0))
        crowds += crowd
        label = IGNORE if crowd else numbers[category]
        if outline:
            writer.add(places[image], label, outline, sizes[image], where)
        else:
            boxes_only += 1
            writer.add_box(places[image], _box(record, where), sizes[image])
    if boxes_only and boxes_only == len(records):
        raise DataError(
            f"{file}: {counted(boxes_only, 'annotation')} and no outline in 'segmentation', only boxes; segmentation "
            "needs polygons or run lengths: label the objects with the tool's polygon or brush, and export again"
        )
    writer.check_units(file)
    if not writer.drawn:
        what = f"none of {counted(len(records), 'annotation')} gives pixels of a class" if records else "no annotations"
        counts = (
            (crowds, "with iscrowd 1: crowds count as void"),
            (boxes_only, "with a box and no outline"),
            (writer.left_out, "with a polygon of fewer than three points"),
        )
        reasons = ", ".join(f"{count} {reason}" for count, reason in counts if count)
        return writer.pack(len(places)), [
            Note(kind="no-object", text=f"{file}: {what}{f' ({reasons})' * bool(reasons)}")
        ]
    notes = []
    if boxes_only:
        text = (
            f"{file}: a box and no outline in 'segmentation' of {boxes_only} of {counted(len(records), 'object')}; the "
            "pixels of such a box count as void"
        )
        notes.append(Note(kind="box-only", text=text))
    if writer.left_out:
        text = f"{file}: {counted(writer.left_out, 'polygon')} of fewer than three points; left out"
        notes.append(Note(kind="flat-outline", text=text))
    return writer.pack(len(places)), notes


def _box(record: Mapping[str, Any], where: str) -> tuple[float, float, float, float]:
    box = record.get("bbox")
    if not isinstance(box, list) or len(box) != 4:
        raise DataError(
            f"{where}: 'segmentation' is {shown(record, 'segmentation')}: it must be polygons [[x, y, x, y, ...], ...] "
            "or run lengths {'size', 'counts'}"
        )
    values = {str(place): value for place, value in enumerate(box)}
    x, y, width, height = (number(values, key, f"{where}: 'bbox'") for key in values)
    return x, y, width, height
