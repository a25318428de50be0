"""Checks of a COCO keypoint file as it stands, before the reader leaves anybody out or stops at the first mistake."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hrformer.data.annotation_files import labels_file
from hrformer.data.coco_fields import as_number, flat_joints, number_or_nan, whole
from hrformer.data.coco_labels import read_content
from hrformer.data.coco_lists import list_of, people_categories
from hrformer.data.inspection.report import Finding, Places
from hrformer.data.sets import DataError
from hrformer.data.sources import PoseSource, Split
from hrformer.wording import counted

BEYOND_SHARE = 0.2
"""If a larger share of the boxes reaches beyond their pictures, they may be meant for others."""

_REFUSALS = {"unknown-picture": "'image_id'", "joint-count": "'keypoints'", "no-joints": "nobody is left"}
"""Kind of an error -> what the reader says where it stops at the same fault."""


def annotation_file(source: PoseSource, split: Split) -> Path | None:
    """The file of one part; None where there is none, or it is looked at as the training part's."""
    try:
        return None if source.val_share and split == "val" else labels_file(source, split)
    except DataError:
        # The reader says so too.
        return None


def check_annotations(file: Path, split: str, category: str = "") -> tuple[list[Finding], dict[str, Any]]:
    """Look at every annotation of the categories that are trained on.

    Args:
        file: in COCO's keypoint format.
        split: part of the set.
        category: see ``PoseSource``.

    Returns:
        Findings, and numbers: ``annotations``, ``crowds``, ``without_joints``, ``without_area`` (people in whose place
        a share of the box stands in). Both empty for a file that cannot be read or has no labels: what to say about
        those is the reader's. So it is about records of the wrong form, and about what it puts right; see
        ``CocoPeople.notes``.
    """
    try:
        content = read_content(file)
        records = list_of(content, "annotations", str(file))
        images = {
            _id(image, "id"): image for image in list_of(content, "images", str(file)) if isinstance(image, Mapping)
        }
        categories = people_categories(content, str(file), category)
    except DataError:
        return [], {}
    people = _People(images, max(len(one.get("keypoints") or ()) for one in categories))
    taken = {one["id"] for one in categories}
    for place, record in enumerate(records):
        if isinstance(record, Mapping) and (record.get("category_id") is None or _id(record, "category_id") in taken):
            people.add(record, str(record.get("id", f"number {place}")))
    return list(people.findings(split)), people.numbers


def same_fault(findings: Sequence[Finding], refusal: str) -> list[Finding]:
    """Errors, if one of them counts what the reader stopped at; empty if it stopped at something else."""
    errors = [one for one in findings if one.severity == "error"]
    return errors if any(_REFUSALS[one.kind] in refusal for one in errors) else []


def _id(record: Mapping[str, Any], field: str) -> int | None:
    """A whole number; None where the reader will refuse it."""
    try:
        return whole(record, field, "")
    except DataError:
        return None


class _People:
    """What is odd about annotations."""

    def __init__(self, images: Mapping[Any, Any], joints: int) -> None:
        self.images, self.joints = images, joints
        self.numbers = {"annotations": 0, "crowds": 0, "without_joints": 0, "without_area": 0}
        self._lost, self._lengths, self._bare, self._beyond = Places(), Places(), Places(), Places()
        self._boxes = 0

    def add(self, record: Mapping[str, Any], label: str) -> None:
        """Take in one annotation."""
        numbers = self.numbers
        numbers["annotations"] += 1
        if record.get("iscrowd") and as_number(record["iscrowd"]) != 0:
            numbers["crowds"] += 1
            return
        image = self.images.get(_id(record, "image_id"))
        name = f"annotation {label}" + (f" of {image.get('file_name')}" if isinstance(image, Mapping) else "")
        if image is None:
            self._lost.add(f"{name} (picture {record.get('image_id')})")
        joints = flat_joints(record.get("keypoints") or [])
        numbers_or_none = [number_or_nan(value) for value in joints] if isinstance(joints, list) else [None]
        values = [value for value in numbers_or_none if value is not None]
        # The reader refuses whatever is no number, and says why.
        if len(values) < len(numbers_or_none):
            return
        if joints and self.joints and len(joints) != 3 * self.joints:
            self._lengths.add(f"{name} ({counted(len(joints), 'number')})")
        triples = zip(values[::3], values[1::3], values[2::3], strict=False)
        if not any(flag > 0 and math.isfinite(x + y) for x, y, flag in triples):
            numbers["without_joints"] += 1
            self._bare.add(name)
            return
        numbers["without_area"] += not as_number(record.get("area")) > 0
        self._box(record.get("bbox"), image, name)

    def _box(self, box: Any, image: Any, name: str) -> None:
        x, y, width, height = map(as_number, box) if isinstance(box, list) and len(box) == 4 else [math.nan] * 4
        if not (width > 0 and height > 0) or not isinstance(image, Mapping):
            return
        self._boxes += 1
        limits = as_number(image.get("width")), as_number(image.get("height"))
        # One pixel is how tools differ in where the last pixel ends.
        if min(limits) > 0 and (x + width > limits[0] + 1 or y + height > limits[1] + 1):
            self._beyond.add(f"{name}: {box} in {limits[0]:g} x {limits[1]:g}")

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
            fix = "label them: joints count with flag 1 or 2"
            if not everybody:
                fix = f"nothing if that is meant, as in COCO; else {fix}"
            yield self._bare.finding("error" if everybody else "warning", "no-joints", split, what, fix)
        if self._beyond.count > BEYOND_SHARE * max(self._boxes, 1):
            what = f"{self._beyond.count} of {counted(self._boxes, 'box', 'boxes')} beyond the edge of the picture: cut"
            fix = (
                "nothing if they are people that the picture cuts off; boxes are [x, y, width, height] in pixels of "
                "this picture, not [x1, y1, x2, y2] nor of a larger one"
            )
            yield self._beyond.finding("warning", "box-beyond-picture", split, what, fix)
