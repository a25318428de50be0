"""Blocks for runtimes against the trained ones: in float32, never much further from float64 than those."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hrformer.fast.folding import round_up
from hrformer.fast.runtimes.blocks import ChannelNorm, RuntimeBlock
from hrformer.models.blocks import TransformerBlock


def lively_block(channels: int, heads: int, window: int = 7, *, position_bias: bool = True) -> TransformerBlock:
    block = TransformerBlock(channels, heads, window=window, position_bias=position_bias).eval().requires_grad_(False)
    for m in block.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean.normal_(0, 0.3)
            m.running_var.uniform_(0.5, 2)
        if isinstance(m, nn.BatchNorm2d | nn.LayerNorm):
            m.weight.normal_(1, 0.3)
            m.bias.normal_(0, 0.3)
    block.attn.qkv.bias.normal_()
    block.attn.relative_position_bias_table.normal_()
    return block


@pytest.mark.parametrize("align", [1, 8])
@pytest.mark.parametrize(
    ("channels", "heads", "window", "size"),
    [(18, 1, 7, (14, 7)), (36, 2, 7, (16, 12)), (78, 2, 7, (8, 6)), (39, 1, 13, (9, 30)), (32, 1, 15, (17, 15))],
)
def test_block_equals_the_trained_one(channels: int, heads: int, window: int, size, align: int) -> None:
    block = lively_block(channels, heads, window)
    x = torch.randn(2, channels, *size)
    padded = round_up(channels, align)
    exact = copy.deepcopy(block).double()(x.double())
    plain = (block(x) - exact).abs().max()
    fast = RuntimeBlock(block, align)(F.pad(x, (0, 0, 0, 0, 0, padded - channels)))
    assert (fast[:, :channels] - exact).abs().max() <= 4 * plain  # folding rounds every weight once more
    assert not fast[:, channels:].any()


def test_block_without_position_bias() -> None:
    block = lively_block(32, 2, position_bias=False)
    x = torch.randn(1, 32, 10, 9)
    torch.testing.assert_close(RuntimeBlock(block, 8)(x), block(x), rtol=1e-4, atol=1e-5)


def test_norm_is_exact_far_from_zero() -> None:
    x = torch.randn(1, 24, 3, 3, dtype=torch.float64) + 300
    expected = F.layer_norm(x.permute(0, 2, 3, 1), (24,), eps=1e-6).permute(0, 3, 1, 2)
    found = ChannelNorm(24, 32, 1e-6)(F.pad(x.float(), (0, 0, 0, 0, 0, 8)))
    assert (found[:, :24].double() - expected).abs().max() < 2e-4  # float32 resolves 300 to 3e-5
    assert not found[:, 24:].any()
