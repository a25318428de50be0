"""Outlines of objects as COCO's files have them (https://cocodataset.org/#format-data), and masks drawn from them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hrformer.data.coco_fields import as_number, whole
from hrformer.data.set_types import IGNORE, DataError

_FORMS = "polygons [[x, y, x, y, ...], ...] or run lengths {'size': [height, width], 'counts'}"

Runs: TypeAlias = "NDArray[np.int64]"
"""Run lengths, column by column and beginning with the 0s."""

Outline: TypeAlias = "Runs | list[list[float]]"
"""Run lengths, or polygons (x, y, x, y ...) in pixels."""


def read_outline(outline: Any, size: tuple[int, int]) -> Outline:
    """The field ``segmentation``: run lengths, compressed or not, or polygons in any of the forms that tools write.

    Args:
        outline: the field.
        size: (width, height) of the picture.

    Raises:
        DataError: it is none, or does not fit the picture; without file and annotation.
        ImportError: polygons cannot be drawn.
    """
    if isinstance(outline, dict):
        return _run_lengths(outline, size)
    _coco_masks()
    if not isinstance(outline, list):
        raise DataError(f"'segmentation' must be {_FORMS}, got {outline!r:.80}")
    return [_polygon(one, size) for one in (outline if isinstance(outline[0], list) else [outline])]


def _polygon(polygon: Any, size: tuple[int, int]) -> list[float]:
    """A polygon of a list of numbers, or of pairs of them."""
    flat = polygon
    if isinstance(polygon, list) and polygon and all(isinstance(pair, list) for pair in polygon):
        flat = [value for pair in polygon for value in pair]
    try:
        # Takes numbers as text too, and some millions of them in a second.
        values = np.array(flat if isinstance(flat, list) else [math.nan], np.float64)
    except (TypeError, ValueError, OverflowError):
        values = np.array([math.nan])
    if not np.isfinite(values).all() or len(values) % 2:
        raise DataError(f"'segmentation' must be {_FORMS}, x and y finite and in pairs, got {polygon!r:.80}")
    most = 2 * max(size)
    if len(values) and (values.min() < -most or values.max() > 2 * most):
        raise DataError(
            f"'segmentation': a polygon reaches from {values.min():g} to {values.max():g}, far outside of the picture "
            f"of {size[0]} x {size[1]} pixels"
        )
    found: list[float] = values.tolist()
    return found


def _run_lengths(outline: dict[str, Any], size: tuple[int, int]) -> Runs:
    """Run lengths of an object, checked against the picture's size."""
    told, counts = outline.get("size"), outline.get("counts")
    if not isinstance(told, Sequence) or isinstance(told, str) or len(told) != 2:
        raise DataError(f"'segmentation': 'size' must be [height, width], got {told!r:.80}")
    height, width = (whole({"size": side}, "size", "'segmentation'") for side in told)
    if (width, height) != size:
        raise DataError(
            f"'segmentation': 'size' [height, width] is [{height}, {width}], but 'height' and 'width' of its picture "
            f"are {size[1]} and {size[0]}"
        )
    if isinstance(counts, str):
        runs = _decompressed(counts)
    elif isinstance(counts, list) and all(as_number(count).is_integer() for count in counts):
        runs = np.array([int(as_number(count)) for count in counts], np.int64)
    else:
        raise DataError(
            f"'segmentation': 'counts' must be a list of whole numbers or a compressed text, got {counts!r:.80}"
        )
    if not len(runs) or runs.min() < 0 or runs.sum() != width * height:
        raise DataError(
            f"'segmentation': 'counts' must be run lengths of 0 or more whose sum is height x width = "
            f"{width * height}, got a sum of {int(runs.sum())}"
        )
    return runs


def _decompressed(text: str) -> Runs:
    """Run lengths from COCO's text: six bits a letter, five of the value and one that says whether more follow; from
    the fourth run on the difference to the last but one (cocoapi, ``rleFrString``)."""
    letters = np.frombuffer(text.encode("utf-8", "replace"), np.uint8).astype(np.int64) - 48
    if not len(letters) or letters.min() < 0 or letters.max() > 63 or letters[-1] & 32:
        return np.empty(0, np.int64)
    last = np.flatnonzero(letters & 32 == 0)
    begin = np.concatenate([[0], last[:-1] + 1])
    place = np.arange(len(letters)) - np.repeat(begin, last - begin + 1)
    if place.max() > 6:
        return np.empty(0, np.int64)
    values = np.add.reduceat((letters & 31) << (5 * place), begin)
    # The highest bit of the last letter is the sign.
    values -= np.where(letters[last] & 16, np.int64(1) << (5 * (place[last] + 1)), 0)
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


def box_outline(box: Sequence[float], size: tuple[int, int]) -> Runs:
    """Run lengths of the pixels that a box (x, y, width, height) touches in a picture of (width, height)."""
    left, top = (max(math.floor(edge), 0) for edge in box[:2])
    ends = zip(box[:2], box[2:], size, strict=True)
    right, bottom = (min(math.ceil(edge + side), most) for edge, side, most in ends)
    if right <= left or bottom <= top:
        return np.array([size[0] * size[1]])
    runs = np.array([left * size[1] + top, *[bottom - top, size[1] - bottom + top] * (right - left)])
    runs[-1] = size[0] * size[1] - runs[:-1].sum()
    return runs


def draw(objects: Iterable[tuple[int, Outline]], size: tuple[int, int], rest: int) -> NDArray[np.uint8]:
    """A picture's mask: what is void, then the other objects from the largest to the smallest.

    Args:
        objects: class number or ``IGNORE`` of each, and its outline.
        size: (width, height) of the mask.
        rest: class number of pixels of no object.

    Returns:
        (H, W) uint8 class numbers.
    """
    # Column by column, as run lengths are.
    columns = np.full(size[0] * size[1], rest, np.uint8)
    shapes = [(label, _drawn(outline, size)) for label, outline in objects]
    # Objects of one area in the order of the file, so that the mask is always the same.
    for label, runs in sorted(shapes, key=lambda one: (one[0] != IGNORE, -int(one[1][1::2].sum()))):
        inside = np.repeat(np.arange(len(runs) - 1) % 2 == 0, runs[1:])
        columns[runs[0] :][inside] = label
    return np.ascontiguousarray(columns.reshape(size).T)


def _drawn(outline: Outline, size: tuple[int, int]) -> Runs:
    """Run lengths of an outline."""
    if not isinstance(outline, list):
        return outline
    if not outline:
        return np.array([size[0] * size[1]])
    coco = _coco_masks()
    encoded = coco.merge(coco.frPyObjects(outline, size[1], size[0]))["counts"]
    return _decompressed(encoded.decode() if isinstance(encoded, bytes) else encoded)


def _coco_masks() -> Any:
    try:
        from faster_coco_eval.core import mask
    except ImportError as error:
        raise ImportError(
            "drawing polygons needs the package faster-coco-eval: pip install 'hrformer[train]'"
        ) from error
    return mask
