"""DeepLabCut: the table that ``analyze_videos`` of versions 2.3 and 3 writes, as CSV or HDF5.

A row per frame, with x, y (pixels, y down) and likelihood of every joint of every individual. The header's rows are
scorer, individuals, bodyparts and coords; where there is one track the row of individuals is left out, as in projects
of a single animal. Frames in which an individual is missing have empty cells in CSV and NaN in HDF5.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrformer.files import replacing
from hrformer.formats.csv import pyarrow_csv
from hrformer.predict.tracks import Tracks

SCORER = "hrformer"
KEY = "df_with_missing"
COORDS = ("x", "y", "likelihood")

AT_ONCE = 1 << 21  # Numbers that are in memory as a table at the same time
MAX_COLUMNS = 1500
"""Most columns of an HDF5 file: their names stand in one attribute of the file, which must stay under 64 KiB."""


def write_deeplabcut(tracks: Tracks, path: Path) -> None:
    """Write a table for DeepLabCut; the suffix .h5 makes it HDF5 with the key ``df_with_missing``, .csv makes it CSV.

    Individuals are called ``individual`` and the number of the track. ``likelihood`` is the score, as it is.

    Raises:
        ValueError: another suffix, or more columns than HDF5 takes.
        ImportError: pyarrow is not installed, for CSV, or pandas and tables, for HDF5.
        OSError: the file cannot be written.
    """
    if path.suffix.lower() not in (".csv", ".h5"):
        raise ValueError(f"{path}: DeepLabCut's files end in .csv or .h5")
    ids = np.unique(tracks.tracks)
    columns = _columns(tracks, ids)
    with replacing(path) as part:
        if path.suffix.lower() == ".csv":
            _write_csv(tracks, part, ids, columns)
        else:
            _write_hdf5(tracks, part, ids, columns)


def _columns(tracks: Tracks, ids: NDArray[np.int64]) -> dict[str, list[str]]:
    """Cells of each row of the header."""
    people = [f"individual{number}" for number in ids.tolist()] if len(ids) > 1 else [""]
    cells = [(SCORER, who, joint, coord) for who in people for joint in tracks.source.names for coord in COORDS]
    rows = zip(("scorer", "individuals", "bodyparts", "coords"), zip(*cells, strict=True), strict=True)
    return {level: list(row) for level, row in rows if level != "individuals" or len(ids) > 1}


def _frames_at_once(columns: dict[str, list[str]]) -> int:
    return max(1, AT_ONCE // len(columns["coords"]))


def _values(tracks: Tracks, ids: NDArray[np.int64]) -> NDArray[np.float32]:
    """(F, columns), NaN where an individual is missing."""
    frames, people, joints = len(tracks.numbers), max(len(ids), 1), len(tracks.source.names)
    values = np.full((frames, people, joints, 3), np.nan, np.float32)
    values[np.searchsorted(tracks.numbers, tracks.frames), np.searchsorted(ids, tracks.tracks)] = tracks.keypoints
    return values.reshape(frames, people * joints * 3)


def _write_csv(tracks: Tracks, path: Path, ids: NDArray[np.int64], columns: dict[str, list[str]]) -> None:
    arrow = pyarrow_csv()
    from pyarrow import Table, array

    options = arrow.WriteOptions(include_header=False)
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([level, *cells] for level, cells in columns.items())
    with path.open("wb") as file:
        file.write(text.getvalue().encode())
        for part in tracks.parts(_frames_at_once(columns)):
            values = _values(part, ids)
            cells = [array(part.numbers), *(array(column, from_pandas=True) for column in values.T)]
            arrow.write_csv(Table.from_arrays(cells, names=[str(place) for place in range(len(cells))]), file, options)


def _write_hdf5(tracks: Tracks, path: Path, ids: NDArray[np.int64], columns: dict[str, list[str]]) -> None:
    pandas = _pandas()
    count = len(columns["coords"])
    if count > MAX_COLUMNS:
        raise ValueError(
            f"DeepLabCut's HDF5 holds up to {MAX_COLUMNS} columns, {len(ids)} tracks have {count}: write .csv instead"
        )
    header = pandas.MultiIndex.from_arrays([*columns.values()], names=[*columns])
    with pandas.HDFStore(path, mode="w") as store:
        if not len(tracks.numbers):  # a table without rows would not be written
            store.put(KEY, pandas.DataFrame(_values(tracks, ids).astype(np.float64), columns=header), track_times=False)
        for part in tracks.parts(_frames_at_once(columns)):
            values = _values(part, ids).astype(np.float64)
            store.append(KEY, pandas.DataFrame(values, index=part.numbers, columns=header))


def _pandas() -> Any:
    try:
        import pandas
        import tables  # noqa: F401  (pandas writes HDF5 through it)
    except ImportError as error:
        raise ImportError("HDF5 for DeepLabCut needs pandas and tables: pip install 'hrformer[formats]'") from error
    return pandas
