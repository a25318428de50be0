from __future__ import annotations

import pytest
import torch
from torch import nn

from hrformer.fast.folding import folded_conv, zero_padded
from hrformer.fast.triton.launch import round_up


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("groups", [1, 6])
def test_folded_convolution_equals_convolution_and_norm(bias: bool, affine: bool, groups: int) -> None:
    conv = nn.Conv2d(6, 12, 3, padding=1, bias=bias, groups=groups).double()
    norm = nn.BatchNorm2d(12, affine=affine).double().eval()
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.1, 3)
    if affine:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    x = torch.randn(2, 6, 5, 7, dtype=torch.float64)
    weight, offset = folded_conv(conv, norm)
    folded = nn.functional.conv2d(x, weight, offset, padding=1, groups=groups)
    torch.testing.assert_close(folded, norm(conv(x)), rtol=1e-12, atol=1e-12)


def test_norm_without_statistics_is_refused() -> None:
    with pytest.raises(ValueError, match="running statistics"):
        folded_conv(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3, track_running_stats=False))


def test_padding_keeps_the_corner() -> None:
    x = torch.randn(2, 3)
    padded = zero_padded(x, (4, 5))
    assert padded.shape == (4, 5)
    assert torch.equal(padded[:2, :3], x)
    assert (padded != 0).sum() == x.numel()
    assert [round_up(n, 8) for n in (1, 8, 9, 78)] == [8, 8, 16, 80]
