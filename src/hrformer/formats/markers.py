"""Joints as markers of motion capture, for TRC and C3D: one person at a constant rate, y up, z = 0.

x points to the right and y up, as OpenSim has them; 0 is the centre of the picture's lowest pixel on the left. Without
a scale the unit is a pixel. A joint that scores 0.2 or less counts as not seen: the formats have no place for a score
that their programs heed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hrformer.files import new_folder, replacing
from hrformer.formats.pictures import pictures_of
from hrformer.geometry.oks import JOINT_SCORE_THRESHOLD
from hrformer.predict.tracks import Tracks

EVEN = 1.001e-3
"""Seconds within which the times of a constant rate may lie, which files round to a millisecond."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Markers:
    """One track, from its first frame to its last.

    Attributes:
        track: its number.
        names: K joint names without spaces.
        first: number of its first frame.
        rate: frames per second.
        times: (F,) float64 seconds in the video.
        points: (F, K, 2) float64 x, y; NaN where a joint is not seen.
        scores: (F, K) float64; NaN likewise.
    """

    track: int
    names: tuple[str, ...]
    first: int
    rate: float
    times: NDArray[np.float64]
    points: NDArray[np.float64]
    scores: NDArray[np.float64]


def markers_of(tracks: Tracks, unit: float = 1.0) -> Iterator[Markers]:
    """Each track as markers, one by one.

    Times of a constant rate stay as they are, and so do the joints. Others, from phones for example, are interpolated
    linearly onto the regular grid of the nominal rate, between two neighbouring frames that both have the joint; where
    one lacks it the joint stays missing.

    Args:
        tracks: of a video, or of pictures of one height.
        unit: what a pixel becomes, above 0, such as millimetres per pixel.

    Raises:
        ValueError: there is nobody, the pictures' heights differ, times do not rise, or two joints have one name.
    """
    if not len(tracks):
        raise ValueError(f"{tracks.source.name}: nobody was found in it, so there is no track to write")
    names, height = _names(tracks.source.names), _height(tracks)
    rate, even = frame_rate(tracks.times)
    place = np.searchsorted(tracks.numbers, tracks.frames)
    order = np.argsort(tracks.tracks, kind="stable")
    cuts = np.flatnonzero(np.diff(tracks.tracks[order])) + 1
    for rows in np.split(order, cuts):
        start, end = int(place[rows[0]]), int(place[rows[-1]])
        joints = tracks.keypoints[rows]
        values = np.full((end - start + 1, len(names), 3), np.nan)
        values[place[rows] - start] = np.where(joints[..., 2:] > np.float32(JOINT_SCORE_THRESHOLD), joints, np.nan)
        times = tracks.times[start : end + 1]
        if not even:
            times, values = resampled(times, values, rate)
        values[..., 1] = height - 1 - values[..., 1]
        yield Markers(
            track=int(tracks.tracks[rows[0]]),
            names=names,
            first=int(tracks.numbers[start]),
            rate=rate,
            times=times,
            points=values[..., :2] * unit,
            scores=values[..., 2],
        )


def frame_rate(times: NDArray[np.float64]) -> tuple[float, bool]:
    """Frames per second, and whether the times (F,) are those of this constant rate, to a millisecond.

    A whole rate or a whole one x 1000 / 1001 is preferred to what rounded times give; 1 for a single frame. Where the
    rate varies, the nominal one is that of the median distance. ValueError for times that do not rise.
    """
    steps = np.diff(times)
    if not (steps > 0).all():
        frame = int(np.flatnonzero(~(steps > 0))[0]) + 1
        raise ValueError(f"times of frames must rise: {times[frame]} s follows {times[frame - 1]} s")
    if not len(steps):
        return 1.0, True
    mean = len(steps) / (times[-1] - times[0])
    for rate in (float(round(mean)), round(mean * 1.001) / 1.001, float(mean)):
        if rate > 0 and np.ptp(times - np.arange(len(times)) / rate) <= EVEN:
            return rate, True
    nominal = float(1 / np.median(steps))
    whole = float(round(nominal))
    return (whole if abs(whole - nominal) <= 0.015 * nominal else nominal), False


def resampled(
    times: NDArray[np.float64], values: NDArray[np.float64], rate: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Times of a regular grid from the first of ``times`` (F,), and the values (F, K, 3) there; NaN spreads.

    A grid time within half a millisecond of a frame takes that frame's values as they are.
    """
    count = int((times[-1] - times[0] + EVEN / 2) * rate) + 1
    grid = times[0] + np.arange(count) / rate
    right = np.clip(np.searchsorted(times, grid), 1, max(len(times) - 1, 1)) % len(times)
    left = np.maximum(right - 1, 0)
    nearest = np.where(grid - times[left] <= times[right] - grid, left, right)
    share = (grid - times[left]) / np.where(right > left, times[right] - times[left], 1.0)
    between = values[left] + share[:, None, None] * (values[right] - values[left])
    close = np.abs(grid - times[nearest]) <= EVEN / 2
    return grid, np.where(close[:, None, None], values[nearest], between)


def metres(scale: float | None) -> tuple[float, str]:
    """Metres per pixel and "m", or 1 and "px" without a scale; ValueError unless it is a positive number."""
    if scale is None:
        return 1.0, "px"
    if not 0 < scale < math.inf:
        raise ValueError(f"scale must be a positive number of metres per pixel, got {scale}")
    return scale, "m"


@contextmanager
def file_per_track(tracks: Tracks, path: Path, suffix: str) -> Iterator[dict[int, tuple[Path, str]]]:
    """Where to write each track, and what the file will be called; all are in place at the end, or none.

    That is ``path`` itself where it has the suffix, else ``NAME_track1.trc`` and so on in that folder.

    Raises:
        ValueError: one file is asked for and there are several tracks, or the folder holds something.
        OSError: a file cannot be written.
    """
    numbers = np.unique(tracks.tracks).tolist()
    if path.suffix.lower() != suffix:
        names = {number: f"{Path(tracks.source.name).stem}_track{number}{suffix}" for number in numbers}
        with new_folder(path) as folder:
            yield {number: (folder / name, name) for number, name in names.items()}
        return
    if len(numbers) > 1:
        raise ValueError(f"{path} would hold one track and there are {len(numbers)}: name a folder instead")
    with replacing(path) as part:
        yield dict.fromkeys(numbers, (part, path.name))


def _names(joints: Sequence[str]) -> tuple[str, ...]:
    """Names without spaces and tabs, which separate names in TRC."""
    names = tuple(re.sub(r"\s+", "_", joint.strip()) for joint in joints)
    if len({*names}) < len(names):
        raise ValueError(f"joints must have different names without their spaces, got {', '.join(names)}")
    return names


def _height(tracks: Tracks) -> int:
    heights = {picture.height for picture in pictures_of(tracks)}
    if len(heights) > 1:
        raise ValueError(
            f"pictures of {tracks.source.name} are {min(heights)} to {max(heights)} pixels high: y up needs one height"
        )
    return heights.pop()
