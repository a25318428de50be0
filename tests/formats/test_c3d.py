"""C3D, read back by ezc3d."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hrformer.formats.markers import markers_of
from hrformer.formats.write import write_results
from hrformer.predict.tracks import Tracks
from random_tracks import CHECKED, tracks_of_any_kind, two_people

ezc3d = pytest.importorskip("ezc3d")


@CHECKED
@given(tracks_of_any_kind(people=True), st.sampled_from([None, 0.002]))
def test_each_track_reads_back_from_its_file(tracks: Tracks, scale: float | None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_results(tracks, Path(folder) / "out", to="c3d", scale=scale)
        files = {file.name: ezc3d.c3d(str(file)) for file in (Path(folder) / "out").iterdir()}
    assert sorted(files) == sorted(f"a clip_track{track}.c3d" for track in {*tracks.tracks.tolist()})
    for markers in markers_of(tracks, 1000 * scale if scale else 1.0):
        file = files[f"a clip_track{markers.track}.c3d"]
        about = {name: file["parameters"]["POINT"][name]["value"] for name in ("LABELS", "UNITS", "RATE")}
        assert about["LABELS"] == list(markers.names)
        assert about["UNITS"] == ["mm" if scale else "px"]
        assert about["RATE"][0] == pytest.approx(markers.rate, rel=1e-6)
        own = file["parameters"]["HRFORMER"]
        assert own["FIRST_FRAME"]["value"][0] == markers.first
        assert own["START_TIME"]["value"][0] == pytest.approx(markers.times[0], rel=1e-6)
        points, residuals = file["data"]["points"], file["data"]["meta_points"]["residuals"][0]
        np.testing.assert_allclose(points[:2].transpose(2, 1, 0), markers.points, rtol=1e-6)
        gone = np.isnan(markers.points[..., 0])
        np.testing.assert_array_equal(points[2].T, np.where(gone, np.nan, 0))
        # A residual is a byte that counts hundredths.
        np.testing.assert_allclose(residuals.T[~gone], np.clip(1 - markers.scores[~gone], 0, 1), atol=0.0101)
        assert (residuals.T[gone] == -1).all()


def test_a_track_that_is_too_long_is_refused(tmp_path: Path) -> None:
    """ezc3d would write the frames, and read 65,535 of them."""
    frames = np.arange(65536)
    source = replace(two_people().source, names=("a",), skeleton=None)
    joints = np.ones((65536, 1, 3), np.float32)
    rows = {"numbers": frames, "times": frames / 30, "frames": frames, "tracks": 0 * frames + 1, "keypoints": joints}
    with pytest.raises(ValueError, match="65535 frames at most, track 1 has 65536"):
        write_results(Tracks(source=source, **rows), tmp_path / "out.c3d", to="c3d")
    short = Tracks(source=source, **{name: value[1:] for name, value in rows.items()})
    write_results(short, tmp_path / "out.c3d", to="c3d")
    assert ezc3d.c3d(str(tmp_path / "out.c3d"))["data"]["points"].shape == (4, 1, 65535)
    assert [file.name for file in tmp_path.iterdir()] == ["out.c3d"]
