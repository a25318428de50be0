"""C3D, the binary file of motion capture that ezc3d, Mokka, Visual3D and OpenSim read: a file per person.

Axes, rate and what counts as seen are those of ``markers.py``. Units are mm with a scale, as usual in C3D, else px.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from hrformer.formats.markers import Markers, file_per_track, markers_of, metres
from hrformer.predict.tracks import Tracks

MAX_FRAMES = 65535
"""Most frames of a file; ezc3d and Mokka read no more, whatever the parameters say."""

MISSING = -1.0
"""C3D's residual of a point that is not there."""

STEP = -0.01
"""POINT:SCALE: residuals are bytes that count such steps; the sign says that coordinates are floats."""


def write_c3d(tracks: Tracks, path: Path, scale: float | None = None) -> None:
    """Write a C3D file for each track, from its first frame to its last.

    The residual of a point is 1 - score, cut to [0, 1], in steps of 0.01: 0 is sure. Points that are not seen have the
    residual -1, and NaN for coordinates when read. z is 0. The parameters HRFORMER:FIRST_FRAME (from 0) and
    HRFORMER:START_TIME (s) say where in the video the file starts.

    Args:
        tracks: of a video, or of pictures of one height.
        path: a .c3d file for a single track, else a folder for ``NAME_track1.c3d`` and so on.
        scale: metres per pixel, above 0; None leaves pixels.

    Raises:
        ValueError: as :func:`~hrformer.formats.markers.markers_of`, a wrong scale, a file for several tracks, or a
            track that is longer than 65,535 frames.
        ImportError: ezc3d is not installed.
        OSError: a file cannot be written.
    """
    ezc3d = _ezc3d()
    unit, units = metres(scale)
    with file_per_track(tracks, path, ".c3d") as files:
        for markers in markers_of(tracks, unit if units == "px" else 1000 * unit):
            _write(ezc3d, markers, files[markers.track][0], "px" if units == "px" else "mm")


def _write(ezc3d: Any, markers: Markers, path: Path, units: str) -> None:
    frames, count = markers.points.shape[:2]
    if frames > MAX_FRAMES:
        raise ValueError(
            f"C3D holds {MAX_FRAMES} frames at most, track {markers.track} has {frames}: write trc, or a shorter video"
        )
    points = np.full((4, count, frames), np.nan)
    points[:2] = markers.points.transpose(2, 1, 0)
    points[2:] = 0 * points[:1]
    points[3] = 1.0
    residuals = np.nan_to_num(np.clip(1 - markers.scores, 0, 1), nan=MISSING).T[None]
    file = ezc3d.c3d()
    about = file["parameters"]["POINT"]
    about["RATE"]["value"] = [markers.rate]
    about["SCALE"]["value"] = [STEP]
    about["UNITS"]["value"] = [units]
    about["LABELS"]["value"] = [*markers.names]
    file["data"]["points"] = points
    file["data"]["meta_points"]["residuals"] = residuals
    file.add_parameter("POINT", "X_SCREEN", "+X")
    file.add_parameter("POINT", "Y_SCREEN", "+Y")
    file.add_parameter("HRFORMER", "FIRST_FRAME", [markers.first])
    file.add_parameter("HRFORMER", "START_TIME", [float(markers.times[0])])
    named = path.with_name(f"{path.name}.c3d")  # ezc3d adds this suffix to other names
    try:
        file.write(str(named))
        os.replace(named, path)
    finally:
        named.unlink(missing_ok=True)


def _ezc3d() -> Any:
    try:
        import ezc3d
    except ImportError as error:
        raise ImportError("C3D files are written by ezc3d: pip install 'hrformer[formats]'") from error
    return ezc3d
