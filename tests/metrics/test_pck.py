"""PCK on hand-made people and on the labels of LSPET."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from hrformer.geometry.skeletons import COCO17, LSPET14, Skeleton
from hrformer.metrics.counts import Pck, reference_joints


def person() -> np.ndarray:
    """Joints 0 and 1 are the torso, 10 pixels long; joint 3 is not labelled."""
    return np.array([[[0, 0, 2], [10, 0, 2], [50, 50, 2], [0, 0, 0]]], dtype=np.float64)


def metric(alpha: float = 0.2) -> Pck:
    return Pck(("a", "b", "c", "d"), torso=(0, 1), alpha=alpha)


def test_counts_labelled_joints_within_the_allowed_distance() -> None:
    predicted = person()[..., :2] + np.array([[0, 2], [0, 2.01], [1, 1], [9, 9]])  # 2, 2.01, 1.4 pixels off
    scores = metric()
    scores.update(predicted, person())
    assert scores.compute() == {
        "pck@0.2": 2 / 3,
        "joints": 3,
        "people": 1,
        "people_seen": 1,
        "per_joint": [
            {"name": "a", "joints": 1, "pck": 1.0},
            {"name": "b", "joints": 1, "pck": 0.0},
            {"name": "c", "joints": 1, "pck": 1.0},
            {"name": "d", "joints": 0, "pck": None},
        ],
    }


def test_people_without_a_torso_and_coordinates_that_are_not_finite() -> None:
    people = np.repeat(person(), 3, axis=0)
    people[1, 1, 2] = 0
    predicted = torch.tensor(people[..., :2])
    predicted[2, 2] = torch.nan
    scores = metric()
    assert scores.update(predicted, people).tolist() == [[3, 3], [0, 0], [2, 3]]
    table = scores.compute()
    assert (table["people"], table["people_seen"], table["joints"]) == (2, 3, 6)
    assert table["pck@0.2"] == 5 / 6  # a mean over joints of all people, not over people


def test_lspet_by_the_rules_of_its_readme(data_dir: Path) -> None:
    file = data_dir / "lspet" / "annotations" / "person_keypoints_val.json"
    labels = np.array([row["keypoints"] for row in json.loads(file.read_text())["annotations"]], dtype=np.float64)
    labels = labels.reshape(-1, 14, 3)
    moved = labels[..., :2] + np.random.default_rng(0).normal(0, 8, labels[..., :2].shape)
    right = total = 0
    for points, truth in zip(moved, labels, strict=True):
        if truth[9, 2] == 0 or truth[2, 2] == 0:
            continue
        torso = np.linalg.norm(truth[9, :2] - truth[2, :2])
        near = np.linalg.norm(points - truth[:, :2], axis=1) <= 0.2 * torso
        right += int(near[truth[:, 2] > 0].sum())
        total += int((truth[:, 2] > 0).sum())
    whole = Pck(LSPET14.keypoints, torso=reference_joints(LSPET14))
    shards = [Pck(LSPET14.keypoints, torso=reference_joints(LSPET14)) for _ in range(2)]
    whole.update(moved, labels)
    for i, shard in enumerate(shards):
        shard.update(moved[i::2], labels[i::2])
    shards[0].merge(shards[1].state())
    scores = whole.compute()
    assert scores["people"] == 632
    assert scores["people_seen"] == 800
    assert scores["pck@0.2"] == right / total
    assert 0.3 < scores["pck@0.2"] < 0.95
    assert shards[0].compute() == scores


def test_reference_joints_come_from_the_names() -> None:
    assert reference_joints(LSPET14) == (9, 2)
    assert reference_joints(COCO17) == (5, 12)
    hand = Skeleton(name="hand", keypoints=("wrist", "tip"), flip_pairs=(), edges=(), sigmas=(0.1, 0.1))
    with pytest.raises(ValueError, match="no left_shoulder and no right_hip"):
        reference_joints(hand)


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match=r"\(1, 3, 3\)"):
        metric().update(person()[..., :2], person()[:, :3])
    with pytest.raises(ValueError, match="4 joints, got 3"):
        metric().update(person()[:, :3, :2], person()[:, :3])
    with pytest.raises(ValueError, match="a and b labelled"):
        metric().compute()


def test_any_skeleton_is_measured_by_its_box_or_by_two_joints() -> None:
    bird = Skeleton(name="bird", keypoints=("neck", "crown", "tail"), flip_pairs=(), sigmas=(0.1,) * 3, edges=())
    with pytest.raises(ValueError, match=r"no left_shoulder and no right_hip.*--evaluation.pck-norm box.*neck crown"):
        reference_joints(bird)
    with pytest.raises(ValueError, match=r"no joint 'tial'; did you mean tail\."):
        reference_joints(bird, ("neck", "tial"))
    with pytest.raises(ValueError, match="two different joints"):
        reference_joints(bird, ("neck", "neck"))
    assert reference_joints(bird, ("tail", "neck")) == (2, 0)
    assert reference_joints(bird, ("box",)) is None

    truth = np.array([[[10, 10, 2], [30, 10, 2], [0, 0, 0]], [[10, 10, 2], [30, 10, 1], [50, 50, 2]]], float)
    found = truth.copy()
    found[:, 1, 0] += 10
    # 0.2 of a side of 50 is the 10 pixels that the crown is off, of 49 it is less.
    metric = Pck(bird.keypoints, torso=None)
    metric.update(found, truth, [50, 49])
    scores = metric.compute()
    assert (scores["pck@0.2"], scores["joints"], scores["people"]) == (4 / 5, 5, 2)
    with pytest.raises(ValueError, match=r"lengths must be \(2,\)"):
        metric.update(found, truth, [50])
