"""Our files are opened by what users have, in an environment of its own: sleap-io, pandas, ezc3d and OpenSim."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from hrformer.formats.markers import markers_of
from hrformer.formats.pictures import pictures_of
from hrformer.formats.write import write_results
from hrformer.geometry.skeletons import COCO17
from hrformer.predict.tracks import Tracks
from random_tracks import seen, two_people
from readers_environment import run_there

METRES = 0.002  # per pixel


@pytest.mark.slow
def test_what_users_libraries_find_is_what_was_written(tmp_path: Path) -> None:
    """One run of that environment, which takes seconds to start, and a minute to make at first."""
    pytest.importorskip("tables")
    tracks = two_people()
    one = replace(tracks, tracks=tracks.tracks[::2] * 0 + 1, frames=tracks.frames[::2], keypoints=tracks.keypoints[::2])
    write_results(tracks, tmp_path / "long.csv", to="csv")
    write_results(tracks, tmp_path / "dlc.csv", to="deeplabcut")
    write_results(tracks, tmp_path / "dlc.h5", to="deeplabcut")
    write_results(one, tmp_path / "one.h5", to="deeplabcut")
    write_results(tracks, tmp_path / "tracks.json", to="coco-tracks")
    write_results(tracks, tmp_path / "c3d", to="c3d", scale=METRES)
    write_results(tracks, tmp_path / "trc", to="trc", scale=METRES)
    for picture in pictures_of(tracks):
        cv2.imwrite(str(tmp_path / picture.file_name), np.zeros((480, 640), np.uint8))
    found = run_there(Path(__file__).with_name("reopen.py"), str(tmp_path), cwd=tmp_path)
    check_csv(found["csv"], tracks)
    check_deeplabcut(found, tracks)
    check_coco(found["coco"], tracks)
    check_motion_capture(found, tracks)


def numbers(value: Any) -> np.ndarray:
    return np.array(value, object).astype(float)


def check_csv(rows: list[list[Any]], tracks: Tracks) -> None:
    """Frames without people do not occur here: pandas reads a row for each joint."""
    assert [row[3] for row in rows] == list(COCO17.keypoints) * len(tracks)
    values = numbers([[row[0], row[2], *row[4:]] for row in rows])
    truth = np.stack([np.repeat(tracks.frames, 17), np.repeat(tracks.tracks, 17)], axis=1)
    np.testing.assert_array_equal(values[:, :2], truth)
    np.testing.assert_array_equal(values[:, 2:].astype(np.float32), tracks.keypoints.reshape(-1, 3))


def check_deeplabcut(found: dict[str, Any], tracks: Tracks) -> None:
    truth = np.full((6, 2, 17, 3), np.nan, np.float32)
    truth[tracks.frames, tracks.tracks - 1] = tracks.keypoints
    header = [
        ["hrformer", who, joint, coord]
        for who in ("individual1", "individual2")
        for joint in COCO17.keypoints
        for coord in ("x", "y", "likelihood")
    ]
    for name in ("dlc csv", "dlc h5"):
        table = found[name]
        assert table["levels"] == ["scorer", "individuals", "bodyparts", "coords"]
        assert table["columns"] == header
        assert table["index"] == list(range(6))
        np.testing.assert_array_equal(numbers(table["values"]).astype(np.float32).reshape(truth.shape), truth)
    single = found["dlc one"]
    assert single["levels"] == ["scorer", "bodyparts", "coords"]
    assert single["columns"] == [[scorer, *rest] for scorer, who, *rest in header if who == "individual1"]
    joints, animals = found["dlc names"]
    assert sorted(joints) == sorted(COCO17.keypoints)
    assert animals == ["individual1", "individual2"]


def check_coco(found: dict[str, Any], tracks: Tracks) -> None:
    assert found["joints"] == list(COCO17.keypoints)
    assert {frozenset(limb) for limb in found["limbs"]} == {frozenset(limb) for limb in COCO17.edges}
    truth = np.where(seen(tracks)[..., None], tracks.keypoints[..., :2], np.nan)
    assert [person[0] for person in found["people"]] == tracks.frames.tolist()
    assert [person[1] for person in found["people"]] == [f"track_{track}" for track in tracks.tracks]
    np.testing.assert_allclose(numbers([person[2] for person in found["people"]]), truth, atol=5.1e-4)


def check_motion_capture(found: dict[str, Any], tracks: Tracks) -> None:
    """C3D in millimetres by ezc3d, TRC in metres by OpenSim's two readers."""
    for markers, c3d, trc in zip(markers_of(tracks, METRES), found["c3d"], found["trc"], strict=True):
        truth = np.concatenate([markers.points, 0 * markers.points[..., :1]], axis=2)
        assert (c3d["labels"], c3d["units"], c3d["rate"]) == (list(COCO17.keypoints), "mm", 30)
        np.testing.assert_allclose(numbers(c3d["points"]), 1000 * truth, rtol=1e-6)
        residuals = np.where(np.isnan(markers.scores), -1, 1 - markers.scores)
        np.testing.assert_allclose(numbers(c3d["residuals"]), residuals, atol=0.0101)
        if trc is None:
            continue
        assert (trc["labels"], trc["units"], trc["rate"]) == (list(COCO17.keypoints), "m", 30)
        assert trc["older reader"] == "m"
        assert trc["times"] == markers.times.tolist()
        np.testing.assert_allclose(numbers(trc["points"]), truth, atol=5.1e-8)
