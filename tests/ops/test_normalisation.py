"""The recomputing pieces of CPU training against the plain modules."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hrformer.ops.normalisation import (
    RunningStatistics,
    affine_of,
    batch_statistics,
    conv_backward,
    norm_gelu,
    norm_gelu_backward,
    pointwise,
)


def case(dtype: torch.dtype) -> tuple[Tensor, nn.BatchNorm2d]:
    """A channels-last map away from zero mean, and a batch norm with parameters that change what they touch."""
    norm = nn.BatchNorm2d(5, momentum=0.3).to(dtype)
    nn.init.normal_(norm.weight, 1.0, 0.3)
    nn.init.normal_(norm.bias, 0.0, 0.3)
    x = torch.randn(3, 5, 7, 4, dtype=dtype) * 2 + 1
    return x.contiguous(memory_format=torch.channels_last), norm


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_statistics_and_output_are_those_of_batch_norm_and_gelu(dtype: torch.dtype) -> None:
    x, norm = case(dtype)
    mean, var = norm.running_mean.clone(), norm.running_var.clone()
    statistics = batch_statistics(x, RunningStatistics(mean, var, 0.3, norm.eps))
    y = norm_gelu(x, affine_of(norm.weight.detach(), norm.bias.detach(), *statistics))
    torch.testing.assert_close(y, F.gelu(norm(x)).detach())
    torch.testing.assert_close(mean, norm.running_mean)
    torch.testing.assert_close(var, norm.running_var)


def test_gelu_is_as_exact_as_torchs() -> None:
    """At most twice torch's own error against float64, over the range where the function bends."""
    x = torch.linspace(-6, 6, 4096).view(2, 8, 16, 16).contiguous(memory_format=torch.channels_last)
    one, zero = torch.ones(8), torch.zeros(8)
    exact = F.gelu(x.double())
    ours = (norm_gelu(x, affine_of(one, zero, zero, one)) - exact).abs().max()
    assert ours <= 2 * (F.gelu(x) - exact).abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_backward_of_norm_and_gelu(dtype: torch.dtype) -> None:
    x, norm = case(dtype)
    leaf = x.clone().requires_grad_()
    grad = torch.randn_like(x)
    F.gelu(norm(leaf)).backward(grad)
    fresh = RunningStatistics(torch.zeros(5, dtype=dtype), torch.ones(5, dtype=dtype), 0.1, norm.eps)
    affine = affine_of(norm.weight.detach(), norm.bias.detach(), *batch_statistics(x, fresh))
    got = norm_gelu_backward(grad.clone(), x, affine)
    for ours, theirs in zip(got, (leaf.grad, norm.weight.grad, norm.bias.grad), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("shape", [(6, 4), (6, 4, 1, 1), (4, 1, 3, 3)])
@pytest.mark.parametrize("needed", [(True, True), (True, False), (False, True), (False, False)])
def test_convolution_gradients(shape: tuple[int, ...], needed: tuple[bool, bool]) -> None:
    depthwise = shape[-1] == 3
    x, weight = torch.randn(2, 4, 5, 3, requires_grad=True), torch.randn(shape, requires_grad=True)
    y = F.conv2d(x, weight, padding=1, groups=4) if depthwise else pointwise(x, weight, None)
    grad = torch.randn_like(y)
    expected = torch.autograd.grad(y, (x, weight), grad)
    with torch.no_grad():
        got = conv_backward(grad, x, weight, needed)
    for wanted, ours, theirs in zip(needed, got, expected, strict=True):
        assert (ours is not None) is wanted
        if ours is not None:
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_pointwise_is_a_linear_layer_on_channels_last_maps() -> None:
    x, weight, bias = torch.randn(2, 3, 4, 1), torch.randn(5, 3), torch.randn(5)
    y = pointwise(x, weight, bias)
    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y.permute(0, 2, 3, 1), F.linear(x.permute(0, 2, 3, 1), weight, bias))
