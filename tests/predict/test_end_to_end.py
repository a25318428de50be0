"""Prediction from files to keypoints against mmpose's own, with the same weights, on the pictures of coco_tiny."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from hrformer.checkpoints.checkpoint import load_model
from hrformer.data.images import load_image
from hrformer.fast.optimize import optimize
from hrformer.geometry.boxes import clip_boxes_mmpose
from hrformer.predict.pose import PosePredictor
from hrformer.predict.results import Keypoints
from parity import Golden


@pytest.fixture(scope="module")
def predictor(parity_dir: Path) -> PosePredictor:
    model, report = load_model(Golden.read(parity_dir, "mmpose_s_256x192").state_dict())
    assert report.fresh == ()
    assert model.info.name == "hrformer_small"
    assert model.info.decoder == "mmpose"
    return PosePredictor(model, device="cpu")


@pytest.fixture(scope="module")
def golden(parity_dir: Path) -> Golden:
    if cv2.__version__.split(".")[0] != "5":
        pytest.skip(f"the golden was made with OpenCV 5, whose crops differ from those of {cv2.__version__}")
    return Golden.read(parity_dir / "protocol", "end_to_end")


def rows_of(golden: Golden, kind: str, path: Path) -> list[int]:
    return [row for row, one in enumerate(golden.meta[kind]["instances"]) if one["image_id"] == int(path.stem)]


def assert_same(golden: Golden, kind: str, result: Keypoints, rows: list[int]) -> int:
    """Compare the joints that rounding cannot decide; returns how many those are."""
    absmax = golden.arrays[f"{kind}_absmax"][rows]
    clear = golden.arrays[f"{kind}_margin_top2"][rows] > 1e-3 * absmax
    clear &= (golden.arrays[f"{kind}_margin_offset"][rows] > 1e-3 * absmax[..., None]).all(axis=2)
    moved = np.abs(result.keypoints[..., :2] - golden.arrays[f"{kind}_keypoints"][rows]).max(axis=2)
    assert moved[clear].max(initial=0) < 0.01
    scores = np.abs(result.keypoints[..., 2] - golden.arrays[f"{kind}_scores"][rows])
    assert (scores[clear] < 1e-4 * absmax[clear]).all()
    return int(clear.sum())


def labelled(coco_people: dict[str, Any], golden: Golden, path: Path) -> np.ndarray:
    """mmpose's boxes of the labelled people of a picture, in the golden's order."""
    boxes = {a["id"]: a["bbox"] for a in coco_people["annotations"]}
    rows = [golden.meta["gt"]["instances"][row] for row in rows_of(golden, "gt", path)]
    return clip_boxes_mmpose([boxes[row["id"]] for row in rows], load_image(path).size)


def test_one_labelled_person(predictor: PosePredictor, golden: Golden, coco_images: list[Path], coco_people) -> None:
    path = coco_images[0]
    result = predictor(path, boxes=labelled(coco_people, golden, path))
    assert assert_same(golden, "gt", result, rows_of(golden, "gt", path)) > 5
    expected = [score for image, score in golden.meta["gt"]["kept"] if image == int(path.stem)]
    assert result.scores == pytest.approx(expected, rel=1e-5)


def test_two_detections(predictor: PosePredictor, golden: Golden, coco_images: list[Path], data_dir: Path) -> None:
    path = coco_images[2]
    file = data_dir / "coco_tiny" / "annotations" / "person_detections.json"
    scores = {row: golden.meta["det"]["instances"][row]["bbox_score"] for row in rows_of(golden, "det", path)}
    threshold = sorted(scores.values())[-2]
    result = predictor(path, detections=file, nms="off", box_threshold=threshold)
    assert assert_same(golden, "det", result, [row for row, score in scores.items() if score >= threshold]) > 10


@pytest.mark.slow
def test_all_labelled_people(predictor: PosePredictor, golden: Golden, coco_images: list[Path], coco_people) -> None:
    results = predictor(coco_images, boxes=[labelled(coco_people, golden, path) for path in coco_images], batch_size=5)
    clear = [
        assert_same(golden, "gt", result, rows_of(golden, "gt", path))
        for path, result in zip(coco_images, results, strict=True)
    ]
    assert sum(clear) == 123


@pytest.mark.slow
def test_all_detections_and_who_survives(
    predictor: PosePredictor, golden: Golden, coco_images: list[Path], data_dir: Path
) -> None:
    """By the fast path, as there are many."""
    predictor = PosePredictor(optimize(predictor.model), device="cpu")
    file = data_dir / "coco_tiny" / "annotations" / "person_detections.json"
    results = predictor(coco_images, detections=file, batch_size=16)
    assert sum(map(len, results)) == len(golden.meta["det"]["kept"]) == 117
    clear = 0
    for path, result in zip(coco_images, results, strict=True):
        kept = sorted((score for image, score in golden.meta["det"]["kept"] if image == int(path.stem)), reverse=True)
        assert result.scores == pytest.approx(kept, rel=1e-4)
        # Suppression sorts by score; the boxes' own scores tell which detection each survivor was.
        scores = {golden.meta["det"]["instances"][row]["bbox_score"]: row for row in rows_of(golden, "det", path)}
        rows = [min(scores.items(), key=lambda item: abs(item[0] - score))[1] for score in result.box_scores]
        assert len(set(rows)) == len(rows)
        clear += assert_same(golden, "det", result, rows)
    assert clear > 1200
