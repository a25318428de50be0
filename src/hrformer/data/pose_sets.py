"""Opens the pose sets that a :class:`PoseSource` describes: people in COCO's keypoint format, with any joints, or in
the form of a labelling tool.

A file (https://cocodataset.org/#format-data) is parsed once and kept as arrays: about 500 bytes for each of COCO's
150,000 people.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrformer.data.annotation_files import labels_file, usual_file
from hrformer.data.coco_file import (
    Pictures,
    as_number,
    flat_joints,
    people_categories,
    read_json,
    read_pictures,
    whole,
)
from hrformer.data.coco_labels import CocoLabels
from hrformer.data.coco_people import PERSON, People, integers
from hrformer.data.coco_pictures import find_pictures, picture_folders, plain_name
from hrformer.data.images import load_image
from hrformer.data.labels.search import read_labels
from hrformer.data.set_types import DataError, PackedNames, Person, PoseSet
from hrformer.data.source_config import PoseSource, Split
from hrformer.data.validation_split import split_part
from hrformer.data.views import open_joined
from hrformer.data.wrong_roots import advising, telling_task
from hrformer.geometry.skeleton_inference import skeleton_of
from hrformer.geometry.skeletons import COCO17
from hrformer.wording import counted

_log = logging.getLogger(__name__)


def open_pose(
    source: PoseSource, split: Split, *, detections: Path | None = None, box_threshold: float = 0.0
) -> PoseSet:
    """Read one part of a pose set; its files are found as :func:`labels_file` and :func:`find_pictures` say.

    Args:
        source: where it lies.
        split: which part; with ``val_share`` a view of the training part, by pictures.
        detections: file of person boxes to take instead of the labelled people, as it stands or relative to the
            source's root. A part without labels takes the source's own file if none is given.
        box_threshold: detections scored below it are left out.

    Raises:
        DataError: the source names no such part, or its files are not as they should be; see :class:`CocoPeople`.
    """
    if source.more_roots:
        if detections or source.detections:
            raise DataError("detected boxes are of one set: give one PoseSource.root with detections")
        return open_joined(source, lambda one: open_pose(one, split))
    shared = bool(source.val_share) and split != "test"
    part: Split = "train" if shared else split
    text: str = getattr(source, f"{part}_annotations").replace("{split}", part)
    with (
        telling_task("pose", source.root, layout_known=bool(text) and text != PoseSource().train_annotations),
        advising("PoseSource.root", source.root, [text or f"annotations/{part}.json"]),
    ):
        if not source.root.is_dir():
            raise DataError(f"{source.root}: no such folder; PoseSource.root is the folder of the set")
        file = labels_file(source, split)
        if not file.exists():
            raise DataError(
                f"{file}: no such file; PoseSource.{part}_annotations is {text}, relative to PoseSource.root"
            )
        if file != usual_file(source, text, part):
            _log.info("%s: taken for the labels of the %s part", file, part)
        named = [source.root / folder.replace("{split}", part) for folder in getattr(source, f"{part}_images")]
        folders = picture_folders(source.root, named, part, file)
        people = CocoPeople(file, folders, source, part, detections=detections, box_threshold=box_threshold)
    if not shared:
        return people
    return split_part(people, split, source, [plain_name(name) for name in people.file_names])


class CocoPeople(PoseSet):
    """Labelled people, or detected boxes, of one annotation file.

    Labelled people are those of the published runs: not a crowd, with at least one labelled joint. What tools leave out
    is put right, and said in a warning: :mod:`hrformer.data.coco_labels` tells how. Items are ordered by picture,
    pictures and the people in each as in the file.

    Args:
        file: annotations, see :func:`read_labels`; or a list of pictures without labels, which needs detections.
        folders: where the pictures may lie, see :func:`hrformer.data.coco_pictures.find_pictures`.
        source: how to clip, which category, how to take EXIF orientations, and what overrides the file about joints.
        split: which part of the file, where it holds several.
        detections: as for :func:`open_pose`, as ``box_threshold``; boxes in COCO's results format, not clipped.

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
        split: Split = "train",
        *,
        detections: Path | None = None,
        box_threshold: float = 0.0,
    ) -> None:
        content = read_labels(file, split, source.root, skip_broken=source.skip_broken)
        pictures = read_pictures(content, str(file))
        categories = people_categories(content, str(file), source.category)
        given = {name: getattr(source, name) for name in ("skeleton", "flip_pairs", "sigmas")}
        try:
            category = _with_names(categories[0], content, source, file)
            self.skeleton = skeleton_of(category, str(file), settings="PoseSource", **given)
        except (TypeError, ValueError) as error:
            raise DataError(str(error)) from error
        self.category_id: int = categories[0]["id"]
        self.annotations: Path | None = file if "annotations" in content else None
        self.image_ids: tuple[int, ...] = pictures.ids
        self.name = source.name or source.root.resolve().name
        self._upright, joints = source.exif != "ignore", self.skeleton.num_keypoints
        self._labels: CocoLabels | None = None
        if self.annotations is not None:
            self._labels = CocoLabels(content, pictures, categories, joints, str(file))
        elif detections is None:
            detections = source.detections
        if detections is not None:
            detections = detections if detections.is_file() else source.root / detections
            kinds = {one["id"] for one in categories}
            self._people = _read_detections(detections, pictures, kinds, box_threshold, file, joints)
        elif self._labels is not None:
            self._people = self._labels.people
        else:
            raise DataError(f"{file} lists pictures without labels: name a file of boxes in PoseSource.detections")
        used = np.unique(self._people.picture[self._in_order(content)]).tolist()
        names = [pictures.names[place] for place in used]
        paths = find_pictures(names, folders, source.root, file, skip_broken=source.skip_broken)
        every_path = dict.fromkeys(range(len(pictures.names)), "") | dict(zip(used, paths, strict=True))
        self.file_names, self._paths = PackedNames(pictures.names), PackedNames(every_path.values())
        if self._labels is not None:
            self._labels.place(used, self._paths.__getitem__, source.clip, source.exif)
            self.notes = self._labels.notes
            for note in self.notes:
                _log.warning("%s", note.text, extra={"kind": note.kind})
        self._rows = self._in_order(content)
        self._last: tuple[str, NDArray[np.uint8]] | None = None

    def _in_order(self, content: Mapping[str, Any]) -> NDArray[np.int64]:
        """Rows of those who are items; a DataError where there are none."""
        rows = np.flatnonzero(self._people.kind == PERSON)
        if not len(rows) and self._labels is not None:
            raise DataError(self._labels.nobody(content))
        return rows[np.argsort(self._people.picture[rows], kind="stable")]

    def __len__(self) -> int:
        return len(self._rows)

    def file(self, index: int) -> str:
        """Path of the person's picture."""
        return self._paths[self.picture(index)]

    def picture(self, index: int) -> int:
        """Place of the picture in the file, from 0."""
        return int(self._people.picture[self._rows[index]])

    def pixels(self, index: int) -> NDArray[np.uint8]:
        """See :meth:`ImageSet.pixels`. The picture read last is kept: the people of one follow each other."""
        path, last = self.file(index), self._last
        if last is None or last[0] != path:
            self._last = last = (path, load_image(path, upright=self._upright).pixels)
        return last[1]

    def person(self, index: int) -> Person:
        """Labels of an item; of a detection box and score alone."""
        people, row = self._people, self._rows[index]
        return Person(
            image_id=self.image_ids[people.picture[row]],
            person_id=int(people.number[row]),
            box=people.box[row].copy(),
            keypoints=people.keypoints[row].astype(np.float64),
            area=float(people.area[row]),
            score=float(people.score[row]),
            category_id=int(people.category[row]),
        )

    def truth(self) -> dict[str, list[dict[str, Any]]] | None:
        """The people of the file as they are trained on, crowds, and people without joints, in COCO's form."""
        return None if self._labels is None else self._labels.truth()


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
    file: Path, pictures: Pictures, categories: set[int], threshold: float, annotations: Path, num_keypoints: int
) -> People:
    """Boxes in single precision, the reference's: with labelled boxes in double its numbers come out bit for bit.

    ``file`` is a list of ``image_id``, ``bbox``, ``score``, and ``category_id`` where there are several. Boxes of other
    ``categories``, scored below ``threshold`` or of pictures not in ``annotations`` are left out.
    """
    records = read_json(file)
    if not isinstance(records, list):
        raise DataError(f"{file} must hold a list of detections, as COCO's results format has it")
    places, rows, unknown = pictures.places(), [], 0
    for row, one in enumerate(records):
        try:
            picture, category, score, box = _detection(one, min(categories))
        except DataError as error:
            raise DataError(f"{file}: detection {row}: {error}") from error
        if category not in categories or score < threshold:
            continue
        if picture in places:
            rows.append((places[picture], category, score, box))
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
    picture_places, kinds, scores, boxes = zip(*rows, strict=True)
    nobody = np.full(len(rows), -1)
    return People(
        picture=np.array(picture_places),
        category=integers(kinds),
        box=np.array(boxes, dtype=np.float64).astype(np.float32),
        number=nobody,
        row=nobody,
        kind=np.full(len(rows), PERSON),
        area=np.zeros(len(rows)),
        score=np.array(scores, dtype=np.float64),
        keypoints=np.zeros((len(rows), num_keypoints, 3), np.int8),
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
