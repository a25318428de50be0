"""CSV in long form, read by Python's own reader."""

from __future__ import annotations

import csv
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import given

from hrformer.formats.write import write_results
from hrformer.predict.tracks import Tracks
from random_tracks import CHECKED, tracks_of_any_kind


@CHECKED
@given(tracks_of_any_kind())
def test_every_number_reads_back_the_same(tracks: Tracks) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_results(tracks, Path(folder) / "out.csv", to="csv")
        with (Path(folder) / "out.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    filled = [row for row in rows if row["track"]]
    empty = [row for row in rows if not row["track"]]
    count = len(tracks.source.names)
    assert [row["joint"] for row in filled] == list(tracks.source.names) * len(tracks)
    assert [int(row["frame"]) for row in filled] == np.repeat(tracks.frames, count).tolist()
    assert [int(row["track"]) for row in filled] == np.repeat(tracks.tracks, count).tolist()
    assert [float(row["time"]) for row in filled] == np.repeat(tracks.row_times, count).tolist()
    values = np.array([[row["x"], row["y"], row["score"]] for row in filled], object).astype(np.float32)
    np.testing.assert_array_equal(values.reshape(tracks.keypoints.shape), tracks.keypoints)
    assert [int(row["frame"]) for row in empty] == sorted({*tracks.numbers.tolist()} - {*tracks.frames.tolist()})
    assert all(row["time"] and not row["x"] + row["y"] + row["score"] + row["joint"] for row in empty)
    assert [int(row["frame"]) for row in rows] == sorted(int(row["frame"]) for row in rows)
