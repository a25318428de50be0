"""A worker in this process: its rows against the plain predictor's results, for every task."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from hrformer.cluster.rows import schema_of
from hrformer.cluster.worker import Ahead, Worker
from hrformer.data.images import ImageError
from hrformer.predict.predictors import AnyPredictor, load
from training import WEIGHTS

pa = pytest.importorskip("pyarrow")


def work(predictor: AnyPredictor, options: dict[str, Any], uris: list[str]) -> list[dict[str, Any]]:
    worker = Worker(lambda: (predictor, options), predictor.task, 2, False)
    table = worker(pa.table({"id": pa.array(range(5, 5 + len(uris)), pa.int64()), "uri": uris}))
    assert table.schema == schema_of(predictor.task)
    rows = table.to_pylist()
    assert [row["id"] for row in rows] == list(range(5, 5 + len(uris)))
    assert [row["uri"] for row in rows] == uris
    return rows


def val(data_dir: Path, name: str, pattern: str, number: int) -> list[str]:
    return [str(path) for path in sorted((data_dir / name).glob(pattern))[:number]]


def test_classes(data_dir: Path, tmp_path: Path) -> None:
    predictor = load(WEIGHTS / "hrformer_nano_cifar10.safetensors", "cpu")
    good = val(data_dir, "cifar10", "val/*/*.jpg", 6)
    rows = work(predictor, {"batch_size": 4, "top_k": 3}, [good[0], str(tmp_path / "no.jpg"), *good[1:], good[0], ""])
    wrong = [row for row in rows if row["error"] is not None]
    assert [row["error"] for row in wrong] == ["no such file", "the manifest has no path in this row"]
    assert all(row["class_ids"] is None and row["width"] is None for row in wrong)
    plain = predictor([*good, good[0]], batch_size=4, top_k=3)
    for row, result in zip((row for row in rows if row["error"] is None), plain, strict=True):
        assert (row["width"], row["height"]) == (32, 32)
        assert (row["class_ids"], row["labels"]) == (list(result.class_ids), list(result.labels))
        # Batches begin elsewhere, which changes sums by rounding, as in tests/predict/test_classify.py.
        assert np.allclose(row["probabilities"], result.probabilities, atol=1e-5)


def test_people(data_dir: Path) -> None:
    predictor = load(WEIGHTS / "hrformer_nano_lspet.safetensors", "cpu")
    files = val(data_dir, "lspet", "images/val/*.jpg", 3)
    options = {"batch_size": 2, "detector": lambda pixels: ([[2, 3, 40, 60], [20, 20, 50, 70]], [0.9, 0.8])}
    for row, result in zip(work(predictor, options, files), predictor(files, **options), strict=True):
        assert np.array(row["keypoints"]).shape == (len(result), 42)
        assert np.allclose(np.reshape(row["keypoints"], result.keypoints.shape), result.keypoints, atol=1e-4)
        assert np.allclose(row["boxes"], result.boxes)
        assert np.allclose(row["box_scores"], result.box_scores)
        assert np.allclose(row["scores"], result.scores, atol=1e-5)


def test_nobody(data_dir: Path) -> None:
    predictor = load(WEIGHTS / "hrformer_nano_lspet.safetensors", "cpu")
    files = val(data_dir, "lspet", "images/val/*.jpg", 1)
    (row,) = work(predictor, {"detector": lambda pixels: ([], [])}, files)
    assert [row[name] for name in ("error", "keypoints", "scores", "boxes")] == [None, [], [], []]


def test_masks(data_dir: Path) -> None:
    predictor = load(WEIGHTS / "hrformer_nano_camvid.safetensors", "cpu")
    files = val(data_dir, "camvid", "images/val/*.jpg", 2)
    for row, result in zip(work(predictor, {"short_side": 96}, files), predictor(files, short_side=96), strict=True):
        mask = cv2.imdecode(np.frombuffer(row["mask"], np.uint8), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(mask, result.mask)
        assert dict(zip(row["class_ids"], row["shares"], strict=True)) == result.shares()


def test_numbers_that_are_not_finite_are_an_error(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = load(WEIGHTS / "hrformer_nano_cifar10.safetensors", "cpu")
    monkeypatch.setattr(predictor, "run", lambda pixels, options: [torch.full((10,), torch.nan)] * len(pixels))
    (row,) = work(predictor, {}, val(data_dir, "cifar10", "val/*/*.jpg", 1))
    assert row["error"] == "the network answered NaN or infinity"
    assert (row["width"], row["class_ids"]) == (32, None)


def test_pictures_are_loaded_ahead_but_not_all(data_dir: Path) -> None:
    files = val(data_dir, "cifar10", "val/*/*.jpg", 8)
    with ThreadPoolExecutor(2) as threads:
        ahead = Ahead(files, threads, 3)
        assert ahead.load(files[0]).path == files[0]
        assert len(ahead._loading) == 3
        assert [ahead.load(name).path for name in files[1:]] == files[1:]
        assert ahead.load(files[0]).path == files[0]
        assert not ahead._loading
        with pytest.raises(ImageError):
            ahead.load("")
