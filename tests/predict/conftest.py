"""Small real models with weights lively enough to tell one picture from another."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from hrformer.models.model import VisionModel
from hrformer.zoo import create_model


def lively(model: VisionModel) -> VisionModel:
    """Fresh pose weights have a standard deviation of 0.001, whose heatmaps are all ties; scale every layer up."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                fan_in = module.weight[0].numel()
                module.weight.normal_(0, fan_in**-0.5, generator=generator)
    return model.eval()


@pytest.fixture(scope="session")
def pose_model() -> VisionModel:
    """Input 128 x 96: the shape of the usual 256 x 192 at a quarter of the time."""
    model = lively(create_model("hrformer_nano", "pose", num_keypoints=17))
    model.info = replace(model.info, input_spec=replace(model.info.input_spec, size=(128, 96)))
    return model


@pytest.fixture(scope="session")
def segmentation_model() -> VisionModel:
    return lively(create_model("hrformer_nano", "segmentation", num_classes=11))


@pytest.fixture(scope="session")
def classification_model() -> VisionModel:
    return lively(create_model("hrformer_nano", "classification", num_classes=10))
