"""Percentage of correct keypoints (PCK), measured against the torso, two other joints, or the box."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from hrformer.geometry.skeletons import Skeleton
from hrformer.metrics.counts import CountMetric, names_for, ratio

TORSO = ("left_shoulder", "right_hip")


def reference_joints(skeleton: Skeleton, norm: Sequence[str] = ()) -> tuple[int, int] | None:
    """Numbers of the two joints that PCK is measured against; None for the longer side of the box.

    ``norm`` holds two names, nothing for the torso, or "box"; ValueError where it names no two joints of the skeleton.
    """
    names = skeleton.keypoints
    if tuple(norm) == ("box",):
        return None
    if not norm and (missing := [name for name in TORSO if name not in names]):
        raise ValueError(
            f"PCK is measured against the torso, but {skeleton.name} has no {' and no '.join(missing)}. Measure it "
            "against the box, --evaluation.pck-norm box, or against the distance of two joints, such as "
            f"--evaluation.pck-norm {' '.join(names[:2])}; the joints are {', '.join(names)}"
        )
    norm = norm or TORSO
    for name in norm:
        if name not in names:
            close = difflib.get_close_matches(name, names, 1)
            hint = f"; did you mean {close[0]}" if close else ""
            raise ValueError(
                f"evaluation.pck_norm: {skeleton.name} has no joint {name!r}{hint}. Its joints are {', '.join(names)}; "
                "'box' alone takes the box"
            )
    if len(norm) != 2 or norm[0] == norm[1]:
        raise ValueError(f"evaluation.pck_norm must be 'box' or two different joints, got {' '.join(norm)}")
    return names.index(norm[0]), names.index(norm[1])


class Pck(CountMetric):
    """PCK over all counted joints of all people, and per joint.

    Args:
        joint_names: K.
        torso: numbers of the two reference joints, see :func:`reference_joints`; None for lengths that come with
            the people.
        alpha: allowed distance as a share of the reference.
    """

    def __init__(self, joint_names: tuple[str, ...], *, torso: tuple[int, int] | None, alpha: float = 0.2) -> None:
        count = len(joint_names)
        if torso is not None and not (len({*torso}) == len(torso) == 2 and {*torso} <= {*range(count)}):
            raise ValueError(f"torso must be two different joints in 0..{count - 1}, got {torso}")
        if not 0 < alpha < np.inf:
            raise ValueError(f"alpha must be above 0, got {alpha}")
        super().__init__(right=(count,), counted=(count,), people=(2,))
        self.joint_names = names_for(joint_names, count, "joints")
        self.torso, self.alpha = torso, alpha

    def update(
        self, predicted: ArrayLike | Tensor, labelled: ArrayLike | Tensor, lengths: ArrayLike | None = None
    ) -> NDArray[np.int64]:
        """Count some people: a joint within ``alpha`` x reference length of its label is right, exactly so much, too.

        Args:
            predicted: (N, K, 2|3), (x, y) in picture pixels; a third value is not used. What is not finite is wrong.
            labelled: (N, K, 3), (x, y, v) in picture pixels, v > 0 where labelled. Labelled joints count of people
                with both reference joints labelled, or a length above 0.
            lengths: (N,) in picture pixels where there are no reference joints, such as the longer sides of the boxes
                (mmpose's ``norm_item`` "bbox").

        Returns:
            (N, 2) right and counted joints of each.
        """
        points, truth = _array(predicted), _array(labelled)
        if points.ndim != 3 or points.shape[2] not in (2, 3) or truth.shape != (*points.shape[:2], 3):
            raise ValueError(f"joints must be (N, K, 2|3) and labels (N, K, 3), got {points.shape} and {truth.shape}")
        if points.shape[1] != len(self.joint_names):
            raise ValueError(f"people must have {len(self.joint_names)} joints, got {points.shape[1]}")
        known = truth[..., 2] > 0
        if self.torso is None:
            length = np.asarray(lengths, dtype=np.float64)
            if length.shape != points.shape[:1]:
                raise ValueError(f"lengths must be ({len(points)},), one for each of the people, got {length.shape}")
            counted = known & (length > 0)[:, None]
        else:
            counted = known & known[:, self.torso].all(axis=1, keepdims=True)
            length = np.linalg.norm(truth[:, self.torso[0], :2] - truth[:, self.torso[1], :2], axis=1)
        distance = np.linalg.norm(points[..., :2] - truth[..., :2], axis=2)
        right = counted & (distance <= self.alpha * length[:, None])
        self._counts["right"] += right.sum(axis=0)
        self._counts["counted"] += counted.sum(axis=0)
        self._counts["people"] += (counted.any(axis=1).sum(), len(counted))
        return np.stack([right.sum(axis=1), counted.sum(axis=1)], axis=1)

    def compute(self) -> dict[str, Any]:
        """Shares in 0..1; ValueError if no joint was counted.

        Returns:
            "pck@<alpha>", "joints" (how many were counted), "people" (with both reference joints), "people_seen",
            and "per_joint": for each its "name", "joints" and "pck", None where it was never labelled.
        """
        right, counted, people = (self._counts[key] for key in ("right", "counted", "people"))
        if not counted.sum():
            needed = "a box" if self.torso is None else " and ".join(self.joint_names[joint] for joint in self.torso)
            raise ValueError(f"no joint was counted: none of {people[1]} people has {needed} labelled, and a joint")
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
