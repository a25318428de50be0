"""Probabilities that say how often the model is right."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hrformer.checkpoints.checkpoint import load_model, save_checkpoint
from hrformer.data.set_types import ClassificationSet
from hrformer.evaluate.calibration import calibrate, fit_temperature
from hrformer.evaluate.evaluate import evaluate
from hrformer.evaluate.protocols import ClassificationProtocol
from hrformer.metrics.counts import Reliability
from hrformer.models.model import VisionModel
from hrformer.predict.classify import ClassificationPredictor


def test_the_temperature_that_made_the_logits_too_sure_is_found() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(20_000, 5, generator=generator)
    labels = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
    assert fit_temperature(3 * logits, labels) == pytest.approx(3, rel=0.03)
    assert fit_temperature(0.5 * logits, labels) == pytest.approx(0.5, rel=0.03)
    with pytest.raises(ValueError, match="no picture"):
        fit_temperature(torch.empty(0, 5), torch.empty(0, dtype=torch.long))


def test_reliability_counts_what_was_said_and_what_was_right() -> None:
    metric, other = Reliability(), Reliability()
    metric.update([0.95, 0.85], [True, False])
    other.update([1.3, float("nan"), 0.85], [True, False, True])
    metric.merge(other.state())
    found = metric.compute()
    assert found["reliability"] == [
        {"confidence": 0.0, "right": 0.0, "count": 1},
        {"confidence": 0.85, "right": 0.5, "count": 2},
        {"confidence": pytest.approx(0.975), "right": 1.0, "count": 2},
    ]
    assert found["calibration_error"] == pytest.approx((0.35 * 2 + 0.025 * 2) / 5)
    with pytest.raises(ValueError, match="nothing was counted"):
        Reliability().compute()


def test_a_calibrated_model_keeps_its_order_and_its_file_the_temperature(
    classifier: VisionModel, few_pictures: ClassificationSet, tmp_path: Path
) -> None:
    model, info = classifier, classifier.info
    try:
        before = evaluate(model, few_pictures, ClassificationProtocol())
        model.info = replace(info, temperature=7.0)  # what was fitted before does not matter
        found = calibrate(model, few_pictures, ClassificationProtocol())
        assert model.info.temperature == found != 1
        after = evaluate(model, few_pictures, ClassificationProtocol())
        loaded, _ = load_model(save_checkpoint(model, tmp_path / "model.safetensors"))
    finally:
        model.info = info
    assert after.scores["per_class"] == before.scores["per_class"]
    assert loaded.info.temperature == found
    plain, calibrated = (ClassificationPredictor(one, device="cpu") for one in (model, loaded))
    first, second = (predictor(few_pictures.pixels(0), top_k=2) for predictor in (plain, calibrated))
    assert first.class_ids == second.class_ids
    odds = [np.log(one.probabilities[0] / one.probabilities[1]) for one in (first, second)]
    assert odds[0] == pytest.approx(found * odds[1], rel=1e-3)
