"""Boxes of N labelled people: around their joints, in another spelling or unit by mistake, clipped to the picture."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hrformer.geometry.boxes import clip_boxes_mmpose, clip_boxes_official
from hrformer.wording import counted

GROWN_BY = 0.1
"""A box around joints is grown on every side by this share of its longer side, as those of LSPET are."""

MISREAD_SHARE, NAMED_SHARE = 0.2, 0.01
"""Of how many boxes another spelling is an error of the whole file, and from how many on it is told if none is sure."""

_SLACK = 1.0
"""Pixels by which tools differ in where the last pixel ends."""

_CLEAR, _UNEVEN, _EVEN, _ENOUGH = 0.02, 3, 0.45, 0.25
"""How much more even, in sides of the box, corners leave the space around the joints. For one person: at least so much,
and so many times what three quarters of the file stay below. For a whole file: as a share of what is possible, and as a
sum; LSPET and people17 are at -1 as they are, and above 0.8 written as corners."""

_UNITS = {1: "shares", 100: "percent"}
"""How far a picture reaches in numbers that are no pixels."""

_FEWEST, _LARGE, _SURE = 3, 250, 3.9
"""So many people or more within 100 pixels of the corner of pictures whose sides are at least so long are no chance, if
that is the power of ten against it for people who lie anywhere: five in 250 x 250 pixels, three in 500 x 500."""

_ROUNDING, _OUTSIDE, _MOST = 1.01, 1.2, 0.95
"""How far most numbers, and the others, may pass the whole: tools round, and a joint or two lie beyond the edge."""

_AGREE, _DIFFER = 0.7, 0.5
"""Of more people box and joints must fit once they are pixels, and of fewer as they stand."""

_CORNERS = ("corners [x1, y1, x2, y2]", "[x1, y1, x2 - x1, y2 - y1]")
_MIDDLE = ("middle and size [cx, cy, width, height]", "[cx - width / 2, cy - height / 2, width, height]")
_CLIP_RULES = {"official": clip_boxes_official, "mmpose": clip_boxes_mmpose}

Boxes = NDArray[np.floating]


class Misread(NamedTuple):
    """Boxes, never none, that fit their people's joints in another spelling than (x, y, width, height).

    ``everywhere`` tells whether this is the spelling of the whole file, ``remedy`` what to write instead.
    """

    spelling: str
    remedy: str
    rows: NDArray[np.int64]
    everywhere: bool


def joint_extents(keypoints: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Smallest and largest x and y, (N, 2) each, of the labelled joints (N, K, 3); each person must have one."""
    shown = keypoints[..., 2:] > 0
    low = np.where(shown, keypoints[..., :2], np.inf).min(axis=1)
    return low, np.where(shown, keypoints[..., :2], -np.inf).max(axis=1)


def boxes_around(keypoints: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, 4) boxes around the labelled joints (N, K, 3), grown; of no extent where these lie on one spot."""
    low, high = joint_extents(keypoints)
    size = high - low
    margin = GROWN_BY * size.max(axis=1, keepdims=True)
    return np.concatenate([low - margin, size + 2 * margin], axis=1)


def misread(boxes: Boxes, keypoints: NDArray[np.float64], sizes: NDArray[np.int64]) -> Iterator[Misread]:
    """Boxes that are corners, or middle and size.

    Args:
        boxes: (N, 4).
        keypoints: (N, K, 3), with a labelled joint in everybody.
        sizes: (N, 2) (width, height) of the pictures, 0 where unknown.
    """
    low, high = joint_extents(keypoints)
    limits = np.where(sizes > 0, sizes, np.inf)
    rows, everywhere = _corners(boxes, low, high, limits)
    if len(rows):
        yield Misread(*_CORNERS, rows, everywhere)
    start, size = boxes[:, :2], boxes[:, 2:]
    plain, centred = _fits(boxes, low, high)
    slack = _SLACK + 0.02 * size
    inside = ((start - size / 2 >= -slack) & (start + size / 2 <= limits + slack)).all(axis=1)
    middle = (low + high) / 2
    nearer = (np.abs(start - middle) <= np.abs(start + size / 2 - middle)).all(axis=1)
    rows = np.flatnonzero(~plain & inside & nearer & centred)
    if len(rows) >= max(NAMED_SHARE * len(boxes), 1):
        yield Misread(*_MIDDLE, rows, len(rows) > max(MISREAD_SHARE * len(boxes), int(plain.sum())))


def _corners(
    boxes: Boxes, low: NDArray[np.float64], high: NDArray[np.float64], limits: NDArray[np.float64]
) -> tuple[NDArray[np.int64], bool]:
    """Rows of the boxes that are corners, and whether all of the file are.

    Corners hold the joints whichever way they are read. Read as width and height they reach too far right and down:
    beyond the picture, or at least leave more space there than left and above.
    """
    first, last = boxes[:, :2], boxes[:, 2:]
    ends, side = first + last, np.maximum(last - first, _SLACK)
    fits = ((last > first) & (first >= -_SLACK) & (last <= limits + _SLACK)).all(axis=1)
    fits &= _holds(first, last, low, high)
    # Joints that span little of the box say nothing of its middle, nor does a box that an edge of the picture cuts off;
    # corners of somebody in the middle of the picture seem to be at two edges.
    cut = np.abs(ends - limits) <= _SLACK
    tells = (high - low >= side / 2) & (~cut | cut.all(axis=1, keepdims=True))
    middle = (low + high) / 2
    off = np.abs(first + last / 2 - middle)
    gains = np.where(tells, (off - np.abs((first + last) / 2 - middle)) / side, 0).sum(axis=1)
    most = np.where(tells, first / (2 * side), 0).sum(axis=1)
    beyond = (ends > limits + _SLACK).any(axis=1) & (gains > 0)
    sure = fits & (beyond | ((ends > 1.1 * limits).any(axis=1) & (gains >= 0)))
    count, total = len(boxes), float(gains[fits].sum())
    even = fits.sum() > (1 - MISREAD_SHARE) * count and total > max(_EVEN * float(most[fits].sum()), _ENOUGH)
    if even or sure.sum() > MISREAD_SHARE * count:
        return np.flatnonzero(fits & (gains >= 0)), True
    usual = float(np.quantile(off / np.maximum(last, _SLACK), 0.75)) if count else 0.0
    rows = np.flatnonzero(fits & (sure | (gains > max(_CLEAR, _UNEVEN * usual))))
    return rows if sure.any() or len(rows) >= NAMED_SHARE * count else rows[:0], False


def _holds(first: Boxes, last: Boxes, low: NDArray[np.float64], high: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether boxes from ``first`` to ``last`` hold the joints, but for a tenth of their longer side."""
    slack = np.maximum(_SLACK, GROWN_BY * np.abs(last - first).max(axis=1))[:, None]
    return ((low >= first - slack) & (high <= last + slack)).all(axis=1)


def _fits(boxes: Boxes, low: NDArray[np.float64], high: NDArray[np.float64]) -> list[NDArray[np.bool_]]:
    """Whether boxes hold the joints, read as corner and size, and as middle and size."""
    start, size = boxes[:, :2], boxes[:, 2:]
    return [_holds(first, first + size, low, high) for first in (start, start - size / 2)]


def relative_units(boxes: Boxes, keypoints: NDArray[np.float64], sizes: NDArray[np.int64]) -> str:
    """What to say of a file whose boxes or joints are shares or percent of the picture; empty for pixels.

    Shares in the joints alone are left to the inspection, which sees them person by person. Arguments as for
    :func:`misread`.
    """
    if not len(boxes) or sizes.min() <= 2:
        return ""
    numbers = {"keypoints": keypoints[..., :2][keypoints[..., 2] > 0], "bbox": boxes}
    for whole, unit in _UNITS.items():
        fields = [field for field, values in numbers.items() if _within(values, whole)]
        if not fields:
            continue
        scale = sizes / whole
        pixel_boxes = boxes * np.tile(scale, 2) if "bbox" in fields else boxes
        pixel_joints = keypoints * np.insert(scale, 2, 1, axis=1)[:, None] if "keypoints" in fields else keypoints
        if unit == "shares":
            believed = "bbox" in fields
        else:
            many = len(boxes) >= _FEWEST and sizes.min() >= _LARGE
            believed = many and float(np.log10(sizes.prod(axis=1) / whole**2).sum()) > _SURE
            if len(fields) == 1:
                fit = np.logical_or(*_fits(pixel_boxes, *joint_extents(pixel_joints))).mean() > _AGREE
                misfit = _fits(boxes, *joint_extents(keypoints))[0].mean() < _DIFFER
                believed = bool(fit and (believed or misfit))
        if not believed:
            continue
        farthest, part = max(float(numbers[field].max()) for field in fields), "" if whole == 1 else f" / {whole}"
        everybody = f"{'all ' * (len(boxes) > 1)}{counted(len(boxes), 'person', 'people')}"
        sides = ("x and width", "y and height") if "bbox" in fields else ("x", "y")
        others = "".join(f", unlike {field!r}" for field in numbers if field not in fields)
        # Boxes as those of YOLO are not even corner and size.
        odd = next((one for one in misread(pixel_boxes, pixel_joints, sizes) if one.everywhere), None)
        more = f"; and the boxes are {odd.spelling}, so write {odd.remedy} then" if odd else ""
        return (
            f"{' and '.join(map(repr, fields))} of {everybody} end at {farthest:g}{others}, in pictures of "
            f"{sizes.min()} pixels and more: {unit} of the picture instead of pixels. Multiply {sides[0]} by the "
            f"picture's width{part}, {sides[1]} by its height{part}{more}"
        )
    return ""


def _within(values: Boxes, whole: int) -> bool:
    """Whether numbers end where the whole does."""
    most, last = float(np.quantile(values, _MOST)), float(values.max())
    return most <= whole * _ROUNDING and last <= whole * _OUTSIDE and (whole == 1 or last > whole / 2)


def clipped(boxes: Boxes, sizes: NDArray[np.int64], rule: str) -> NDArray[np.float64]:
    """Boxes (N, 4) clipped to their pictures, (N, 2) (width, height), by "official", "mmpose" or "none".

    A side of 0 means that nothing is left; boxes on pictures of unknown size, 0, stay as they are.
    """
    done = np.array(boxes, dtype=np.float64)
    if rule == "none" or not len(boxes):
        return done
    # One call for all pictures of a size; COCO has 20 times fewer sizes than pictures.
    shapes, group = np.unique(sizes, axis=0, return_inverse=True)
    order = np.argsort(group.ravel(), kind="stable")
    ends = np.cumsum(np.bincount(group.ravel(), minlength=len(shapes)))
    for (width, height), rows in zip(shapes.tolist(), np.split(order, ends[:-1]), strict=True):
        if min(width, height) > 0:
            done[rows] = _CLIP_RULES[rule](boxes[rows], (width, height))
    return done
