"""Who is who from frame to frame, by people's joints, their boxes, and where they were heading.

All spans of time are seconds, so that a video's rate does not matter. T tracks, D people found in a frame, K joints.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hrformer.video.reading import INSTALL

Array = NDArray[np.float64]

# Relative to a person's size, the square root of the box's area: how far the middle of the joints is off (noise of the
# network), how much speeds change per second, and how fast somebody may be who was not seen before. A person is about
# as long as 1.5 sizes: people walk at 1.5 sizes per second and sprint at 8.
_NOISE, _ACCELERATION, _SPEED = 0.04, 1.0, 3.0
_SEEN = 0.2  # Joints scored above this are compared
_TWICE = 0.5  # Somebody so similar to a person of the same frame who has a track starts none


@dataclass(frozen=True, kw_only=True, slots=True)
class TrackOptions:
    """When people start, keep and lose their tracks."""

    memory: float = 2.0  # seconds that somebody who is not seen is remembered
    start_score: float = 0.3  # people scored below it start no track
    least_score: float = 0.1  # people scored below it are left out
    least_similarity: float = 0.3  # joints and boxes must be so similar to those expected, in [0, 1]

    def __post_init__(self) -> None:
        if not self.memory >= 0:
            raise ValueError(f"memory must be at least 0 seconds, got {self.memory}")
        if not 0 <= self.least_similarity <= 1:
            raise ValueError(f"least_similarity must lie in [0, 1], got {self.least_similarity}")


class Tracker:
    """Gives people their numbers, frame by frame.

    A person's middle moves with constant speed and random acceleration (a Kalman filter per axis: R. E. Kalman, 1960);
    the joints are expected where they were, moved along. People are assigned so that the sum of their similarities to
    what is expected is largest (J. Munkres, 1957), those scored high before those scored low (ByteTrack, ECCV 2022).
    Similarity is the mean of the overlap of boxes and of COCO's object keypoint similarity, with the uncertainty of the
    expected place added to the spread of each joint, so that somebody long unseen is looked for farther away.

    Args:
        sigmas: (K,) as in ``Skeleton.sigmas``.
        options: thresholds.

    Raises:
        ImportError: scipy is not installed.
    """

    def __init__(self, sigmas: ArrayLike, options: TrackOptions | None = None) -> None:
        self.options = options or TrackOptions()
        self._sigmas = np.asarray(sigmas, np.float64)
        self._assign = assignment()
        self._next = 1
        self._ids = np.empty(0, np.int64)
        self._seen = np.empty(0)  # (T,) when last
        self._points = np.empty((0, len(self._sigmas), 3))  # (T, K, 3) as last seen
        self._boxes = np.empty((0, 4))  # (T, 4) as last seen
        self._middle = np.empty((0, 2))  # (T, 2) as filtered when last seen
        self._speed = np.empty((0, 2))  # (T, 2) pixels per second
        self._spread = np.empty((0, 3))  # (T, 3) variances of place and both, place and speed, speed; same for x and y

    def update(
        self, time: float, keypoints: NDArray[np.floating], boxes: NDArray[np.floating], scores: NDArray[np.floating]
    ) -> NDArray[np.int64]:
        """Numbers of the people of one frame, from 1; 0 for those who have no track.

        Args:
            time: seconds, later than in the call before.
            keypoints: (D, K, 3) x, y in pixels and score.
            boxes: (D, 4) (x, y, width, height) in pixels.
            scores: (D,).
        """
        points, found = np.asarray(keypoints, np.float64), np.asarray(boxes, np.float64).reshape(-1, 4)
        options, numbers = self.options, np.zeros(len(found), np.int64)
        self._keep(time - self._seen <= options.memory)
        rows = np.full(len(found), -1)
        middles, sizes = _middles(points, found), np.sqrt(np.maximum(found[:, 2] * found[:, 3], 1.0))
        expected, spread = self._expected(time, sizes)
        likeness = self._likeness(points, found, expected, spread)
        high = scores >= options.start_score
        for some in (high, ~high & (scores >= options.least_score)):
            free = np.setdiff1d(np.arange(len(self._ids)), rows)
            wanted = np.flatnonzero(some)
            part = likeness[np.ix_(free, wanted)]
            tracks, people = self._assign(np.where(part >= options.least_similarity, part, 0.0), maximize=True)
            good = part[tracks, people] >= options.least_similarity
            rows[wanted[people[good]]] = free[tracks[good]]
        there = rows >= 0
        self._correct(time, rows[there], points[there], found[there], middles[there], spread, sizes[there])
        numbers[there] = self._ids[rows[there]]
        fresh = np.flatnonzero(high & ~there)
        fresh = fresh[[not _alike(points[one], found[one], points[there], found[there], self._sigmas) for one in fresh]]
        numbers[fresh] = self._start(time, points[fresh], found[fresh], middles[fresh], sizes[fresh])
        return numbers

    def _keep(self, rows: NDArray[Any]) -> None:
        for name in ("_ids", "_seen", "_points", "_boxes", "_middle", "_speed", "_spread"):
            setattr(self, name, getattr(self, name)[rows])

    def _expected(self, time: float, sizes: Array) -> tuple[Array, Array]:
        """(T, 2) how far each track's middle is from where it was last, and its variances (T, 3)."""
        gap = (time - self._seen)[:, None]
        size2 = np.maximum(self._boxes[:, 2] * self._boxes[:, 3], 1.0)[:, None]
        place, both, speed = np.hsplit(self._spread, 3)
        q = _ACCELERATION**2 * size2
        spread = np.hstack(
            [
                place + 2 * gap * both + gap**2 * speed + q * gap**3 / 3,
                both + gap * speed + q * gap**2 / 2,
                speed + q * gap,
            ]
        )
        return self._middle + gap * self._speed, spread

    def _likeness(self, points: Array, boxes: Array, expected: Array, spread: Array) -> Array:
        """(T, D) similarity of each person to what is expected of each track, in [0, 1]."""
        if not len(self._ids) or not len(boxes):
            return np.zeros((len(self._ids), len(boxes)))
        shift = expected - _middles(self._points, self._boxes)
        awaited = self._points[:, None, :, :2] + shift[:, None, None]
        area = (self._boxes[:, 2] * self._boxes[:, 3])[:, None] / 2 + (boxes[:, 2] * boxes[:, 3]) / 2
        variance = (2 * self._sigmas) ** 2 * np.maximum(area, 1.0)[..., None] + spread[:, None, :1]
        squared = ((awaited - points[None, :, :, :2]) ** 2).sum(-1)
        weight = (np.minimum(self._points[:, None, :, 2], points[None, :, :, 2]) > _SEEN).astype(np.float64)
        joints = (weight * np.exp(-squared / (2 * variance))).sum(-1) / np.maximum(weight.sum(-1), 1)
        moved = np.hstack([self._boxes[:, :2] + shift, self._boxes[:, 2:]])
        overlap = box_overlap(moved, boxes)
        return np.where(weight.sum(-1) > 0, (joints + overlap) / 2, overlap)

    def _correct(
        self, time: float, rows: NDArray[np.intp], points: Array, boxes: Array, middles: Array, spread: Array,
        sizes: Array,
    ) -> None:  # fmt: skip
        """Take the people found into their tracks."""
        gap = (time - self._seen[rows])[:, None]
        ahead = self._middle[rows] + gap * self._speed[rows]
        place, both, speed = np.hsplit(spread[rows], 3)
        noise = (_NOISE * sizes[:, None]) ** 2
        gain, push = place / (place + noise), both / (place + noise)
        error = middles - ahead
        self._middle[rows], self._speed[rows] = ahead + gain * error, self._speed[rows] + push * error
        self._spread[rows] = np.hstack([(1 - gain) * place, (1 - gain) * both, speed - push * both])
        self._points[rows], self._boxes[rows], self._seen[rows] = points, boxes, time

    def _start(self, time: float, points: Array, boxes: Array, middles: Array, sizes: Array) -> NDArray[np.int64]:
        numbers = np.arange(self._next, self._next + len(points))
        self._next += len(points)
        spread = np.stack([(_NOISE * sizes) ** 2, np.zeros(len(sizes)), (_SPEED * sizes) ** 2], axis=1)
        values = (numbers, np.full(len(points), time), points, boxes, middles, np.zeros((len(points), 2)), spread)
        names = ("_ids", "_seen", "_points", "_boxes", "_middle", "_speed", "_spread")
        for name, value in zip(names, values, strict=True):
            setattr(self, name, np.concatenate([getattr(self, name), value]))
        return numbers


def box_overlap(boxes: NDArray[np.floating], others: NDArray[np.floating]) -> Array:
    """(T, 4) and (D, 4) boxes (x, y, width, height) -> (T, D) intersection over union, in [0, 1]."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, :2] + boxes[:, None, 2:], others[None, :, :2] + others[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(-1)
    areas = boxes[:, 2:].prod(-1)[:, None] + others[:, 2:].prod(-1)
    overlap: Array = shared / np.maximum(areas - shared, np.finfo(np.float64).tiny)
    return overlap


def _middles(points: Array, boxes: Array) -> Array:
    """(D, 2) mean of the joints that are seen, or the middle of the box where none is."""
    weight = (points[..., 2] > _SEEN).astype(np.float64)[..., None]
    mean = (weight * points[..., :2]).sum(-2) / np.maximum(weight.sum(-2), 1)
    return np.where(weight.sum(-2) > 0, mean, boxes[:, :2] + boxes[:, 2:] / 2)


def _alike(points: Array, box: Array, others: Array, boxes: Array, sigmas: Array) -> bool:
    """Whether a person is one of the others, found twice."""
    if not len(others):
        return False
    squared = ((points[:, :2] - others[..., :2]) ** 2).sum(-1)
    area = (box[2:].prod() + boxes[:, 2:].prod(-1))[:, None] / 2 + np.spacing(1)
    return bool((np.exp(-squared / (2 * (2 * sigmas) ** 2 * area)).mean(-1) > _TWICE).any())


def assignment() -> Any:
    """``linear_sum_assignment`` of scipy, an optional package; ImportError without it."""
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError as error:
        raise ImportError(INSTALL) from error
    return linear_sum_assignment
