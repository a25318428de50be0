"""One confusion matrix over a set."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from hrformer.metrics.counts import SegmentationScores


@pytest.fixture(scope="module")
def golden(parity_dir: Path) -> dict:
    return json.loads((parity_dir / "protocol" / "segmentation.json").read_text())["confusion"]


@pytest.fixture(scope="module")
def maps(parity_dir: Path, golden: dict) -> list[tuple[np.ndarray, np.ndarray]]:
    with np.load(parity_dir / "protocol" / "segmentation.npz") as arrays:
        maps = [(arrays[f"iou_pred_{k}"], arrays[f"iou_label_{k}"]) for k in range(golden["maps"])]
        return [(predicted, np.where(labels == golden["ignore"], 255, labels)) for predicted, labels in maps]


def test_matches_the_reference(golden: dict, maps) -> None:
    metric = SegmentationScores(("class",) * golden["num_classes"])
    for predictions, labels in maps:
        metric.update(torch.from_numpy(predictions), labels)
    scores = metric.compute()
    assert metric.state()["matrix"].tolist() == golden["matrix_rows_are_labels"]
    assert [row["iou"] for row in scores["per_class"]] == pytest.approx(golden["iou"], abs=1e-12)
    assert [row["accuracy"] for row in scores["per_class"]] == pytest.approx(golden["class_accuracy"], abs=1e-12)
    for key in ("mean_iou", "pixel_accuracy", "frequency_weighted_iou"):
        assert scores[key] == pytest.approx(golden[key], abs=1e-12)
    assert scores["per_class"][4]["iou"] == 0  # only predicted: counts in the mean
    assert scores["per_class"][5]["iou"] is None  # nowhere: does not
    json.dumps(scores)


def test_merging_equals_one_process(golden: dict, maps) -> None:
    whole, *shards = (SegmentationScores(("class",) * 6) for _ in range(3))
    for i, (predictions, labels) in enumerate(maps):
        whole.update(predictions, labels)
        shards[i % 2].update(predictions, labels)
    shards[0].merge(shards[1].state())
    assert shards[0].compute() == whole.compute()
    whole.reset()
    with pytest.raises(ValueError, match="no pixel"):
        whole.compute()


def test_small_and_unsigned_label_types_do_not_overflow() -> None:
    labels = np.full((2, 40, 40), 200, dtype=np.uint8)
    labels[0, :3] = 255
    predictions = torch.full((2, 40, 40), 200, dtype=torch.uint8)
    predictions[0, :3] = 254  # under an ignored label anything goes
    matrix = SegmentationScores(("class",) * 201).update(predictions, labels)
    assert matrix[200, 200] == matrix.sum() == 2 * 40 * 40 - 3 * 40


def test_mistakes_are_named() -> None:
    metric = SegmentationScores(("class",) * 3)
    zeros = torch.zeros(2, 2, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"labels must lie in 0\.\.2 or be 255, got 0\.\.3"):
        metric.update(zeros, torch.tensor([[0, 3], [1, 255]]))
    with pytest.raises(ValueError, match=r"predictions must lie in 0\.\.2, got -1\.\.0"):
        metric.update(torch.tensor([[0, -1], [0, 0]]), zeros)
    with pytest.raises(ValueError, match="one shape"):
        metric.update(zeros[:1], zeros)
    with pytest.raises(ValueError, match="integers"):
        metric.update(zeros.float(), zeros)
    assert metric.state()["matrix"].sum() == 0
