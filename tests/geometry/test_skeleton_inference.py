"""Joints of any keypoint file: known names, what the file says, what the names tell, and what is said aloud."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

import pytest

from hrformer.data.source_config import PoseSource
from hrformer.geometry.skeleton_inference import (
    DEFAULT_SIGMA,
    infer_edges,
    infer_flip_pairs,
    infer_sigmas,
    infer_upper_body,
    read_skeleton,
    skeleton_of,
)
from hrformer.geometry.skeletons import COCO17, LSPET14, Skeleton

CROWD_POSE = (
    *("left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist"),
    *("left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle", "head", "neck"),
)
HAND = ("wrist", "thumb_l", "thumb_r")


def from_source(category: dict[str, Any], source: PoseSource, file: str) -> Skeleton:
    """As pose sets read it."""
    given = {name: getattr(source, name) for name in ("skeleton", "flip_pairs", "sigmas")}
    return skeleton_of(category, file, settings="PoseSource", **given)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("left_knee", "right knee"),
        ("Left-Knee", "Right-Knee"),
        ("LKnee", "RKnee"),
        ("kneeL", "kneeR"),
        ("LEFT_EYE", "right_eye"),
        ("leftknee", "rightknee"),
        ("kneeleft", "knee_right"),
        ("ankle.l", "ankle.r"),
        ("l_front_paw", "r_front_paw"),
        ("left_l4", "right_l4"),
        ("left_knee", "r_knee"),
    ],
)
def test_sides_are_read_in_any_way_of_writing(left: str, right: str) -> None:
    assert infer_flip_pairs([right, "nose", left]) == ((2, 0),)


@pytest.mark.parametrize("names", [("left_to_right", "right_to_left"), ("lip", "nose"), ("left_l4", "left_r4")])
def test_names_without_a_side_or_with_two_are_no_pair(names: tuple[str, str]) -> None:
    assert infer_flip_pairs(names) == ()


@pytest.mark.parametrize("skeleton", [COCO17, LSPET14])
def test_names_alone_give_back_the_known_skeletons(skeleton) -> None:
    assert set(infer_flip_pairs(skeleton.keypoints)) == {
        pair if skeleton.keypoints[pair[0]].startswith("left") else pair[::-1] for pair in skeleton.flip_pairs
    }
    assert infer_sigmas(skeleton.keypoints) == (skeleton.sigmas, [])
    assert {frozenset(edge) for edge in infer_edges(skeleton.keypoints)} >= {frozenset(e) for e in skeleton.edges}
    assert infer_upper_body(skeleton.keypoints) == skeleton.upper_body


def test_glued_letters_are_sides_where_both_exist() -> None:
    names = ("lhip", "rhip", "lip", "nose", "rear")
    assert infer_flip_pairs(names) == ((0, 1),)
    assert infer_sigmas(names) == ((0.107, 0.107, DEFAULT_SIGMA, 0.026, DEFAULT_SIGMA), ["lip", "rear"])


def test_pairs_name_the_left_joint_first() -> None:
    assert infer_flip_pairs(["right_eye", "left_eye", "R.ear", "L.ear", "rsho", "lsho"]) == ((1, 0), (3, 2), (5, 4))


@pytest.mark.parametrize("skeleton", [COCO17, LSPET14])
def test_known_names_are_taken_without_a_word(skeleton, caplog: pytest.LogCaptureFixture) -> None:
    written = [name.replace("_", " ").title() for name in skeleton.keypoints]
    assert from_source({"keypoints": written}, PoseSource(), "a.json") is skeleton
    assert not caplog.records


def test_unknown_names_are_inferred_and_each_guess_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    category = {"id": 1, "name": "person", "keypoints": list(CROWD_POSE), "skeleton": [[1, 3], [3, 5], [13, 14]]}
    skeleton = from_source(category, PoseSource(), "crowd.json")
    assert skeleton.keypoints == CROWD_POSE
    assert skeleton.flip_pairs == ((0, 1), (2, 3), (4, 5), (6, 7), (8, 9), (10, 11))
    assert skeleton.edges == ((0, 2), (2, 4), (12, 13))
    # CrowdPose's own values.
    expected = (0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089, 0.089, 0.079, 0.079)
    assert skeleton.sigmas == expected
    assert skeleton.upper_body == (0, 1, 2, 3, 4, 5, 12, 13)
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    pairs, sigmas = (record.getMessage() for record in caplog.records)
    assert "crowd.json" in pairs
    assert "left_shoulder/right_shoulder" in pairs
    assert "PoseSource.flip_pairs" in pairs
    assert "crowd.json" in sigmas
    assert "PoseSource.sigmas" in sigmas


def test_joints_of_no_body(caplog: pytest.LogCaptureFixture) -> None:
    skeleton = from_source({"name": "hand", "keypoints": [*HAND, "palm"]}, PoseSource(), "hand.json")
    assert (skeleton.name, skeleton.flip_pairs, skeleton.edges) == ("hand4", ((1, 2),), ())
    assert skeleton.sigmas == (0.062, DEFAULT_SIGMA, DEFAULT_SIGMA, DEFAULT_SIGMA)
    assert skeleton.upper_body == ()
    text = caplog.text
    assert f"{DEFAULT_SIGMA} for thumb_l, thumb_r, palm" in text
    assert "which joints to connect" in text


def test_the_file_may_say_all(caplog: pytest.LogCaptureFixture) -> None:
    category = {
        "name": "hand",
        "keypoints": list(HAND),
        "skeleton": [[1, 2], [1, 3]],
        "flip_pairs": [["thumb_r", "thumb_l"]],
        "sigmas": [0.1, 0.2, 0.3],
    }
    skeleton = from_source(category, PoseSource(), "hand.json")
    assert (skeleton.flip_pairs, skeleton.sigmas) == (((2, 1),), (0.1, 0.2, 0.3))
    assert not caplog.records


def test_the_source_overrides_and_silences(caplog: pytest.LogCaptureFixture) -> None:
    category = {"name": "hand", "keypoints": list(HAND), "skeleton": [[1, 2]]}
    source = PoseSource(flip_pairs=(("wrist", "thumb_l"),), sigmas=(0.1, 0.1, 0.2))
    skeleton = from_source(category, source, "hand.json")
    assert (skeleton.flip_pairs, skeleton.sigmas) == (((0, 1),), (0.1, 0.1, 0.2))
    coco = from_source({"keypoints": list(COCO17.keypoints)}, PoseSource(sigmas=(0.05,) * 17), "coco.json")
    assert (coco.sigmas, coco.flip_pairs) == ((0.05,) * 17, COCO17.flip_pairs)
    assert from_source({"keypoints": list(CROWD_POSE)}, PoseSource(skeleton=LSPET14), "c.json") is LSPET14
    # As the messages about them say, also where the file's own cannot be read.
    assert from_source(category | {"flip_pairs": [[1, 2]], "sigmas": [0.1]}, source, "hand.json") == skeleton
    assert not caplog.records


def test_limbs_counted_from_0_are_noticed(caplog: pytest.LogCaptureFixture) -> None:
    category = {"keypoints": list(HAND), "skeleton": [[0, 1], [0, 2]], "flip_pairs": [], "sigmas": [0.1] * 3}
    assert from_source(category, PoseSource(), "hand.json").edges == ((0, 1), (0, 2))
    assert "from 0" in caplog.text


@pytest.mark.parametrize(
    ("category", "source", "message"),
    [
        ({}, PoseSource(), "does not name its joints"),
        ({"keypoints": "nose"}, PoseSource(), "list of joint names"),
        ({"keypoints": ["a", 3]}, PoseSource(), "list of joint names"),
        ({"keypoints": ["a", "a"]}, PoseSource(), "must differ"),
        ({"keypoints": HAND, "skeleton": [[1, 4]]}, PoseSource(), "different joints in 0..2"),
        ({"keypoints": HAND, "skeleton": [1, 2]}, PoseSource(), "hand.json"),
        ({"keypoints": HAND, "skeleton": [["wrist", "thumb_l"]]}, PoseSource(), "pairs of joint numbers"),
        ({"keypoints": HAND, "sigmas": [0.1]}, PoseSource(), "3 positive numbers"),
        ({"keypoints": HAND, "flip_pairs": [[1, 2]]}, PoseSource(), "pairs of joint names"),
        ({"keypoints": HAND}, PoseSource(flip_pairs=(("thumb_l", "pinky"),)), "pinky"),
        ({"keypoints": HAND}, PoseSource(sigmas=(0.1, 0.2)), "3 positive numbers"),
        ({"keypoints": HAND}, PoseSource(skeleton=COCO17), "hand.json has 3 joints, the skeleton coco17 has 17"),
    ],
)
def test_errors_name_the_file_and_the_setting(category, source: PoseSource, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        from_source(category, source, "hand.json")
    assert "hand.json" in str(caught.value)


def test_whatever_describes_a_skeleton(tmp_path: Path) -> None:
    category = {
        "keypoints": ["left_hand", "right_hand", "hat"],
        "skeleton": [[1, 3], [2, 3]],
        "sigmas": [0.1, 0.1, 0.2],
    }
    found = read_skeleton(category, 3)
    assert (found.flip_pairs, found.edges, found.sigmas) == (((0, 1),), ((0, 2), (1, 2)), (0.1, 0.1, 0.2))
    path = tmp_path / "hands.json"
    for value in (category, {"categories": [category]}, found.to_dict()):
        path.write_text(json.dumps(value))
        assert read_skeleton(path).edges == read_skeleton(str(path)).edges == found.edges
    assert read_skeleton(found.to_dict()) == read_skeleton(found) == found
    with pytest.raises(ValueError, match="has 3 joints, the model 17"):
        read_skeleton(path, 17)
    for value, words in ({"x": 1}, "does not name its joints"), ([1], "must be a Skeleton, a COCO category"):
        path.write_text(json.dumps(value))
        with pytest.raises(ValueError, match=f"hands.json.*{words}"):
            read_skeleton(path)
    path.write_text("{")
    with pytest.raises(ValueError, match=r"hands\.json is not a JSON file"):
        read_skeleton(path)


@pytest.mark.parametrize(
    "change",
    [
        {"edges": [["a", "b"]]},
        {"edges": [[0.5, 1]]},
        {"edges": 3},
        {"flip_pairs": [[True, False]]},
        {"sigmas": None},
        {"sigmas": ["a", "b"]},
        {"sigmas": [math.nan, 1.0]},
        {"keypoints": [1, 2]},
        {"keypoints": "ab"},
        {"name": 5},
    ],
    ids=str,
)
def test_values_of_another_type_are_named(change: dict[str, object]) -> None:
    whole = {"name": "x", "keypoints": ["a", "b"], "flip_pairs": [], "edges": [[0, 1]], "sigmas": [0.1, 0.1]}
    assert read_skeleton(whole).num_keypoints == 2
    with pytest.raises(ValueError, match=f"{next(iter(change))}"):
        read_skeleton(whole | change)


def test_files_that_describe_nothing(tmp_path: Path) -> None:
    for text in ("[" * 100000, '{"keypoints": 3}', '{"categories": {"a": 1}}', "3"):
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(ValueError, match=r"x\.json"):
            read_skeleton(tmp_path / "x.json")
