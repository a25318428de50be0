"""The teacher of hrformer_tiny_things."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

import hrformer
import things_teacher
from hrformer.data.classification_sets import open_classification
from hrformer.data.source_config import ClassificationSource


def test_the_last_layer_is_the_regression_of_the_features() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs, true = torch.randn(4000, 6, generator=generator), torch.randn(3, 6, generator=generator)
    labels = torch.multinomial((inputs @ true.T).softmax(1), 1, generator=generator)[:, 0]
    found = things_teacher.fitted(inputs, labels, 3, decay=1e-6).weight.detach()
    # Only differences between classes are determined.
    torch.testing.assert_close(found - found.mean(0), true - true.mean(0), atol=0.2, rtol=0)
    small = things_teacher.fitted(inputs, labels, 3, decay=10.0).weight.detach()
    assert small.abs().max() < 0.1


def test_the_layer_is_fitted_to_the_features_of_whole_pictures(tmp_path: Path) -> None:
    for folder, shade in (("train/dark", 40), ("train/light", 200)):
        (tmp_path / folder).mkdir(parents=True)
        for number in range(3):
            shades = np.full((40, 40, 3), shade + number, np.uint8)
            Image.fromarray(shades).save(tmp_path / folder / f"{number}.png")
    data = open_classification(ClassificationSource(root=tmp_path), "train")
    model = hrformer.create_model("hrformer_nano", "classification", num_classes=2)
    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    inputs, labels = things_teacher.features(net, data, model, batch=4)
    assert inputs.shape == (6, 3)
    assert labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert things_teacher.fitted(inputs, labels, 2)(inputs).argmax(1).equal(labels)
