"""The convolutional feed-forward network in training on the CPU: one operation with its own backward pass.

Plain autograd stores six hidden maps per network (before and after each batch norm and GELU); this stores at most
one and computes the others again. The plain modules of ``ConvFFN`` are the reference; the outputs and gradients
differ from theirs by float32 rounding (4e-7 of the largest entry on a map of 32 channels, 2 x 21 x 20 cells).

In float32 the compiled kernels do the same in fewer passes where they are there, see ``native_training``.

Dimension letters: B batch, C channels, E hidden channels, H and W size of the map.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from hrformer.ops import native_training
from hrformer.ops.native_training import FeedForwardMaps, training_refusal
from hrformer.ops.normalisation import (
    BatchAffine,
    RunningStatistics,
    affine_of,
    batch_statistics,
    conv_backward,
    norm_gelu,
    norm_gelu_backward,
    pointwise,
)

STORE_FROM = 128
"""Channels from which the first product is worth its memory: computing it again costs 2 * C operations per number
of a map that is E / C times as large as the input. In HRFormer-S the two coarser branches store it."""

NATIVE_STORE_FROM = 64
"""The same for the compiled kernels, whose memory is smaller: in HRFormer-S all branches but the finest store it."""


class FeedForwardWeights(NamedTuple):
    """Parameters in the order of their use; the layer norm's may both be None, then there is none."""

    layer_weight: Tensor | None  # (C,)
    layer_bias: Tensor | None
    fc1: Tensor  # (E, C, 1, 1)
    fc1_bias: Tensor  # (E,)
    norm1: Tensor
    norm1_bias: Tensor
    depthwise: Tensor  # (E, 1, 3, 3)
    depthwise_bias: Tensor
    norm2: Tensor
    norm2_bias: Tensor
    fc2: Tensor  # (C, E, 1, 1)
    fc2_bias: Tensor
    norm3: Tensor
    norm3_bias: Tensor


Running = tuple[RunningStatistics, RunningStatistics, RunningStatistics]


def feed_forward_training(x: Tensor, weights: FeedForwardWeights, running: Running, layer_eps: float) -> Tensor:
    """Layer norm, 1x1, BN, GELU, depthwise 3x3, BN, GELU, 1x1, BN, GELU with the statistics of the batch.

    Args:
        x: (B, C, H, W), float32 or float64 on the CPU, with more than one cell in all.
        weights: parameters.
        running: running statistics of the three batch norms; moved in place.
        layer_eps: of the layer norm.

    Returns:
        (B, C, H, W) in channels-last memory. Differentiable once.
    """
    statistics = [t for kept in running for t in (kept.mean, kept.var)]
    whole = all(t.is_contiguous() for t in statistics)
    refused = x.ndim != 4 or training_refusal(x, [*weights, *statistics], _shapes(x.shape[1], weights))
    kind = _NativeFeedForward if whole and not refused else _FeedForward
    y: Tensor = kind.apply(x, running, layer_eps, *weights)
    return y


def _shapes(channels: int, weights: FeedForwardWeights) -> list[tuple[int, ...]]:
    """Of the parameters and of the statistics, for a map of so many channels."""
    hidden = weights.fc1.shape[0]
    of_channels, of_hidden = (channels,), (hidden,)
    first = [(hidden, channels, 1, 1), of_hidden, of_hidden, of_hidden]
    middle = [(hidden, 1, 3, 3), of_hidden, of_hidden, of_hidden]
    last = [(channels, hidden, 1, 1), of_channels, of_channels, of_channels]
    return [of_channels, of_channels, *first, *middle, *last, *[of_hidden] * 4, *[of_channels] * 2]


Norms = tuple[BatchAffine, BatchAffine, BatchAffine]


class _HiddenGrads(NamedTuple):
    """Gradients of the weights around the hidden maps; those of a norm are weight and bias."""

    fc1: Tensor | None
    norm1: tuple[Tensor, Tensor]
    depthwise: Tensor | None
    norm2: tuple[Tensor, Tensor]
    fc2: Tensor | None


class _Stages(NamedTuple):
    """Maps on the way to the second pointwise product: both convolutions' outputs, each also after BN and GELU."""

    normed: Tensor  # (B, C, H, W), the input of the first convolution
    expanded: Tensor  # (B, E, H, W), as the next three
    hidden: Tensor
    mixed: Tensor
    mixed_hidden: Tensor


def _expand(normed: Tensor, w: FeedForwardWeights) -> Tensor:
    return pointwise(normed, w.fc1, w.fc1_bias)


def _mix(hidden: Tensor, w: FeedForwardWeights) -> Tensor:
    mixed = F.conv2d(hidden, w.depthwise, w.depthwise_bias, padding=1, groups=hidden.shape[1])
    return mixed.contiguous(memory_format=torch.channels_last)


def _layer_norm(x: Tensor, w: FeedForwardWeights, eps: float) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Map after the layer norm, if there is one; its mean and 1 / standard deviation per token."""
    if w.layer_weight is None:
        return x, ()
    tokens, *statistics = torch.native_layer_norm(
        x.permute(0, 2, 3, 1), x.shape[1:2], w.layer_weight, w.layer_bias, eps
    )
    return tokens.permute(0, 3, 1, 2), tuple(statistics)


class _FeedForward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, running: Running, layer_eps: float, *parameters: Tensor | None) -> Tensor:
        w = FeedForwardWeights(*parameters)  # type: ignore[arg-type]
        x = x.contiguous(memory_format=torch.channels_last)
        normed, layer = _layer_norm(x, w, layer_eps)
        expanded = _expand(normed, w)
        stats1 = batch_statistics(expanded, running[0])
        hidden = _mix(norm_gelu(expanded, affine_of(w.norm1, w.norm1_bias, *stats1)), w)
        stats2 = batch_statistics(hidden, running[1])
        hidden = norm_gelu(hidden, affine_of(w.norm2, w.norm2_bias, *stats2))
        reduced = pointwise(hidden, w.fc2, w.fc2_bias)
        stats3 = batch_statistics(reduced, running[2])
        ctx.layer_eps = layer_eps
        stored = expanded if x.shape[1] >= STORE_FROM else None
        ctx.save_for_backward(x, stored, reduced, *stats1, *stats2, *stats3, *w, *layer)
        return norm_gelu(reduced, affine_of(w.norm3, w.norm3_bias, *stats3))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        x, stored, reduced, *rest = ctx.saved_tensors
        stats, layer = rest[:6], rest[20:]
        w = FeedForwardWeights(*rest[6:20])
        norms = (
            affine_of(w.norm1, w.norm1_bias, *stats[0:2]),
            affine_of(w.norm2, w.norm2_bias, *stats[2:4]),
            affine_of(w.norm3, w.norm3_bias, *stats[4:6]),
        )
        needs = FeedForwardWeights(*ctx.needs_input_grad[3:])
        needs_x = bool(ctx.needs_input_grad[0] or needs.layer_weight or needs.layer_bias)
        grad = grad.clone(memory_format=torch.channels_last)  # the caller's stays as it is
        grad, *of_norm3 = norm_gelu_backward(grad, reduced, norms[2])
        maps = _recomputed(x, stored, w, norms, ctx.layer_eps)
        grad_x, grads = _hidden_backward(grad, maps, w, norms, needs, needs_x)
        of_layer: list[Tensor | None] = [None, None]
        if grad_x is not None and w.layer_weight is not None:
            grad_x, *of_layer = torch.ops.aten.native_layer_norm_backward(
                grad_x.permute(0, 2, 3, 1).contiguous(),
                x.permute(0, 2, 3, 1),
                x.shape[1:2],
                *layer,
                w.layer_weight,
                w.layer_bias,
                [True, True, True],
            )
            grad_x = grad_x.permute(0, 3, 1, 2)
        # A constant before a batch norm changes nothing: these gradients are exactly zero, not rounding noise.
        biases = [torch.zeros_like(bias) for bias in (w.fc1_bias, w.depthwise_bias, w.fc2_bias)]
        return (
            *(grad_x, None, None, *of_layer),
            *(grads.fc1, biases[0], *grads.norm1),
            *(grads.depthwise, biases[1], *grads.norm2),
            *(grads.fc2, biases[2], *of_norm3),
        )


class _NativeFeedForward(torch.autograd.Function):
    """The same by the compiled kernels, which fuse its passes over the hidden maps."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, running: Running, layer_eps: float, *parameters: Tensor | None) -> Tensor:
        tokens = x.permute(0, 2, 3, 1).contiguous()
        keep = x.shape[1] >= NATIVE_STORE_FROM
        y, maps = native_training.feed_forward_forward(tokens, parameters, running, layer_eps, keep=keep)
        ctx.layer_eps = layer_eps
        ctx.save_for_backward(*maps, *parameters)
        return y.permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        saved = ctx.saved_tensors  # once: recomputation gives them one time only
        grad, *maps = native_training.in_order([grad.permute(0, 2, 3, 1), *saved[:4]])
        needs = FeedForwardWeights(*ctx.needs_input_grad[3:])
        grad_x, grads = native_training.feed_forward_backward(
            grad,
            FeedForwardMaps(*maps),
            saved[4:],
            ctx.layer_eps,
            needs_fc1=bool(needs.fc1),
            needs_fc2=bool(needs.fc2),
        )
        return (grad_x.permute(0, 3, 1, 2), None, None, *grads)


def _recomputed(x: Tensor, stored: Tensor | None, w: FeedForwardWeights, norms: Norms, layer_eps: float) -> _Stages:
    normed, _ = _layer_norm(x, w, layer_eps)
    expanded = _expand(normed, w) if stored is None else stored
    hidden = norm_gelu(expanded, norms[0])
    mixed = _mix(hidden, w)
    return _Stages(normed, expanded, hidden, mixed, norm_gelu(mixed, norms[1]))


def _hidden_backward(
    grad: Tensor, maps: _Stages, w: FeedForwardWeights, norms: Norms, needs: FeedForwardWeights, needs_x: bool
) -> tuple[Tensor | None, _HiddenGrads]:
    """From the output of the second pointwise product back to the input of the first, and the weights between."""
    back, fc2 = conv_backward(grad, maps.mixed_hidden, w.fc2, (True, bool(needs.fc2)))
    assert back is not None
    back, *norm2 = norm_gelu_backward(back, maps.mixed, norms[1])
    back, depthwise = conv_backward(back, maps.hidden, w.depthwise, (True, bool(needs.depthwise)))
    assert back is not None
    back, *norm1 = norm_gelu_backward(back, maps.expanded, norms[0])
    grad_x, fc1 = conv_backward(back, maps.normed, w.fc1, (needs_x, bool(needs.fc1)))
    return grad_x, _HiddenGrads(fc1, (norm1[0], norm1[1]), depthwise, (norm2[0], norm2[1]), fc2)
