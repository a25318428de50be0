"""What readers of labelling tools hand over: content in COCO's form (https://cocodataset.org/#format-data), by part.

Readers collect pictures and things; names of classes and joints are known only when all files of a set were read, since
all parts must have the same. Coordinates are pixels, (0, 0) being the outer corner of the first pixel.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from hrformer.data.labels.shapes import Joints, Thing, area_of, box_of
from hrformer.data.set_types import DataError
from hrformer.data.source_config import Split
from hrformer.wording import counted, listed

PERSON = "person"
"""Label of joints that belong to no box or outline."""

Content: TypeAlias = "dict[str, Any]"
"""``images``, ``annotations`` and ``categories``. Pictures whose labels lie in a file of their own name it in
``labels``."""

FARTHEST = 1e6
"""Pixels from the corner of a picture beyond which nothing can lie that was drawn on it."""

_SHOWN = 40


class Found(NamedTuple):
    """Labels of a tool: a file or a folder, and the part of the set that they are of; None where nothing says it."""

    path: Path
    part: Split | None


@dataclass(frozen=True, slots=True)
class LabelSet:
    """Contents of what was read, in the order of reading, and what is to be said about it."""

    contents: dict[Found, Content]
    notes: tuple[str, ...]


@dataclass(slots=True)
class Category:
    """What is known of a label.

    Attributes:
        joints: names in order; more follow in order of appearance.
        limbs: pairs of such names.
        flip_pairs: pairs of such names that change places in a mirror image; None where the file does not say.
        configured: whether ``joints`` is what the labels were configured with.
        unnamed: whether the names of joints stand for nothing, so that the content does not give them.
    """

    joints: dict[str, None] = field(default_factory=dict)
    limbs: list[tuple[str, str]] = field(default_factory=list)
    flip_pairs: list[tuple[str, str]] | None = None
    configured: bool = False
    unnamed: bool = False


def _check(file: Path, thing: Thing) -> None:
    name = thing.label or next(iter(thing.joints), PERSON)
    polygons = thing.outline if isinstance(thing.outline, list) else []
    if short := [len(one) // 2 for one in polygons if len(one) < 6]:
        raise DataError(f"{file}: a polygon called {name!r} has {counted(short[0], 'point')}, and takes three")
    places = [*(thing.box or ()), *(value for one in polygons for value in one)]
    places += [value for x, y, _ in thing.joints.values() for value in (x, y)]
    if far := [value for value in places if not abs(value) <= FARTHEST]:
        raise DataError(
            f"{file}: something called {name!r} lies at {far[0]:g} pixels; the largest place is {FARTHEST:g}"
        )


class Collected:
    """Pictures and things of one set, from however many files.

    Args:
        tool: what to call the labels in notes, such as "CVAT".
    """

    def __init__(self, tool: str) -> None:
        self.tool = tool
        self.categories: dict[str, Category] = {}
        self.joint_order: dict[str, bool] = {}
        """Names of joints as the labels were configured, where these are not of one label; True for those that can be
        nothing else."""
        self.label_order: dict[str, None] = {}
        """Labels as they were configured, those that may turn out to be joints or unused too."""
        self._pictures: dict[Found, list[dict[str, Any]]] = {}
        self._things: dict[Found, list[tuple[int, Thing]]] = {}
        self._left_out: Counter[str] = Counter()
        self._notes: dict[str, None] = {}

    def open(self, found: Found) -> None:
        """Begin with a part, which may turn out empty."""
        self._pictures.setdefault(found, [])
        self._things.setdefault(found, [])

    def picture(self, found: Found, name: str, size: tuple[int, int] | None, labels: str = "") -> int:
        """Add a picture of (width, height); gives its id. ``labels`` is a file with the labels of it alone."""
        self.open(found)
        record: dict[str, Any] = {"id": len(self._pictures[found]) + 1, "file_name": name}
        if size is not None:
            record |= {"width": size[0], "height": size[1]}
        self._pictures[found].append(record | ({"labels": labels} if labels else {}))
        return int(record["id"])

    def add(self, found: Found, picture: int, things: Iterable[Thing]) -> None:
        """Add what is on a picture.

        Raises:
            DataError: a place is no place on any picture, or a polygon has too few points.
        """
        for thing in things:
            _check(found.path, thing)
            self.categories.setdefault(thing.label or PERSON, Category())
            self._things[found].append((picture, thing))

    def leave_out(self, what: str, number: int = 1) -> None:
        """Count what is not read, such as "polyline"."""
        self._left_out[what] += number

    def note(self, text: str) -> None:
        """Something to be said once."""
        self._notes[text] = None

    def finished(self) -> LabelSet:
        """All contents, with the same categories in each."""
        joints = self._joints()
        ordered = [name for name in self.label_order | dict.fromkeys(self.categories) if name in self.categories]
        categories = [
            self._category(number, name, joints.get(name, [])) for number, name in enumerate(ordered, start=1)
        ]
        numbers = {one["name"]: one["id"] for one in categories}
        contents = {}
        for found, pictures in self._pictures.items():
            records = [
                _annotation(number, picture, numbers[thing.label or PERSON], thing, joints.get(thing.label or PERSON))
                for number, (picture, thing) in enumerate(self._things[found], start=1)
            ]
            contents[found] = {"images": pictures, "annotations": records, "categories": categories}
        left_out = ", ".join(f"{number} x {what}" for what, number in self._left_out.items())
        notes = [*self._notes, *([f"{self.tool}: left out: {left_out}"] if left_out else [])]
        return LabelSet(contents, tuple(notes))

    def _joints(self) -> dict[str, list[str]]:
        """Names of the joints of each label that has some."""
        appeared: dict[str, dict[str, None]] = {}
        for things in self._things.values():
            for _, thing in things:
                if thing.joints:
                    appeared.setdefault(thing.label or PERSON, {}).update(dict.fromkeys(thing.joints))
        names: dict[str, list[str]] = {}
        for label, category in self.categories.items():
            if not category.configured and label not in appeared:
                continue
            order = dict(category.joints) if category.configured else {}
            if not order and self.joint_order:
                # With several kinds of joints nobody knows whose those are that never occur.
                alone = len(appeared) == 1 and not self.joint_order.keys().isdisjoint(appeared[label])
                some = (one for one, sure in self.joint_order.items() if one in appeared[label] or (sure and alone))
                order = dict.fromkeys(some)
            guessed = not order
            names[label] = list(order | appeared.get(label, {}))
            if guessed:
                self.note(
                    f"{self.tool}: the labels do not say the order of the joints of {label}; taken in the order in "
                    f"which they occur: {listed(names[label], _SHOWN)}"
                )
        return names

    def _category(self, number: int, name: str, joints: Sequence[str]) -> dict[str, Any]:
        record: dict[str, Any] = {"id": number, "name": name}
        known = self.categories[name]
        if not joints or known.unnamed:
            return record
        record["keypoints"] = list(joints)
        limbs = (pair for pair in known.limbs if {*pair} <= {*joints})
        record["skeleton"] = [[joints.index(a) + 1, joints.index(b) + 1] for a, b in limbs]
        if known.flip_pairs is not None:
            record["flip_pairs"] = [list(pair) for pair in known.flip_pairs]
        return record


def _annotation(number: int, picture: int, category: int, thing: Thing, joints: Sequence[str] | None) -> dict[str, Any]:
    record: dict[str, Any] = {"id": number, "image_id": picture, "category_id": category, "iscrowd": 0}
    box = thing.box if thing.box is not None else box_of(thing.outline) if thing.outline else None
    # The rectangle around somebody with joints is a box; of others a drawn rectangle may be what is meant.
    outline = None if thing.boxed and thing.joints else thing.outline
    if box is not None:
        record["bbox"] = [float(value) for value in box]
        # Of people without an outline nobody knows the area, and the reader has a rule for that.
        if outline:
            record["area"] = area_of(outline)
        elif joints is None:
            record["area"] = float(box[2] * box[3])
    if outline:
        record["segmentation"] = outline
    if joints is not None:
        record["keypoints"] = flat(thing.joints, joints)
        record["num_keypoints"] = sum(flag > 0 for _, _, flag in thing.joints.values())
    return record


def flat(joints: Joints, names: Sequence[str]) -> list[float]:
    """3 K numbers x, y, flag in the order of the names; 0, 0, 0 for joints without label (flag 0)."""
    values: list[float] = []
    for name in names:
        x, y, flag = joints.get(name, (0, 0, 0))
        values += [x, y, flag] if flag else [0, 0, 0]
    return values


def whole_size(width: float, height: float, where: str, fields: str) -> tuple[int, int]:
    """(width, height) in whole pixels above 0; a DataError that names the fields where they are not."""
    if width > 0 and height > 0 and float(width).is_integer() and float(height).is_integer():
        return int(width), int(height)
    raise DataError(f"{where}: {fields} must be whole numbers of pixels above 0, got {width:g} and {height:g}")


def summary(content: Mapping[str, Any]) -> str:
    """What a content holds, in a few words."""
    records = content["annotations"]
    joints = sum(
        sum(flag > 0 for flag in one["keypoints"][2::3]) for one in records if isinstance(one.get("keypoints"), list)
    )
    people = sum(any(one.get("keypoints") or ()) for one in records)
    outlines = sum(bool(one.get("segmentation")) for one in records)
    kinds = ", ".join(
        f"{one['name']} ({counted(len(one['keypoints']), 'joint')})" if one.get("keypoints") else str(one["name"])
        for one in content.get("categories") or ()
    )
    return (
        f"{counted(len(content['images']), 'picture')}, {counted(len(records), 'object')}: {people} with joints "
        f"({counted(joints, 'joint')}), {outlines} with an outline; categories: {kinds or 'none'}"
    )
