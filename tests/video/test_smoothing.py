"""Joints without their tremble: less noise, no delay, nothing else changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import signal

from hrformer.video.smoothing import OneEuro, in_windows, zero_phase

RATE = 60.0


def walk(seconds: float = 6.0, noise: float = 2.0, seed: int = 0) -> tuple[Any, Any, Any]:
    """Times, joints (N, 2, 3) without and with noise: one swings at 1 Hz, one rests."""
    times = np.arange(0, seconds, 1 / RATE)
    true = np.zeros((len(times), 2, 3), np.float32)
    true[:, 0, 0], true[:, 0, 1] = 100 + 40 * np.sin(2 * np.pi * times), 50
    true[:, 1, :2], true[..., 2] = (300, 200), 0.9
    noisy = true.copy()
    noisy[..., :2] += np.random.default_rng(seed).normal(0, noise, noisy[..., :2].shape)
    return times, true, noisy


def error(one: NDArray[np.float32], other: NDArray[np.float32], joint: int) -> float:
    return float(np.sqrt(((one[60:-60, joint, :2] - other[60:-60, joint, :2]) ** 2).mean()))


def euro(times: Any, points: Any, **options: float) -> Any:
    one = OneEuro(**options)
    return np.concatenate(
        [one.update(t, np.array([1]), p[None], np.array([200.0])) for t, p in zip(times, points, strict=True)]
    )


def test_one_euro_calms_what_rests_and_follows_what_moves() -> None:
    times, true, noisy = walk()
    smooth = euro(times, noisy)
    assert error(smooth, true, 1) < 0.5 * error(noisy, true, 1)
    # Of the swing's 40 pixels the filter loses a few, and a fixed one of the same calm much more.
    assert error(euro(times, true), true, 0) < 0.5 * error(euro(times, true, beta=0.0), true, 0)
    np.testing.assert_array_equal(smooth[..., 2], noisy[..., 2])


def test_one_euro_is_the_published_filter() -> None:
    """Against its definition, one number at a time (Casiez et al. 2012, algorithm 1)."""
    times, _, noisy = walk(seconds=1.0)
    cutoff, beta, size = 1.5, 3.0, 200.0
    kept = speed = np.zeros(2)
    for number, (time, place) in enumerate(zip(times, noisy[:, 0, :2].astype(float), strict=True)):
        if number:
            gap = time - times[number - 1]
            weight = lambda hertz, gap=gap: 1 / (1 + 1 / (2 * np.pi * hertz * gap))  # noqa: E731
            speed = weight(1.0) * (place - kept) / gap + (1 - weight(1.0)) * speed
            share = weight(cutoff + beta * np.linalg.norm(speed) / size)
            place = share * place + (1 - share) * kept
        kept = place
        np.testing.assert_allclose(euro(times[: number + 1], noisy[: number + 1])[-1, 0, :2], kept, rtol=1e-6)


def test_one_euro_keeps_people_apart_and_starts_afresh_after_a_gap() -> None:
    times, _, noisy = walk(seconds=1.0)
    alone, both = OneEuro(), OneEuro()
    sizes = np.array([200.0, 100.0])
    for number, (time, points) in enumerate(zip(times, noisy, strict=True)):
        one = alone.update(time, np.array([7]), points[None], sizes[:1])
        order = [0, 1] if number % 2 else [1, 0]
        pair = both.update(time, np.array([7, 3])[order], np.stack([points, points + 50])[order], sizes[order])
        np.testing.assert_array_equal(pair[order.index(0)], one[0])
    later = times[-1] + 0.5
    np.testing.assert_array_equal(alone.update(later, np.array([7]), noisy[:1] + 90, sizes[:1]), noisy[:1] + 90)


def test_zero_phase_delays_nothing_and_is_scipys_filter() -> None:
    times, true, noisy = walk()
    smooth = zero_phase(times, noisy, np.ones(len(times), int), 6.0)
    assert error(smooth, true, 0) < 0.65 * error(noisy, true, 0)
    lag = np.argmax(np.correlate(smooth[60:-60, 0, 0] - 100, true[60:-60, 0, 0] - 100, "full")) - (len(times) - 121)
    assert lag == 0
    sections = signal.butter(2, 6.0 / 0.802, fs=RATE, output="sos")
    expected = signal.sosfiltfilt(sections, noisy[:, 0, 0].astype(float), padlen=30)
    np.testing.assert_allclose(smooth[:, 0, 0], expected, atol=1e-4)


def test_zero_phase_bridges_short_gaps_and_irregular_times() -> None:
    times, true, noisy = walk()
    kept = np.ones(len(times), bool)
    kept[100:110] = False
    smooth = zero_phase(times[kept], noisy[kept], np.ones(kept.sum(), int), 6.0)
    whole = zero_phase(times, noisy, np.ones(len(times), int), 6.0)
    assert np.abs(smooth[:60] - whole[:60]).max() < 0.05
    uneven = times + np.random.default_rng(1).uniform(-0.4, 0.4, len(times)) / RATE
    swung = true.copy()
    swung[:, 0, 0] = 100 + 40 * np.sin(2 * np.pi * uneven)
    assert error(zero_phase(uneven, swung, np.ones(len(times), int), 6.0), swung, 0) < 0.6


def test_zero_phase_leaves_what_it_cannot_filter() -> None:
    times, _, noisy = walk(seconds=1.0)
    tracks = np.arange(len(times)) // 2  # runs of two
    np.testing.assert_array_equal(zero_phase(times, noisy, tracks, 6.0), noisy)
    slow = times * 10  # 6 frames per second, longer apart than a gap may be or too few for 6 Hz
    np.testing.assert_array_equal(zero_phase(slow, noisy, np.ones(len(times), int), 6.0), noisy)


@dataclass
class Part:
    """A part of a video, by its times."""

    times: NDArray[np.float64]


def test_windows_reach_as_far_as_the_filter() -> None:
    times, _, noisy = walk(seconds=40.0)
    whole = zero_phase(times, noisy, np.ones(len(times), int), 6.0)
    parts = [Part(part) for part in np.split(times, [200, 210, 400, 640, *range(840, 2400, 240)])]
    seen = []
    for window, place in in_windows(iter(parts), 2.0):
        joined = np.concatenate([part.times for part in window])
        rows = np.searchsorted(times, joined)
        smooth = zero_phase(joined, noisy[rows], np.ones(len(rows), int), 6.0)
        begin = sum(len(part.times) for part in window[:place])
        seen.append(smooth[begin : begin + len(window[place].times)])
        assert joined[-1] - joined[0] < 13
    np.testing.assert_allclose(np.concatenate(seen), whole, atol=1e-4)


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="cut-offs must be above 0 Hz"):
        OneEuro(cutoff=0)
