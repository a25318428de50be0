"""Checks of people: the annotation file as it stands, then joints and boxes as the reader gives them.

N people, K joints.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hrformer.data.annotation_files import labels_file
from hrformer.data.coco_file import (
    as_number,
    flat_joints,
    list_of,
    number_or_nan,
    people_categories,
    whole,
)
from hrformer.data.inspection.flip_pairs import flip_findings
from hrformer.data.inspection.report import Finding, finding, spread
from hrformer.data.inspection.scan import Look
from hrformer.data.labels.search import read_labels
from hrformer.data.set_types import DataError, PoseSet
from hrformer.data.source_config import PoseSource, Split
from hrformer.geometry.boxes import box_to_crop
from hrformer.wording import counted

BEYOND_SHARE = 0.2  # if a larger share of the boxes reaches beyond their pictures, they may be meant for others
_REFUSALS = {"unknown-picture": "'image_id'", "joint-count": "'keypoints'", "no-joints": "nobody is left"}
"""Kind of an error -> what the reader says where it stops at the same fault."""

SMALLEST_BOX = 2.0  # boxes with a side below this many pixels hold nobody

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


class People(NamedTuple):
    """All people on the pictures looked at that can be read."""

    names: list[str]  # N, what to call them in messages
    keypoints: NDArray[np.float64]  # (N, K, 3) x, y and flag in picture pixels
    boxes: NDArray[np.float64]  # (N, 4) (x, y, width, height) in picture pixels
    sizes: NDArray[np.int64]  # (N, 2) (width, height) of their pictures

    @property
    def thin(self) -> NDArray[np.bool_]:
        """(N,) whose box holds nobody."""
        return ~np.isfinite(self.boxes).all(axis=1) | (self.boxes[:, 2:].min(axis=1) < SMALLEST_BOX)

    def named(self, which: NDArray[np.bool_], *, box: bool = False) -> list[str]:
        """Names of some, with their boxes where asked for."""
        rows = np.flatnonzero(which).tolist()
        if not box:
            return [self.names[row] for row in rows]
        return [f"{self.names[row]}: ({', '.join(f'{value:g}' for value in self.boxes[row])})" for row in rows]


def people_seen(source: PoseSet, items: Mapping[int, Sequence[int]], looks: Sequence[Look]) -> People:
    """People by the looks at their pictures; ``items`` are by the number of their picture."""
    names, people, sizes = [], [], []
    for look in looks:
        for index in () if look.problem else items[source.picture(look.index)]:
            person = source.person(index)
            people.append(person)
            names.append(f"{look.file} (person {person.person_id})" if person.person_id >= 0 else look.file)
            sizes.append(look.size)
    joints = source.skeleton.num_keypoints
    return People(
        names,
        np.array([person.keypoints for person in people], np.float64).reshape(-1, joints, 3),
        np.array([person.box for person in people], np.float64).reshape(-1, 4),
        np.array(sizes, np.int64).reshape(-1, 2),
    )


def person_findings(source: PoseSet, people: People, aspect: float, labelled: bool) -> Iterator[Finding]:
    """What the reader put right, joints, boxes, pairs.

    ``aspect`` is width / height of the training crop; joints are to be expected where the part is ``labelled``.
    """
    notes = {note.kind: note.text for note in source.notes}
    for kind, text in notes.items():
        yield finding("warning", kind, text, _FIXES[kind])
    count, joints = len(people.names), source.skeleton.keypoints
    doubtful = _doubtful(people, joints, aspect) if labelled else {"thin-box": people.named(people.thin, box=True)}
    for kind, (threshold, what, fix) in _FINDINGS.items():
        if not (places := doubtful.get(kind)):
            continue
        text = f"{len(places)} of {counted(count, 'person', 'people')} with {what}"
        if kind == "joint-outside" and "exif-unknown" in notes:
            fix = "labels may lie on the stored pixels (EXIF orientation): try --data.exif apply"
        yield finding("error" if len(places) > threshold * count else "warning", kind, text, fix, places)
    shown = people.keypoints[..., 2] > 0
    if labelled and shown.any() and not doubtful["joint-units"] and not doubtful["joint-values"]:
        if never := [joints[number] for number in np.flatnonzero(~shown.any(axis=0))]:
            what = f"{len(never)} of {counted(len(joints), 'joint')} labelled in nobody looked at"
            fix = "label them, or remove them from the list of joints: their maps cannot be learnt"
            yield finding("warning", "joint-never-labelled", what, fix, never)
        yield from flip_findings(source.skeleton, people.keypoints)


def _doubtful(people: People, joints: Sequence[str], aspect: float) -> dict[str, list[str]]:
    """Kind of ``_FINDINGS`` -> the people concerned."""
    xy, flags, sizes = people.keypoints[..., :2], people.keypoints[..., 2], people.sizes
    shown = flags > 0
    some = np.asarray(shown.any(axis=1))
    values = some & ((shown & ~np.isfinite(xy).all(axis=2)) | ~np.isin(flags, (0, 1, 2))).any(axis=1)
    highest = np.where(shown[..., None], xy, -np.inf).max(axis=(1, 2))
    units = some & ~values & (highest <= 1) & (sizes > 2).any(axis=1)
    sound = some & ~values & ~units
    located = shown & sound[:, None]
    outside = located & ((xy < 0) | (xy > sizes[:, None])).any(axis=2)
    cut = np.flatnonzero(sound & ~people.thin)
    centers, crops = box_to_crop(people.boxes[cut], aspect)
    beside = (np.abs(xy[cut] - centers[:, None]) > crops[:, None] / 2).any(axis=2)
    misses = np.zeros(len(sound), bool)
    misses[cut] = (shown[cut] & beside).sum(axis=1) > 0.5 * shown[cut].sum(axis=1)

    def with_joints(which: NDArray[np.bool_]) -> list[str]:
        rows = np.flatnonzero(which.any(axis=1)).tolist()
        return [f"{people.names[row]}: {', '.join(np.array(joints)[which[row]])}" for row in rows]

    return {
        "thin-box": people.named(people.thin, box=True),
        "no-joints": people.named(~some),
        "joint-values": people.named(values),
        "joint-units": people.named(units),
        "joint-outside": with_joints(outside),
        "joint-at-origin": with_joints(located & (xy == 0).all(axis=2)),
        "box-misses-person": people.named(misses, box=True),
    }


def person_statistics(source: PoseSet, people: People, pictures: int) -> dict[str, Any]:
    """``people``, ``people_per_picture``, ``box_side`` (longer side: smallest, median, largest), ``joints``: rows of
    ``name``, ``labelled`` and ``hidden`` (shares of the people)."""
    names, count = source.skeleton.keypoints, len(people.names)
    flags = people.keypoints[..., 2] if count else np.zeros((1, len(names)))
    labelled, hidden = (flags > 0).mean(axis=0), (flags == 1).mean(axis=0)
    return {
        "people": count,
        "people_per_picture": round(count / max(pictures, 1), 3),
        "box_side": spread(people.boxes[~people.thin, 2:].max(axis=1).tolist()),
        "joints": [
            {"name": name, "labelled": round(a, 4), "hidden": round(b, 4)}
            for name, a, b in zip(names, labelled.tolist(), hidden.tolist(), strict=True)
        ],
    }


def same_fault(findings: Sequence[Finding], refusal: str) -> list[Finding]:
    """Errors, if one of them counts what the reader stopped at; empty if it stopped at something else."""
    errors = [one for one in findings if one.severity == "error"]
    return errors if any(_REFUSALS[one.kind] in refusal for one in errors) else []


def check_annotations(source: PoseSource, split: Split) -> tuple[list[Finding], dict[str, int]]:
    """Look at every annotation of the categories that are trained on, before the reader leaves anybody out.

    Returns:
        Findings, and numbers: ``annotations``, ``crowds``, ``without_joints``, ``without_area`` (people in whose place
        a share of the box stands in). Both empty where there is no file, or it is looked at as the training part's, or
        it cannot be read: what to say about those is the reader's. So it is about records of the wrong form, and about
        what it puts right; see ``CocoPeople.notes``.
    """
    try:
        file = None if source.val_share and split == "val" else labels_file(source, split)
        if file is None:
            return [], {}
        content, name = read_labels(file, split, source.root, skip_broken=source.skip_broken), str(file)
        records = list_of(content, "annotations", name)
        images = {_id(image, "id"): image for image in list_of(content, "images", name)}
        categories = people_categories(content, name, source.category)
    except DataError:
        return [], {}
    taken, joints = {one["id"] for one in categories}, max(len(one.get("keypoints") or ()) for one in categories)
    places: defaultdict[str, list[str]] = defaultdict(list)
    for place, record in enumerate(records):
        if record.get("category_id") is None or _id(record, "category_id") in taken:
            label = str(record.get("id", f"number {place}"))
            for kind, text in _about_annotation(record, label, images.get(_id(record, "image_id")), joints):
                places[kind].append(text)
    kinds = {"annotations": "read", "crowds": "crowd", "without_joints": "no-joints", "without_area": "no-area"}
    findings = [replace(one, split=split) for one in _annotation_findings(places, joints)]
    return findings, {name: len(places[kind]) for name, kind in kinds.items()}


def _id(record: Mapping[str, Any], field: str) -> int | None:
    """A whole number; None where the reader will refuse it."""
    try:
        return whole(record, field, "")
    except DataError:
        return None


def _about_annotation(
    record: Mapping[str, Any], label: str, image: Mapping[str, Any] | None, joints: int
) -> Iterator[tuple[str, str]]:
    """What counts about an annotation of a person with so many ``joints`` and the record of its picture: kind, name."""
    yield "read", ""
    if record.get("iscrowd") and as_number(record["iscrowd"]) != 0:
        yield "crowd", ""
        return
    name = f"annotation {label}" + (f" of {image.get('file_name')}" if image is not None else "")
    if image is None:
        yield "unknown-picture", f"{name} (picture {record.get('image_id')})"
    flat = flat_joints(record.get("keypoints") or [])
    read = [number_or_nan(value) for value in flat] if isinstance(flat, list) else [None]
    values = [value for value in read if value is not None]
    # The reader refuses whatever is no number, and says why.
    if len(values) < len(read):
        return
    if values and joints and len(values) != 3 * joints:
        yield "joint-count", f"{name} ({counted(len(values), 'number')})"
    triples = zip(values[::3], values[1::3], values[2::3], strict=False)
    if not any(flag > 0 and math.isfinite(x + y) for x, y, flag in triples):
        yield "no-joints", name
        return
    if not as_number(record.get("area")) > 0:
        yield "no-area", ""
    box = record.get("bbox")
    x, y, width, height = map(as_number, box) if isinstance(box, list) and len(box) == 4 else [math.nan] * 4
    if image is None or not (width > 0 and height > 0):
        return
    yield "box", ""
    limits = as_number(image.get("width")), as_number(image.get("height"))
    # One pixel is how tools differ in where the last pixel ends.
    if min(limits) > 0 and (x + width > limits[0] + 1 or y + height > limits[1] + 1):
        yield "box-beyond-picture", f"{name}: {box} in {limits[0]:g} x {limits[1]:g}"


def _annotation_findings(places: Mapping[str, list[str]], joints: int) -> Iterator[Finding]:
    """Lost, empty and misshapen annotations, by what :func:`_about_annotation` says of all."""
    people, boxes = len(places["read"]) - len(places["crowd"]), len(places["box"])
    if lost := places["unknown-picture"]:
        what = f"{counted(len(lost), 'annotation')} of pictures that the file does not list"
        fix = "add these pictures to 'images', or remove the annotations"
        yield finding("error", "unknown-picture", what, fix, lost)
    if lengths := places["joint-count"]:
        what = f"{counted(len(lengths), 'annotation')} with another number of joints than the category names"
        fix = f"write {joints} x (x, y, flag), with 0, 0, 0 for joints without label"
        yield finding("error", "joint-count", what, fix, lengths)
    if bare := places["no-joints"]:
        what = f"{len(bare)} of {counted(people, 'person', 'people')} without any labelled joint: left out"
        fix = "label them: joints count with flag 1 or 2"
        if len(bare) < people:
            fix = f"nothing if that is meant, as in COCO; else {fix}"
        yield finding("error" if len(bare) == people else "warning", "no-joints", what, fix, bare)
    beyond = places["box-beyond-picture"]
    if len(beyond) > BEYOND_SHARE * max(boxes, 1):
        what = f"{len(beyond)} of {counted(boxes, 'box', 'boxes')} beyond the edge of the picture: cut"
        fix = (
            "nothing if they are people that the picture cuts off; boxes are [x, y, width, height] in pixels of this "
            "picture, not [x1, y1, x2, y2] nor of a larger one"
        )
        yield finding("warning", "box-beyond-picture", what, fix, beyond)
