"""EXIF orientation 1 to 8 (tag 0x0112, EXIF 2.32 section 4.6.4): labels and masks on stored pixels, turned upright."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

UPRIGHT = 1
"""Orientation of pictures that are stored as they are looked at."""

_FLIPS = {
    1: (False, False), 2: (True, False), 3: (True, True), 4: (False, True),
    5: (False, False), 6: (True, False), 7: (True, True), 8: (False, True),
}  # fmt: skip
"""Whether left and right, top and bottom change places, after the sides have where they do."""

_Scalar = TypeVar("_Scalar", bound=np.generic)


def swaps_sides(orientation: int) -> bool:
    """Whether width and height change places between the stored and the upright picture."""
    return orientation >= 5


def upright_size(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """(width, height) of the upright picture from that of the stored one."""
    return (size[1], size[0]) if swaps_sides(orientation) else size


def upright_points(
    points: NDArray[np.floating], size: tuple[int, int], orientation: int, *, edges: bool = False
) -> NDArray[np.float64]:
    """Places on the stored picture, as places on the upright one.

    Args:
        points: (..., 2) (x, y) in stored pixels, 0 being the middle of the first pixel, or with ``edges`` its edge.
        size: (width, height) of the stored picture.
        orientation: 1 to 8.
        edges: whether places count from the picture's edge, as corners of boxes do.
    """
    turned = np.asarray(points, dtype=np.float64)
    if swaps_sides(orientation):
        turned = turned[..., ::-1]
    last = np.subtract(upright_size(size, orientation), 0 if edges else 1)
    return np.where(_FLIPS[orientation], last - turned, turned)


def upright_boxes(boxes: NDArray[np.floating], size: tuple[int, int], orientation: int) -> NDArray[np.float64]:
    """Boxes (..., 4) (x, y, width, height) on the stored picture of ``size``, as boxes on the upright one."""
    boxes = np.asarray(boxes, dtype=np.float64)
    corners = np.stack([boxes[..., :2], boxes[..., :2] + boxes[..., 2:]], axis=-2)
    turned = upright_points(corners, size, orientation, edges=True)
    low = turned.min(axis=-2)
    return np.concatenate([low, turned.max(axis=-2) - low], axis=-1)


def upright_pixels(pixels: NDArray[_Scalar], orientation: int) -> NDArray[_Scalar]:
    """Stored pixels or mask (H, W, ...) turned upright."""
    swapped = pixels.swapaxes(0, 1) if swaps_sides(orientation) else pixels
    across, down = _FLIPS[orientation]
    return np.ascontiguousarray(swapped[:: -1 if down else 1, :: -1 if across else 1])
