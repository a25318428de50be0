"""Small real models with weights lively enough to tell one picture from another."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from hrformer.data.images import LoadedImage, load_image
from hrformer.models.model import VisionModel
from hrformer.models.zoo import create_model


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


@pytest.fixture(scope="session")
def coco_images(data_dir: Path) -> list[Path]:
    return sorted((data_dir / "coco_tiny" / "images").glob("*.jpg"))


@pytest.fixture(scope="session")
def coco_people(data_dir: Path) -> dict[str, Any]:
    """The annotation file of coco_tiny."""
    text = (data_dir / "coco_tiny" / "annotations" / "person_keypoints.json").read_text()
    content: dict[str, Any] = json.loads(text)
    return content


@pytest.fixture
def skier(coco_images: list[Path]) -> LoadedImage:
    """One person, 640 x 425."""
    return load_image(coco_images[0])


@pytest.fixture
def noise() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
