"""DeepLabCut's tables: header of a recorded one, and random tracks read back from CSV and HDF5."""

from __future__ import annotations

import csv
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given

from hrformer.formats.write import write_results
from hrformer.predict.tracks import Source, Tracks
from random_tracks import CHECKED, tracks_of_any_kind

RECORDED = Path(__file__).parent / "recorded" / "deeplabcut.csv"


def table(file: Path) -> tuple[list[list[str]], list[list[str]]]:
    """Rows of the header and of the body."""
    with file.open(encoding="utf-8", newline="") as opened:
        rows = list(csv.reader(opened))
    levels = 4 if rows[1][0] == "individuals" else 3
    return rows[:levels], rows[levels:]


def expected(tracks: Tracks) -> np.ndarray:
    """(F, tracks, K, 3), NaN where a person is missing."""
    ids = sorted({*tracks.tracks.tolist()}) or [0]
    values = np.full((len(tracks.numbers), len(ids), len(tracks.source.names), 3), np.nan, np.float32)
    for frame, track, joints in zip(tracks.frames.tolist(), tracks.tracks.tolist(), tracks.keypoints, strict=True):
        values[tracks.numbers.tolist().index(frame), ids.index(track)] = joints
    return values


def people(count: int, frames: int = 2) -> Tracks:
    """People in the first frame alone."""
    return Tracks(
        source=Source(name="clip.mp4", size=(8, 6), names=("a", "b")),
        numbers=np.arange(frames),
        times=np.arange(frames) / 30,
        frames=np.zeros(count, np.int64),
        tracks=np.arange(1, count + 1),
        keypoints=np.ones((count, 2, 3), np.float32),
    )


@CHECKED
@given(tracks_of_any_kind())
def test_csv_reads_back(tracks: Tracks) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_results(tracks, Path(folder) / "out.csv", to="deeplabcut")
        header, body = table(Path(folder) / "out.csv")
    truth, ids = expected(tracks), sorted({*tracks.tracks.tolist()})
    rows = {row[0]: row[1:] for row in header}
    assert list(rows) == ["scorer", *(["individuals"] if len(ids) > 1 else []), "bodyparts", "coords"]
    assert rows["bodyparts"] == [name for name in tracks.source.names for _ in range(3)] * truth.shape[1]
    assert rows["coords"] == ["x", "y", "likelihood"] * (len(rows["coords"]) // 3)
    if len(ids) > 1:
        assert rows["individuals"] == [f"individual{i}" for i in ids for _ in range(3 * len(tracks.source.names))]
    assert [int(row[0]) for row in body] == tracks.numbers.tolist()
    values = np.array([[cell or "nan" for cell in row[1:]] for row in body], object).astype(np.float32)
    np.testing.assert_array_equal(values.reshape(truth.shape), truth)


@CHECKED
@given(tracks_of_any_kind())
def test_hdf5_reads_back(tracks: Tracks) -> None:
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("tables")
    with tempfile.TemporaryDirectory() as folder:
        write_results(tracks, Path(folder) / "out.h5", to="deeplabcut")
        found = pandas.read_hdf(Path(folder) / "out.h5", key="df_with_missing")
    truth = expected(tracks)
    assert found.index.tolist() == tracks.numbers.tolist()
    assert {str(kind) for kind in found.dtypes} == {"float64"}
    np.testing.assert_array_equal(found.to_numpy().reshape(truth.shape), truth.astype(np.float64))
    assert list(found.columns.names)[-2:] == ["bodyparts", "coords"]
    assert found.columns.get_level_values("bodyparts")[::3].tolist() == list(tracks.source.names) * truth.shape[1]


def test_one_animal_has_the_header_of_a_recorded_file(tmp_path: Path) -> None:
    write_results(people(1), tmp_path / "out.csv", to="deeplabcut")
    recorded, rows = table(RECORDED)
    ours, body = table(tmp_path / "out.csv")
    assert [row[0] for row in ours] == [row[0] for row in recorded]
    assert ours[2][1:4] == recorded[2][1:4]
    assert ours[1][1] == ours[1][3]
    assert [row[0] for row in body] == [row[0] for row in rows]


def test_a_wide_table_is_refused_as_hdf5_alone(tmp_path: Path) -> None:
    pytest.importorskip("tables")
    write_results(people(251), tmp_path / "out.csv", to="deeplabcut")
    with pytest.raises(ValueError, match=r"1500 columns, 251 tracks have 1506"):
        write_results(people(251), tmp_path / "out.h5", to="deeplabcut")
    write_results(people(250), tmp_path / "wide.h5", to="deeplabcut")
    with pytest.raises(ValueError, match=r"\.csv or \.h5"):
        write_results(people(1), tmp_path / "out.txt", to="deeplabcut")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["out.csv", "wide.h5"]
