"""Kernels of the depthwise stage against the plain reference in float64: results, statistics and all gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hrformer.fast.triton.depthwise import ROWS, StripGrid, depthwise_forward
from hrformer.fast.triton.depthwise_backward import depthwise_backward
from hrformer.fast.triton.feed_forward_op import channel_moments_reference, depthwise_stage_reference
from kernel_accuracy import DEVICE, DTYPES, assert_accurate, nan_filled_buffers, rounded

pytest.importorskip("triton")

NAMES = ("u", "mean", "scale", "shift", "weight", "bias")
# (B, H, W, C): height and width beside multiples of a strip, channels beside powers of two
SIZES = [
    (1, 5, 3, 20),
    (1, 1, 1, 36),
    (5, 2, 1, 5),  # more strips than a tile holds
]
SLOW = [
    (1, 3, 18, 72),  # two segments
    (2, 4, 6, 16),
    (1, 6, 33, 156),
]


def inputs(dtype: torch.dtype, size: tuple[int, ...]) -> dict[str, Tensor]:
    channels = size[-1]
    given = {name: rounded(dtype, channels) for name in ("mean", "shift", "bias", "grad_mean", "grad_variance")}
    return given | {
        "u": rounded(dtype, *size),
        "scale": rounded(dtype, channels).abs() + 0.5,
        "weight": rounded(dtype, channels, 1, 3, 3),
        "grad_y": rounded(dtype, *size),
    }


def plain_stage(u: Tensor, mean: Tensor, scale: Tensor, shift: Tensor, weight: Tensor, bias: Tensor):
    """As modules under autocast compute it: every map between in the dtype of ``u``, statistics in float32."""
    if u.dtype in (torch.float32, torch.float64):
        return depthwise_stage_reference(u, mean, scale, shift, weight, bias)
    hidden = F.gelu(((u.float() - mean) * scale + shift).to(u.dtype)).permute(0, 3, 1, 2)
    y = F.conv2d(hidden, weight.to(u.dtype), bias.to(u.dtype), padding=1, groups=u.shape[-1]).permute(0, 2, 3, 1)
    return y, *channel_moments_reference(y)


def plain_results(given: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    vector_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    leaves = [given[name].to(dtype if name == "u" else vector_dtype).requires_grad_() for name in NAMES]
    results = plain_stage(*leaves)
    gradients = [
        given[f"grad_{name}"].to(result) for name, result in zip(("y", "mean", "variance"), results, strict=True)
    ]
    grads = torch.autograd.grad(results, leaves, gradients)
    named = dict(zip(("y", "y_mean", "y_variance"), (result.detach() for result in results), strict=True))
    return named | dict(zip(NAMES, grads, strict=True))


def kernel_results(given: dict[str, Tensor], dtype: torch.dtype, slots: int | None) -> dict[str, Tensor]:
    u, grad_y = given["u"].to(dtype), given["grad_y"].to(dtype)
    vectors = [given[name].float() for name in NAMES[1:]]
    with nan_filled_buffers():
        y, mean, variance = depthwise_forward(u, *vectors, slots=slots)
        grads = depthwise_backward(
            grad_y, given["grad_mean"].float(), given["grad_variance"].float(), y, mean, u, *vectors[:4], slots=slots
        )
    results = dict(zip(("u", "scale", "shift", "weight", "bias"), grads, strict=True))
    return results | {"y": y, "y_mean": mean, "y_variance": variance, "mean": -results["shift"] * vectors[1]}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [*SIZES, *(pytest.param(size, marks=pytest.mark.slow) for size in SLOW)])
def test_error_is_at_most_twice_that_of_torch(size: tuple[int, int, int, int], dtype: torch.dtype) -> None:
    given = inputs(dtype, size)
    exact, plain = plain_results(given, torch.float64), plain_results(given, dtype)
    assert_accurate(kernel_results(given, dtype, slots=2), plain, exact, dtype)


def test_variance_far_below_the_mean() -> None:
    """Sums of y * y in float32 would keep no digit of a variance of 1e-4 beside a squared mean of 1e6."""
    given = inputs(torch.float32, (2, 4, 6, 16))
    given["weight"] *= 0.01
    given["bias"] += 1000
    vectors = [given[name].float() for name in NAMES[1:]]
    y, mean, variance = depthwise_forward(given["u"].float(), *vectors, slots=2)
    wanted_variance, wanted_mean = torch.var_mean(y.double(), (0, 1, 2), correction=0)
    # The statistics are those of the stored y, so only their own rounding counts: float32 holds a mean of 1000 to 6e-5,
    # a hundredth of the smallest deviations here.
    torch.testing.assert_close(mean.double(), wanted_mean, rtol=1e-6, atol=0)
    torch.testing.assert_close(variance.double(), wanted_variance, rtol=2e-2, atol=0)


def test_result_does_not_depend_on_how_strips_are_shared() -> None:
    given = inputs(torch.float32, (5, 6, 1, 16))
    alone, shared = (kernel_results(given, torch.float32, slots) for slots in (3, 1))
    assert torch.equal(alone["y"], shared["y"])
    for name, result in alone.items():
        torch.testing.assert_close(result, shared[name], rtol=1e-4, atol=1e-5)


def test_repeats_bit_by_bit() -> None:
    given = inputs(torch.float16, (5, 2, 1, 16))
    first, second = (kernel_results(given, torch.float16, None) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.skipif(DEVICE.type == "cuda", reason="numpy's error state shows what the interpreter reads")
@pytest.mark.parametrize("size", [(1, 5, 3, 16), (1, 2, 17, 5)])
def test_reads_nothing_outside_the_maps(size: tuple[int, int, int, int]) -> None:
    """Numbers that overflow when scaled lie before and behind every map; reading one would raise."""
    given = inputs(torch.float32, size)
    given["scale"] += 10
    guarded = {}
    for name in ("u", "grad_y"):
        count = given[name].numel()
        around = torch.full((3 * count,), 3e38)
        around[count : 2 * count] = given[name].flatten().float()
        guarded[name] = around[count : 2 * count].view(size)
    vectors = [given[name].float() for name in NAMES[1:]]
    with np.errstate(over="raise", invalid="raise"):
        y, mean, _ = depthwise_forward(guarded["u"], *vectors)
        huge = torch.full((size[-1],), 10.0)
        grad_u, *_ = depthwise_backward(guarded["grad_y"], huge, huge, y, mean, guarded["u"], *vectors[:4])
    assert y.isfinite().all()
    assert grad_u.isfinite().all()


def test_empty_batch() -> None:
    found = kernel_results(inputs(torch.float32, (0, 5, 7, 16)), torch.float32, None)
    assert found["y"].shape == (0, 5, 7, 16)
    assert all(not result.any() for name, result in found.items() if name not in ("y", "u"))


@pytest.mark.parametrize("size", [(1, 1), (7, 16), (12, 17), (64, 48), (33, 100)])
def test_strips_cover_the_map_with_little_waste(size: tuple[int, int]) -> None:
    grid = StripGrid((2, *size, 312))
    assert grid.groups * ROWS >= size[0] > (grid.groups - 1) * ROWS
    assert grid.segments * grid.length >= size[1] > (grid.segments - 1) * grid.length
    assert grid.num_blocks * grid.block >= 312 > (grid.num_blocks - 1) * grid.block
