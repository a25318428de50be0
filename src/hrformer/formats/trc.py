"""TRC, the tab-separated marker file of Motion Analysis that OpenSim, Pose2Sim and Sports2D read: a file per person.

Axes, rate and what counts as seen are those of ``markers.py``. Units are m with a scale, as Pose2Sim has them, else px.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hrformer.formats.markers import Markers, file_per_track, markers_of, metres
from hrformer.predict.tracks import Tracks

FIELDS = ("DataRate", "CameraRate", "NumFrames", "NumMarkers", "Units", "OrigDataRate", "OrigDataStartFrame")
AT_ONCE = 1 << 12  # Frames that are text at the same time


def write_trc(tracks: Tracks, path: Path, scale: float | None = None) -> None:
    """Write a TRC file for each track, from its first frame to its last.

    Time is that of the video; Frame# counts from 1 in each file, and OrigDataStartFrame is the number of the first
    frame in the video, from 1. Joints that are not seen are empty cells. z is 0.

    Args:
        tracks: of a video, or of pictures of one height.
        path: a .trc file for a single track, else a folder for ``NAME_track1.trc`` and so on.
        scale: metres per pixel, above 0; None leaves pixels.

    Raises:
        ValueError: as :func:`~hrformer.formats.markers.markers_of`, a wrong scale, or a file for several tracks.
        OSError: a file cannot be written.
    """
    unit, units = metres(scale)
    with file_per_track(tracks, path, ".trc") as files:
        for markers in markers_of(tracks, unit):
            file, name = files[markers.track]
            _write(markers, file, name, units)


def _write(markers: Markers, path: Path, name: str, units: str) -> None:
    frames, count = markers.points.shape[:2]
    rate = f"{markers.rate:.10g}"
    facts = (rate, rate, frames, count, units, rate, markers.first + 1, frames)
    labels = [f"{axis}{number}" for number in range(1, count + 1) for axis in "XYZ"]
    head = [
        f"PathFileType\t4\t(X/Y/Z)\t{name}",
        "\t".join((*FIELDS, "OrigNumFrames")),
        "\t".join(map(str, facts)),
        "Frame#\tTime\t" + "".join(f"{name}\t\t\t" for name in markers.names),
        "\t\t" + "".join(f"{label}\t" for label in labels),
        "",
    ]
    # A tenth of a micrometre, or a ten-thousandth of a pixel. OpenSim ends every cell, the last one too, with a tab and
    # loses a last empty cell without one.
    row = "%d\t%r\t" + ("%.7f\t" if units == "m" else "%.4f\t") * (3 * count) + "\n"
    points = np.concatenate([markers.points, 0 * markers.points[..., :1]], axis=2).reshape(frames, -1)
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write("\n".join(head) + "\n")
        for start in range(0, frames, AT_ONCE):
            some = slice(start, start + AT_ONCE)
            numbers = range(start + 1, frames + 1)
            for number, time, values in zip(numbers, markers.times[some].tolist(), points[some].tolist(), strict=False):
                file.write((row % (number, time, *values)).replace("nan", ""))
