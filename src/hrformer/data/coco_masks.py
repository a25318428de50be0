"""Masks drawn from the outlines in COCO's instances files (https://cocodataset.org/#format-data), as CVAT, Roboflow,
Label Studio and others write them, or in these tools' own forms: polygons, or run lengths, compressed or not.
"""

from __future__ import annotations

import io
import logging
import math
import pickle
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hrformer.data.annotation_files import annotation_file
from hrformer.data.class_lists import means_void, void_ids
from hrformer.data.coco_file import (
    Pictures,
    as_number,
    list_of,
    number,
    read_pictures,
    shown,
    told_of,
    whole,
)
from hrformer.data.coco_pictures import find_pictures, picture_folders
from hrformer.data.labels.search import read_labels
from hrformer.data.mask_sets import PictureFiles, part_name
from hrformer.data.set_types import IGNORE, DataError, Note, PackedNames
from hrformer.data.source_config import SegmentationSource, Split
from hrformer.data.turned_labels import canvas_of
from hrformer.geometry.orientation import UPRIGHT, upright_pixels
from hrformer.wording import counted, listed

Runs: TypeAlias = "NDArray[np.int64]"
"""Run lengths, column by column and beginning with the 0s."""

Outline: TypeAlias = "Runs | list[list[float]]"
"""Run lengths, or polygons (x, y, x, y ...) in pixels."""

_BACKGROUND = frozenset(("background", "_background_", "bg"))
_FORMS = "polygons [[x, y, x, y, ...], ...] or run lengths {'size': [height, width], 'counts'}"

_log = logging.getLogger(__name__)


class CocoMasks(PictureFiles):
    """Pictures whose masks are drawn when they are read.

    Pixels of no object are the class 0, ``background``; the categories follow in the order of their ids. A category
    of the name background is that class itself, one of a name such as void, or whose id is in ``source.ignore``, is
    no class: its pixels are ``IGNORE``. So are crowds (``iscrowd``), and the boxes of objects without an outline, where
    no other object lies. Where objects overlap, the one of the smaller area is on top.

    ``source.masks`` may name the annotation file, else it is looked for.

    Raises:
        DataError: a file or picture is missing, a record is not as it should be (file, annotation and field are
            named), or there are boxes only.
        ImportError: the package that draws polygons is not installed.
    """

    def __init__(self, source: SegmentationSource, split: Split) -> None:
        part = part_name(source, split)
        self.annotations = file = annotation_file(source, split, part)
        content = _read(file, split, source)
        numbers, self.classes = _classes(content, file, source, split)
        given = read_pictures(content, str(file), sized=False)
        order = sorted(range(len(given.ids)), key=lambda place: (given.names[place], given.ids[place]))
        names, self._ids = [given.names[place] for place in order], [given.ids[place] for place in order]
        told = [str(content["images"][place].get("labels") or "") for place in order]
        self._label_files = PackedNames(told) if any(told) else None
        folders = picture_folders(source.root, [source.root / source.images.replace("{split}", part)], split, file)
        advice = "SegmentationSource.images says where they are"
        paths = find_pictures(names, folders, source.root, file, advice, skip_broken=source.skip_broken)
        self.name = source.root.expanduser().resolve().name
        self._pictures, self._upright = PackedNames(paths), source.exif != "ignore"
        pictures = Pictures(ids=tuple(self._ids), names=names, sizes=given.sizes[order])
        places, option = range(len(paths)), ("SegmentationSource", "outlines")
        with told_of(file):
            canvas = canvas_of(pictures, places, paths.__getitem__, source.exif, *option)
        self._sizes, self._turned = [(width, height) for width, height in canvas.sizes.tolist()], canvas.turned
        self._rest = IGNORE if source.ignore != "none" and 0 in source.ignore and 0 not in numbers else 0
        sizes = dict(zip(self._ids, self._sizes, strict=True))
        self._objects, notes = _read_objects(content["annotations"], file, numbers, sizes)
        self.notes = (*canvas.notes, *notes)
        for note in self.notes:
            _log.warning("%s", note.text)

    def mask(self, index: int) -> NDArray[np.uint8]:
        """The mask, drawn on the picture's size in the file and turned upright where the outlines are as stored."""
        mask = draw(self._objects[index], self._sizes[index], self._rest)
        return upright_pixels(mask, self._turned.get(index, UPRIGHT))

    def mask_file(self, index: int) -> str:
        """``<annotation file>::image <id>``; the file is that of the picture alone where each has its own."""
        own = self._label_files[index] if self._label_files is not None else ""
        return f"{own or self.annotations}::image {self._ids[index]}"


class _PackedObjects:
    """Class number and outline of the objects of each picture, in one block of memory that worker processes share."""

    def __init__(self, pickled: Iterable[Sequence[bytes]]) -> None:
        joined = [b"".join(objects) for objects in pickled]
        self._block, self._ends = b"".join(joined), np.cumsum([0, *map(len, joined)], dtype=np.int64)

    def __getitem__(self, picture: int) -> Iterator[tuple[int, Outline]]:
        stream = io.BytesIO(self._block[self._ends[picture] : self._ends[picture + 1]])
        while stream.tell() < len(stream.getbuffer()):
            yield pickle.load(stream)


def _read(file: Path, split: Split, source: SegmentationSource) -> dict[str, list[Mapping[str, Any]]]:
    content = read_labels(file, split, source.root, outlines=True, skip_broken=source.skip_broken)
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
    if (parent := _unused_parent(content, source, split)) is not None:
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
    parts: tuple[Split, ...] = ("train", "val")
    for part in parts:
        # The classes of all parts must be the same.
        if part != split and getattr(source, part):
            try:
                file = annotation_file(source, part, getattr(source, part))
                tables.append(_read(file, part, source)["annotations"])
            except DataError:
                continue
    used = any(as_number(record.get("category_id")) == key for table in tables for record in table)
    return None if used else key


def _read_objects(
    records: list[Mapping[str, Any]], file: Path, numbers: Mapping[int, int], sizes: Mapping[int, tuple[int, int]]
) -> tuple[_PackedObjects, list[Note]]:
    """Objects of each picture, and what was put right.

    ``numbers`` are those of classes by category, ``sizes`` (width, height) by the id of the picture; 0 for those that
    cannot be read.
    """
    pickled: dict[int, list[bytes]] = {image: [] for image in sizes}
    crowds, boxes, flat, drawn, farthest = 0, 0, 0, False, 0.0
    for place, record in enumerate(records):
        try:
            image, category = whole(record, "image_id"), whole(record, "category_id")
            if image not in sizes:
                raise DataError(f"'image_id' {image} is not among the images of the file")
            if category not in numbers:
                known = listed(sorted(numbers), 20)
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
        counts = {
            "with iscrowd 1: crowds count as void": crowds,
            "with a box and no outline": boxes,
            "with a polygon of fewer than three points": flat,
        }
        reasons = ", ".join(f"{count} {reason}" for reason, count in counts.items() if count)
        return [Note(kind="no-object", text=f"{file}: {what}{f' ({reasons})' * bool(reasons)}")]
    told = {
        "box-only": f"a box and no outline in 'segmentation' of {boxes} of {counted(total, 'object')}; the pixels of "
        "such a box count as void",
        "flat-outline": f"{counted(flat, 'polygon')} of fewer than three points; left out",
    }
    counts = {"box-only": boxes, "flat-outline": flat}
    return [Note(kind=kind, text=f"{file}: {text}") for kind, text in told.items() if counts[kind]]


def _box(record: Mapping[str, Any]) -> list[float]:
    box = record.get("bbox")
    if not isinstance(box, list) or len(box) != 4:
        raise DataError(
            f"'segmentation' is {shown(record, 'segmentation')}: it must be polygons [[x, y, x, y, ...], ...] or run "
            "lengths {'size', 'counts'}"
        )
    return [number({"bbox": value}, "bbox") for value in box]


def read_outline(outline: Any, size: tuple[int, int]) -> Outline:
    """The field ``segmentation``: run lengths, compressed or not, or polygons in any of the forms that tools write.

    ``size`` is (width, height) of the picture. A ``DataError`` names neither file nor annotation.
    """
    if isinstance(outline, dict):
        return _run_lengths(outline, size)
    _coco_masks()
    if not isinstance(outline, list):
        raise DataError(f"'segmentation' must be {_FORMS}, got {outline!r:.80}")
    return [_polygon(one, size) for one in (outline if isinstance(outline[0], list) else [outline])]


def _polygon(polygon: Any, size: tuple[int, int]) -> list[float]:
    """A polygon of a list of numbers, or of pairs of them."""
    flat = polygon
    if isinstance(polygon, list) and polygon and all(isinstance(pair, list) for pair in polygon):
        flat = [value for pair in polygon for value in pair]
    try:
        # Takes numbers as text too, and some millions of them in a second.
        values = np.array(flat if isinstance(flat, list) else [math.nan], np.float64)
    except (TypeError, ValueError, OverflowError):
        values = np.array([math.nan])
    if not np.isfinite(values).all() or len(values) % 2:
        raise DataError(f"'segmentation' must be {_FORMS}, x and y finite and in pairs, got {polygon!r:.80}")
    most = 2 * max(size)
    if len(values) and (values.min() < -most or values.max() > 2 * most):
        raise DataError(
            f"'segmentation': a polygon reaches from {values.min():g} to {values.max():g}, far outside of the picture "
            f"of {size[0]} x {size[1]} pixels"
        )
    found: list[float] = values.tolist()
    return found


def _run_lengths(outline: dict[str, Any], size: tuple[int, int]) -> Runs:
    """Run lengths of an object, checked against the picture's size."""
    told, counts = outline.get("size"), outline.get("counts")
    if not isinstance(told, Sequence) or isinstance(told, str) or len(told) != 2:
        raise DataError(f"'segmentation': 'size' must be [height, width], got {told!r:.80}")
    height, width = (whole({"size": side}, "size", "'segmentation'") for side in told)
    if (width, height) != size:
        raise DataError(
            f"'segmentation': 'size' [height, width] is [{height}, {width}], but 'height' and 'width' of its picture "
            f"are {size[1]} and {size[0]}"
        )
    numbers = [as_number(count) for count in counts] if isinstance(counts, list) else [math.nan]
    if isinstance(counts, str):
        runs = _decompressed(counts)
    elif all(count.is_integer() for count in numbers):
        runs = np.array(numbers, np.int64)
    else:
        raise DataError(
            f"'segmentation': 'counts' must be a list of whole numbers or a compressed text, got {counts!r:.80}"
        )
    if not len(runs) or runs.min() < 0 or runs.sum() != width * height:
        raise DataError(
            f"'segmentation': 'counts' must be run lengths of 0 or more whose sum is height x width = "
            f"{width * height}, got a sum of {int(runs.sum())}"
        )
    return runs


def _decompressed(text: str) -> Runs:
    """Run lengths from COCO's text: six bits a letter, five of the value and one that says whether more follow; from
    the fourth run on the difference to the last but one (cocoapi, ``rleFrString``)."""
    letters = np.frombuffer(text.encode("utf-8", "replace"), np.uint8).astype(np.int64) - 48
    if not len(letters) or letters.min() < 0 or letters.max() > 63 or letters[-1] & 32:
        return np.empty(0, np.int64)
    last = np.flatnonzero(letters & 32 == 0)
    begin = np.concatenate([[0], last[:-1] + 1])
    place = np.arange(len(letters)) - np.repeat(begin, last - begin + 1)
    if place.max() > 6:
        return np.empty(0, np.int64)
    values = np.add.reduceat((letters & 31) << (5 * place), begin)
    # The highest bit of the last letter is the sign.
    values -= np.where(letters[last] & 16, np.int64(1) << (5 * (place[last] + 1)), 0)
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


def box_outline(box: Sequence[float], size: tuple[int, int]) -> Runs:
    """Run lengths of the pixels that a box (x, y, width, height) touches in a picture of (width, height)."""
    left, top = (max(math.floor(edge), 0) for edge in box[:2])
    ends = zip(box[:2], box[2:], size, strict=True)
    right, bottom = (min(math.ceil(edge + side), most) for edge, side, most in ends)
    if right <= left or bottom <= top:
        return np.array([size[0] * size[1]])
    runs = np.array([left * size[1] + top, *[bottom - top, size[1] - bottom + top] * (right - left)])
    runs[-1] = size[0] * size[1] - runs[:-1].sum()
    return runs


def draw(objects: Iterable[tuple[int, Outline]], size: tuple[int, int], rest: int) -> NDArray[np.uint8]:
    """A picture's mask (H, W) of class numbers: what is void, then the other objects from the largest to the smallest.

    Args:
        objects: class number or ``IGNORE`` of each, and its outline.
        size: (width, height) of the mask.
        rest: class number of pixels of no object.
    """
    # Column by column, as run lengths are.
    columns = np.full(size[0] * size[1], rest, np.uint8)
    shapes = [(label, _drawn(outline, size)) for label, outline in objects]
    # Objects of one area in the order of the file, so that the mask is always the same.
    for label, runs in sorted(shapes, key=lambda one: (one[0] != IGNORE, -int(one[1][1::2].sum()))):
        inside = np.repeat(np.arange(len(runs) - 1) % 2 == 0, runs[1:])
        columns[runs[0] :][inside] = label
    return np.ascontiguousarray(columns.reshape(size).T)


def _drawn(outline: Outline, size: tuple[int, int]) -> Runs:
    """Run lengths of an outline."""
    if not isinstance(outline, list):
        return outline
    if not outline:
        return np.array([size[0] * size[1]])
    coco = _coco_masks()
    encoded = coco.merge(coco.frPyObjects(outline, size[1], size[0]))["counts"]
    return _decompressed(encoded.decode() if isinstance(encoded, bytes) else encoded)


def _coco_masks() -> Any:
    try:
        from faster_coco_eval.core import mask
    except ImportError as error:
        raise ImportError(
            "drawing polygons needs the package faster-coco-eval: pip install 'hrformer[train]'"
        ) from error
    return mask
