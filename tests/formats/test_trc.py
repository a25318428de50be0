"""TRC: structure of a recorded file, and random tracks read back by a reader of the text."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hrformer.formats.markers import markers_of
from hrformer.formats.write import write_results
from hrformer.predict.tracks import Tracks
from random_tracks import CHECKED, tracks_of_any_kind, two_people

RECORDED = Path(__file__).parent / "recorded" / "pose2sim.trc"


def cells(file: Path) -> list[list[str]]:
    return [line.split("\t") for line in file.read_text(encoding="utf-8").split("\n")]


@CHECKED
@given(tracks_of_any_kind(people=True), st.sampled_from([None, 0.002]))
def test_each_track_reads_back_from_its_file(tracks: Tracks, scale: float | None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_results(tracks, Path(folder) / "out", to="trc", scale=scale)
        files = {file.name: cells(file) for file in (Path(folder) / "out").iterdir()}
    assert sorted(files) == sorted(f"a clip_track{track}.trc" for track in {*tracks.tracks.tolist()})
    for markers in markers_of(tracks, scale or 1.0):
        rows = files[f"a clip_track{markers.track}.trc"]
        facts = dict(zip(rows[1], rows[2], strict=True))
        assert (int(facts["NumFrames"]), int(facts["NumMarkers"])) == markers.points.shape[:2]
        assert facts["Units"] == ("m" if scale else "px")
        assert float(facts["DataRate"]) == pytest.approx(markers.rate)
        assert int(facts["OrigDataStartFrame"]) == markers.first + 1
        assert rows[3][2::3][: len(markers.names)] == list(markers.names)
        body = rows[6:-1]
        assert [float(row[1]) for row in body] == markers.times.tolist()
        # Every cell ends with a tab, the last one too, so that OpenSim counts empty ones.
        values = np.array([[cell or "nan" for cell in row[2:-1]] for row in body], float)
        points = values.reshape(*markers.points.shape[:2], 3)
        np.testing.assert_allclose(points[..., :2], markers.points, atol=5.1e-8 if scale else 5.1e-5)
        np.testing.assert_array_equal(points[..., 2], np.where(np.isnan(markers.points[..., 0]), np.nan, 0))


def test_the_header_is_built_as_a_recorded_one(tmp_path: Path) -> None:
    write_results(two_people(), tmp_path / "out", to="trc", scale=0.001)
    recorded, ours = cells(RECORDED), cells(tmp_path / "out" / "clip_track2.trc")
    assert ours[0] == [*recorded[0][:3], "clip_track2.trc"]
    assert ours[1] == recorded[1]
    assert [cell.replace(".", "").isdigit() for cell in ours[2]] == [cell.isdigit() for cell in recorded[2]]
    assert ours[2] == ["30", "30", "3", "17", "m", "30", "3", "3"]
    for line in (3, 4):
        assert [bool(cell) for cell in ours[line][: 2 + 3 * 17]] == [
            bool(cell) for cell in recorded[line][: 2 + 3 * 17]
        ]
    assert ours[4][: 2 + 3 * 17] == recorded[4][: 2 + 3 * 17]
    assert ours[3][:2] == recorded[3][:2]


def test_one_file_takes_one_track_and_errors_leave_nothing(tmp_path: Path) -> None:
    tracks = two_people()
    with pytest.raises(ValueError, match="would hold one track and there are 2: name a folder"):
        write_results(tracks, tmp_path / "out.trc", to="trc")
    for scale in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="positive number of metres per pixel"):
            write_results(tracks, tmp_path / "out", to="trc", scale=scale)
    with pytest.raises(ValueError, match="scale is for trc and c3d"):
        write_results(tracks, tmp_path / "out.csv", to="csv", scale=1.0)
    assert not [*tmp_path.iterdir()]
