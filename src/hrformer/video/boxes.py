"""Boxes of people in the frames between those that a detector looks at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrformer.video.tracking import assignment, box_overlap

Array = NDArray[np.float64]

_LEAST_OVERLAP = 0.2  # Of a box with where it is expected, to be the same person's
_CARRIED = 0.5
"""What scores of boxes are multiplied by that a detector has missed: a network's doubts about them then count more."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Span:
    """M boxes from one look of the detector to the next; they move in straight lines.

    Attributes:
        start: seconds of the first look.
        end: of the next.
        first: (M, 4) (x, y, width, height) in pixels at the start.
        last: (M, 4) at the end.
        scores: (M,).
        since: (M,) share of the span, in [0, 1], from which on each box counts.
        until: (M,) share before which it counts.
    """

    start: float
    end: float
    first: Array
    last: Array
    scores: Array
    since: Array
    until: Array

    def at(self, time: float) -> tuple[Array, Array]:
        """Boxes (N, 4) and scores (N,) at a time from ``start`` on, before ``end``."""
        share = (time - self.start) / (self.end - self.start) if self.end > self.start else 0.0
        there = (self.since <= share) & (share < self.until)
        boxes = (1 - share) * self.first[there] + share * self.last[there]
        return boxes, self.scores[there]


class BoxLinks:
    """Links what a detector finds at two looks, so that boxes between them need no detector.

    Boxes are linked so that the sum of their overlaps with what is expected is largest. Who is not found again is
    expected for ``patience`` seconds to move on as before; beyond that, and where somebody is new, half of the span
    between the looks counts.

    Args:
        patience: seconds for which a person whom the detector misses keeps a box.
    """

    def __init__(self, patience: float = 0.5) -> None:
        self.patience = patience
        self.time: float | None = None
        self._boxes, self._scores = np.empty((0, 4)), np.empty(0)
        self._speed, self._seen = np.empty((0, 2)), np.empty(0)
        self._assign = assignment()

    def begin(self, time: float, boxes: NDArray[np.floating], scores: NDArray[np.floating]) -> None:
        """The first look: boxes (N, 4) and scores (N,)."""
        self.time = time
        self._boxes, self._scores = np.asarray(boxes, np.float64), np.asarray(scores, np.float64)
        self._speed, self._seen = np.zeros((len(boxes), 2)), np.full(len(boxes), time)

    def look(self, time: float, boxes: NDArray[np.floating], scores: NDArray[np.floating]) -> Span:
        """What lies between the look before and this one, later than it."""
        assert self.time is not None
        found, sure = np.asarray(boxes, np.float64), np.asarray(scores, np.float64)
        start, gap, old = self.time, time - self.time, self._boxes
        ahead = np.hstack([old[:, :2] + gap * self._speed, old[:, 2:]])
        overlap = box_overlap(ahead, found)
        before, now = self._assign(np.where(overlap >= _LEAST_OVERLAP, overlap, 0.0), maximize=True)
        same = overlap[before, now] >= _LEAST_OVERLAP
        before, now = before[same], now[same]
        lost = np.setdiff1d(np.arange(len(old)), before)
        kept = time - self._seen[lost] <= self.patience
        carried, gone = lost[kept], lost[~kept]
        fresh = np.setdiff1d(np.arange(len(found)), now)
        counts = [len(before), len(carried), len(gone), len(fresh)]
        span = Span(
            start=start,
            end=time,
            first=np.concatenate([old[before], old[carried], old[gone], found[fresh]]),
            last=np.concatenate([found[now], ahead[carried], old[gone], found[fresh]]),
            scores=np.concatenate([self._scores[before], self._scores[carried], self._scores[gone], sure[fresh]]),
            since=np.repeat([0.0, 0.0, 0.0, 0.5], counts),
            until=np.repeat([np.inf, np.inf, 0.5, np.inf], counts),
        )
        middles = (found[now, :2] + found[now, 2:] / 2) - (old[before, :2] + old[before, 2:] / 2)
        missed = np.where(self._seen[carried] == start, _CARRIED, 1.0) * self._scores[carried]
        self.time = time
        self._boxes = np.concatenate([found[now], ahead[carried], found[fresh]])
        self._scores = np.concatenate([sure[now], missed, sure[fresh]])
        self._speed = np.concatenate([middles / gap, self._speed[carried], np.zeros((len(fresh), 2))])
        self._seen = np.concatenate([np.full(len(now), time), self._seen[carried], np.full(len(fresh), time)])
        return span

    def now(self) -> tuple[Array, Array]:
        """Boxes (N, 4) and scores (N,) at the last look."""
        return self._boxes, self._scores

    def state(self) -> dict[str, Any]:
        """Plain JSON types, with which ``restore`` goes on to the last bit."""
        arrays = {"boxes": self._boxes, "scores": self._scores, "speed": self._speed, "seen": self._seen}
        return {"time": self.time} | {name: array.tolist() for name, array in arrays.items()}

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what ``state`` gave."""
        self.time = None if state["time"] is None else float(state["time"])
        self._boxes, self._speed = (np.array(state[name], np.float64) for name in ("boxes", "speed"))
        self._boxes, self._speed = self._boxes.reshape(-1, 4), self._speed.reshape(-1, 2)
        self._scores, self._seen = (np.array(state[name], np.float64) for name in ("scores", "seen"))
