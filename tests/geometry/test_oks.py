"""Rescoring and suppression against the references."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hrformer.geometry.oks import oks, oks_nms, rescore
from hrformer.geometry.skeletons import COCO17


@pytest.fixture(scope="module")
def golden(parity_dir: Path) -> dict:
    return json.loads((parity_dir / "protocol" / "nms.json").read_text())


def people_of(golden: dict, image: int) -> list[dict]:
    """Persons of one picture by rising number; who arrives twice counts once."""
    arrived = {person: golden["persons"][person] for person in golden["arrival_order"]}
    assert len(arrived) < len(golden["arrival_order"])
    return [arrived[key] for key in sorted(arrived) if arrived[key]["image_id"] == image]


@pytest.mark.parametrize("mode", ["hard", "soft"])
@pytest.mark.parametrize("image", [785, 40083, 196141])
def test_matches_the_references(golden: dict, image: int, mode: str) -> None:
    people, want = people_of(golden, image), golden["result"][mode][str(image)]
    numbers = np.array([person["bbox_id"] for person in people])
    assert numbers.tolist() == want["all_person"]
    joint_scores = np.array([person["keypoint_scores"] for person in people], dtype=np.float32)
    scores = rescore([person["box_score"] for person in people], joint_scores, golden["vis_thr"])
    np.testing.assert_allclose(scores, want["all_score"], rtol=0, atol=1e-6)
    kept = oks_nms(
        [person["keypoints"] for person in people],
        scores,
        [person["area"] for person in people],
        COCO17.sigmas,
        golden["oks_thr"],
        soft=mode == "soft",
        max_kept=golden["soft_max_dets"],
    )
    assert numbers[kept].tolist() == want["kept_person"]
    np.testing.assert_allclose(scores[kept], want["kept_score"], rtol=0, atol=1e-6)


def test_areas_are_those_of_the_padded_boxes(golden: dict) -> None:
    for person in golden["persons"]:
        np.testing.assert_allclose(np.prod(np.array(person["scale200"]) * 200), person["area"], rtol=1e-5)


def test_similarity_by_hand() -> None:
    one = np.zeros((2, 2))
    others = np.array([[[0.0, 0.0], [0.0, 0.0]], [[3.0, 4.0], [0.0, 0.0]]])
    got = oks(one, others, 100.0, [100.0, 300.0], [0.05, 0.1])
    np.testing.assert_allclose(got, [1, (np.exp(-25 / (2 * 0.1**2 * 200)) + 1) / 2])
    with_scores = np.concatenate([others, np.full((2, 2, 1), 9.0)], axis=2)
    np.testing.assert_array_equal(oks(one, with_scores, 100.0, [100.0, 300.0], [0.05, 0.1]), got)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_joint_at_the_threshold_does_not_count(dtype: type) -> None:
    joints = np.array([[0.2, 0.6, 0.1], [0.2, 0.1, 0.0]], dtype=dtype)
    np.testing.assert_allclose(rescore([0.5, 0.9], joints), [0.3, 0])
    assert float(rescore(0.5, joints[0])) == pytest.approx(0.3)
    assert rescore(1.0, [1, 0, 1]) == 1
    far = np.array([[0.5, 0.9]], np.float32)
    with np.errstate(all="raise"):  # thresholds beyond the joints' precision
        assert list(rescore([1.0], far, 1e300)) == [0]
        np.testing.assert_allclose(rescore([1.0], far, -1e300), [0.7])


def test_soft_keeps_at_most_twenty_and_hard_keeps_all_apart() -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(0, 1e4, (30, 17, 1)) + np.zeros((30, 17, 2))
    scores = rng.permutation(30) / 30
    args = points, scores, np.full(30, 100.0), COCO17.sigmas
    order = np.argsort(-scores)
    np.testing.assert_array_equal(oks_nms(*args), order)
    np.testing.assert_array_equal(oks_nms(*args, soft=True), order[:20])
    np.testing.assert_array_equal(oks_nms(*args, soft=True, max_kept=3), order[:3])


def test_equal_people() -> None:
    points, areas = np.zeros((4, 17, 3)), np.ones(4)
    assert oks_nms(points, [0.5, 0.9, 0.9, 0.1], areas, COCO17.sigmas).tolist() == [1]
    assert oks_nms(points, [0.5, 0.9, 0.9, 0.1], areas, COCO17.sigmas, soft=True).tolist() == [1, 2, 0, 3]


def test_scores_are_left_alone() -> None:
    scores = np.array([0.9, 0.8])
    oks_nms(np.zeros((2, 17, 2)), scores, np.ones(2), COCO17.sigmas, soft=True)
    assert scores.tolist() == [0.9, 0.8]


@pytest.mark.parametrize("soft", [False, True])
def test_nobody(soft: bool) -> None:
    assert oks_nms(np.zeros((0, 17, 3)), [], [], COCO17.sigmas, soft=soft).tolist() == []
    assert oks_nms([], [], [], COCO17.sigmas, soft=soft).tolist() == []
    assert oks(np.zeros((17, 3)), [], 1.0, [], COCO17.sigmas).shape == (0,)
    assert rescore(np.zeros(0), np.zeros((0, 17))).shape == (0,)


def test_errors() -> None:
    points = np.zeros((2, 17, 3))
    with pytest.raises(ValueError, match=r"\(N,\) areas"):
        oks(points[0], points, 1.0, [1.0], COCO17.sigmas)
    with pytest.raises(ValueError, match=r"\(K,\) sigmas"):
        oks_nms(points, [1, 1], [1, 1], COCO17.sigmas[:14])
    with pytest.raises(ValueError, match="keypoints, scores and areas"):
        oks_nms(points, [1], [1], COCO17.sigmas)
    with pytest.raises(ValueError, match="NaN"):
        oks_nms(points, [1, np.nan], [1, 1], COCO17.sigmas)
    with pytest.raises(ValueError, match="threshold"):
        oks_nms(points, [1, 1], [1, 1], COCO17.sigmas, threshold=0)
    with pytest.raises(ValueError, match="box_score"):
        rescore([1, 1, 1], np.zeros((2, 17)))
