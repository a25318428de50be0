"""Window attention of CPU training by finite differences and against the plain reference."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hrformer.ops.window_training import AttentionWeights, window_attention_training
from hrformer.ops.windows import window_attention

C, HEADS, WINDOW = 4, 2, 2


def parameters(dtype: torch.dtype, *, bias: bool, channels: int = C, window: int = WINDOW) -> AttentionWeights:
    """Random parameters, the bias large enough to matter."""
    shapes = [(channels,), (channels,), (3 * channels, channels), (3 * channels,), (channels, channels), (channels,)]
    tensors = [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]
    table = torch.randn(HEADS, window**2, window**2, dtype=dtype, requires_grad=True) if bias else None
    return AttentionWeights(*tensors, table)


def plain(x: Tensor, w: AttentionWeights, window: int) -> Tensor:
    normed = F.layer_norm(x, x.shape[-1:], w.layer_weight, w.layer_bias, 1e-6)
    return window_attention(normed, *w[2:6], w.bias, window=window, num_heads=HEADS)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("size", [(4, 2), (3, 3), (2, 2), (1, 1)])
def test_gradients_by_finite_differences(size: tuple[int, int], bias: bool) -> None:
    x = torch.randn(1, *size, C, dtype=torch.float64, requires_grad=True)
    weights = parameters(torch.float64, bias=bias)
    tensors = [p for p in weights if p is not None]

    def run(x: Tensor, *tensors: Tensor) -> Tensor:
        absent = [None] * (len(weights) - len(tensors))
        given = AttentionWeights(*tensors, *absent)
        return window_attention_training(x, given, window=WINDOW, num_heads=HEADS, layer_eps=1e-6)

    assert torch.autograd.gradcheck(run, (x, *tensors), atol=1e-6, fast_mode=True)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("size", [(14, 14), (9, 12), (7, 7), (3, 16)])
def test_as_exact_as_the_reference(size: tuple[int, int], bias: bool) -> None:
    """Error against float64, output and gradients: at most twice the reference's, and one rounding of the largest."""
    x = torch.randn(2, *size, 8, requires_grad=True)
    weights = parameters(torch.float32, bias=bias, channels=8, window=7)
    wide = AttentionWeights(*(None if p is None else p.detach().double().requires_grad_() for p in weights))
    wide_x = x.detach().double().requires_grad_()
    grad = torch.randn_like(x)

    def results(y: Tensor, x: Tensor, weights: AttentionWeights) -> list[Tensor]:
        leaves = [x, *(p for p in weights if p is not None)]
        return [y, *torch.autograd.grad(y, leaves, grad.to(y.dtype))]

    ours = window_attention_training(x, weights, window=7, num_heads=HEADS, layer_eps=1e-6)
    exact = results(plain(wide_x, wide, 7), wide_x, wide)
    reference = results(plain(x, weights, 7), x, weights)
    for got, plainly, true in zip(results(ours, x, weights), reference, exact, strict=True):
        allowed = 2 * (plainly - true).abs().max() + 1e-6 * true.abs().max()
        assert (got - true).abs().max() <= allowed


@pytest.mark.parametrize("frozen", range(7))
def test_a_frozen_parameter_gets_no_gradient(frozen: int) -> None:
    weights = parameters(torch.float64, bias=True)
    weights[frozen].requires_grad_(False)
    x = torch.randn(1, 3, 4, C, dtype=torch.float64)  # nor does the input
    window_attention_training(x, weights, window=WINDOW, num_heads=HEADS, layer_eps=1e-6).sum().backward()
    assert [p.grad is None for p in weights] == [i == frozen for i in range(7)]
