"""Joints over time without their tremble: a causal filter for live use, one without delay for files."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrformer.video.reading import INSTALL

Array = NDArray[np.float64]

GAP = 0.25
"""Seconds without a person after which filters start afresh."""


class OneEuro:
    """The One-Euro filter (Casiez, Roussel, Vogel, CHI 2012) for the joints of many people at once.

    A low-pass filter whose cut-off rises with speed: calm joints do not tremble, fast ones do not lag. Speeds count in
    sizes of the person per second, the size being the square root of the box's area, so that the distance to the
    camera does not matter.

    Args:
        cutoff: cut-off of a joint at rest in Hz; lower is calmer.
        beta: Hz by which the cut-off rises for each size per second; higher lags less.
        speed_cutoff: cut-off of the speed itself in Hz.
    """

    def __init__(self, cutoff: float = 1.5, beta: float = 3.0, speed_cutoff: float = 1.0) -> None:
        if not min(cutoff, speed_cutoff) > 0 or not beta >= 0:
            raise ValueError(f"cut-offs must be above 0 Hz and beta at least 0, got {cutoff}, {speed_cutoff}, {beta}")
        self.cutoff, self.beta, self.speed_cutoff = cutoff, beta, speed_cutoff
        self._ids = np.empty(0, np.int64)
        self._times = np.empty(0)
        self._places: Array | None = None
        self._speeds: Array | None = None

    def update(self, time: float, tracks: NDArray[np.int64], keypoints: NDArray[np.float32], sizes: Array) -> Any:
        """Smoothed joints of the people of one frame.

        Args:
            time: seconds, later than in the call before.
            tracks: (D,) different numbers.
            keypoints: (D, K, 3) x, y in pixels and score, which stays.
            sizes: (D,) square root of each box's area in pixels.

        Returns:
            (D, K, 3) float32.
        """
        points = np.asarray(keypoints[..., :2], np.float64)
        if self._places is None or self._speeds is None:
            self._places, self._speeds = np.empty((0, *points.shape[1:])), np.empty((0, *points.shape[1:]))
        recent = time - self._times <= GAP
        self._ids, self._times = self._ids[recent], self._times[recent]
        self._places, self._speeds = self._places[recent], self._speeds[recent]
        known, here, row = np.intersect1d(tracks, self._ids, return_indices=True)
        result, speeds = points.copy(), np.zeros_like(points)
        if len(known):
            gap = (time - self._times[row])[:, None, None]
            slow = _weight(np.full_like(gap, self.speed_cutoff), gap)
            speeds[here] = slow * (points[here] - self._places[row]) / gap + (1 - slow) * self._speeds[row]
            fast = np.linalg.norm(speeds[here], axis=-1, keepdims=True) / np.maximum(sizes[here], 1)[:, None, None]
            new = _weight(self.cutoff + self.beta * fast, gap)
            result[here] = new * points[here] + (1 - new) * self._places[row]
        others = np.setdiff1d(np.arange(len(self._ids)), row)
        self._ids = np.concatenate([self._ids[others], tracks])
        self._times = np.concatenate([self._times[others], np.full(len(tracks), time)])
        self._places = np.concatenate([self._places[others], result])
        self._speeds = np.concatenate([self._speeds[others], speeds])
        return np.concatenate([result.astype(np.float32), keypoints[..., 2:]], axis=-1)


def _weight(cutoff: Array, gap: Array) -> Array:
    """Share of the new value in a first-order low-pass filter with samples ``gap`` seconds apart."""
    turn = 2 * np.pi * cutoff * gap
    return turn / (turn + 1)


def zero_phase(times: Array, keypoints: NDArray[np.float32], tracks: NDArray[np.int64], cutoff: float) -> Any:
    """Joints of all people, low-pass filtered forwards and backwards, so that nothing is delayed.

    A Butterworth filter of second order each way, the usual one of biomechanics (D. A. Winter, Biomechanics and Motor
    Control of Human Movement, 2009, section 3.4.4), its own cut-off raised by 1 / 0.802 for the two ways. Where a
    person is missing for no more than ``GAP``, the filter sees a straight line; longer gaps divide. Where times are not
    regular, it sees the joints at regular times, by straight lines.

    Args:
        times: (N,) seconds of each row, rising within a track.
        keypoints: (N, K, 3); scores stay.
        tracks: (N,).
        cutoff: in Hz; runs whose rate is below 2.5 times as much stay as they are.

    Returns:
        (N, K, 3) float32.

    Raises:
        ImportError: scipy is not installed.
    """
    result = np.array(keypoints, np.float32)
    for track in np.unique(tracks):
        rows = np.flatnonzero(tracks == track)
        for run in np.split(rows, np.flatnonzero(np.diff(times[rows]) > GAP) + 1):
            if len(run) > 2:
                result[run, :, :2] = _filtered(times[run], np.asarray(keypoints[run, :, :2], np.float64), cutoff)
    return result


def _filtered(times: Array, points: Array, cutoff: float) -> Array:
    """One run (R, K, 2)."""
    signal = _signal()
    steps = np.diff(times)
    step = float(np.median(steps))
    if 1 / step < 2.5 * cutoff:
        return points
    # Missing frames are whole steps; else times are irregular.
    places = (times - times[0]) / step
    slots = np.round(places)
    regular = np.abs(places - slots).max() < 0.1 and len(np.unique(slots)) == len(slots)
    count = int(slots[-1]) + 1 if regular else int(places[-1]) + 2
    grid = np.arange(count)
    flat = points.reshape(len(points), -1)
    where = slots if regular else places
    even = np.stack([np.interp(grid, where, column) for column in flat.T])
    sections = signal.butter(2, min(cutoff / 0.802, 0.499 / step), fs=1 / step, output="sos")
    smooth = signal.sosfiltfilt(sections, even, padlen=min(len(grid) - 1, round(3 / (cutoff * step))))
    return np.stack([np.interp(where, grid, column) for column in smooth], axis=1).reshape(points.shape)


def in_windows(parts: Iterator[Any], context: float) -> Iterator[tuple[list[Any], int]]:
    """Parts of a video, each with those before and after it that reach ``context`` seconds beyond it.

    ``parts`` have ``times`` in seconds. Yields the parts of a window and the place of the one that it is about.
    """
    window: list[Any] = []
    place, ended = 0, False
    while True:
        while not ended and (len(window) <= place or _end(window[-1]) < _end(window[place]) + context):
            part = next(parts, None)
            if part is None:
                ended = True
            elif len(part.times):
                window.append(part)
        if place >= len(window):
            return
        yield window, place
        place += 1
        while place < len(window) and place > 1 and window[place].times[0] - _end(window[0]) > context:
            window.pop(0)
            place -= 1


def _end(part: Any) -> float:
    return float(part.times[-1])


def _signal() -> Any:
    try:
        from scipy import signal
    except ImportError as error:
        raise ImportError(INSTALL) from error
    return signal
