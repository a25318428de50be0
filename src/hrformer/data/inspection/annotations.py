"""Checks of a COCO keypoint file as it stands, before the reader leaves anybody out or stops at the first mistake."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hrformer.data.inspection.report import Finding, Places, counted
from hrformer.data.pose_files import labels_file
from hrformer.data.sets import DataError
from hrformer.data.sources import PoseSource, Split

CORNERS_SHARE = 0.2
"""If a larger share of the boxes reaches beyond their pictures, they are taken for something else than x, y, w, h."""


def annotation_file(source: PoseSource, split: Split) -> Path | None:
    """The file of one part; None where there is none, or it is looked at as the training part's."""
    try:
        return None if source.val_share and split == "val" else labels_file(source, split)
    except DataError:
        # The reader says so too.
        return None


def check_annotations(file: Path, split: str) -> tuple[list[Finding], dict[str, Any]]:
    """Look at every annotation.

    Args:
        file: in COCO's keypoint format.
        split: part of the set.

    Returns:
        Findings, and numbers: ``annotations``, ``crowds``, ``without_joints``, ``without_area``. Both empty for a file
        that cannot be read or has no labels: what to say about those is the reader's.
    """
    try:
        content = json.loads(file.read_bytes(), object_hook=_without_outline)
        images = {image["id"]: image for image in content["images"]}
        records: Sequence[Any] = content["annotations"]
        joints = max((len(category.get("keypoints") or ()) for category in content.get("categories", ())), default=0)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return [], {}
    people = _People(images, joints)
    for place, record in enumerate(records):
        if isinstance(record, dict):
            people.add(record, str(record.get("id", f"number {place}")))
    return list(people.findings(split)), people.numbers


class _People:
    """What is odd about annotations."""

    def __init__(self, images: Mapping[Any, Any], joints: int) -> None:
        self.images, self.joints = images, joints
        self.numbers = {"annotations": 0, "crowds": 0, "without_joints": 0, "without_area": 0}
        self._lost, self._lengths, self._bare = Places(), Places(), Places()
        self._flat, self._beyond = Places(), Places()
        self._boxes = 0

    def add(self, record: Mapping[str, Any], label: str) -> None:
        """Take in one annotation."""
        numbers = self.numbers
        numbers["annotations"] += 1
        if record.get("iscrowd"):
            numbers["crowds"] += 1
            return
        image = self.images.get(record.get("image_id"))
        name = f"annotation {label}" + (f" of {image.get('file_name')}" if isinstance(image, dict) else "")
        if image is None:
            self._lost.add(f"{name} (picture {record.get('image_id')})")
        joints = record.get("keypoints") or ()
        if joints and self.joints and len(joints) != 3 * self.joints:
            self._lengths.add(f"{name} ({len(joints)} numbers)")
        if not any(isinstance(flag, int | float) and flag > 0 for flag in joints[2::3]):
            numbers["without_joints"] += 1
            self._bare.add(name)
            return
        area = record.get("area")
        if area is not None and not (isinstance(area, int | float) and area > 0):
            numbers["without_area"] += 1
        self._box(record.get("bbox"), image, name)

    def _box(self, box: Any, image: Any, name: str) -> None:
        if not isinstance(box, list) or len(box) != 4 or not all(isinstance(value, int | float) for value in box):
            return
        self._boxes += 1
        if min(box[2:]) <= 0:
            self._flat.add(f"{name}: {box}")
            return
        width, height = (image.get("width"), image.get("height")) if isinstance(image, dict) else (None, None)
        # One pixel is how tools differ in where the last pixel ends.
        if width and height and (box[0] + box[2] > width + 1 or box[1] + box[3] > height + 1):
            self._beyond.add(f"{name}: {box} in {width} x {height}")

    def findings(self, split: str) -> Iterator[Finding]:
        """Lost, empty and misshapen annotations."""
        people = self.numbers["annotations"] - self.numbers["crowds"]
        if self._lost:
            what = f"{counted(self._lost.count, 'annotation')} of pictures that the file does not list"
            fix = "add these pictures to 'images', or remove the annotations"
            yield self._lost.finding("error", "unknown-picture", split, what, fix)
        if self._lengths:
            what = f"{counted(self._lengths.count, 'annotation')} with another number of joints than the category names"
            fix = f"write {self.joints} x (x, y, flag), with 0, 0, 0 for joints without label"
            yield self._lengths.finding("error", "joint-count", split, what, fix)
        if self._bare:
            everybody = self._bare.count == people
            what = f"{self._bare.count} of {counted(people, 'person', 'people')} without any labelled joint: left out"
            fix = "nothing if that is meant, as in COCO; else label them: joints count with flag 1 or 2"
            yield self._bare.finding("error" if everybody else "warning", "no-joints", split, what, fix)
        if without := self.numbers["without_area"]:
            what = f"{counted(without, 'person', 'people')} with an area of 0: left out"
            fix = "write the area of the person's mask, or 0.53 x width x height of the box, a usual stand-in"
            yield Finding(severity="warning", kind="no-area", split=split, what=what, fix=fix)
        if self._flat:
            what = f"{counted(self._flat.count, 'box', 'boxes')} without width or height: left out"
            fix = "write boxes as [x, y, width, height] in pixels"
            yield self._flat.finding("warning", "flat-box", split, what, fix)
        if self._beyond.count > CORNERS_SHARE * max(self._boxes, 1):
            what = f"{self._beyond.count} of {counted(self._boxes, 'box', 'boxes')} beyond the edge of the picture"
            fix = "boxes are [x, y, width, height]; these look like [x1, y1, x2, y2], or like those of larger pictures"
            yield self._beyond.finding("error", "box-beyond-picture", split, what, fix)


def _without_outline(record: dict[str, Any]) -> dict[str, Any]:
    """Most of COCO's files are outlines of masks, dropped while reading."""
    record.pop("segmentation", None)
    return record
