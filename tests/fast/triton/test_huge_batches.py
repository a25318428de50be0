"""Maps with more than 2 ** 31 values, where 32-bit offsets would wrap around."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from hrformer.fast.stages import (
    AttentionWeights,
    DepthwiseWeights,
    PointwiseWeights,
    attention_block,
    depthwise_pointwise,
    pointwise,
)
from hrformer.fast.triton.fusion_sum import fusion_sum
from hrformer.fast.triton.launch import jit, tl
from hrformer.fast.triton.window_block import window_pixels
from kernel_accuracy import DEVICE

pytest.importorskip("triton")

CHANNELS, SIDE = 32, 64
BATCH = 2**31 // (CHANNELS * SIDE * SIDE) + 2


def attention(x: Tensor) -> Tensor:
    def draw(*size: int) -> Tensor:
        return torch.ones(size, device=DEVICE, dtype=x.dtype) / 64

    weights = AttentionWeights(
        norm_weight=draw(CHANNELS),
        norm_bias=draw(CHANNELS),
        qkv_weight=draw(3 * CHANNELS, CHANNELS),
        qkv_bias=draw(3 * CHANNELS),
        proj_weight=draw(CHANNELS, CHANNELS),
        proj_bias=draw(CHANNELS),
        bias=None,
        window=7,
        num_heads=1,
        eps=1e-6,
    )
    return attention_block(x, weights)


def product(x: Tensor) -> Tensor:
    weight = torch.eye(CHANNELS, device=DEVICE, dtype=x.dtype)
    return pointwise(x, PointwiseWeights(weight=weight, bias=weight[0]))


def convolution(x: Tensor) -> Tensor:
    weight = torch.eye(CHANNELS, device=DEVICE, dtype=x.dtype)
    taps = torch.ones(CHANNELS, 3, 3, device=DEVICE, dtype=x.dtype)
    weights = DepthwiseWeights(depthwise=taps, depthwise_bias=weight[0], weight=weight, bias=weight[0])
    return depthwise_pointwise(x, weights)


def fusion(x: Tensor) -> Tensor:
    return fusion_sum([x, x[:, ::2, ::2].contiguous()], (SIDE, SIDE), mode="bilinear")


@pytest.mark.slow
@pytest.mark.skipif(DEVICE.type != "cuda", reason="needs a GPU with 20 GB: 2 ** 31 values are too many to interpret")
@pytest.mark.parametrize("stage", [attention, product, convolution, fusion])
def test_last_picture_equals_itself_alone(stage: Callable[[Tensor], Tensor]) -> None:
    x = torch.zeros(BATCH, SIDE, SIDE, CHANNELS, device=DEVICE, dtype=torch.float16)
    x[-1].normal_()
    with torch.no_grad():
        assert torch.equal(stage(x)[-1:], stage(x[-1:].clone()))


@jit()
def _pixels_kernel(out_ptr, first, SIDE: tl.constexpr):  # type: ignore[no-untyped-def]
    token = tl.arange(0, 64)
    windows = (SIDE + 6) // 7
    pixel, _ = window_pixels(first, token, SIDE, SIDE, windows, windows, 0, 0, 7)
    tl.store(out_ptr + token, pixel)


def test_pixel_indices_have_64_bits() -> None:
    """The second window of a picture whose pixels start behind 2 ** 31."""
    out = torch.zeros(64, dtype=torch.int64, device=DEVICE)
    image = 2**31 // SIDE**2 + 5
    _pixels_kernel[(1,)](out, torch.tensor(image * 100 + 1).item(), SIDE=SIDE)
    assert out[0] == image * SIDE**2 + 7
    assert out[8] == image * SIDE**2 + SIDE + 8
