"""Folded convolutions and bottlenecks against the modules they are made from."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hrformer.fast.fused_convs import FusedBottleneck, FusedConv, fold_convolutions
from hrformer.layers.blocks import Bottleneck, conv_bn_relu
from kernel_accuracy import DEVICE, trained


def assert_same(made: nn.Module, module: nn.Module, channels: int) -> None:
    x = torch.randn(2, channels, 9, 6, device=DEVICE)
    before = x.clone()
    found, wanted = made(x), module(x)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(x, before)


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 1},
        {"kernel_size": 1, "stride": 2},
        {"kernel_size": 3, "padding": 1, "stride": 2},
        {"kernel_size": 3, "padding": 2, "dilation": 2},
        {"kernel_size": (3, 1), "padding": (1, 0)},
        {"kernel_size": 3, "padding": 1, "groups": 6},
    ],
)
@torch.no_grad()
def test_convolution_with_its_norm(options: dict[str, int], relu: bool) -> None:
    parts = [nn.Conv2d(6, 12, bias=relu, **options), nn.BatchNorm2d(12), *([nn.ReLU()] if relu else [])]
    module = trained(nn.Sequential(*parts))
    assert_same(FusedConv(module[0], module[1], relu=relu), module, 6)


@pytest.mark.parametrize(("channels", "depthwise"), [(8, False), (16, False), (16, True)])
@torch.no_grad()
def test_bottleneck(channels: int, depthwise: bool) -> None:
    block = trained(Bottleneck(channels, 4, depthwise=depthwise))
    assert isinstance(block, Bottleneck)
    assert_same(FusedBottleneck(block), block, channels)


@torch.no_grad()
def test_sequences_are_folded_in_place() -> None:
    """Only a convolution right before its norm; what stands between stays."""
    inner = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(), nn.BatchNorm2d(4))
    module = trained(nn.Sequential(*conv_bn_relu(6, 8, 3, stride=2), nn.Dropout(), nn.Conv2d(8, 4, 1), inner))
    x = torch.randn(2, 6, 9, 6, device=DEVICE)
    wanted = module(x)
    fold_convolutions(module)
    assert [type(part) for part in module] == [FusedConv, nn.Dropout, nn.Conv2d, nn.Sequential]
    assert [type(part) for part in inner] == [nn.Conv2d, nn.ReLU, nn.BatchNorm2d]
    torch.testing.assert_close(module(x), wanted, rtol=1e-4, atol=1e-4)
