"""Small real models with weights lively enough to tell one picture from another."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from hrformer.models.model import VisionModel
from hrformer.zoo import create_model

SEED = 3
"""Of random weights; with some others, more of the two highest cells lie too near each other to be compared."""


def lively(*arguments: Any, **options: Any) -> VisionModel:
    """Fresh pose weights have a standard deviation of 0.001, whose heatmaps are all ties; scale every layer up.

    The same weights, whichever test asks for them first.
    """
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(SEED)
        model = create_model("hrformer_nano", *arguments, **options)
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.weight.normal_(0, module.weight[0].numel() ** -0.5)
    return model.eval()


@pytest.fixture(scope="session")
def pose_model() -> VisionModel:
    """Input 128 x 96: the shape of the usual 256 x 192 at a quarter of the time."""
    model = lively("pose", num_keypoints=17)
    model.info = replace(model.info, input_spec=replace(model.info.input_spec, size=(128, 96)))
    return model


@pytest.fixture(scope="session")
def segmentation_model() -> VisionModel:
    return lively("segmentation", num_classes=11)


@pytest.fixture(scope="session")
def classification_model() -> VisionModel:
    return lively("classification", num_classes=10)
