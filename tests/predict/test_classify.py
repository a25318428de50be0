from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hrformer.data.images import load_image
from hrformer.data.preprocess import centre_crop, normalise
from hrformer.models.model import VisionModel
from hrformer.predict.classify import ClassificationPredictor
from hrformer.predict.results import Classification


@pytest.fixture
def predictor(classification_model: VisionModel) -> ClassificationPredictor:
    return ClassificationPredictor(classification_model, device="cpu")


def test_one_picture_one_result(predictor: ClassificationPredictor, coco_images: list[Path]) -> None:
    result = predictor(coco_images[0])
    assert isinstance(result, Classification)
    assert result.path == str(coco_images[0])
    x = normalise(torch.tensor(centre_crop(result.image, predictor.info.input_spec))[None], predictor.info.input_spec)
    with torch.no_grad():
        expected = predictor.model(x)[0].softmax(0)
    best = expected.argsort(descending=True)[:5]
    assert result.class_ids == tuple(best.tolist())
    assert result.labels == tuple(str(i) for i in best.tolist())
    assert np.allclose(result.probabilities, expected[best], atol=1e-6)
    assert 0.99 < sum(predictor(coco_images[0], top_k=100).probabilities) < 1.01


def test_results_do_not_depend_on_batch_or_order(
    predictor: ClassificationPredictor, coco_images: list[Path], noise: np.ndarray
) -> None:
    sources = [*coco_images, noise]
    one_by_one = predictor(sources, batch_size=1, top_k=10)
    together = predictor(sources[::-1], batch_size=3, top_k=10)[::-1]
    assert [result.path for result in together] == [*map(str, coco_images), None]
    for a, b in zip(one_by_one, together, strict=True):
        by_class = [dict(zip(r.class_ids, r.probabilities, strict=True)) for r in (a, b)]
        assert np.allclose([by_class[0][i] - by_class[1][i] for i in range(10)], 0, atol=1e-5)
    probabilities = {tuple(np.round(result.probabilities, 4)) for result in one_by_one}
    assert len(probabilities) == 5, "the model must tell the pictures apart for this test to mean anything"


def test_names_come_from_the_weights(classification_model: VisionModel, noise: np.ndarray) -> None:
    info = classification_model.info
    try:
        classification_model.info = replace(info, class_names=tuple("abcdefghij"))
        result = ClassificationPredictor(classification_model, device="cpu")(noise)
    finally:
        classification_model.info = info
    assert result.labels == tuple("abcdefghij"[i] for i in result.class_ids)


def test_flip_makes_mirror_images_equal(predictor: ClassificationPredictor, coco_images: list[Path]) -> None:
    pixels = load_image(coco_images[0]).pixels
    # A square picture of the crop's size: nothing is resampled, so the mirror image is exact.
    square = np.ascontiguousarray(pixels[100:356, 200:456])
    for flip, expected in ((True, True), (False, False)):
        pair = predictor([square, square[:, ::-1]], flip=flip, top_k=10)
        equal = np.allclose(pair[0].probabilities, pair[1].probabilities, atol=1e-5)
        assert equal == expected


def test_options_are_checked(predictor: ClassificationPredictor, noise: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"unknown option\(s\) topk .*; known: batch_size, flip, top_k"):
        predictor(noise, topk=3)
    with pytest.raises(ValueError, match="top_k must be at least 1"):
        predictor(noise, top_k=0)
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        predictor(noise, batch_size=0)
    assert predictor([]) == []


def test_half_precision(classification_model: VisionModel, coco_images: list[Path]) -> None:
    full = ClassificationPredictor(classification_model, device="cpu")(coco_images, top_k=10)
    try:
        half = ClassificationPredictor(classification_model, device="cpu", dtype=torch.bfloat16)(coco_images, top_k=10)
    finally:
        classification_model.float()
    for a, b in zip(full, half, strict=True):
        assert np.allclose(np.sort(a.probabilities), np.sort(b.probabilities), atol=0.05)
