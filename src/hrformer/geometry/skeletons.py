"""What a pose model's joints are: names, mirror pairs, limbs, and how precisely each can be labelled."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from numbers import Integral, Real
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Skeleton:
    """Joints of one dataset, in the order of the heatmaps.

    Attributes:
        name: short name, such as "coco17".
        keypoints: K joint names.
        flip_pairs: (left, right) joint numbers from 0 that change places when a picture is mirrored.
        edges: joint numbers from 0 that a drawing connects.
        sigmas: K standard deviations of the labels, relative to the square root of the person's area;
            OKS uses them.
        upper_body: joint numbers of the upper body; empty where nobody needs them.
    """

    name: str
    keypoints: tuple[str, ...]
    flip_pairs: tuple[tuple[int, int], ...]
    edges: tuple[tuple[int, int], ...]
    sigmas: tuple[float, ...]
    upper_body: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise ValueError(f"name must be text, got {self.name!r}")
        joints, sigmas = self.keypoints, self.sigmas
        if not _all(joints, str) or not joints or len(set(joints)) != len(joints):
            raise ValueError(f"keypoints must be different names, at least one; got {joints}")
        count = len(joints)
        if not _all(sigmas, Real) or len(sigmas) != count or not all(0 < sigma < math.inf for sigma in sigmas):
            raise ValueError(f"sigmas must be {count} positive numbers, got {sigmas}")
        for field, pairs in (("flip_pairs", self.flip_pairs), ("edges", self.edges)):
            if not _all(pairs, tuple, list):
                raise ValueError(f"{field} must be pairs of joint numbers, got {pairs}")
            for pair in pairs:
                if not _are_joints(pair, count) or len(pair) != 2:
                    raise ValueError(f"{field}: {pair} must be two different joints in 0..{count - 1}")
        swapped = [joint for pair in self.flip_pairs for joint in pair]
        if len(set(swapped)) != len(swapped):
            raise ValueError(f"flip_pairs: a joint occurs in two pairs of {self.flip_pairs}")
        if not _are_joints(self.upper_body, count):
            raise ValueError(f"upper_body must be different joints in 0..{count - 1}, got {self.upper_body}")

    @property
    def num_keypoints(self) -> int:
        """Number of joints, K."""
        return len(self.keypoints)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; ``from_dict`` reads it back."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Skeleton:
        """Rebuild from ``to_dict`` output; ValueError for fields that are unknown, missing or do not fit together."""
        known = {field.name for field in fields(cls)}
        unknown, missing = set(values) - known, known - {"upper_body"} - set(values)
        if unknown or missing:
            raise ValueError(f"a skeleton has {sorted(known)}; unknown: {sorted(unknown)}, missing: {sorted(missing)}")
        return cls(**{key: _as_tuples(value) for key, value in values.items()})


def _all(values: object, *kinds: type) -> bool:
    """Whether ``values`` are all of these types; truth values are no numbers."""
    return isinstance(values, tuple | list) and all(isinstance(v, kinds) and not isinstance(v, bool) for v in values)


def _are_joints(values: Sequence[int], count: int) -> bool:
    """Whether ``values`` are different numbers of ``count`` joints."""
    return _all(values, Integral) and len({*values}) == len(values) and {*values} <= {*range(count)}


def _as_tuples(value: Any) -> Any:
    return tuple(_as_tuples(item) for item in value) if isinstance(value, list | tuple) else value


# Order, limbs and sigmas of the COCO keypoint evaluation.
COCO17 = Skeleton(
    name="coco17",
    keypoints=(
        *("nose", "left_eye", "right_eye", "left_ear", "right_ear"),
        *("left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist"),
        *("left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle"),
    ),
    flip_pairs=((1, 2), (3, 4), (5, 6), (7, 8), (9, 10), (11, 12), (13, 14), (15, 16)),
    edges=(
        *((15, 13), (13, 11), (16, 14), (14, 12), (11, 12)),  # legs and hips
        *((5, 11), (6, 12), (5, 6)),  # trunk
        *((5, 7), (6, 8), (7, 9), (8, 10)),  # arms
        *((1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6)),  # head
    ),
    sigmas=(
        *(0.026, 0.025, 0.025, 0.035, 0.035),
        *(0.079, 0.079, 0.072, 0.072, 0.062, 0.062),
        *(0.107, 0.107, 0.087, 0.087, 0.089, 0.089),
    ),
    upper_body=tuple(range(11)),
)

# Leeds Sports Pose, extended training set. COCO's sigmas; neck and head top as in CrowdPose.
LSPET14 = Skeleton(
    name="lspet14",
    keypoints=(
        *("right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle"),
        *("right_wrist", "right_elbow", "right_shoulder", "left_shoulder", "left_elbow", "left_wrist"),
        *("neck", "head_top"),
    ),
    flip_pairs=((0, 5), (1, 4), (2, 3), (6, 11), (7, 10), (8, 9)),
    edges=(
        *((0, 1), (1, 2), (3, 4), (4, 5), (2, 3)),  # legs and hips
        *((6, 7), (7, 8), (9, 10), (10, 11)),  # arms
        *((8, 12), (9, 12), (12, 13)),  # shoulders, neck, head
        *((2, 8), (3, 9)),  # trunk
    ),
    sigmas=(0.089, 0.087, 0.107, 0.107, 0.087, 0.089, 0.062, 0.072, 0.079, 0.079, 0.072, 0.062, 0.079, 0.079),
    upper_body=(6, 7, 8, 9, 10, 11, 12, 13),
)


_OF_PEOPLE = (COCO17, LSPET14)


def of_people(skeleton: Skeleton | None) -> bool:
    """Whether these are a person's joints: those of COCO or LSPET, whatever their sigmas."""
    return skeleton is not None and any(skeleton.keypoints == known.keypoints for known in _OF_PEOPLE)


def skeleton_for(num_keypoints: int) -> Skeleton | None:
    """The known skeleton with this number of joints, or None: 17 is COCO's, 14 that of LSPET."""
    return {skeleton.num_keypoints: skeleton for skeleton in _OF_PEOPLE}.get(num_keypoints)
