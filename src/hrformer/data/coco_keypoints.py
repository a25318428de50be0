"""People in COCO's keypoint format (https://cocodataset.org/#format-data), with any joints, and detected boxes.

A file is parsed once and kept as arrays: about 500 bytes for each of COCO's 150,000 people.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrformer.data.coco_fields import as_number, flat_joints, read_json, whole
from hrformer.data.coco_labels import CocoLabels, read_content
from hrformer.data.coco_lists import Pictures, people_categories, read_pictures
from hrformer.data.coco_pictures import find_pictures
from hrformer.data.coco_records import People, integers
from hrformer.data.images import load_image
from hrformer.data.set_types import DataError, PackedNames, Person, PoseSet
from hrformer.data.source_config import PoseSource
from hrformer.geometry.skeleton_inference import skeleton_of
from hrformer.geometry.skeletons import COCO17
from hrformer.wording import counted

_log = logging.getLogger(__name__)


class CocoPeople(PoseSet):
    """Labelled people, or detected boxes, of one annotation file.

    Labelled people are those of the published runs: not a crowd, with at least one labelled joint. What tools leave out
    is put right, and said in a warning: :mod:`hrformer.data.coco_records` tells how. Items are ordered by picture,
    pictures and the people in each as in the file.

    Args:
        file: annotations; or a list of pictures without labels, which needs detections.
        folders: where the pictures may lie, see :func:`hrformer.data.coco_pictures.find_pictures`.
        source: how to clip, which category, how to take EXIF orientations, and what overrides the file about the
            joints.
        detections: boxes in COCO's results format to take instead of the labelled people, as it stands or relative
            to the source's root; not clipped. A file without labels takes the source's own if none is given.
        box_threshold: detections scored below it are left out.

    Attributes:
        annotations: the file if it has labels, else None.
        image_ids: of all pictures in the file, also those without people.
        category_id: of the people.
        file_names: of the pictures, as the file has them.
        notes: what was put right in the labels.

    Raises:
        DataError: a file is missing or not in the format, pictures are missing or of another size, or nobody is left.
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
        content = read_content(file)
        pictures = read_pictures(content, str(file))
        categories = people_categories(content, str(file), source.category)
        try:
            self.skeleton = skeleton_of(_with_names(categories[0], content, source, file), str(file), **_given(source))
        except (TypeError, ValueError) as error:
            raise DataError(str(error)) from error
        self.category_id: int = categories[0]["id"]
        self.annotations: Path | None = file if "annotations" in content else None
        self.image_ids: tuple[int, ...] = pictures.ids
        self.name = source.name or source.root.resolve().name
        self._upright, self._ids = source.exif != "ignore", pictures.ids
        labels = None
        if self.annotations is not None:
            labels = CocoLabels.read(content, pictures, categories, self.skeleton.num_keypoints, str(file))
        elif detections is None:
            detections = source.detections
        if detections is not None:
            detections = detections if detections.is_file() else source.root / detections
            found = _read_detections(detections, pictures, {one["id"] for one in categories}, box_threshold, file)
        elif labels is not None:
            found = labels.people
            if not len(found):
                raise DataError(labels.nobody(content))
        else:
            raise DataError(f"{file} lists pictures without labels: name a file of boxes in PoseSource.detections")
        used = np.unique(found.picture).tolist()
        names = [pictures.names[place] for place in used]
        paths = find_pictures(names, folders, source.root, file, skip_broken=source.skip_broken)
        every_path = dict.fromkeys(range(len(pictures.names)), "") | dict(zip(used, paths, strict=True))
        self.file_names, self._paths = PackedNames(pictures.names), PackedNames(every_path.values())
        if labels is not None:
            unplaced, labels = labels, labels.placed(used, self._paths.__getitem__, source.clip, source.exif)
            self.notes = labels.notes
            for note in self.notes:
                _log.warning("%s", note.text, extra={"kind": note.kind})
            found = found if detections is not None else labels.people
            if not len(found):
                raise DataError(unplaced.nobody(content))
        self._people, self._labels = found.take(np.argsort(found.picture, kind="stable")), labels
        self._last: tuple[str, NDArray[np.uint8]] | None = None

    def __len__(self) -> int:
        return len(self._people)

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
            self._last = last = (path, load_image(path, upright=self._upright).pixels)
        return last[1]

    def person(self, index: int) -> Person:
        """Labels of an item; of a detection box and score alone."""
        people, joints = self._people, self.skeleton.num_keypoints
        return Person(
            image_id=self._ids[people.picture[index]],
            person_id=int(people.number[index]),
            box=people.box[index].copy(),
            keypoints=np.zeros((joints, 3)) if people.keypoints is None else people.keypoints[index].copy(),
            area=float(people.area[index]),
            score=float(people.score[index]),
            category_id=int(people.category[index]),
        )

    def truth(self) -> dict[str, list[dict[str, Any]]] | None:
        """The people of the file as they are trained on, crowds, and people without joints, in COCO's form."""
        return None if self._labels is None else self._labels.truth()


def _given(source: PoseSource) -> dict[str, Any]:
    """What the source says of joints, as ``skeleton_of`` takes it."""
    names = ("skeleton", "flip_pairs", "sigmas")
    return {"settings": "PoseSource", **{name: getattr(source, name) for name in names}}


def _with_names(category: dict[str, Any], content: Mapping[str, Any], source: PoseSource, file: Path) -> dict[str, Any]:
    """The category; with COCO's names where there are none and the number of joints, if known, is COCO's."""
    if category.get("keypoints") or source.skeleton is not None:
        return category
    records = [one for one in content.get("annotations") or () if isinstance(one, Mapping)]
    counts = {len(joints) for one in records if isinstance(joints := flat_joints(one.get("keypoints")), list)} - {0}
    if counts - {3 * COCO17.num_keypoints}:
        return category
    _log.warning("%s does not name its joints; COCO's 17 are assumed. Set PoseSource.skeleton for others", file)
    return {**category, "keypoints": list(COCO17.keypoints)}


def _read_detections(
    file: Path, pictures: Pictures, categories: Collection[int], threshold: float, annotations: Path
) -> People:
    """Boxes in single precision, the reference's: with labelled boxes in double its numbers come out bit for bit.

    Args:
        file: a list of ``image_id``, ``bbox``, ``score``, and ``category_id`` where there are several.
        pictures: of the annotations.
        categories: ids of those to take.
        threshold: boxes scored below it are left out.
        annotations: the file that lists the pictures.

    Raises:
        DataError: it is not of this form (file and entry are named), or nobody is left.
    """
    records = read_json(file)
    if not isinstance(records, list):
        raise DataError(f"{file} must hold a list of detections, as COCO's results format has it")
    places, default, rows, unknown = pictures.places(), min(categories), [], 0
    for row, one in enumerate(records):
        try:
            picture, category, score, box = _detection(one, default)
        except DataError as error:
            raise DataError(f"{file}: detection {row}: {error}") from error
        if category not in categories or score < threshold:
            continue
        if picture in places:
            rows.append((row, places[picture], category, score, *box))
        else:
            unknown += 1
    if unknown:
        text = "%s: %s of pictures that %s does not list; left out"
        _log.warning(text, file, counted(unknown, "detection"), annotations)
    if not rows:
        raise DataError(
            f"{file}: nobody is left; detections need a picture of {annotations}, a category_id of "
            f"{sorted(categories)} and a score of at least {threshold}"
        )
    places_in_file, picture_places, kinds, scores, *boxes = zip(*rows, strict=True)
    return People(
        row=np.array(places_in_file),
        picture=np.array(picture_places),
        number=np.full(len(rows), -1),
        category=integers(kinds),
        box=np.array(boxes, dtype=np.float64).T.astype(np.float32),
        area=np.zeros(len(rows)),
        score=np.array(scores, dtype=np.float64),
    )


def _detection(one: Any, default: int) -> tuple[int, int, float, list[float]]:
    """Picture, category, score, and box."""
    if isinstance(one, Mapping) and "image_id" in one:
        category, score, box = whole(one, "category_id", default=default), as_number(one.get("score")), one.get("bbox")
        numbers = [as_number(value) for value in box] if isinstance(box, list) and len(box) == 4 else [math.nan]
        if math.isfinite(score) and math.isfinite(sum(numbers)) and min(numbers[2:]) >= 0 and max(numbers[2:]) > 0:
            return whole(one, "image_id"), category, score, numbers
    raise DataError(
        "must be of the form {'image_id': 785, 'category_id': 1, 'bbox': [x, y, width, height], 'score': 0.9}, got "
        f"{one!r:.160}"
    )
