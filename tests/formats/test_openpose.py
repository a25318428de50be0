"""OpenPose's files: structure of a recorded one, order of BODY_25, and random tracks read back."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given

from hrformer.formats.openpose import BODY_25, body_25
from hrformer.formats.write import write_results
from hrformer.geometry.skeletons import COCO17
from hrformer.predict.tracks import Tracks
from random_tracks import CHECKED, tracks_of_any_kind, two_people

RECORDED = Path(__file__).parent / "recorded" / "openpose.json"
PLACES = {name: place for place, name in enumerate(COCO17.keypoints)}


def written(tracks: Tracks) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        write_results(tracks, Path(folder) / "out", to="openpose")
        assert [file.name for file in Path(folder).iterdir()] == ["out"]
        return {file.name: json.loads(file.read_text()) for file in sorted((Path(folder) / "out").iterdir())}


def shape(value: Any) -> Any:
    """Keys in their order and types of values; a list by its first item and whether it has one."""
    if isinstance(value, dict):
        return [(key, shape(item)) for key, item in value.items()]
    if isinstance(value, list):
        return ["list", shape(value[0])] if value else ["list"]
    return "number" if isinstance(value, float) else type(value).__name__


@CHECKED
@given(tracks_of_any_kind(coco=True, people=True))
def test_a_file_is_built_as_openpose_s(tracks: Tracks) -> None:
    recorded = json.loads(RECORDED.read_text())
    for file in written(tracks).values():
        assert list(file) == list(recorded)
        assert file["version"] == recorded["version"]
        for person in file["people"]:
            assert shape(person) == shape(recorded["people"][0])
            assert len(person["pose_keypoints_2d"]) == len(recorded["people"][0]["pose_keypoints_2d"])


@CHECKED
@given(tracks_of_any_kind())
def test_frames_people_and_joints_keep_their_order(tracks: Tracks) -> None:
    files = written(tracks)
    assert list(files) == [f"a clip_{number:012d}_keypoints.json" for number in tracks.numbers]
    people = [person for file in files.values() for person in file["people"]]
    counts = [len(file["people"]) for file in files.values()]
    assert np.repeat(tracks.numbers, counts).tolist() == tracks.frames.tolist()
    assert [person["person_id"] for person in people] == [[track] for track in tracks.tracks.tolist()]
    names = BODY_25 if tracks.source.names == COCO17.keypoints else tracks.source.names
    for person, truth in zip(people, tracks.keypoints, strict=True):
        joints = np.array(person["pose_keypoints_2d"]).reshape(-1, 3)
        assert len(joints) == len(names)
        assert ((joints[:, 2] >= 0) & (joints[:, 2] <= 1)).all()
        for joint, name in zip(joints, names, strict=True):
            if name in tracks.source.names:
                x, y, score = truth[tracks.source.names.index(name)]
                there = np.array([x, y, min(score, 1)]) if score > 1e-6 else np.zeros(3)
                np.testing.assert_allclose(joint, there, atol=5.1e-4)


def test_neck_and_hips_are_half_way_and_feet_are_not_there() -> None:
    joints = np.zeros((2, 17, 3), np.float32)
    joints[0, PLACES["left_shoulder"]], joints[0, PLACES["right_shoulder"]] = (10, 20, 0.9), (30, 40, 0.5)
    joints[:, PLACES["left_hip"]], joints[0, PLACES["right_hip"]] = (1, 3, 0.4), (3, 5, 0.8)
    one, other = body_25(joints)
    assert one[BODY_25.index("neck")].tolist() == [20, 30, 0.5]
    np.testing.assert_allclose(one[BODY_25.index("mid_hip")], [2, 4, 0.4])
    assert other[BODY_25.index("mid_hip"), 2] == 0  # one hip is missing
    assert len(one) == 25
    assert not one[19:].any()


def test_the_order_is_that_of_openpose_s_documentation() -> None:
    """Places of our joints in its list: Nose, Neck, RShoulder, RElbow, RWrist, LShoulder and so on, MidHip at 8."""
    joints = np.ones((1, 17, 3), np.float32)
    joints[0, :, 0] = np.arange(17)
    (found,) = body_25(joints)
    neck, hips = (5 + 6) / 2, (11 + 12) / 2
    assert found[:19, 0].tolist() == [0, neck, 6, 8, 10, 5, 7, 9, hips, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3]


def test_a_folder_with_files_is_refused_and_stays(tmp_path: Path) -> None:
    tracks = two_people()
    (tmp_path / "mine.txt").write_text("kept")
    with pytest.raises(ValueError, match="is there already"):
        write_results(tracks, tmp_path, to="openpose")
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]
    (tmp_path / "empty").mkdir()
    write_results(tracks, tmp_path / "empty", to="openpose")
    assert len([*(tmp_path / "empty").iterdir()]) == len(tracks.numbers)
