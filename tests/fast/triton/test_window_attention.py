"""Window attention kernels against the plain reference in float64: output and all gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hrformer.fast.triton.attention_op import window_attention_reference
from hrformer.fast.triton.window_attention import attention_forward
from hrformer.fast.triton.window_attention_backward import attention_backward
from kernel_accuracy import DEVICE, DTYPES, assert_accurate, nan_filled_buffers, rounded

pytest.importorskip("triton")

# (B, H, W), heads, head dimension, window
FAST = [
    ((1, 9, 11), 2, 18, 7),  # padded on both axes
    ((1, 7, 14), 2, 39, 7),  # no padding
    ((2, 3, 5), 1, 32, 7),  # smaller than the window
    ((1, 8, 3), 2, 18, 3),  # blocks of 16 tokens
    ((1, 4, 6), 1, 39, 5),  # blocks of 32
    ((1, 1, 1), 1, 18, 1),
]
SLOW = [
    ((1, 9, 15), 1, 39, 13),  # three blocks of keys, two windows
    ((1, 7, 6), 1, 18, 13),
    ((1, 4, 16), 1, 32, 15),  # four blocks
]
SHAPES = [*FAST, *(pytest.param(*shape, marks=pytest.mark.slow) for shape in SLOW)]


def inputs(dtype: torch.dtype, size: tuple[int, ...], heads: int, head_dim: int, window: int) -> dict[str, Tensor]:
    channels, tokens = heads * head_dim, window * window
    return {
        "qkv": rounded(dtype, *size, 3 * channels),
        "pad_token": rounded(dtype, 3 * channels),
        "bias": rounded(dtype, heads, tokens, tokens),
        "grad_out": rounded(dtype, *size, channels),
    }


def plain_results(given: dict[str, Tensor], dtype: torch.dtype, window: int, heads: int) -> dict[str, Tensor]:
    """Output and gradients of the reference computed in ``dtype``."""
    leaves = [given[name].to(dtype).requires_grad_() for name in ("qkv", "pad_token", "bias")]
    out = window_attention_reference(*leaves, window=window, num_heads=heads)
    grads = torch.autograd.grad(out, leaves, given["grad_out"].to(dtype), materialize_grads=True)
    return {"out": out.detach(), **dict(zip(("qkv", "pad_token", "bias"), grads, strict=True))}


def kernel_results(
    given: dict[str, Tensor], dtype: torch.dtype, window: int, heads: int, slots: int | None
) -> dict[str, Tensor]:
    qkv, pad_token, grad_out = (given[name].to(dtype) for name in ("qkv", "pad_token", "grad_out"))
    bias = given["bias"].float()
    with nan_filled_buffers():
        out, softmax = attention_forward(qkv, pad_token, bias, window=window, num_heads=heads, slots=slots)
        grad_qkv, grad_padding, grad_bias = attention_backward(
            grad_out, qkv, pad_token, bias, out, softmax,
            window=window, num_heads=heads, bias_grad=True, slots=slots,
        )  # fmt: skip
    assert softmax.isfinite().all()
    assert grad_bias is not None
    pad = torch.cat([torch.zeros_like(grad_padding[0]), *grad_padding])
    return {"out": out, "qkv": grad_qkv, "pad_token": pad, "bias": grad_bias}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("size", "heads", "head_dim", "window"), SHAPES)
def test_error_is_at_most_twice_that_of_torch(
    size: tuple[int, int, int], heads: int, head_dim: int, window: int, dtype: torch.dtype
) -> None:
    given = inputs(dtype, size, heads, head_dim, window)
    exact = plain_results(given, torch.float64, window, heads)
    plain = plain_results(given, dtype, window, heads)
    ours = kernel_results(given, dtype, window, heads, slots=2)
    assert_accurate(ours, plain, exact, dtype)


def test_result_does_not_depend_on_how_windows_are_shared() -> None:
    given = inputs(torch.float32, (1, 9, 11), 2, 18, 7)
    alone, shared = (kernel_results(given, torch.float32, 7, 2, slots) for slots in (4, 1))
    for name in ("out", "qkv"):
        assert torch.equal(alone[name], shared[name])
    for name in ("pad_token", "bias"):
        torch.testing.assert_close(alone[name], shared[name], rtol=1e-5, atol=1e-5)


def test_repeats_bit_by_bit() -> None:
    given = inputs(torch.float16, (2, 9, 11), 1, 18, 7)
    first, second = (kernel_results(given, torch.float16, 7, 1, None) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("window", [7, pytest.param(9, marks=pytest.mark.slow)])
def test_without_bias(window: int) -> None:
    qkv, pad_token, grad_out = (
        rounded(torch.float32, 1, 8, 7, 54),
        rounded(torch.float32, 54),
        torch.ones(1, 8, 7, 18, device=DEVICE),
    )
    leaves = [qkv.requires_grad_(), pad_token.requires_grad_()]
    exact = window_attention_reference(*leaves, None, window=window, num_heads=1)
    grad_qkv, grad_pad = torch.autograd.grad(exact, leaves, grad_out.to(exact))
    floats = [leaf.detach().float() for leaf in leaves]
    out, softmax = attention_forward(*floats, None, window=window, num_heads=1)
    found_qkv, found_pad, grad_bias = attention_backward(
        grad_out.to(out), *floats, None, out, softmax, window=window, num_heads=1, bias_grad=False
    )
    # Sums of at most 81 products of numbers around 1 in float32.
    close = {"rtol": 1e-4, "atol": 2e-5}
    torch.testing.assert_close(out.double(), exact.detach(), **close)
    torch.testing.assert_close(found_qkv.double(), grad_qkv, **close)
    torch.testing.assert_close(found_pad.flatten().double(), grad_pad[18:], **close)
    assert grad_bias is None


def test_frozen_bias_changes_nothing_else() -> None:
    given = inputs(torch.float32, (1, 8, 7), 1, 18, 7)
    arguments = [given[name].float() for name in ("qkv", "pad_token", "bias")]
    out, softmax = attention_forward(*arguments, window=7, num_heads=1)
    with_bias, without = (
        attention_backward(given["grad_out"].float(), *arguments, out, softmax, window=7, num_heads=1, bias_grad=wanted)
        for wanted in (True, False)
    )
    assert with_bias[2] is not None
    assert without[2] is None
    assert torch.equal(with_bias[0], without[0])
    assert torch.equal(with_bias[1], without[1])


@pytest.mark.parametrize("window", [7, 13])
def test_empty_batch(window: int) -> None:
    given = inputs(torch.float32, (0, 8, 9), 2, 18, window)
    found = kernel_results(given, torch.float32, window, 2, None)
    assert found["out"].shape == (0, 8, 9, 36)
    assert found["qkv"].shape == (0, 8, 9, 108)
    assert not found["bias"].any()
    assert not found["pad_token"].any()


def test_large_scores_stay_finite() -> None:
    """Scores around 1e4 would overflow an exponential without the running maximum; rows are then one-hot."""
    given = inputs(torch.float32, (1, 8, 7), 1, 18, 7)
    given["qkv"] *= 100
    exact = plain_results(given, torch.float64, 7, 1)
    ours = kernel_results(given, torch.float32, 7, 1, None)
    # The largest score has 3e4 and a spacing of 2e-3 in float32, which the exponential passes on.
    torch.testing.assert_close(ours["out"].double(), exact["out"], rtol=1e-2, atol=1e-1)
    assert all(result.isfinite().all() for result in ours.values())
