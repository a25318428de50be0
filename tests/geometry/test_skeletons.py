"""Skeletons against the annotation files they come from."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from hrformer.geometry.skeletons import COCO17, LSPET14, Skeleton, skeleton_for


@pytest.mark.parametrize(
    ("skeleton", "file"),
    [
        (COCO17, "coco_tiny/annotations/person_keypoints.json"),
        (LSPET14, "lspet/annotations/person_keypoints_val.json"),
    ],
)
def test_names_and_limbs_are_the_data_sets(data_dir: Path, skeleton: Skeleton, file: str) -> None:
    category = json.loads((data_dir / file).read_text())["categories"][0]
    assert list(skeleton.keypoints) == category["keypoints"]
    assert {frozenset(edge) for edge in skeleton.edges} == {frozenset((a - 1, b - 1)) for a, b in category["skeleton"]}


@pytest.mark.parametrize("skeleton", [COCO17, LSPET14])
def test_pairs_and_sigmas_follow_the_names(skeleton: Skeleton) -> None:
    mirrored = dict(skeleton.flip_pairs) | {b: a for a, b in skeleton.flip_pairs}
    swap = {"left": "right", "right": "left"}
    for joint, name in enumerate(skeleton.keypoints):
        side, _, part = name.partition("_")
        partner = skeleton.keypoints[mirrored.get(joint, joint)]
        assert partner == (f"{swap[side]}_{part}" if side in swap else name)
        assert skeleton.sigmas[joint] == skeleton.sigmas[mirrored.get(joint, joint)]


def test_shared_joints_have_the_same_sigma() -> None:
    coco = dict(zip(COCO17.keypoints, COCO17.sigmas, strict=True))
    lspet = dict(zip(LSPET14.keypoints, LSPET14.sigmas, strict=True))
    assert {name: coco[name] for name in coco.keys() & lspet.keys()}.items() <= lspet.items()
    assert lspet["neck"] == lspet["head_top"] == 0.079
    assert (coco["nose"], coco["left_hip"], coco["left_ankle"]) == (0.026, 0.107, 0.089)


def test_upper_body_is_above_the_hips() -> None:
    for skeleton in (COCO17, LSPET14):
        lower = {name for joint, name in enumerate(skeleton.keypoints) if joint not in skeleton.upper_body}
        assert {name.partition("_")[2] for name in lower} == {"hip", "knee", "ankle"}


def test_dict_round_trip_through_json() -> None:
    for skeleton in (COCO17, LSPET14):
        assert Skeleton.from_dict(json.loads(json.dumps(skeleton.to_dict()))) == skeleton


def test_lookup() -> None:
    assert skeleton_for(17) is COCO17
    assert skeleton_for(14) is LSPET14
    assert skeleton_for(16) is None
    assert COCO17.num_keypoints == 17


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keypoints": ("a",) * 17}, "different names"),
        ({"sigmas": (0.1,)}, "17 positive"),
        ({"flip_pairs": ((1, 17),)}, "flip_pairs"),
        ({"flip_pairs": ((1, 2), (2, 3))}, "two pairs"),
        ({"edges": ((4, 4),)}, "edges"),
        ({"upper_body": (20,)}, "upper_body"),
    ],
)
def test_inconsistent_skeletons_are_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(COCO17, **change)


def test_unknown_and_missing_fields_are_named() -> None:
    values = COCO17.to_dict() | {"colour": "red"}
    del values["sigmas"]
    with pytest.raises(ValueError, match=r"unknown: \['colour'\], missing: \['sigmas'\]"):
        Skeleton.from_dict(values)
