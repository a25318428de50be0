"""Shapes that people draw in labelling tools, and which of them are one thing. Coordinates are pixels."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hrformer.data.set_types import DataError
from hrformer.wording import listed

Joints: TypeAlias = "dict[str, tuple[float, float, int]]"
"""x, y, flag by name; flags as COCO has them: 0 not labelled, 1 hidden, 2 visible."""

Outline: TypeAlias = "list[list[float]] | dict[str, Any]"
"""``segmentation`` of COCO: polygons (x, y, x, y ...), or run lengths column by column."""

Points: TypeAlias = "Sequence[tuple[float, float]]"

_ROUND = 32
"""Corners of the polygon that stands for an ellipse: it covers 99.4 % of it."""


@dataclass(slots=True)
class Thing:
    """One person or object: ``box`` (x, y, width, height), outline and joints, as far as there are any.

    ``boxed`` says that the outline is a drawn rectangle, which is the box of whoever has joints.
    """

    label: str
    box: Sequence[float] | None = None
    outline: Outline | None = None
    joints: Joints = field(default_factory=dict)
    boxed: bool = False


@dataclass(slots=True)
class Shape(Thing):
    """What was drawn at once.

    Attributes:
        group: shapes of one group are one thing; None where it stands alone.
        single: whether it is one joint, called by its label.
        where: file and record for messages.
    """

    group: Hashable = None
    single: bool = False
    where: str = ""


def joint(label: str, x: float, y: float, flag: int, group: Hashable, where: str) -> Shape:
    """A point that is one joint of somebody."""
    return Shape(label, joints={label: (x, y, flag)}, group=group, single=True, where=where)


def things_of(shapes: Sequence[Shape]) -> list[Thing]:
    """The things on one picture, in the order in which they begin.

    Shapes of a group are one thing: single joints, with the box and the outlines that they have. Joints without a group
    belong to the only box or outline of the picture, of several to the only one that they lie in; where there is none,
    all of them are one person.

    Raises:
        DataError: somebody has a joint twice, or a joint could be that of several.
    """
    groups: dict[Hashable, list[Shape]] = {}
    for shape in shapes:
        groups.setdefault(("alone", id(shape)) if shape.group is None else shape.group, []).append(shape)
    loose = [shape for shape in shapes if shape.single and shape.group is None]
    things: list[Thing] = []
    owners: list[Thing] = []
    for members in groups.values():
        made = _of_group([one for one in members if not (one.single and one.group is None)])
        things += made
        owners += [one for one in made if not one.joints and one.box is not None]
    for shape in loose:
        owner = _owner(shape, owners, things)
        _put(owner, shape)
    return things


def _of_group(members: Sequence[Shape]) -> list[Thing]:
    """Things of the shapes of one group: those with all joints are people of their own, single joints one person."""
    singles = [one for one in members if one.single]
    whole = [one for one in members if one.joints and not one.single]
    bodies = [one for one in members if not one.joints]
    if not singles and len(whole) != 1:
        return [*whole, *_merged(bodies)]
    if singles and whole:
        raise DataError(
            f"{singles[0].where}: the joint {singles[0].label!r} is in one group with a skeleton; take it out of it"
        )
    boxes = [one for one in bodies if one.boxed or not one.outline]
    if len(boxes) > 1:
        raise DataError(
            f"{boxes[1].where}: a second box in the group of {(singles or whole)[0].label!r}; one person has one box, "
            "so give each a group of its own"
        )
    outlines = _merged([one for one in bodies if one.outline and not one.boxed])
    body = boxes[0] if boxes else outlines[0] if outlines else None
    person = Thing(whole[0].label if whole else body.label if body else "")
    if boxes:
        person.box = boxes[0].box
    if outlines and outlines[0].label == (body.label if body else ""):
        person.outline = outlines[0].outline
        outlines = outlines[1:]
        person.box = person.box if boxes else _spanned(person.outline)
    for one in (*whole, *singles):
        _put(person, one)
    return [person, *outlines]


def _merged(bodies: Sequence[Shape]) -> list[Thing]:
    """Boxes as they are, polygons of one label together: pieces of one thing."""
    things: dict[Hashable, Thing] = {}
    for place, one in enumerate(bodies):
        polygons = isinstance(one.outline, list) and not one.boxed
        key: Hashable = one.label if polygons and one.group is not None else place
        before = things.get(key)
        if before is None:
            outline = list(one.outline) if isinstance(one.outline, list) else one.outline
            things[key] = Thing(one.label, one.box, outline, boxed=one.boxed)
        elif isinstance(before.outline, list) and isinstance(one.outline, list):
            before.outline += one.outline
            before.box = box_of(before.outline)
    return list(things.values())


def _owner(shape: Shape, owners: list[Thing], things: list[Thing]) -> Thing:
    """Whose a joint without a group is; made where there is nobody."""
    if not owners:
        owners.append(Thing(""))
        things.append(owners[0])
    if len(owners) == 1:
        return owners[0]
    (x, y, _), around = shape.joints[shape.label], [one for one in owners if _holds(one, shape)]
    if len(around) == 1:
        return around[0]
    boxes = listed([one.label for one in around], 4)
    raise DataError(
        f"{shape.where}: the joint {shape.label!r} at {x:g}, {y:g} lies in {len(around)} of the {len(owners)} boxes of "
        f"its picture{f' ({boxes})' if around else ''}, so that nobody knows whose it is; put joints and box of a "
        "person into one group"
    )


def _holds(thing: Thing, shape: Shape) -> bool:
    x, y, _ = shape.joints[shape.label]
    left, top, width, height = thing.box or (0, 0, 0, 0)
    return left <= x <= left + width and top <= y <= top + height


def _put(person: Thing, shape: Shape) -> None:
    for name, value in shape.joints.items():
        if name in person.joints:
            raise DataError(
                f"{shape.where}: a person has the joint {name!r} twice; one person has it once, so give the joints of "
                "each person a group of their own, or a box around them"
            )
        person.joints[name] = value


def _spanned(outline: Outline | None) -> list[float] | None:
    return None if outline is None else box_of(outline)


def box_of(outline: Outline) -> list[float]:
    """(x, y, width, height) around an outline."""
    if isinstance(outline, dict):
        mask = mask_of(outline)
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if not len(rows):
            return [0.0, 0.0, 0.0, 0.0]
        left, top = float(columns[0]), float(rows[0])
        return [left, top, float(columns[-1]) + 1 - left, float(rows[-1]) + 1 - top]
    xs, ys = [x for one in outline for x in one[::2]], [y for one in outline for y in one[1::2]]
    return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]


def area_of(outline: Outline) -> float:
    """Square pixels inside an outline; overlapping polygons count twice."""
    if isinstance(outline, dict):
        return float(sum(outline["counts"][1::2]))
    total = 0.0
    for polygon in outline:
        x, y = np.array(polygon[::2]), np.array(polygon[1::2])
        total += abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))) / 2
    return total


def run_lengths(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """A mask (H, W) as run lengths of COCO: column by column, beginning with the 0s."""
    columns = np.concatenate([[False], mask.T.ravel(), [False]])
    edges = np.flatnonzero(columns[1:] != columns[:-1])
    counts = np.diff([0, *edges.tolist(), mask.size]).tolist()
    return {"size": [int(mask.shape[0]), int(mask.shape[1])], "counts": counts if counts[-1] else counts[:-1] or [0]}


def mask_of(outline: dict[str, Any]) -> NDArray[np.bool_]:
    """The mask (H, W) of run lengths."""
    height, width = outline["size"]
    counts = np.array(outline["counts"], np.int64)
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(width, height).T


def pasted(piece: NDArray[np.bool_], left: int, top: int, size: tuple[int, int], where: str) -> dict[str, Any]:
    """Run lengths of a mask that lies at (left, top) in a picture of (width, height).

    Raises:
        DataError: it reaches beyond the picture.
    """
    height, width = piece.shape
    if left < 0 or top < 0 or left + width > size[0] or top + height > size[1]:
        raise DataError(
            f"{where}: a mask of {width} x {height} pixels at {left}, {top} reaches beyond its picture of {size[0]} x "
            f"{size[1]}"
        )
    whole = np.zeros((size[1], size[0]), np.bool_)
    whole[top : top + height, left : left + width] = piece
    return run_lengths(whole)


def turned(points: Points, about: tuple[float, float], degrees: float) -> list[tuple[float, float]]:
    """Points turned clockwise, as pictures are seen, about a point."""
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    away = [(x - about[0], y - about[1]) for x, y in points]
    return [(about[0] + x * cosine - y * sine, about[1] + x * sine + y * cosine) for x, y in away]


def corners(box: Sequence[float]) -> list[tuple[float, float]]:
    """The four corners of (x, y, width, height)."""
    x, y, width, height = box
    return [(x, y), (x + width, y), (x + width, y + height), (x, y + height)]


def ellipse(x: float, y: float, radii: tuple[float, float], degrees: float = 0.0) -> list[tuple[float, float]]:
    """A polygon for an ellipse about (x, y), turned clockwise."""
    angles = [2 * math.pi * place / _ROUND for place in range(_ROUND)]
    return turned([(x + radii[0] * math.cos(one), y + radii[1] * math.sin(one)) for one in angles], (x, y), degrees)


def polygon(points: Points) -> list[list[float]]:
    """The outline of one polygon."""
    return [[float(value) for point in points for value in point]]


def around(points: Points) -> list[float]:
    """(x, y, width, height) around points."""
    return box_of(polygon(points))
