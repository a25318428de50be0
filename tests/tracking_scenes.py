"""People who walk, cross, hide behind each other and are missed by the detector, with their true numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from hrformer.geometry.skeletons import COCO17
from hrformer.video.tracking import Tracker, box_overlap

Row: TypeAlias = tuple[NDArray[np.int64], NDArray[np.float64]]
"""Numbers (N,) and boxes (N, 4) of one frame."""

# A standing person of COCO's 17 joints, in a box of width 0.4 and height 1 around (0, 0).
_STANDING = np.array(
    [
        *((0, -0.46), (0.02, -0.48), (-0.02, -0.48), (0.04, -0.46), (-0.04, -0.46)),
        *((0.12, -0.32), (-0.12, -0.32), (0.16, -0.15), (-0.16, -0.15), (0.17, 0.0), (-0.17, 0.0)),
        *((0.08, 0.02), (-0.08, 0.02), (0.09, 0.25), (-0.09, 0.25), (0.09, 0.48), (-0.09, 0.48)),
    ]
)
_SWING = np.array([0, 0, 0, 0, 0, 0, 0, 0.03, -0.03, 0.08, -0.08, 0, 0, -0.06, 0.06, -0.12, 0.12])


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Frames of what a detector and a pose network find; ``who`` are the true numbers, 0 for false alarms."""

    times: NDArray[np.float64]
    keypoints: list[NDArray[np.float64]]
    boxes: list[NDArray[np.float64]]
    scores: list[NDArray[np.float64]]
    who: list[NDArray[np.int64]]
    truth: list[Row]
    """Of every frame, the people there, hidden or not, and their boxes."""


def scene(name: str, seed: int, rate: float = 25.0, seconds: float = 8.0) -> Scene:
    """One of ``SCENES`` with the noise of a seed: places, sizes and times of people, missed and false detections."""
    rng = np.random.default_rng(seed)
    paths = SCENES[name](rng, seconds)
    times = np.arange(0, seconds, 1 / rate) + rng.uniform(0, 0.2 / rate, round(seconds * rate))
    miss, false = {"missed": (0.3, 0.0), "alarms": (0.05, 0.15)}.get(name, (0.05, 0.02))
    found = Scene(times=times, keypoints=[], boxes=[], scores=[], who=[], truth=[])
    for time in times:
        people = [(number, *path(float(time))) for number, path in enumerate(paths, 1)]
        people = [(number, middle, size) for number, middle, size in people if -size / 2 < middle[0] < 640 + size / 2]
        people.sort(key=lambda one: -one[2])  # the tall stand in front
        rows, shown = [], []
        for number, middle, size in people:
            box = np.array([*(middle - [0.2 * size, 0.5 * size]), 0.4 * size, size])
            hidden = max((_covered(box, other) for _, other in shown), default=0.0)
            shown.append((number, box))
            if hidden > 0.7 or rng.random() < miss:
                continue
            joints = _STANDING + np.outer(_SWING * np.sin(4 * time + number), (1, 0))
            points = joints * size + middle + rng.normal(0, 0.012 * size, (17, 2))
            confidence = np.clip(rng.normal(0.85 - 0.5 * hidden, 0.07, 17), 0.05, 1)
            noisy = box + rng.normal(0, 0.025 * size, 4)
            rows.append((np.column_stack([points, confidence]), noisy, confidence.mean(), number))
        if rng.random() < false:
            box = np.array([rng.uniform(0, 560), rng.uniform(0, 200), rng.uniform(30, 80), rng.uniform(80, 200)])
            points = box[:2] + rng.random((17, 2)) * box[2:]
            rows.append((np.column_stack([points, rng.uniform(0.1, 0.4, 17)]), box, rng.uniform(0.05, 0.35), 0))
        order = rng.permutation(len(rows))
        found.keypoints.append(np.array([rows[i][0] for i in order]).reshape(-1, 17, 3))
        found.boxes.append(np.array([rows[i][1] for i in order]).reshape(-1, 4))
        found.scores.append(np.array([rows[i][2] for i in order], np.float64))
        found.who.append(np.array([rows[i][3] for i in order], np.int64))
        found.truth.append((np.array([n for n, _ in shown], np.int64), np.array([b for _, b in shown]).reshape(-1, 4)))
    return found


def identity_f1(truth: list[Row], found: list[Row]) -> float:
    """IDF1 (Ristani et al., ECCV workshops 2016): people and tracks are paired once for the whole video, so that the
    number of frames in which their boxes overlap by half is largest; twice that number by all boxes of both."""
    people, tracks = ({int(one) for row, _ in rows for one in row} for rows in (truth, found))
    counts = np.zeros((max(people, default=0) + 1, max(tracks, default=0) + 1))
    for (one, boxes), (other, others) in zip(truth, found, strict=True):
        a, b = np.nonzero(box_overlap(boxes, others) >= 0.5)
        np.add.at(counts, (one[a], other[b]), 1)
    pairs = linear_sum_assignment(counts, maximize=True)
    total = sum(len(row) for rows in (truth, found) for row, _ in rows)
    return float(2 * counts[pairs].sum() / total)


def tracked(one: Scene) -> list[Row]:
    """Numbers that our tracker gives, and the boxes of those who have one."""
    tracker, rows = Tracker(COCO17.sigmas), []
    for time, points, boxes, scores in zip(one.times, one.keypoints, one.boxes, one.scores, strict=True):
        numbers = tracker.update(float(time), points, boxes, scores)
        rows.append((numbers[numbers > 0], boxes[numbers > 0]))
    return rows


def _covered(box: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Share of a box that another one covers."""
    low, high = np.maximum(box[:2], other[:2]), np.minimum(box[:2] + box[2:], other[:2] + other[2:])
    return float(np.clip(high - low, 0, None).prod() / box[2:].prod())


def _walk(start: float, speed: float, size: float, y: float = 240.0, bob: float = 0.0):  # type: ignore[no-untyped-def]
    return lambda time: (np.array([start + speed * time, y + bob * np.sin(6 * time)]), size)


def _crossing(rng, seconds):  # type: ignore[no-untyped-def]
    a, b = rng.uniform(60, 90, 2)
    return [_walk(40, a, 200), _walk(600, -b, 180 + rng.uniform(-10, 10))]


def _occlusion(rng, seconds):  # type: ignore[no-untyped-def]
    """Two walk behind one who stands."""
    return [_walk(320, 0, 260), _walk(30, rng.uniform(60, 80), 180), _walk(620, -rng.uniform(50, 70), 170, y=230)]


def _crowd(rng, seconds):  # type: ignore[no-untyped-def]
    return [
        _walk(rng.uniform(0, 640), rng.choice([-1, 1]) * rng.uniform(30, 100), rng.uniform(120, 240), bob=3)
        for _ in range(6)
    ]


def _turning(rng, seconds):  # type: ignore[no-untyped-def]
    """Two who meet and turn round."""
    gap, half = rng.uniform(40, 70), seconds / 2
    near = lambda time, sign: (np.array([320 + sign * (gap / 2 + 60 * abs(time - half)), 240.0]), 200.0)  # noqa: E731
    return [lambda time: near(time, -1), lambda time: near(time, 1)]


SCENES = {
    "crossing": _crossing,
    "occlusion": _occlusion,
    "crowd": _crowd,
    "turning": _turning,
    "missed": _crossing,
    "alarms": _occlusion,
}
