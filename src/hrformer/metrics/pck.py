"""Percentage of correct keypoints (PCK), measured against the torso."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from hrformer.geometry.skeletons import Skeleton
from hrformer.metrics.metric import CountMetric, names_for, ratio


def torso_joints(skeleton: Skeleton) -> tuple[int, int]:
    """The two joints whose distance is the torso: left shoulder and right hip.

    Raises:
        ValueError: the skeleton lacks one of them.
    """
    wanted = ("left_shoulder", "right_hip")
    if missing := [name for name in wanted if name not in skeleton.keypoints]:
        raise ValueError(
            f"PCK needs a torso, but {skeleton.name} has no {' and no '.join(missing)}; "
            "name two reference joints yourself"
        )
    return skeleton.keypoints.index(wanted[0]), skeleton.keypoints.index(wanted[1])


def correct_keypoints(
    predicted: ArrayLike | Tensor, labelled: ArrayLike | Tensor, torso: tuple[int, int], alpha: float
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which joints lie within ``alpha`` x torso length of their label.

    Args:
        predicted: (N, K, 2) or (N, K, 3), (x, y) in picture pixels; a third value is not used.
        labelled: (N, K, 3), (x, y, v) in picture pixels, v > 0 where labelled.
        torso: numbers of the two reference joints.
        alpha: allowed distance as a share of the torso; exactly this much is still right.

    Returns:
        right: (N, K), a part of ``counted``; coordinates that are not finite are wrong.
        counted: (N, K), the labelled joints of people with both reference joints labelled.

    Raises:
        ValueError: shapes do not fit together.
    """
    points, truth = _array(predicted), _array(labelled)
    if points.ndim != 3 or points.shape[2] not in (2, 3) or truth.shape != (*points.shape[:2], 3):
        raise ValueError(f"joints must be (N, K, 2|3) and labels (N, K, 3), got {points.shape} and {truth.shape}")
    known = truth[..., 2] > 0
    counted = known & known[:, torso].all(axis=1, keepdims=True)
    length = np.linalg.norm(truth[:, torso[0], :2] - truth[:, torso[1], :2], axis=1)
    distance = np.linalg.norm(points[..., :2] - truth[..., :2], axis=2)
    return counted & (distance <= alpha * length[:, None]), counted


class Pck(CountMetric):
    """PCK over all counted joints of all people, and per joint.

    Args:
        joint_names: K names.
        torso: numbers of the two reference joints, see :func:`torso_joints`.
        alpha: allowed distance as a share of the torso.
    """

    def __init__(self, joint_names: tuple[str, ...], *, torso: tuple[int, int], alpha: float = 0.2) -> None:
        count = len(joint_names)
        if len(torso) != 2 or torso[0] == torso[1] or not all(0 <= joint < count for joint in torso):
            raise ValueError(f"torso must be two different joints in 0..{count - 1}, got {torso}")
        if not 0 < alpha < np.inf:
            raise ValueError(f"alpha must be above 0, got {alpha}")
        super().__init__(right=(count,), counted=(count,), people=(2,))
        self.joint_names = names_for(joint_names, count, "joints")
        self.torso, self.alpha = torso, alpha

    def update(self, predicted: ArrayLike | Tensor, labelled: ArrayLike | Tensor) -> None:
        """Count some people; shapes and units as in :func:`correct_keypoints`.

        Raises:
            ValueError: shapes do not fit together or to the number of joints.
        """
        right, counted = correct_keypoints(predicted, labelled, self.torso, self.alpha)
        if right.shape[1] != len(self.joint_names):
            raise ValueError(f"people must have {len(self.joint_names)} joints, got {right.shape[1]}")
        self._counts["right"] += right.sum(axis=0)
        self._counts["counted"] += counted.sum(axis=0)
        self._counts["people"] += (counted.any(axis=1).sum(), len(counted))

    def compute(self) -> dict[str, Any]:
        """Scores as shares in 0..1.

        Returns:
            "pck@<alpha>", "joints" (how many were counted), "people" (with both reference joints), "people_seen",
            and "per_joint": for each its "name", "joints" and "pck", None where it was never labelled.

        Raises:
            ValueError: no joint was counted.
        """
        right, counted, people = (self._counts[key] for key in ("right", "counted", "people"))
        if not counted.sum():
            raise ValueError(
                f"no joint was counted: of {people[1]} people none has {self.joint_names[self.torso[0]]} and "
                f"{self.joint_names[self.torso[1]]} labelled"
            )
        table = [
            {"name": name, "joints": int(counted[j]), "pck": ratio(right[j], counted[j])}
            for j, name in enumerate(self.joint_names)
        ]
        return {
            f"pck@{self.alpha:g}": ratio(right.sum(), counted.sum()),
            "joints": int(counted.sum()),
            "people": int(people[0]),
            "people_seen": int(people[1]),
            "per_joint": table,
        }


def _array(values: ArrayLike | Tensor) -> NDArray[np.float64]:
    if isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
    return np.asarray(values, dtype=np.float64)
