"""The convolutional feed-forward network in training, composed of the depthwise stage and two small operations.

For CUDA: per network, autograd keeps the input, the two hidden maps that the products and the convolution gave, the
activated map of the second product and the last map; batch norms and GELUs are computed again in the backward pass.
Batch norm over processes, frozen or in evaluation, takes the modules instead. Dimension letters: B batch, H/W map
height and width, C channels, E hidden channels.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from hrformer.fast.triton.depthwise_op import channel_moments_reference, depthwise_stage


class BatchNormState(NamedTuple):
    """Parameters and running statistics (C,) of a batch norm in training; the latter may be None, else are moved."""

    weight: Tensor
    bias: Tensor
    running_mean: Tensor | None
    running_var: Tensor | None
    momentum: float
    eps: float


def batch_norm_scale(variance: Tensor, norm: BatchNormState) -> Tensor:
    """(C,) factor of a batch norm, weight / sqrt(variance + eps), from the biased variance."""
    return norm.weight * (variance + norm.eps).rsqrt()


def move_running_statistics(mean: Tensor, variance: Tensor, count: int, norm: BatchNormState) -> None:
    """Move the running statistics towards those of a batch of ``count`` cells, variance unbiased, as torch does."""
    if norm.running_mean is None or norm.running_var is None:
        return
    with torch.no_grad():
        unbiased = variance * (count / max(1, count - 1))
        norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), norm.momentum)
        norm.running_var.lerp_(unbiased.to(norm.running_var.dtype), norm.momentum)


def conv_ffn_training(
    x: Tensor,
    fc1: tuple[Tensor, Tensor],
    norm1: BatchNormState,
    depthwise: tuple[Tensor, Tensor],
    norm2: BatchNormState,
    fc2: tuple[Tensor, Tensor],
    norm3: BatchNormState,
) -> Tensor:
    """1x1, BN, GELU, depthwise 3x3, BN, GELU, 1x1, BN, GELU with the statistics of the batch.

    Products run in the precision that autocast asks for, normalisation and statistics in float32.

    Args:
        x: (B, H, W, C) with more than one cell in all.
        fc1: weight (E, C) and bias (E,). ``depthwise``: (E, 1, 3, 3) and (E,). ``fc2``: (C, E) and (C,).
        norm1: over E, as is ``norm2``; ``norm3``: over C. Counting batches is left to the caller.

    Returns:
        (B, H, W, C). Differentiable once.
    """
    count = x.shape[0] * x.shape[1] * x.shape[2]
    u = F.linear(x, *fc1)
    mean, variance = _Moments.apply(u)
    move_running_statistics(mean, variance, count, norm1)
    y, mean, variance = depthwise_stage(u, mean, batch_norm_scale(variance, norm1), norm1.bias, *depthwise)
    move_running_statistics(mean, variance, count, norm2)
    v = F.linear(_NormGelu.apply(y, mean, batch_norm_scale(variance, norm2), norm2.bias), *fc2)
    mean, variance = _Moments.apply(v)
    move_running_statistics(mean, variance, count, norm3)
    out: Tensor = _NormGelu.apply(v, mean, batch_norm_scale(variance, norm3), norm3.bias)
    return out


class _Moments(torch.autograd.Function):
    """Mean and biased variance of the channels, keeping the map as it is instead of a float32 copy."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, variance = channel_moments_reference(x)
        ctx.save_for_backward(x, mean)
        return mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_mean: Tensor, grad_variance: Tensor) -> Tensor:
        x, mean = ctx.saved_tensors
        count = x.numel() // x.shape[-1]
        grad: Tensor = grad_mean / count + grad_variance * (2 / count) * (x - mean)
        return grad.to(x.dtype)


class _NormGelu(torch.autograd.Function):
    """gelu((x - mean) * scale + shift) in the dtype of x, keeping x alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, mean: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        ctx.save_for_backward(x, mean, scale, shift)
        return F.gelu((x - mean) * scale + shift).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        x, mean, scale, shift = ctx.saved_tensors
        centred = x - mean
        back = torch.ops.aten.gelu_backward(grad.to(centred.dtype), centred * scale + shift)
        of_shift = back.flatten(0, 2).sum(0)
        of_scale = (back * centred).flatten(0, 2).sum(0)
        return (back * scale).to(x.dtype), -of_shift * scale, of_scale, of_shift
