"""Results in the form that another program reads: every writer by its name."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args

from hrformer.formats.c3d import write_c3d
from hrformer.formats.coco import write_coco, write_coco_tracks
from hrformer.formats.csv import write_csv
from hrformer.formats.deeplabcut import write_deeplabcut
from hrformer.formats.openpose import write_openpose
from hrformer.formats.trc import write_trc
from hrformer.predict.tracks import Tracks

ResultsFormat = Literal["coco", "coco-tracks", "openpose", "deeplabcut", "csv", "trc", "c3d"]

WRITERS: dict[ResultsFormat, Callable[[Tracks, Path], None]] = {
    "coco": write_coco,
    "coco-tracks": write_coco_tracks,
    "openpose": write_openpose,
    "deeplabcut": write_deeplabcut,
    "csv": write_csv,
}
"""Those in pixels of the picture."""

SCALED: dict[ResultsFormat, Callable[[Tracks, Path, float | None], None]] = {"trc": write_trc, "c3d": write_c3d}
"""Those for biomechanics, which take metres per pixel."""


SUFFIXES: dict[ResultsFormat, tuple[str, ...]] = {
    "coco": (".json",),
    "coco-tracks": (".json",),
    "openpose": ("",),
    "csv": (".csv",),
    "trc": (".trc", ""),
    "c3d": (".c3d", ""),
}
"""Endings of what each writes; "" is a folder, which may have a dot in its name."""

_OF_FILES = frozenset(".avi .c3d .csv .h5 .json .mkv .mov .mp4 .npz .parquet .trc .txt .xlsx".split())


def write_results(
    tracks: Tracks, path: str | os.PathLike[str], *, to: ResultsFormat, scale: float | None = None
) -> None:
    """Write the joints of a video, or of a folder of pictures, in the form of another program.

    Args:
        tracks: from :func:`hrformer.predict.tracks.read_tracks` or :func:`hrformer.formats.pictures.read_pictures`.
        path: file to write; for "openpose" a folder; for "trc" and "c3d" a folder with a file for each track, or with
            the suffix of the format one file, where there is one track.
        to: the format; its module in ``hrformer.formats`` says what it holds and what stands for missing joints.
        scale: metres per pixel, above 0, for "trc" and "c3d" alone; None leaves pixels.

    Raises:
        ValueError: there is no such format, it takes no ``scale``, or it cannot hold these tracks.
        ImportError: a package that writes the format is not installed.
        OSError: the file cannot be written.
    """
    if to not in WRITERS and to not in SCALED:
        raise ValueError(f"to must be one of {', '.join(get_args(ResultsFormat))}, got {to!r}")
    if scale is not None and to not in SCALED:
        raise ValueError(f"scale is for {' and '.join(SCALED)}; {to} is in pixels")
    suffix = Path(path).suffix.lower()
    if to in SUFFIXES and suffix not in SUFFIXES[to] and (all(SUFFIXES[to]) or suffix in _OF_FILES):
        raise ValueError(f"{to} is written to {' or '.join(one or 'a folder' for one in SUFFIXES[to])}, not to {path}")
    if to in SCALED:
        SCALED[to](tracks, Path(path), scale)
        return
    WRITERS[to](tracks, Path(path))
