"""The picture of what the depthwise convolution is for."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import window_borders
from hrformer.zoo import create_model


@pytest.mark.parametrize(("kernel", "crosses"), [(3, True), (1, False)])
def test_only_the_convolution_looks_into_other_windows(kernel: int, crosses: bool) -> None:
    torch.manual_seed(0)
    model = create_model("hrformer_nano", "pose", num_keypoints=3, ffn_kernel=kernel).eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.weight.normal_(0, module.weight[0].numel() ** -0.5)
    cells, pixels = window_borders.influence(model, torch.randn(2, 3, 96, 96))
    assert (cells.shape, pixels.shape) == ((24, 24), (96, 96))
    share = window_borders.outside(cells, 24)
    assert share > 0.01 if crosses else share == pytest.approx(0, abs=1e-6)
    # Coarser branches carry something over either way.
    assert window_borders.outside(pixels, 24) > 0.1


def test_the_cell_lies_at_the_end_of_its_window() -> None:
    # 24 cells are padded by 2 on either side to four windows of 7: 0-4, 5-11, 12-18, 19-23.
    assert window_borders.border_cell(24) == (11, slice(5, 12))
