"""Outlines of objects, packed into a few arrays, and masks drawn from them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrformer.data.coco_fields import as_number, whole
from hrformer.data.sets import IGNORE, DataError

_FORMS = "polygons [[x, y, x, y, ...], ...] or run lengths {'size': [height, width], 'counts'}"


@dataclass(frozen=True, slots=True, eq=False)
class Outlines:
    """Outlines of all pictures of a part.

    Attributes:
        first: (P + 1,) place in ``objects`` where each picture's begin.
        labels: (O,) uint8, class number of each object or ``IGNORE``.
        below: (O,) bool, objects that lie below all others: crowds and boxes.
        pieces: (O + 1,) place in ``starts`` where each object's pieces begin.
        starts: (S + 1,) place in ``values`` where each piece begins.
        runs: (S,) bool, pieces of run lengths, column by column and beginning with the 0s; others are polygons.
        values: all pieces' (x, y, x, y ...) in pixels, or run lengths.
    """

    first: NDArray[np.int64]
    labels: NDArray[np.uint8]
    below: NDArray[np.bool_]
    pieces: NDArray[np.int64]
    starts: NDArray[np.int64]
    runs: NDArray[np.bool_]
    values: NDArray[np.float64]

    def draw(self, picture: int, size: tuple[int, int], rest: int) -> NDArray[np.uint8]:
        """A picture's mask: what lies below, then the objects from the largest to the smallest.

        Args:
            picture: its place.
            size: (width, height) of the mask.
            rest: class number of pixels of no object.

        Returns:
            (H, W) uint8 class numbers.
        """
        # Column by column, as run lengths are.
        columns = np.full(size[0] * size[1], rest, np.uint8)
        shapes = [(number, self._runs_of(number, size)) for number in range(*self.first[picture : picture + 2])]
        # Objects of one area in the order of the file, so that the mask is always the same.
        for number, runs in sorted(shapes, key=lambda one: (not self.below[one[0]], -int(one[1][1::2].sum()))):
            inside = np.repeat(np.arange(len(runs) - 1) % 2 == 0, runs[1:])
            columns[runs[0] :][inside] = self.labels[number]
        return np.ascontiguousarray(columns.reshape(size).T)

    def _runs_of(self, number: int, size: tuple[int, int]) -> NDArray[np.int64]:
        """Run lengths of an object, from its polygons where it has these."""
        polygons: list[list[float]] = []
        for piece in range(*self.pieces[number : number + 2]):
            values = self.values[self.starts[piece] : self.starts[piece + 1]]
            if self.runs[piece]:
                return values.astype(np.int64)
            polygons.append(values.tolist())
        if not polygons:
            return np.array([size[0] * size[1]])
        drawer = _drawer()
        encoded = drawer.merge(drawer.frPyObjects(polygons, size[1], size[0]))["counts"]
        return _decompressed(encoded.decode() if isinstance(encoded, bytes) else encoded)


class OutlineWriter:
    """Takes in outlines one after another and packs them.

    Attributes:
        left_out: number of polygons with fewer than three points.
    """

    def __init__(self) -> None:
        self.left_out = 0
        self._objects: list[tuple[int, int, bool, list[tuple[bool, NDArray[np.float64]]]]] = []
        self._furthest = 0.0
        self._widest = 0

    def add(self, picture: int, label: int, outline: Any, size: tuple[int, int], where: str) -> None:
        """Take in an object.

        Args:
            picture: its place.
            label: class number or ``IGNORE``.
            outline: the field ``segmentation``.
            size: (width, height) of the picture.
            where: file and annotation, for messages.

        Raises:
            DataError: the outline is none.
            ImportError: polygons cannot be drawn.
        """
        where = f"{where}: 'segmentation'"
        if isinstance(outline, dict):
            pieces = [(True, _run_lengths(outline, size, where).astype(np.float64))]
        else:
            pieces = [(False, polygon) for polygon in _polygons(outline, size, where)]
            self.left_out += sum(len(polygon) < 6 for _, polygon in pieces)
            pieces = [piece for piece in pieces if len(piece[1]) >= 6]
            _drawer()
            self._furthest = max(self._furthest, *(float(polygon.max()) for _, polygon in pieces), 0.0)
            self._widest = max(self._widest, *size)
        self._objects.append((picture, label, label == IGNORE, pieces))

    def add_box(self, picture: int, box: tuple[float, float, float, float], size: tuple[int, int]) -> None:
        """Take in a box (x, y, width, height) whose pixels are void where nothing else lies."""
        left, top = (max(math.floor(edge), 0) for edge in box[:2])
        right, bottom = (
            min(math.ceil(edge + side), most) for edge, side, most in zip(box[:2], box[2:], size, strict=True)
        )
        filled = np.zeros((size[1], size[0]), bool)
        filled[top : max(bottom, 0), left : max(right, 0)] = True
        flat = filled.T.ravel()
        changes = np.flatnonzero(np.diff(flat.astype(np.int8))) + 1
        counts = np.diff([0, *changes, flat.size])
        runs = np.concatenate([[0], counts]) if flat[0] else counts
        self._objects.append((picture, IGNORE, True, [(True, runs.astype(np.float64))]))

    @property
    def drawn(self) -> bool:
        """Whether any object so far has an outline and a class."""
        return any(label != IGNORE and pieces for _, label, _, pieces in self._objects)

    def check_units(self, file: Path) -> None:
        """Refuse outlines in shares of the picture.

        Raises:
            DataError: no polygon reaches beyond 1.
        """
        if 0 < self._furthest <= 1 and self._widest > 4:
            raise DataError(
                f"{file}: 'segmentation': all polygons lie between 0 and 1; they must be in pixels, not in shares of "
                "width and height: multiply x by the width and y by the height"
            )

    def pack(self, pictures: int) -> Outlines:
        """All outlines of so many pictures."""
        objects = sorted(self._objects, key=lambda one: one[0])
        pieces = [piece for one in objects for piece in one[3]]
        per_picture = np.bincount([one[0] for one in objects], minlength=pictures) if objects else np.zeros(pictures)
        return Outlines(
            first=_ends(per_picture),
            labels=np.array([one[1] for one in objects], np.uint8),
            below=np.array([one[2] for one in objects], bool),
            pieces=_ends([len(one[3]) for one in objects]),
            starts=_ends([len(values) for _, values in pieces]),
            runs=np.array([runs for runs, _ in pieces], bool),
            values=np.concatenate([np.empty(0), *(values for _, values in pieces)]),
        )


def _ends(counts: Any) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def _polygons(outline: Any, size: tuple[int, int], where: str) -> list[NDArray[np.float64]]:
    """Polygons (x, y, x, y ...) of a list of lists, or of one list of numbers."""
    if not isinstance(outline, list):
        raise DataError(f"{where} must be {_FORMS}, got {outline!r:.80}")
    nested = [outline] if not isinstance(outline[0], list) else outline
    found = []
    for polygon in nested:
        flat = polygon
        if isinstance(polygon, list) and polygon and all(isinstance(pair, list) for pair in polygon):
            flat = [value for pair in polygon for value in pair]
        try:
            # Takes numbers as text too, and some millions of them in a second.
            values = np.array(flat if isinstance(flat, list) else [math.nan], np.float64)
        except (TypeError, ValueError):
            values = np.array([math.nan])
        if not np.isfinite(values).all() or len(values) % 2:
            raise DataError(f"{where} must be {_FORMS}, x and y finite and in pairs, got {polygon!r:.80}")
        most = 2 * max(size)
        if len(values) and (values.min() < -most or values.max() > 2 * most):
            raise DataError(
                f"{where}: a polygon reaches from {values.min():g} to {values.max():g}, far outside of the picture of "
                f"{size[0]} x {size[1]} pixels"
            )
        found.append(values)
    return found


def _run_lengths(outline: dict[str, Any], size: tuple[int, int], where: str) -> NDArray[np.int64]:
    """Run lengths of an object, compressed or not, checked against the picture's size."""
    said = outline.get("size")
    if not isinstance(said, Sequence) or isinstance(said, str) or len(said) != 2:
        raise DataError(f"{where}: 'size' must be [height, width], got {said!r:.80}")
    height, width = (whole({"size": side}, "size", where) for side in said)
    counts = outline.get("counts")
    if (width, height) != size:
        raise DataError(
            f"{where}: 'size' [height, width] is [{height}, {width}], but 'height' and 'width' of its picture are "
            f"{size[1]} and {size[0]}"
        )
    if isinstance(counts, str):
        runs = _decompressed(counts)
    elif isinstance(counts, list) and all(as_number(count).is_integer() for count in counts):
        runs = np.array([int(as_number(count)) for count in counts], np.int64)
    else:
        raise DataError(f"{where}: 'counts' must be a list of whole numbers or a compressed text, got {counts!r:.80}")
    if not len(runs) or runs.min() < 0 or runs.sum() != width * height:
        raise DataError(
            f"{where}: 'counts' must be run lengths of 0 or more whose sum is height x width = {width * height}, got a "
            f"sum of {int(runs.sum())}"
        )
    return runs


def _decompressed(text: str) -> NDArray[np.int64]:
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


def _drawer() -> Any:
    try:
        from faster_coco_eval.core import mask
    except ImportError as error:
        raise ImportError(
            "drawing polygons needs the package faster-coco-eval: pip install 'hrformer[train]'"
        ) from error
    return mask
