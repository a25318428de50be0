"""Sizes that neither windows nor strides divide, against numbers of the original code on the same weights.

Made with the HRFormer repository (``pose/`` and ``seg/``, commit 1245b88) and HRNet-Semantic-Segmentation (OCR) on CPU
in float32, weights and input by the scheme of the goldens' README under our names: twelve values at equal distances.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import layouts
from hrformer.checkpoints.checkpoint import load_model
from hrformer.models.model import VisionModel
from hrformer.zoo import create_model
from parity import TOLERANCE, _generator

# Largest absolute value, then the twelve values.
# fmt: off
POSE_97X131 = (
    12.23299,
    0.3205307, 6.244961, 9.058018, 5.025943, -7.666326, -0.8483977,
    3.816316, -2.513182, -5.036805, -7.871186, -5.882403, 4.943584,
)
SEGMENTATION_65X75 = (
    13.91617,
    -4.543923, -6.496584, 0.1586642, 1.518812, -6.016044, 0.9938082,
    -0.003838291, -10.91018, 0.9471163, -0.6542673, 6.597919, -3.604454,
)
SEGMENTATION_AUX_65X75 = (
    18.83758,
    -2.111635, -0.6427714, -2.202593, 7.253754, 18.69702, -5.927547,
    -3.855426, 3.754828, -11.56606, -1.254244, 2.859689, 2.927999,
)
HRNET_65X75 = (
    186.9577,
    -19.93237, -38.02636, 17.92636, -70.17021, -101.3316, 57.70438,
    -0.8847046, -100.327, 12.5134, 29.66386, 5.615526, -22.12645,
)
HRNET_AUX_65X75 = (
    419.4855,
    106.2196, 71.34127, -57.37316, 36.09384, -248.2245, -30.7524,
    98.56602, -22.57056, 61.41537, -6.034596, -30.14592, -119.0313,
)
# fmt: on


def image(height: int, width: int) -> Tensor:
    return torch.from_numpy(_generator("input").standard_normal((1, 3, height, width), dtype=np.float32))


def assert_close(y: Tensor, expected: tuple[float, ...]) -> None:
    absmax, *values = expected
    flat = y.flatten()
    sample = flat[:: flat.numel() // 12][:12]
    assert float((sample - torch.tensor(values)).abs().max()) <= TOLERANCE * absmax
    assert float(flat.abs().max()) == pytest.approx(absmax, rel=TOLERANCE)


def run(model: VisionModel, x: Tensor) -> tuple[Tensor, Tensor]:
    """(auxiliary, main) of a segmentation model."""
    maps: list[Tensor] = []
    head: Any = model.head
    head.aux.register_forward_hook(lambda *io: maps.append(io[-1]))
    with torch.inference_mode():
        main = model(x)
    return F.interpolate(maps[0], x.shape[-2:], mode="bilinear", align_corners=True), main


def test_official_pose() -> None:
    state = layouts.random_state(create_model("hrformer_nano", "pose").state_dict())
    model, _ = load_model(layouts.official(state))
    with torch.inference_mode():
        y = model(image(97, 131))
    assert y.shape == (1, 17, 25, 33)
    assert_close(y, POSE_97X131)


def test_official_segmentation() -> None:
    state = layouts.random_state(create_model("hrformer_small", "segmentation").state_dict())
    model, _ = load_model(layouts.official(state))
    aux, main = run(model, image(65, 75))
    assert main.shape == (1, 19, 65, 75)
    assert_close(aux, SEGMENTATION_AUX_65X75)
    assert_close(main, SEGMENTATION_65X75)


def test_official_hrnet_segmentation() -> None:
    state = layouts.random_state(create_model("hrnet_w18", "segmentation", aux="hrnet").state_dict())
    model, report = load_model(layouts.hrnet(state))
    assert report.format == "hrnet-segmentation"
    aux, main = run(model, image(65, 75))
    assert_close(aux, HRNET_AUX_65X75)
    assert_close(main, HRNET_65X75)
