"""The composed feed-forward network in training against the modules: values, gradients, running statistics."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hrformer.fast.triton.feed_forward_op import BatchNormState, batch_normaliser, conv_ffn_training

Modules = nn.ModuleList


def modules() -> Modules:
    """1x1, BN, depthwise, BN, 1x1, BN of two channels, six hidden, with parameters that are not the initial ones."""
    convs = (nn.Conv2d(2, 6, 1), nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.Conv2d(6, 2, 1))
    parts = nn.ModuleList(part for conv in convs for part in (conv, nn.BatchNorm2d(conv.out_channels)))
    for parameter in parts.parameters():
        nn.init.normal_(parameter)
    return parts.double()


def expected_result(x: Tensor, parts: Modules) -> Tensor:
    x = x.permute(0, 3, 1, 2)
    for conv, norm in zip(parts[::2], parts[1::2], strict=True):
        x = nn.functional.gelu(norm(conv(x)))
    return x.permute(0, 2, 3, 1)


def composed_result(x: Tensor, parts: Modules) -> Tensor:
    states = [
        BatchNormState(norm.weight, norm.bias, norm.running_mean, norm.running_var, norm.momentum, norm.eps)
        for norm in parts[1::2]
    ]
    weights = [(conv.weight if conv.groups > 1 else conv.weight.flatten(1), conv.bias) for conv in parts[::2]]
    return conv_ffn_training(x, *(argument for pair in zip(weights, states, strict=True) for argument in pair))


def test_equals_the_modules() -> None:
    parts = modules()
    other = copy.deepcopy(parts)
    x = torch.randn(2, 5, 4, 2, dtype=torch.float64, requires_grad=True)
    expected, found = expected_result(x, parts), composed_result(x, other)
    torch.testing.assert_close(found, expected)
    gradient = torch.randn_like(expected)
    torch.testing.assert_close(
        torch.autograd.grad(found, [x, *other.parameters()], gradient),
        torch.autograd.grad(expected, [x, *parts.parameters()], gradient),
    )
    for ours, theirs in zip(other[1::2], parts[1::2], strict=True):
        torch.testing.assert_close(ours.running_mean, theirs.running_mean)
        torch.testing.assert_close(ours.running_var, theirs.running_var)


def test_checkpointing_changes_nothing() -> None:
    parts = modules()
    leaves = [torch.randn(2, 5, 4, 2, dtype=torch.float64, requires_grad=True), *parts.parameters()]
    plain = torch.autograd.grad(composed_result(leaves[0], parts).square().sum(), leaves)
    kept_less = checkpoint(composed_result, leaves[0], parts, use_reentrant=False)
    again = torch.autograd.grad(kept_less.square().sum(), leaves)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(again, plain, strict=True))


def test_autocast_keeps_parameters_and_statistics_in_full_precision() -> None:
    parts = modules()
    x = torch.randn(2, 9, 8, 2, dtype=torch.float64)
    exact = torch.autograd.grad(composed_result(x, parts).square().sum(), list(parts.parameters()))
    parts = copy.deepcopy(parts).float()
    with torch.autocast("cpu", torch.bfloat16):
        out = composed_result(x.float(), parts)
    assert out.dtype == torch.bfloat16
    grads = torch.autograd.grad(out.float().square().sum(), list(parts.parameters()))
    for (name, parameter), found, wanted in zip(parts.named_parameters(), grads, exact, strict=True):
        assert found.dtype == parameter.dtype == torch.float32
        constant = name.endswith("bias") and int(name.split(".")[0]) % 2 == 0
        # A constant before a batch norm has no gradient but rounding. Elsewhere: nine roundings to 8 bits.
        assert constant or (found - wanted).norm() < 0.1 * wanted.norm(), name


def test_scale_and_absent_running_statistics() -> None:
    norm = BatchNormState(torch.tensor([6.0]), torch.zeros(1), None, None, 0.1, 1.0)
    assert batch_normaliser((torch.ones(1), torch.tensor([3.0])), 4, norm)[1].item() == pytest.approx(3.0)
    tracked = norm._replace(running_mean=torch.zeros(1), running_var=torch.zeros(1))
    batch_normaliser((torch.ones(1), torch.full((1,), 3.0)), 4, tracked)
    # A tenth of the way to mean 1 and to the unbiased variance 3 * 4 / 3.
    assert tracked.running_mean.item() == pytest.approx(0.1)
    assert tracked.running_var.item() == pytest.approx(0.4)
