"""Tracks for property tests: gaps, several people, odd names, a single frame, nobody at all."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from hrformer.geometry.skeletons import COCO17
from hrformer.predict.tracks import Source, Tracks

# The same cases in every run, and no folder for them. The fixtures that every test has hold no state of a case.
CHECKED = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
SPECIAL = np.array([0.2, 0.0, -0.1, 1.3, np.nextafter(np.float32(0.2), np.float32(1))], np.float32)
"""Scores on the edges of what counts."""

_words = st.text(st.characters(categories=("L", "N", "P", "S", "Zs")), min_size=1, max_size=8)
odd_names = _words.map(str.strip).filter(lambda word: bool(word) and word.isprintable())


@st.composite
def tracks_of_any_kind(
    draw: Any, *, coco: bool | None = None, people: bool = False, ids: tuple[int, ...] = (1, 2, 7, 12345)
) -> Tracks:
    """Random joints; ``coco`` asks for COCO's 17 joints or for odd ones, ``people`` for at least one row."""
    known = draw(st.booleans()) if coco is None else coco
    names = COCO17.keypoints if known else tuple(draw(st.lists(odd_names, min_size=1, max_size=4, unique=True)))
    numbers = sorted(draw(st.sets(st.integers(0, 40), min_size=int(people), max_size=6)))
    pairs = [(number, track) for number in numbers for track in ids]
    rows = sorted(draw(st.sets(st.sampled_from(pairs), min_size=int(people)))) if pairs else []
    random = np.random.default_rng(draw(st.integers(0, 999)))
    keypoints = random.uniform((-50, -50, -0.2), (700, 500, 1.2), (len(rows), len(names), 3)).astype(np.float32)
    keypoints[..., 2] = np.where(
        random.random(keypoints.shape[:2]) < 0.3, random.choice(SPECIAL, keypoints.shape[:2]), keypoints[..., 2]
    )
    return Tracks(
        source=Source(name="a clip.mp4", size=(640, 480), names=names, skeleton=COCO17 if known else None),
        numbers=np.array(numbers, np.int64),
        times=np.array(numbers, np.int64) / 30,
        frames=np.array([frame for frame, _ in rows], np.int64),
        tracks=np.array([track for _, track in rows], np.int64),
        keypoints=keypoints,
    )


def two_people() -> Tracks:
    """Person 1 in frames 0 to 5 but 3, person 2 in frames 2 to 4, of 6 at 30 a second; a joint in nine is not seen."""
    rows = [(frame, track) for frame in range(6) for track in (1, 2) if (frame != 3 if track == 1 else 2 <= frame <= 4)]
    keypoints = np.random.default_rng(0).uniform((0, 0, 0.3), (640, 480, 1), (len(rows), 17, 3)).astype(np.float32)
    keypoints.reshape(-1, 3)[::9, 2] = 0.1
    return Tracks(
        source=Source(name="clip.mp4", size=(640, 480), names=COCO17.keypoints, skeleton=COCO17),
        numbers=np.arange(6),
        times=np.arange(6) / 30,
        frames=np.array([frame for frame, _ in rows]),
        tracks=np.array([track for _, track in rows]),
        keypoints=keypoints,
    )


def seen(tracks: Tracks) -> np.ndarray:
    """(N, K) whether a joint scores above 0.2, in the scores' own precision."""
    return tracks.keypoints[..., 2] > np.float32(0.2)
