"""Checks of people: joints, boxes, and which joints change places in a mirror image."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrformer.data.inspection.flip_pairs import flip_findings
from hrformer.data.inspection.report import Check, Finding, Places, Severity, spread
from hrformer.data.inspection.scan import Look
from hrformer.data.sets import Person, PoseSet
from hrformer.geometry.boxes import box_to_crop
from hrformer.wording import counted

SMALLEST_BOX = 2.0
"""Boxes with a side below this many pixels hold nobody."""

_ALWAYS, _MANY, _NEARLY_ALL, _NEVER = 0.0, 0.5, 0.9, 1.0

_FINDINGS = {
    "joint-values": (
        _ALWAYS,
        "coordinates of joints that are not finite, or flags other than 0, 1 and 2",
        "write x, y, flag for each joint: pixels, and 0 not labelled, 1 hidden, 2 visible",
    ),
    "joint-units": (
        _ALWAYS,
        "all joints within 0..1: shares of the picture's size instead of pixels",
        "multiply x by the picture's width and y by its height",
    ),
    "no-joints": (_NEARLY_ALL, "no labelled joint", "label them or take them out; joints count with flag 1 or 2"),
    "joint-outside": (
        _MANY,
        "labelled joints outside the picture",
        "correct them, or set x, y and flag to 0; if it is so in everybody, pictures were resized without the joints",
    ),
    "joint-at-origin": (
        _NEVER,
        "joints labelled at (0, 0), the corner of the picture",
        "set the flag of joints without label to 0",
    ),
    "thin-box": (
        _NEVER,
        f"a box with a side below {SMALLEST_BOX:g} pixels",
        "correct the box, (x, y, width, height) in pixels, or take the person out",
    ),
    "box-misses-person": (
        _MANY,
        "more than half of the joints outside of what is cut out around the box",
        "boxes are (x, y, width, height) in pixels, not (x1, y1, x2, y2), middle and size, shares or percent; check "
        "that box and joints belong to one person",
    ),
}
"""Kind -> the share of the people above which it is an error, what is wrong with them, and what to do."""

LABEL_KINDS = frozenset((*_FINDINGS, "flip-pair-names", "flip-pair-shape"))
"""Kinds of findings about labels; an error of these is about most people of a file."""

_FIXES = {
    "no-area": "nothing if there are no masks; else write the area of each person's mask in square pixels",
    "num-keypoints": "write how many flags are above 0, if other programs read the file too",
    "flat-box": "write boxes as [x, y, width, height] in pixels",
    "box-outside": "write boxes as [x, y, width, height] in pixels of the picture",
    "copies": "remove the copies",
    "box-spelling": "look at these people, and write boxes as [x, y, width, height] in pixels",
    "person-outside": "correct these annotations, or remove them",
    "unknown-category": "add the category, or remove these annotations",
    "exif-turned": "nothing if the drawn joints lie right; pictures saved upright, without orientation, need no option",
    "exif-unknown": "see where the drawn joints lie: if not on the people, set --data.exif apply",
    "exif-ignored": "nothing if the drawn joints lie right; predictions turn such pictures upright",
}
"""What to do about what the reader put right."""


class PersonCheck(Check):
    """Joints and boxes of all people on the pictures looked at.

    Args:
        source: the set.
        split: part of the set.
        items: items by the number of their picture.
        aspect: width / height of the training crop.
        labelled: whether joints are to be expected; test parts have none.
    """

    def __init__(
        self, source: PoseSet, split: str, items: dict[int, list[int]], aspect: float, labelled: bool = True
    ) -> None:
        self.source, self.split, self.aspect, self.labelled = source, split, aspect, labelled
        self._items = items
        self._notes = {note.kind: note.text for note in source.notes}
        self._keypoints: list[NDArray[np.float64]] = []
        self._box_sides: list[float] = []
        self._places = {kind: Places() for kind in _FINDINGS}
        self._pictures = 0

    def add(self, look: Look) -> None:
        """Take in the people of one picture."""
        if look.problem:
            return
        self._pictures += 1
        for index in self._items[self.source.picture(look.index)]:
            person = self.source.person(index)
            name = f"{look.file} (person {person.person_id})" if person.person_id >= 0 else look.file
            self._keypoints.append(person.keypoints)
            sound = self._sound_box(person, name)
            if self.labelled and self._sound_joints(person.keypoints, look.size, name):
                self._locations(person, look.size, name)
                if sound:
                    self._crop(person, name)

    def _sound_box(self, person: Person, name: str) -> bool:
        if not np.isfinite(person.box).all() or np.min(person.box[2:]) < SMALLEST_BOX:
            self._places["thin-box"].add(f"{name}: {_numbers(person.box)}")
            return False
        self._box_sides.append(float(np.max(person.box[2:])))
        return True

    def _sound_joints(self, keypoints: NDArray[np.float64], size: tuple[int, int], name: str) -> bool:
        points, flags = keypoints[:, :2], keypoints[:, 2]
        shown = flags > 0
        kind = ""
        if not shown.any():
            kind = "no-joints"
        elif not np.isfinite(points[shown]).all() or not np.isin(flags, (0, 1, 2)).all():
            kind = "joint-values"
        elif points[shown].max() <= 1 and max(size) > 2:
            kind = "joint-units"
        if kind:
            self._places[kind].add(name)
        return not kind

    def _locations(self, person: Person, size: tuple[int, int], name: str) -> None:
        points, shown = person.keypoints[:, :2], person.keypoints[:, 2] > 0
        zero = shown & (points == 0).all(axis=1)
        if zero.any():
            self._places["joint-at-origin"].add(f"{name}: {self._names(zero)}")
        outside = shown & ((points < 0) | (points > size)).any(axis=1)
        if outside.any():
            self._places["joint-outside"].add(f"{name}: {self._names(outside)}")

    def _crop(self, person: Person, name: str) -> None:
        centers, sizes = box_to_crop(person.box[None], self.aspect)
        points = person.keypoints[person.keypoints[:, 2] > 0, :2]
        if (np.abs(points - centers[0]) > sizes[0] / 2).any(axis=1).mean() > 0.5:
            self._places["box-misses-person"].add(f"{name}: {_numbers(person.box)}")

    def _names(self, which: NDArray[np.bool_]) -> str:
        return ", ".join(self.source.skeleton.keypoints[joint] for joint in np.flatnonzero(which))

    def findings(self) -> Iterator[Finding]:
        """What the reader put right, joints, boxes, pairs."""
        for kind, said in self._notes.items():
            yield Finding(severity="warning", kind=kind, split=self.split, what=said, fix=_FIXES[kind])
        people = len(self._keypoints)
        for kind, places in self._places.items():
            threshold, what, fix = _FINDINGS[kind]
            if places:
                severity: Severity = "error" if places.count > threshold * people else "warning"
                text = f"{places.count} of {counted(people, 'person', 'people')} with {what}"
                if kind == "joint-outside" and "exif-unknown" in self._notes:
                    fix = "labels may lie on the stored pixels (EXIF orientation): try --data.exif apply"
                yield places.finding(severity, kind, self.split, text, fix)
        if people and self.labelled and not self._places["joint-units"] and not self._places["joint-values"]:
            keypoints = np.stack(self._keypoints)
            if (keypoints[..., 2] > 0).any():
                yield from self._never_labelled(keypoints)
                yield from flip_findings(self.source.skeleton, keypoints, self.split)

    def _never_labelled(self, keypoints: NDArray[np.float64]) -> Iterator[Finding]:
        names = self.source.skeleton.keypoints
        places = Places(names[joint] for joint in np.flatnonzero((keypoints[..., 2] <= 0).all(axis=0)))
        if places:
            what = f"{places.count} of {counted(len(names), 'joint')} labelled in nobody looked at"
            fix = "label them, or remove them from the list of joints: their maps cannot be learnt"
            yield places.finding("warning", "joint-never-labelled", self.split, what, fix)

    def statistics(self) -> dict[str, Any]:
        """``people``, ``people_per_picture``, ``box_side`` (longer side: smallest, median, largest), ``joints``: rows
        of ``name``, ``labelled`` and ``hidden`` (shares of the people)."""
        people = len(self._keypoints)
        flags = np.stack(self._keypoints)[..., 2] if people else np.zeros((1, self.source.skeleton.num_keypoints))
        labelled, hidden = (flags > 0).mean(axis=0), (flags == 1).mean(axis=0)
        return {
            "people": people,
            "people_per_picture": round(people / max(self._pictures, 1), 3),
            "box_side": spread(self._box_sides),
            "joints": [
                {"name": name, "labelled": round(float(labelled[k]), 4), "hidden": round(float(hidden[k]), 4)}
                for k, name in enumerate(self.source.skeleton.keypoints)
            ],
        }


def _numbers(values: NDArray[np.floating]) -> str:
    return "(" + ", ".join(f"{value:g}" for value in values) + ")"
