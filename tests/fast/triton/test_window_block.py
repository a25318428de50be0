"""The attention kernel of inference against the plain reference in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hrformer.fast.folding import AttentionWeights
from hrformer.fast.stages import attention_block_reference
from hrformer.fast.triton.window_block import MAX_CHANNELS, window_block, window_block_applies
from kernel_accuracy import DEVICE, DTYPES, assert_accurate, nan_filled_buffers, rounded

pytest.importorskip("triton")

EPS = 1e-6

# (B, H, W), channels, heads, window, bias
CASES = [
    ((2, 8, 6), 32, 1, 7, True),  # padded on both axes, width below the window
    ((1, 7, 14), 36, 2, 7, True),  # tiled exactly; head dimension 18, main and tail block
    ((1, 9, 8), 78, 2, 7, True),  # head dimension 39
    ((2, 3, 4), 18, 1, 7, False),  # map smaller than the window
    ((1, 1, 1), 64, 2, 7, True),  # one cell in 48 padded ones
    ((1, 5, 9), 32, 2, 4, True),  # even window, 16 tokens without filling
    ((1, 5, 2), 24, 1, 3, False),  # fewer tokens than a block
    ((1, 3, 2), 16, 4, 1, True),  # a window per cell, heads of 4 channels
    ((1, 9, 8), 64, 2, 8, True),  # 64 tokens, none masked
]
SLOW = [((1, 8, 5), 156, 4, 7, True), ((1, 6, 9), 256, 8, 7, True), ((1, 7, 8), 144, 8, 7, True)]
SHAPES = [*CASES, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)]


def weights(dtype: torch.dtype, channels: int, heads: int, window: int, bias: bool) -> AttentionWeights:
    """In float64, with projection biases and shifts far from 0, so that a wrong padding shows."""
    size = channels**-0.5
    return AttentionWeights(
        norm_weight=rounded(dtype, channels),
        norm_bias=rounded(dtype, channels),
        qkv_weight=(rounded(dtype, 3 * channels, channels) * size).to(dtype).double(),
        qkv_bias=rounded(dtype, 3 * channels),
        proj_weight=(rounded(dtype, channels, channels) * size).to(dtype).double(),
        proj_bias=rounded(dtype, channels),
        bias=rounded(dtype, heads, window**2, window**2) if bias else None,
        window=window,
        num_heads=heads,
        eps=EPS,
    )


def kernel_result(x: Tensor, given: AttentionWeights) -> Tensor:
    with nan_filled_buffers():
        return window_block(x, given.whole(x.dtype), eps=EPS)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("size", "channels", "heads", "window", "bias"), SHAPES)
def test_as_exact_as_plain(
    dtype: torch.dtype, size: tuple[int, int, int], channels: int, heads: int, window: int, bias: bool
) -> None:
    if dtype == torch.float32 and DEVICE.type == "cuda":
        pytest.skip("float32 products stay with torch on a GPU")
    x, given = rounded(dtype, *size, channels), weights(dtype, channels, heads, window, bias)
    ours = kernel_result(x.to(dtype), given)
    assert ours.dtype == dtype
    plain, exact = attention_block_reference(x.to(dtype), given), attention_block_reference(x, given)
    assert_accurate({"out": ours}, {"out": plain}, {"out": exact}, dtype)


def test_mean_far_from_zero_cancels_nothing() -> None:
    """Tokens around 100 with a spread of 1: the variance is that of the deviations, not a difference of squares."""
    dtype = torch.float16
    x = (100 + rounded(dtype, 1, 7, 7, 36)).to(dtype).double()
    given = weights(dtype, 36, 2, 7, True)
    given.proj_bias -= 100  # so that the result is not dominated by the residual
    ours = kernel_result(x.to(dtype), given)
    plain, exact = attention_block_reference(x.to(dtype), given), attention_block_reference(x, given)
    assert_accurate({"out": ours}, {"out": plain}, {"out": exact}, dtype)


@pytest.mark.parametrize("size", [(0, 8, 8), (2, 0, 8), (2, 8, 0)])
def test_empty_map(size: tuple[int, int, int]) -> None:
    x = torch.zeros(*size, 32, dtype=torch.float16, device=DEVICE)
    assert kernel_result(x, weights(torch.float16, 32, 1, 7, True)).shape == x.shape


def test_pictures_do_not_mix() -> None:
    x, given = rounded(torch.float16, 3, 4, 5, 32).half(), weights(torch.float16, 32, 1, 7, True)
    together = kernel_result(x, given)
    apart = torch.cat([kernel_result(picture[None], given) for picture in x])
    assert torch.equal(together, apart)


def test_map_need_not_be_contiguous() -> None:
    x, given = rounded(torch.float16, 1, 32, 4, 5).half(), weights(torch.float16, 32, 1, 7, True)
    view = x.permute(0, 2, 3, 1)
    assert torch.equal(kernel_result(view, given), kernel_result(view.contiguous(), given))


def test_limits() -> None:
    assert window_block_applies(MAX_CHANNELS, 8)
    assert not window_block_applies(MAX_CHANNELS + 1, 7)
    assert not window_block_applies(32, 9)
