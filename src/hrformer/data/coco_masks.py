"""Masks drawn from the outlines in COCO's instances files (https://cocodataset.org/#format-data), as CVAT, Roboflow,
Label Studio and others write them: polygons, or run lengths, compressed or not.
"""

from __future__ import annotations

import io
import logging
import pickle
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrformer.data.annotation_files import annotation_file
from hrformer.data.class_lists import means_void, void_ids
from hrformer.data.coco_fields import as_number, number, shown, whole
from hrformer.data.coco_labels import read_content
from hrformer.data.coco_lists import list_of, read_pictures
from hrformer.data.coco_outlines import Outline, box_outline, draw, read_outline
from hrformer.data.coco_pictures import find_pictures, picture_folders
from hrformer.data.headers import Header, read_header
from hrformer.data.images import ImageError
from hrformer.data.mask_sets import PictureFiles, part_name
from hrformer.data.set_types import IGNORE, DataError, Note, PackedNames
from hrformer.data.source_config import SegmentationSource, Split
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
        content = _read(file)
        numbers, self.classes = _classes(content, file, source, split)
        listed = read_pictures(content, str(file), sized=False)
        order = sorted(range(len(listed.ids)), key=lambda place: (listed.names[place], listed.ids[place]))
        names = [listed.names[place] for place in order]
        folders = picture_folders(source.root, [source.root / source.images.replace("{split}", part)], split, file)
        advice = "SegmentationSource.images says where they are"
        pictures = find_pictures(names, folders, source.root, file, advice, skip_broken=source.skip_broken)
        self.name = source.root.expanduser().resolve().name
        self._pictures, self._ids = PackedNames(pictures), [listed.ids[place] for place in order]
        self._upright = source.exif != "ignore"
        self._sizes = [
            (width, height) if width and height else self._read_size(picture, source.skip_broken)
            for picture, (width, height) in zip(pictures, listed.sizes[order].tolist(), strict=True)
        ]
        self._turns = turns_of(pictures, self._sizes.__getitem__, source.exif, self._refuse_size)
        self._rest = IGNORE if source.ignore != "none" and 0 in source.ignore and 0 not in numbers else 0
        sizes = dict(zip(self._ids, self._sizes, strict=True))
        self._objects, notes = _read_objects(content["annotations"], file, numbers, sizes)
        self.notes = (*self._turns.notes, *notes)
        for note in self.notes:
            _log.warning("%s", note.text)

    def mask(self, index: int) -> NDArray[np.uint8]:
        """The mask, drawn on the picture's size in the file and turned upright where the outlines are as stored."""
        mask = draw(self._objects[index], self._sizes[index], self._rest)
        turn = self._turns.of(index, self._pictures[index], self._sizes[index])
        return mask if turn == UPRIGHT else upright_pixels(mask, turn)

    def _read_size(self, picture: str, skip_broken: bool) -> tuple[int, int]:
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


class _PackedObjects:
    """Class number and outline of the objects of each picture, in one block of memory that worker processes share.

    Args:
        pickled: the objects of each picture.
    """

    def __init__(self, pickled: Iterable[Sequence[bytes]]) -> None:
        joined = [b"".join(objects) for objects in pickled]
        self._block, self._ends = b"".join(joined), np.cumsum([0, *map(len, joined)], dtype=np.int64)

    def __getitem__(self, picture: int) -> Iterator[tuple[int, Outline]]:
        stream = io.BytesIO(self._block[self._ends[picture] : self._ends[picture + 1]])
        while stream.tell() < len(stream.getbuffer()):
            yield pickle.load(stream)


def _read(file: Path) -> dict[str, list[Mapping[str, Any]]]:
    content = read_content(file, outlines=True)
    return {key: list_of(content, key, str(file)) for key in ("images", "annotations", "categories")}


def _classes(
    content: Mapping[str, list[Mapping[str, Any]]], file: Path, source: SegmentationSource, split: Split
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
    parent = _unused_parent(content, source, split)
    if parent is not None:
        _log.info("%s: the category %r only names a group and is left out", file, names.pop(parent))
    void = {*void_ids(source)}
    if source.ignore != "none" and IGNORE not in source.ignore:
        void.discard(IGNORE)
    numbers: dict[int, int] = {}
    classes = ["background"]
    for key, name in sorted(names.items()):
        if key in void or means_void(name):
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
    content: Mapping[str, list[Mapping[str, Any]]], source: SegmentationSource, split: Split
) -> int | None:
    """Id of the group that Roboflow lists as the first category, if no part has an object of it."""
    first, *others = sorted(content["categories"], key=lambda record: whole(record, "id")) or [{}]
    group = first.get("name")
    if not others or any(record.get("supercategory") != group for record in others):
        return None
    if first.get("supercategory") == group:
        return None
    key, tables = whole(first, "id"), [content["annotations"]]
    for part in ("train", "val"):
        # The classes of all parts must be the same.
        if part != split and getattr(source, part):
            try:
                tables.append(_read(annotation_file(source, part, getattr(source, part)))["annotations"])
            except DataError:
                continue
    used = any(as_number(record.get("category_id")) == key for table in tables for record in table)
    return None if used else key


def _read_objects(
    records: list[Mapping[str, Any]], file: Path, numbers: Mapping[int, int], sizes: Mapping[int, tuple[int, int]]
) -> tuple[_PackedObjects, list[Note]]:
    """Objects of each picture, and what was put right.

    Args:
        records: ``annotations``.
        file: that holds them.
        numbers: class number by category.
        sizes: (width, height) by the id of the picture; 0 for those that cannot be read.

    Raises:
        DataError: a record is not as it should be, all are boxes, or polygons are in shares of the picture.
    """
    pickled: dict[int, list[bytes]] = {image: [] for image in sizes}
    crowds, boxes, flat, drawn, farthest = 0, 0, 0, False, 0.0
    for place, record in enumerate(records):
        try:
            image, category = whole(record, "image_id"), whole(record, "category_id")
            if image not in sizes:
                raise DataError(f"'image_id' {image} is not among the images of the file")
            if category not in numbers:
                known = ", ".join(map(str, sorted(numbers)[:20]))
                raise DataError(f"'category_id' {category} is not among the categories of the file: {known}")
            if not all(sizes[image]):
                continue  # nobody will see a mask of a picture that cannot be read
            crowd, outline = whole(record, "iscrowd", default=0) != 0, record.get("segmentation")
            label = IGNORE if crowd or not outline else numbers[category]
            shape = read_outline(outline, sizes[image]) if outline else box_outline(_box(record), sizes[image])
        except DataError as error:
            raise DataError(f"{file}: annotation {record.get('id', f'number {place}')}: {error}") from error
        if isinstance(shape, list):
            flat += sum(len(polygon) < 6 for polygon in shape)
            shape = [polygon for polygon in shape if len(polygon) >= 6]
            farthest = max(farthest, *map(max, shape), 0.0)
        crowds, boxes = crowds + crowd, boxes + (not outline)
        drawn |= label != IGNORE and len(shape) > 0
        pickled[image].append(pickle.dumps((label, shape)))
    if boxes and boxes == len(records):
        raise DataError(
            f"{file}: {counted(boxes, 'annotation')} and no outline in 'segmentation', only boxes; segmentation needs "
            "polygons or run lengths: label the objects with the tool's polygon or brush, and export again"
        )
    if 0 < farthest <= 1 and max(map(max, sizes.values())) > 4:
        raise DataError(
            f"{file}: 'segmentation': all polygons lie between 0 and 1; they must be in pixels, not in shares of width "
            "and height: multiply x by the width and y by the height"
        )
    return _PackedObjects(pickled.values()), _notes(file, len(records), crowds, boxes, flat, drawn)


def _notes(file: Path, total: int, crowds: int, boxes: int, flat: int, drawn: bool) -> list[Note]:
    """What is to be said of so many annotations, if nothing is ``drawn`` as a class only that."""
    if not drawn:
        what = f"none of {counted(total, 'annotation')} gives pixels of a class" if total else "no annotations"
        counts = (
            (crowds, "with iscrowd 1: crowds count as void"),
            (boxes, "with a box and no outline"),
            (flat, "with a polygon of fewer than three points"),
        )
        reasons = ", ".join(f"{count} {reason}" for count, reason in counts if count)
        return [Note(kind="no-object", text=f"{file}: {what}{f' ({reasons})' * bool(reasons)}")]
    notes = []
    if boxes:
        text = (
            f"{file}: a box and no outline in 'segmentation' of {boxes} of {counted(total, 'object')}; the pixels of "
        )
        notes.append(Note(kind="box-only", text=f"{text}such a box count as void"))
    if flat:
        text = f"{file}: {counted(flat, 'polygon')} of fewer than three points; left out"
        notes.append(Note(kind="flat-outline", text=text))
    return notes


def _box(record: Mapping[str, Any]) -> list[float]:
    box = record.get("bbox")
    if not isinstance(box, list) or len(box) != 4:
        raise DataError(
            f"'segmentation' is {shown(record, 'segmentation')}: it must be polygons [[x, y, x, y, ...], ...] or run "
            "lengths {'size', 'counts'}"
        )
    return [number({"bbox": value}, "bbox") for value in box]
