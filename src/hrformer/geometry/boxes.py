"""Person boxes: the two clipping rules in use, and the padded box with the crop's aspect ratio."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

BOX_PADDING = 1.25
"""How much larger the crop is than the person's box: HRNet's value, kept by HRFormer and mmpose."""


def clip_boxes_official(boxes_xywh: ArrayLike, image_size: tuple[int, int]) -> NDArray[np.float64]:
    """Clip ground-truth boxes as the HRFormer and HRNet pose code does; arguments and outcome as in the other rule.

    The far edge is counted from the *clipped* near edge and one pixel is taken off, so that a box sticking out on the
    left or at the top is moved into the picture rather than cut there: ``x1 = max(0, x)``,
    ``x2 = min(width - 1, x1 + max(0, w - 1))``, the same for y. Boxes found by a detector are not clipped at all.
    """
    boxes, last = _checked_boxes(boxes_xywh).astype(np.float64), _last_pixel(image_size)
    start = np.maximum(boxes[:, :2], 0)
    end = np.minimum(start + np.maximum(boxes[:, 2:] - 1, 0), last)
    return np.concatenate([start, np.maximum(end - start, 0)], axis=1)


def clip_boxes_mmpose(boxes_xywh: ArrayLike, image_size: tuple[int, int]) -> NDArray[np.float64]:
    """Clip ground-truth boxes as mmpose 1.x does: both corners to [0, width - 1] x [0, height - 1].

    Args:
        boxes_xywh: (N, 4) boxes (x, y, width, height) in picture pixels.
        image_size: (width, height) of the picture.

    Returns:
        (N, 4) boxes as given; a side of 0 means that nothing is left of the box. ValueError for boxes that are not
        (N, 4) finite numbers and for a picture size that is not positive.
    """
    boxes, last = _checked_boxes(boxes_xywh).astype(np.float64), _last_pixel(image_size)
    start = np.clip(boxes[:, :2], 0, last)
    end = np.clip(boxes[:, :2] + boxes[:, 2:], 0, last)
    return np.concatenate([start, np.maximum(end - start, 0)], axis=1)


def box_to_crop(
    boxes_xywh: ArrayLike, aspect: float, padding: float = BOX_PADDING
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Pad boxes and widen their short dimension until width / height is ``aspect``.

    The corners are formed in the precision of the input and everything after is float32, in the order of mmpose 1.x,
    whose numbers then come out bit for bit: give float64 boxes for labelled persons and float32 boxes for detections,
    as it does. The official code agrees to 1e-4 pixels.

    Args:
        boxes_xywh: (N, 4) boxes (x, y, width, height) in picture pixels. One side may be 0, not both.
        aspect: width / height of the network input, for example 192 / 256.
        padding: factor on both sides of the box.

    Returns:
        Centres, (N, 2) float32 (x, y), and padded sizes, (N, 2) float32 (width, height), in picture pixels.
        ValueError for boxes that are not finite or have a wrong side, and for factors that are not above 0.
    """
    if not (0 < aspect < np.inf and 0 < padding < np.inf):
        raise ValueError(f"aspect and padding must be positive numbers, got aspect={aspect}, padding={padding}")
    boxes = _checked_boxes(boxes_xywh)
    bad = np.flatnonzero((boxes[:, 2:] < 0).any(axis=1) | (boxes[:, 2:] <= 0).all(axis=1))
    if bad.size:
        raise ValueError(
            f"box {bad[0]} is {boxes[bad[0]].tolist()} (x, y, width, height); neither side may be "
            "negative and at least one must be above 0"
        )
    start = boxes[:, :2].astype(np.float32)
    end = (boxes[:, :2] + boxes[:, 2:]).astype(np.float32)
    width, height = np.split(end - start, 2, axis=1)
    sizes = padded_sides(width, height, np.float32(aspect), np.float32(padding), np.where)
    return (end + start) * np.float32(0.5), np.concatenate(sizes, axis=1)


def padded_sides(width: Any, height: Any, aspect: Any, padding: Any, where: Any) -> tuple[Any, Any]:
    """Sides of boxes, arrays with ``numpy.where`` or tensors with ``torch.where``, padded and widened to ``aspect``."""
    width, height = width * padding, height * padding
    wide = width > height * aspect
    return where(wide, width, height * aspect), where(wide, width / aspect, height)


def _checked_boxes(boxes_xywh: ArrayLike) -> NDArray[np.floating]:
    """(N, 4) floating-point array; float32 stays float32, an empty list becomes (0, 4)."""
    boxes = np.asarray(boxes_xywh)
    boxes = boxes if boxes.size else boxes.reshape(0, 4)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"boxes must have shape (N, 4) as (x, y, width, height), got {boxes.shape}")
    if boxes.dtype != np.float32:
        boxes = boxes.astype(np.float64)
    if not np.isfinite(boxes).all():
        raise ValueError("boxes hold values that are not finite")
    return boxes


def _last_pixel(image_size: tuple[int, int]) -> NDArray[np.float64]:
    if len(image_size) != 2 or min(image_size) < 1:
        raise ValueError(f"image_size must be (width, height) in positive pixels, got {image_size}")
    return np.asarray(image_size, dtype=np.float64) - 1
