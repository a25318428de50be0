"""Markers of motion capture: rates of real videos, resampling, axes and names."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hrformer.formats.markers import frame_rate, markers_of, resampled
from hrformer.predict.tracks import Source, Tracks
from random_tracks import CHECKED, seen, tracks_of_any_kind


def walk(times: np.ndarray, missing: tuple[int, ...] = ()) -> Tracks:
    """One person whose joint moves 100 pixels a second to the right."""
    frames = np.array([frame for frame in range(len(times)) if frame not in missing], np.int64)
    joints = np.stack([100 * times[frames], np.full(len(frames), 10), np.ones(len(frames))], axis=1)
    return Tracks(
        source=Source(name="clip.mp4", size=(640, 480), names=("left foot",)),
        numbers=np.arange(len(times)),
        times=times,
        frames=frames,
        tracks=np.ones(len(frames), np.int64),
        keypoints=joints[:, None].astype(np.float32),
    )


@pytest.mark.parametrize("rate", [10, 24000 / 1001, 25, 30000 / 1001, 30, 59.94005994, 120, 240])
@pytest.mark.parametrize("digits", [3, 9])
def test_a_constant_rate_is_known_through_rounded_times(rate: float, digits: int) -> None:
    found, even = frame_rate(np.round(5 + np.arange(400) / rate, digits))
    assert even
    assert found == pytest.approx(rate, rel=1e-8)


def test_a_varying_rate_is_not_taken_for_constant() -> None:
    times = np.cumsum(np.where(np.arange(60) % 7, 1 / 30, 2 / 30))
    assert frame_rate(times) == (30.0, False)
    assert frame_rate(np.array([3.0])) == (1.0, True)
    with pytest.raises(ValueError, match="times of frames must rise"):
        frame_rate(np.array([0.0, 1.0, 1.0]))


@CHECKED
@given(tracks_of_any_kind(people=True, coco=True))
def test_joints_of_a_constant_rate_stay_as_they_are(tracks: Tracks) -> None:
    tracks = replace(tracks, times=np.arange(len(tracks.numbers)) / 25)
    rows = {}
    for markers in markers_of(tracks):
        first = tracks.numbers.tolist().index(markers.first)
        for place in range(len(markers.times)):
            rows[int(tracks.numbers[first + place]), markers.track] = markers.points[place]
        np.testing.assert_array_equal(markers.times, tracks.times[first : first + len(markers.times)])
        assert not np.isnan(markers.scores[np.isfinite(markers.points[..., 0])]).any()
    for frame, track, joints, shown in zip(
        tracks.frames.tolist(), tracks.tracks.tolist(), tracks.keypoints.astype(np.float64), seen(tracks), strict=True
    ):
        truth = np.where(shown[:, None], np.stack([joints[:, 0], 479 - joints[:, 1]], axis=1), np.nan)
        np.testing.assert_array_equal(rows.pop((frame, track)), truth)
    assert all(np.isnan(points).all() for points in rows.values())


@CHECKED
@given(st.lists(st.floats(0.005, 0.2), min_size=3, max_size=12), st.sets(st.integers(1, 8), max_size=3))
def test_a_steady_walk_stays_steady_on_the_grid(steps: list[float], missing: set[int]) -> None:
    """Linear interpolation of a linear motion is exact; beside a missing frame nothing is made up."""
    times = np.cumsum([0.0, *steps])
    tracks = walk(times, tuple(frame for frame in missing if frame < len(times) - 1))
    (markers,) = markers_of(tracks)
    grid = markers.times
    np.testing.assert_allclose(np.diff(grid), 1 / markers.rate, atol=1.1e-3)
    assert grid[0] == times[0]
    assert times[-1] - 1.001 / markers.rate <= grid[-1] <= times[-1] + 1e-6
    there = np.isfinite(markers.points[:, 0, 0])
    # Half a millisecond of a walk of 100 pixels a second.
    np.testing.assert_allclose(markers.points[there, 0, 0], 100 * grid[there], atol=0.0502)
    if frame_rate(times)[1]:
        return
    alive = ~np.isin(np.arange(len(times)), [*missing])
    alive[-1] = True
    for time, is_there in zip(grid, there, strict=True):
        near = np.abs(times - time) < 5e-4
        around = near if near.any() else np.isin(np.arange(len(times)), np.searchsorted(times, time) - np.array([0, 1]))
        assert is_there == alive[around].all()


def test_dropped_frames_leave_the_others_as_they_are() -> None:
    times = np.round(np.delete(np.arange(40) / 30, [7, 8, 20]), 3)
    (markers,) = markers_of(walk(times))
    assert (markers.rate, len(markers.times)) == (30, 40)
    before = walk(times).keypoints[:, 0, 0].astype(np.float64)
    kept = np.delete(np.arange(40), [7, 8, 20])
    np.testing.assert_array_equal(markers.points[kept, 0, 0], before)
    np.testing.assert_allclose(markers.points[[7, 8, 20], 0, 0], 100 * np.array([7, 8, 20]) / 30, atol=0.1)


def test_two_frames_and_one() -> None:
    for times in (np.array([0.0, 5.0, 10.0]), np.array([2.0])):
        (markers,) = markers_of(walk(times))
        np.testing.assert_array_equal(markers.times, times)
    grid, found = resampled(np.array([2.0]), np.ones((1, 1, 3)), 30.0)
    assert (grid.tolist(), found.tolist()) == ([2.0], [[[1, 1, 1]]])


def test_grid_times_that_are_frames_take_their_joints_alone() -> None:
    values = np.array([1.0, np.nan, 3.0]).reshape(3, 1, 1)
    grid, found = resampled(np.array([0.0, 1.0, 2.0]), values, 1.0)
    assert grid.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(found.ravel(), [1, np.nan, 3])


def test_units_axes_and_names() -> None:
    (markers,) = markers_of(walk(np.arange(3) / 30), unit=0.5)
    assert markers.names == ("left_foot",)
    assert markers.points[2, 0].tolist() == pytest.approx([100 * 2 / 30 / 2, 469 / 2], rel=1e-6)
    tracks = walk(np.arange(3) / 30)
    same = replace(tracks.source, names=("a b", "a_b"))
    with pytest.raises(ValueError, match="different names without their spaces"):
        list(markers_of(replace(tracks, source=same, keypoints=np.ones((3, 2, 3), np.float32))))
    nobody = replace(tracks, frames=np.zeros(0, int), tracks=np.zeros(0, int), keypoints=np.zeros((0, 1, 3), "f4"))
    with pytest.raises(ValueError, match=r"clip\.mp4: nobody was found"):
        list(markers_of(nobody))
