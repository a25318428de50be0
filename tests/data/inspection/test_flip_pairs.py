"""Which joints change places: wrong pairs of the people of LSPET are found, the right ones are not complained about."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hrformer.data.inspection.flip_pairs import flip_findings
from hrformer.data.inspection.report import Finding
from hrformer.geometry.skeletons import LSPET14, Skeleton

RIGHT = LSPET14.flip_pairs
NAMELESS = replace(LSPET14, keypoints=tuple(f"joint{number}" for number in range(14)))


@pytest.fixture
def people(data_dir: Path) -> np.ndarray:
    """(800, 14, 3)."""
    content = json.loads((data_dir / "lspet" / "annotations" / "person_keypoints_val.json").read_text())
    return np.array([one["keypoints"] for one in content["annotations"]], dtype=np.float64).reshape(-1, 14, 3)


def findings(skeleton: Skeleton, keypoints: np.ndarray, **changes) -> list[Finding]:
    return list(flip_findings(replace(skeleton, **changes), keypoints))


@pytest.mark.parametrize("count", [800, 60, 10, 0])
@pytest.mark.parametrize("skeleton", [LSPET14, NAMELESS], ids=["names", "numbers"])
def test_right_pairs_pass(skeleton: Skeleton, people: np.ndarray, count: int) -> None:
    assert findings(skeleton, people[:count]) == []


def test_pairs_that_contradict_the_names(people: np.ndarray) -> None:
    mixed = ((0, 6), (5, 11), *RIGHT[1:3], *RIGHT[4:])
    (found,) = findings(LSPET14, people, flip_pairs=mixed)
    assert (found.severity, found.kind, found.count) == ("error", "flip-pair-names", 4)
    assert "right_ankle (paired with right_wrist, should be with left_ankle)" in found.where
    assert "leave data.flip_pairs empty" in found.fix
    (found,) = findings(LSPET14, people, flip_pairs=RIGHT[1:])
    assert found.where == (
        "right_ankle (not paired, should be with left_ankle)",
        "left_ankle (not paired, should be with right_ankle)",
    )
    (found,) = findings(LSPET14, people, flip_pairs=(*RIGHT, (12, 13)))
    assert found.where == ("neck and head_top (paired, but their names know no left and right)",)
    (found,) = findings(LSPET14, people, flip_pairs=())
    assert (found.kind, found.count) == ("flip-pair-names", 12)


@pytest.mark.parametrize(
    "pairs",
    [((0, 6), (5, 11), *RIGHT[1:3], *RIGHT[4:]), ((0, 4), (1, 5), *RIGHT[2:]), (*RIGHT, (12, 13)), RIGHT[:5]],
    ids=["ankles with wrists", "ankle with knee", "neck with head", "shoulders not paired"],
)
def test_wrong_pairs_are_seen_in_the_shapes(people: np.ndarray, pairs: tuple) -> None:
    (found,) = findings(NAMELESS, people, flip_pairs=pairs)
    assert (found.severity, found.kind) == ("error", "flip-pair-shape")
    assert "a mirrored person has other limb lengths, by a factor of" in found.what
    names = found.fix.removeprefix("these pairs fit: --data.flip-pairs ").split()
    numbers = [int(name.removeprefix("joint")) for name in names]
    assert {frozenset(pair) for pair in zip(numbers[::2], numbers[1::2], strict=True)} == set(map(frozenset, RIGHT))


def test_pairs_beyond_one_repair_are_doubted(people: np.ndarray) -> None:
    (found,) = findings(NAMELESS, people, flip_pairs=((1, 2), (3, 4), (5, 6), (7, 8), (9, 10), (11, 12)))
    assert (found.severity, found.kind) == ("warning", "flip-pair-shape")
    assert "check data.flip_pairs and the order of the joints' names" in found.fix


def test_no_pairs_at_all(people: np.ndarray) -> None:
    (found,) = findings(NAMELESS, people, flip_pairs=())
    assert (found.severity, found.kind) == ("warning", "no-flip-pairs")
    assert "--augment.flip 0" in found.fix


def test_joints_on_one_spot(people: np.ndarray) -> None:
    people[:, 0] = people[:, 5]
    found = {one.kind: one for one in findings(NAMELESS, people)}["joints-coincide"]
    assert found.where == ("joint0 and joint5",)
    assert "label them apart" in found.fix


def test_names_with_exchanged_sides(people: np.ndarray) -> None:
    people[:, [2, 3]] = people[:, [3, 2]]
    (found,) = findings(LSPET14, people)
    assert (found.severity, found.kind, found.where) == ("warning", "sides-exchanged", ("right_hip and left_hip",))
    assert "order of the joints' names" in found.fix
    assert findings(NAMELESS, people) == []


def test_many_joints_stay_affordable() -> None:
    # Whole bodies have 133 joints; a search for better pairs would take minutes.
    count = 120
    names = tuple(f"part{number}" for number in range(count))
    pairs = tuple((number, number + 1) for number in range(0, count, 2))
    points = np.random.default_rng(0).uniform(0, 200, (1, count, 2)) + np.random.default_rng(1).normal(
        0, 1, (90, count, 2)
    )
    keypoints = np.concatenate([points, np.full((90, count, 1), 2.0)], axis=2)
    skeleton = Skeleton(name="body", keypoints=names, flip_pairs=pairs, edges=(), sigmas=(0.1,) * count)
    (found,) = flip_findings(skeleton, keypoints)
    assert (found.severity, found.kind) == ("warning", "flip-pair-shape")
    assert found.count > len(found.where) == 5
