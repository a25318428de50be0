"""People in COCO's keypoint format (https://cocodataset.org/#format-data), with any joints, and detected boxes.

A file is parsed once and kept as arrays: about 500 bytes for each of COCO's 150,000 people.
"""

from __future__ import annotations

import json
import logging
import math
import os
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrformer.data.coco_pictures import find_pictures
from hrformer.data.images import load_image
from hrformer.data.packed_names import PackedNames
from hrformer.data.sets import DataError, Person, PoseSet
from hrformer.data.sources import PoseSource
from hrformer.geometry.boxes import clip_boxes_mmpose, clip_boxes_official
from hrformer.geometry.skeleton_inference import skeleton_of
from hrformer.geometry.skeletons import COCO17

_CLIP_RULES = {"official": clip_boxes_official, "mmpose": clip_boxes_mmpose}
_NOT_NEEDED = ("segmentation", "coco_url", "flickr_url", "date_captured")
"""Most of COCO's files; dropped while parsing."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Pictures:
    """Pictures in the order of the file: ids (M,), names, (width, height) (M, 2), 0 where the file does not say."""

    ids: NDArray[np.int64]
    names: list[str]
    sizes: NDArray[np.int64]

    def places(self) -> dict[int, int]:
        """Place in the file by id."""
        return {number: place for place, number in enumerate(self.ids.tolist())}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _People:
    """N people, by picture and within one in the order of the file; ``keypoints`` is None for detections."""

    picture: NDArray[np.int64]
    number: NDArray[np.int64]
    category: NDArray[np.int64]
    box: NDArray[np.floating]
    area: NDArray[np.float64]
    score: NDArray[np.float64]
    keypoints: NDArray[np.float64] | None

    def take(self, rows: NDArray[np.integer]) -> _People:
        """Some of them, in another order."""
        return _People(
            picture=self.picture[rows],
            number=self.number[rows],
            category=self.category[rows],
            box=self.box[rows],
            area=self.area[rows],
            score=self.score[rows],
            keypoints=None if self.keypoints is None else self.keypoints[rows],
        )


class CocoPeople(PoseSet):
    """Labelled people, or detected boxes, of one annotation file.

    Labelled people are those of the published runs: not a crowd, with an area above 0, at least one labelled joint,
    and a box of which something is left after clipping. Items are ordered by picture, pictures and the people in each
    as in the file.

    Args:
        file: annotations; or a list of pictures without labels, which needs detections.
        folders: where the pictures may lie, see :func:`hrformer.data.coco_pictures.find_pictures`.
        source: how to clip, and what overrides the file about the joints.
        detections: boxes in COCO's results format to take instead of the labelled people, as it stands or relative
            to the source's root; not clipped. A file without labels takes the source's own if none is given.
        box_threshold: detections scored below it are left out.

    Attributes:
        annotations: the file if it has labels, as the metrics take it, else None.
        image_ids: of all pictures in the file, also those without people.
        category_id: of the people.
        file_names: of the pictures, as the file has them.

    Raises:
        DataError: a file is missing or not in the format, pictures are missing, or nobody is left.
    """

    def __init__(
        self,
        file: Path,
        folders: Sequence[Path],
        source: PoseSource,
        *,
        detections: Path | None = None,
        box_threshold: float = 0.0,
    ) -> None:
        content = _read_json(file)
        lists = [content.get(key, []) for key in ("images", "annotations")] if isinstance(content, dict) else [None]
        if not all(isinstance(one, list) for one in lists):
            raise DataError(f"{file} is not in COCO's format: it must hold 'images', 'annotations' and 'categories'")
        pictures = _read_pictures(content["images"], file)
        categories = _people_categories(content, file)
        try:
            self.skeleton = skeleton_of(_with_names(categories[0], content, source, file), source, str(file))
        except ValueError as error:
            raise DataError(str(error)) from error
        self.category_id: int = categories[0]["id"]
        self.annotations: Path | None = file if "annotations" in content else None
        self.image_ids: tuple[int, ...] = tuple(pictures.ids.tolist())
        self.name = source.name or source.root.resolve().name
        ids = {category["id"] for category in categories}
        if detections is None and self.annotations is None:
            detections = source.detections
        if detections is not None:
            detections = detections if detections.is_file() else source.root / detections
            people = _read_detections(detections, pictures, ids, box_threshold, file)
        elif self.annotations is not None:
            people = _read_people(content["annotations"], pictures, ids, self.skeleton.num_keypoints, file)
            people = _clipped(people, pictures, source.clip, file)
        else:
            raise DataError(f"{file} lists pictures without labels: name a file of boxes in PoseSource.detections")
        if not len(people.picture):
            raise DataError(
                f"{detections or file}: nobody is left; people must not be a crowd (iscrowd) and need a category of "
                f"{sorted(ids)}, a labelled joint, an area above 0 and a box in the picture; detections a score of at "
                f"least {box_threshold}"
            )
        self._people = people.take(np.argsort(people.picture, kind="stable"))
        self._ids, self.file_names = pictures.ids, PackedNames(pictures.names)
        needed = np.unique(people.picture).tolist()
        paths = dict.fromkeys(range(len(pictures.names)), "")
        names = [pictures.names[place] for place in needed]
        paths |= zip(needed, find_pictures(names, folders, source.root, file), strict=True)
        self._paths = PackedNames(paths.values())
        self._last: tuple[str, NDArray[np.uint8]] | None = None

    def __len__(self) -> int:
        return len(self._people.picture)

    def file(self, index: int) -> str:
        """Path of the person's picture."""
        return self._paths[self.picture(index)]

    def picture(self, index: int) -> int:
        """Place of the picture in the file, from 0."""
        return int(self._people.picture[index])

    def pixels(self, index: int) -> NDArray[np.uint8]:
        """See :meth:`ImageSet.pixels`. The picture read last is kept: the people of one follow each other."""
        path, last = self.file(index), self._last
        if last is None or last[0] != path:
            self._last = last = (path, load_image(path).pixels)
        return last[1]

    def person(self, index: int) -> Person:
        """Labels of an item; of a detection box and score alone."""
        people, joints = self._people, self.skeleton.num_keypoints
        return Person(
            image_id=int(self._ids[people.picture[index]]),
            person_id=int(people.number[index]),
            box=people.box[index].copy(),
            keypoints=np.zeros((joints, 3)) if people.keypoints is None else people.keypoints[index].copy(),
            area=float(people.area[index]),
            score=float(people.score[index]),
            category_id=int(people.category[index]),
        )


def _read_json(file: Path) -> Any:
    try:
        with file.open(encoding="utf-8") as stream:
            return json.load(stream, object_hook=_needed)
    except FileNotFoundError:
        raise DataError(f"{file}: no such file") from None
    except OSError as error:
        raise DataError(f"{file}: {error.strerror or error}") from error
    except ValueError as error:
        raise DataError(f"{file} is not JSON: {error}") from error


def _needed(record: dict[str, Any]) -> dict[str, Any]:
    for key in _NOT_NEEDED:
        record.pop(key, None)
    return record


def _read_pictures(images: list[Any], file: Path) -> _Pictures:
    ids, names, sizes = array("q"), [], array("q")
    for place, image in enumerate(images):
        try:
            ids.append(image["id"])
            names.append(os.fspath(image["file_name"]))
            sizes.extend((image.get("width") or 0, image.get("height") or 0))
        except (AttributeError, KeyError, TypeError) as error:
            raise DataError(
                f"{file}: entry {place} of 'images' needs a whole number 'id' and a 'file_name', got {image!r:.200}"
            ) from error
    if len(set(ids)) != len(ids) or not names:
        raise DataError(f"{file}: 'images' must hold at least one picture, each with an id of its own")
    return _Pictures(ids=np.array(ids), names=names, sizes=np.array(sizes).reshape(-1, 2))


def _people_categories(content: Mapping[str, Any], file: Path) -> list[dict[str, Any]]:
    """The categories with joints; where no joints are named, the one called person."""
    categories = content.get("categories") or [{"id": 1, "name": "person"}]
    if not all(isinstance(one, dict) and isinstance(one.get("id"), int) for one in categories):
        raise DataError(f"{file}: each of 'categories' needs a whole number 'id', got {categories!r:.200}")
    jointed = [one for one in categories if one.get("keypoints")]
    if any(one["keypoints"] != jointed[0]["keypoints"] for one in jointed):
        raise DataError(
            f"{file}: the categories {', '.join(str(one.get('name', one['id'])) for one in jointed)} have different "
            "joints; a model has one list of joints, so keep one of them"
        )
    return jointed or [next((one for one in categories if one.get("name") == "person"), categories[0])]


def _with_names(category: dict[str, Any], content: Mapping[str, Any], source: PoseSource, file: Path) -> dict[str, Any]:
    """The category; with COCO's names where there are none and the number of joints, if known, is COCO's."""
    if category.get("keypoints") or source.skeleton is not None:
        return category
    counts = {len(one.get("keypoints") or ()) for one in content.get("annotations", ())} - {0}
    if counts - {3 * COCO17.num_keypoints}:
        return category
    _log.warning("%s does not name its joints; COCO's 17 are assumed. Set PoseSource.skeleton for others", file)
    return {**category, "keypoints": list(COCO17.keypoints)}


def _read_people(
    annotations: Sequence[Mapping[str, Any]], pictures: _Pictures, categories: set[int], num_keypoints: int, file: Path
) -> _People:
    """Labelled people, their boxes as they are."""
    places = pictures.places()
    numbers, areas, boxes, joints = array("q"), array("d"), array("d"), array("d")
    for row, one in enumerate(annotations):
        label = one.get("id", row)
        flags = one.get("keypoints") or ()
        if one.get("iscrowd") or one.get("category_id", min(categories)) not in categories or not flags:
            continue
        if len(flags) != 3 * num_keypoints:
            raise DataError(
                f"{file}: annotation {label} has {len(flags)} numbers in 'keypoints', not 3 x {num_keypoints}"
            )
        area = one.get("area")
        if not max(flags[2::3]) > 0 or (area is not None and not area > 0):
            continue
        if one.get("image_id") not in places:
            raise DataError(
                f"{file}: annotation {label} is of picture {one.get('image_id')!r}, which is not among its 'images'; "
                "add the picture or remove the annotation"
            )
        if len(one.get("bbox") or ()) != 4:
            raise DataError(f"{file}: annotation {label} needs a 'bbox' [x, y, width, height], got {one.get('bbox')!r}")
        try:
            numbers.extend((places[one["image_id"]], label, one.get("category_id", min(categories))))
            boxes.extend(one["bbox"])
            joints.extend(flags)
            areas.append(area or 0.0)
        except TypeError as error:
            raise DataError(f"{file}: annotation {label} holds something that is not a number: {error}") from error
    columns = np.array(numbers, dtype=np.int64).reshape(-1, 3)
    # Views of the arrays rather than copies: the joints of COCO are 60 MB.
    box, keypoints = np.asarray(boxes).reshape(-1, 4), np.asarray(joints).reshape(-1, num_keypoints, 3)
    if bad := np.flatnonzero(~(np.isfinite(box).all(1) & np.isfinite(keypoints).all((1, 2)))).tolist():
        raise DataError(f"{file}: annotation {columns[bad[0], 1]} holds numbers that are not finite")
    return _People(
        picture=columns[:, 0].copy(),
        number=columns[:, 1].copy(),
        category=columns[:, 2].copy(),
        box=box,
        area=np.asarray(areas),
        score=np.ones(len(box)),
        keypoints=keypoints,
    )


def _clipped(people: _People, pictures: _Pictures, clip: str, file: Path) -> _People:
    """People of whose box something is left, with that."""
    boxes = people.box
    if clip != "none" and len(boxes):
        sizes = pictures.sizes[people.picture]
        if lacking := np.flatnonzero((sizes < 1).any(axis=1)).tolist():
            name = pictures.names[people.picture[lacking[0]]]
            raise DataError(f"{file} does not give width and height of {name}; add them, or set PoseSource.clip='none'")
        # One call for all pictures of a size; COCO has 20 times fewer sizes than pictures.
        shapes, group = np.unique(sizes, axis=0, return_inverse=True)
        order = np.argsort(group.ravel(), kind="stable")
        ends = np.cumsum(np.bincount(group.ravel(), minlength=len(shapes)))
        boxes = np.empty_like(people.box)
        for (width, height), rows in zip(shapes.tolist(), np.split(order, ends[:-1]), strict=True):
            boxes[rows] = _CLIP_RULES[clip](people.box[rows], (width, height))
        people.box[:] = boxes
    return people.take(np.flatnonzero((boxes[:, 2:] > 0).all(axis=1)))


def _read_detections(
    file: Path, pictures: _Pictures, categories: set[int], threshold: float, annotations: Path
) -> _People:
    """Boxes in single precision, the reference's: with labelled boxes in double its numbers come out bit for bit."""
    records = _read_json(file)
    if not isinstance(records, list):
        raise DataError(f"{file} must hold a list of detections, as COCO's results format has it")
    places = pictures.places()
    numbers, values, unknown = array("q"), array("d"), 0
    for row, one in enumerate(records):
        try:
            category, score, box = one.get("category_id", min(categories)), float(one["score"]), one["bbox"]
            if category not in categories or score < threshold:
                continue
            if len(box) != 4 or not all(map(math.isfinite, box)) or min(box[2:]) < 0 or max(box[2:]) <= 0:
                raise ValueError
            if one["image_id"] not in places:
                unknown += 1
                continue
            numbers.extend((places[one["image_id"]], category))
            values.extend((score, *box))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{file}: detection {row} is not of the form {{'image_id': 785, 'category_id': 1, "
                f"'bbox': [x, y, width, height], 'score': 0.9}}: {one!r:.160}"
            ) from error
    if unknown:
        _log.warning("%s: %d detections are of pictures that %s does not list; left out", file, unknown, annotations)
    columns, rows = np.array(numbers, dtype=np.int64).reshape(-1, 2), np.array(values).reshape(-1, 5)
    return _People(
        picture=columns[:, 0].copy(),
        number=np.full(len(rows), -1),
        category=columns[:, 1].copy(),
        box=rows[:, 1:].astype(np.float32),
        area=np.zeros(len(rows)),
        score=rows[:, 0].copy(),
        keypoints=None,
    )
