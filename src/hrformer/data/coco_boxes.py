"""Boxes of labelled people: around their joints, in corners by mistake, and clipped to the picture. N people."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hrformer.geometry.boxes import clip_boxes_mmpose, clip_boxes_official

GROWN_BY = 0.1
"""A box around joints is grown on every side by this share of its longer side, as those of LSPET are."""

CORNERS_SHARE = 0.2
"""If a larger share of the boxes fits its pictures only as (x1, y1, x2, y2), they are not x, y, width, height."""

_SLACK = 1.0
"""Pixels by which tools differ in where the last pixel ends."""

_CLIP_RULES = {"official": clip_boxes_official, "mmpose": clip_boxes_mmpose}


def boxes_around(keypoints: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, 4) boxes around the labelled joints (N, K, 3), grown; of no extent where these lie on one spot."""
    shown = keypoints[..., 2:] > 0
    low = np.where(shown, keypoints[..., :2], np.inf).min(axis=1)
    size = np.where(shown, keypoints[..., :2], -np.inf).max(axis=1) - low
    margin = GROWN_BY * size.max(axis=1, keepdims=True)
    return np.concatenate([low - margin, size + 2 * margin], axis=1)


def written_as_corners(
    boxes: NDArray[np.floating], keypoints: NDArray[np.float64], sizes: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Rows of the boxes that are (x1, y1, x2, y2), if that is so in the whole file; else none.

    A box counts where one way of reading it fits and the other does not: as corners it must lie in the picture and hold
    the labelled joints, as (x, y, width, height) not reach beyond the picture.

    Args:
        boxes: (N, 4).
        keypoints: (N, K, 3).
        sizes: (N, 2) (width, height) of the pictures, 0 where unknown.
    """
    known = (sizes > 0).all(axis=1)
    inside = (boxes[:, :2] + boxes[:, 2:] <= sizes + _SLACK).all(axis=1)
    low, high = boxes[:, :2], boxes[:, 2:]
    slack = np.maximum(_SLACK, GROWN_BY * np.abs(high - low).max(axis=1))[:, None, None]
    points, hidden = keypoints[..., :2], keypoints[..., 2] <= 0
    held = ((points >= low[:, None] - slack) & (points <= high[:, None] + slack)).all(axis=2) | hidden
    corners = (high > low).all(axis=1) & (low >= -_SLACK).all(axis=1) & (high <= sizes + _SLACK).all(axis=1)
    corners &= held.all(axis=1)
    wrong, right = known & corners & ~inside, known & inside & ~corners
    many = wrong.sum() > max(CORNERS_SHARE * len(boxes), right.sum())
    return np.flatnonzero(wrong) if many else np.zeros(0, np.int64)


def clipped(boxes: NDArray[np.floating], sizes: NDArray[np.int64], rule: str) -> NDArray[np.float64]:
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
