"""Object keypoint similarity, final scores of people, and suppression of people found twice.

N people, K joints. Source of the formulas: COCO's keypoint evaluation; HRNet and mmpose post-processing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

OKS_THRESHOLD = 0.9
"""Two people of one picture with a higher similarity count as one (HRNet, HRFormer, mmpose)."""

JOINT_SCORE_THRESHOLD = 0.2
"""Joints must exceed this to count in a person's score (HRNet, HRFormer, mmpose)."""

MASK_SHARE = 0.53
"""Usual share of a person's box that the mask fills; stands in where an annotation has no area (CrowdPose's tools)."""


def oks(
    keypoints_a: ArrayLike, keypoints_b: ArrayLike, area_a: float, areas_b: ArrayLike, sigmas: ArrayLike
) -> NDArray[np.float64]:
    """Similarity of one person to N others, over all joints whatever their scores.

    Mean over joints of ``exp(-d^2 / (2 (2 sigma)^2 area))`` with the mean of the two areas. This is the symmetric form
    that suppression uses; COCO's evaluation takes the labelled area alone.

    Args:
        keypoints_a: (K, 2) or (K, 3), (x, y) in picture pixels; a third value is not used.
        keypoints_b: (N, K, 2) or (N, K, 3).
        area_a: area in square pixels; a detection's is padded width x padded height.
        areas_b: (N,) areas in square pixels.
        sigmas: (K,) as in ``Skeleton.sigmas``.

    Returns:
        (N,) float64 in [0, 1]. ValueError where shapes do not fit together.
    """
    one, others = np.asarray(keypoints_a, dtype=np.float64), np.asarray(keypoints_b, dtype=np.float64)
    areas, spread = np.asarray(areas_b, dtype=np.float64), np.asarray(sigmas, dtype=np.float64)
    if others.size == 0:
        others = others.reshape(0, *one.shape)
    fits = one.ndim == 2 and others.ndim == 3 and one.shape[1] in (2, 3) and others.shape[2] in (2, 3)
    if not fits or others.shape[1] != len(one) or spread.shape != (len(one),) or areas.shape != (len(others),):
        raise ValueError(
            "keypoints must be (K, 2|3) and (N, K, 2|3) with (N,) areas and (K,) sigmas, "
            f"got {one.shape}, {others.shape}, {areas.shape} and {spread.shape}"
        )
    squared = ((others[..., :2] - one[:, :2]) ** 2).sum(axis=2)
    mean_area = (float(area_a) + areas[:, None]) / 2 + np.spacing(1)
    return np.exp(-squared / (2 * (2 * spread) ** 2 * mean_area)).mean(axis=1)


def rescore(
    box_score: ArrayLike, keypoint_scores: ArrayLike, threshold: float = JOINT_SCORE_THRESHOLD
) -> NDArray[np.floating]:
    """A person's final score: box score times the mean of the joint scores above ``threshold``, 0 where there is none.

    For box scores, a scalar or (...), and joint scores (..., K), maxima of the heatmaps, that is (...). A score of
    exactly ``threshold`` does not count. ValueError where shapes do not fit together.
    """
    boxes, joints = np.asarray(box_score), np.asarray(keypoint_scores)
    if joints.ndim == 0 or boxes.shape not in ((), joints.shape[:-1]):
        raise ValueError(
            f"box_score must be a scalar or (...) for joint scores (..., K), got {boxes.shape} and {joints.shape}"
        )
    if not np.issubdtype(joints.dtype, np.floating):
        joints = joints.astype(np.float64)
    # Compared in the joints' own precision, so that a float32 0.2 is the threshold and not above it.
    most = float(np.finfo(joints.dtype).max)  # what is no number of this kind would warn
    counted = joints > joints.dtype.type(min(max(threshold, -most), most))
    total = np.where(counted, joints, 0).sum(axis=-1)
    return boxes * (total / np.maximum(counted.sum(axis=-1), 1))


def oks_nms(
    keypoints: ArrayLike, scores: ArrayLike, areas: ArrayLike, sigmas: ArrayLike,
    threshold: float = OKS_THRESHOLD, soft: bool = False, max_kept: int = 20,
) -> NDArray[np.intp]:  # fmt: skip
    """Which people of one picture to keep, best first.

    Hard: take the best, drop all others with a similarity above ``threshold``, repeat. Soft: take the best, multiply
    the other scores by ``exp(-oks^2 / threshold)``, repeat until ``max_kept``; the damped scores only decide the
    order. The published figures use the hard form. A person listed twice must be taken out before.

    Args:
        keypoints: (N, K, 2) or (N, K, 3), (x, y) in picture pixels; ``areas`` and ``sigmas`` as for :func:`oks`.
        scores: (N,) from :func:`rescore`. Among equal scores the first is better.
        threshold: similarity in (0, 1].
        soft: damp instead of dropping.
        max_kept: how many people the soft form keeps; the hard form has no such limit.

    Returns:
        Indices into the N people in the order kept. ValueError where shapes do not fit together, a score is NaN, or
        ``threshold`` or ``max_kept`` is out of range.
    """
    values, sizes = np.array(scores, dtype=np.float64), np.asarray(areas, dtype=np.float64)  # values change below
    if values.ndim != 1 or sizes.shape != values.shape or len(np.asarray(keypoints)) != len(values):
        raise ValueError(
            f"keypoints, scores and areas must be (N, K, 2|3), (N,) and (N,), got {np.shape(keypoints)}, "
            f"{values.shape} and {sizes.shape}"
        )
    if np.isnan(values).any():
        raise ValueError("a score is NaN")
    if not 0 < threshold <= 1 or max_kept < 1:
        raise ValueError(f"threshold must lie in (0, 1] and max_kept above 0, got {threshold} and {max_kept}")
    points = np.asarray(keypoints, dtype=np.float64)
    kept: list[int] = []
    left = np.arange(len(values))
    while len(left) and not (soft and len(kept) == max_kept):
        best = left[np.argmax(values[left])]
        left = left[left != best]
        kept.append(int(best))
        similarity = oks(points[best], points[left], sizes[best], sizes[left], sigmas)
        if soft:
            values[left] = values[left] * np.exp(-(similarity**2) / threshold)
        else:
            left = left[similarity <= threshold]
    return np.array(kept, dtype=np.intp)
