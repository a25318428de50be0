"""People in COCO's keypoint format (https://cocodataset.org/#format-data), with any joints, and detected boxes.

A file is parsed once and kept as arrays: about 500 bytes for each of COCO's 150,000 people.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrformer.data.coco_detections import read_detections
from hrformer.data.coco_fields import flat_joints
from hrformer.data.coco_labels import CocoLabels, read_content
from hrformer.data.coco_lists import list_of, people_categories, read_pictures
from hrformer.data.coco_pictures import find_pictures
from hrformer.data.images import load_image
from hrformer.data.packed_names import PackedNames
from hrformer.data.sets import DataError, Note, Person, PoseSet
from hrformer.data.sources import PoseSource
from hrformer.geometry.skeleton_inference import skeleton_of
from hrformer.geometry.skeletons import COCO17

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
        pictures = read_pictures(list_of(content, "images", str(file)), str(file))
        categories = people_categories(content, str(file), source.category)
        try:
            self.skeleton = skeleton_of(_with_names(categories[0], content, source, file), str(file), **_given(source))
        except (TypeError, ValueError) as error:
            raise DataError(str(error)) from error
        self.category_id: int = categories[0]["id"]
        self.annotations: Path | None = file if "annotations" in content else None
        self.image_ids: tuple[int, ...] = pictures.ids
        self.name = source.name or source.root.resolve().name
        self.notes: tuple[Note, ...] = ()
        self._upright, self._names = source.exif != "ignore", pictures.names
        ids = {category["id"] for category in categories}
        labels = None
        if self.annotations is not None:
            labels = CocoLabels.read(content, pictures, categories, self.skeleton.num_keypoints, str(file))
        elif detections is None:
            detections = source.detections
        if detections is not None:
            detections = detections if detections.is_file() else source.root / detections
            found = read_detections(detections, pictures, ids, box_threshold, file)
        elif labels is not None:
            found = labels.labels.people
        else:
            raise DataError(f"{file} lists pictures without labels: name a file of boxes in PoseSource.detections")
        if not len(found):
            if labels is not None and detections is None:
                raise DataError(labels.nobody(content))
            raise DataError(
                f"{detections}: nobody is left; detections need a picture of {file}, a category_id of {sorted(ids)} "
                f"and a score of at least {box_threshold}"
            )
        used = np.unique(found.picture).tolist()
        paths = dict.fromkeys(range(len(pictures.names)), "")
        names = [pictures.names[place] for place in used]
        paths |= zip(
            used, find_pictures(names, folders, source.root, file, skip_broken=source.skip_broken), strict=True
        )
        self.file_names, self._paths = PackedNames(pictures.names), PackedNames(paths.values())
        if labels is not None:
            unplaced, labels = labels, labels.placed(used, self._paths.__getitem__, source.clip, source.exif)
            self.notes = labels.labels.notes
            for note in self.notes:
                _log.warning("%s", note.text, extra={"kind": note.kind})
            found = found if detections is not None else labels.labels.people
            if not len(found):
                raise DataError(unplaced.nobody(content))
        self._people = found.take(np.argsort(found.picture, kind="stable"))
        self._labels, self._ids = labels, pictures.ids
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
