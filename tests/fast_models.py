"""Models for the tests of fast inference, and when two results count as the same."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hrformer.models.model import VisionModel
from hrformer.zoo import create_model

TOLERANCE = 1e-5
"""Of the largest absolute output, as for the goldens of the reference code."""


def lively(name: str, task: str | None, **options) -> VisionModel:
    """A model whose outputs depend on everything in it."""
    torch.manual_seed(0)
    model = create_model(name, task, **options).eval().requires_grad_(False)
    for m in model.modules():
        if isinstance(m, nn.Conv2d):
            nn.init.normal_(m.weight, 0.0, m.weight[0].numel() ** -0.5)
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean.normal_(0, 0.1)
            m.running_var.uniform_(0.5, 1.5)
    return model


def small(name: str, task: str | None) -> VisionModel:
    count = {"pose": {"num_keypoints": 3}, None: {}}.get(task, {"num_classes": 3})
    extra = {"ocr_channels": 32, "ocr_key_channels": 16} if task == "segmentation" and "hrformer" in name else {}
    return lively(name, task, **count, **extra)


def assert_same(found: Tensor, expected: Tensor) -> None:
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= TOLERANCE * expected.abs().max()
