"""Blocks to train, by kernels and by the operations that they consist of; results by name."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from hrformer.fast.x86 import training as native_training
from hrformer.fast.x86.training import (
    AttentionWeights,
    FeedForwardWeights,
    Running,
    RunningStatistics,
    window_attention_training,
)
from plain_attention import window_attention

Results = dict[str, Tensor]
Weights = FeedForwardWeights | AttentionWeights

MAPS = [
    (2, 32, 128, 21, 20),  # several bands of tokens
    (1, 18, 72, 7, 5),  # a rest beside whole vectors
    (2, 78, 312, 9, 3),
    (1, 6, 9, 1, 9),  # smaller than a vector, one row
    (1, 6, 9, 9, 1),  # one column
    (9, 6, 9, 1, 1),  # one cell
    (1, 36, 144, 2, 150),  # rows longer than a band
]
"""(batch, channels, hidden channels, height, width)"""

WINDOWED = [
    (2, 32, 1, 14, 21, 7),
    (1, 18, 1, 7, 5, 7),
    (2, 78, 2, 9, 3, 7),  # padding on all sides, head dimension 39
    (1, 4, 2, 1, 9, 7),
    (1, 3, 1, 9, 1, 2),
    (9, 16, 2, 1, 1, 7),  # 48 of 49 places are padding
    (1, 36, 2, 17, 14, 13),
]
"""(batch, channels, heads, height, width, window)"""


def feed_forward_weights(channels: int, hidden: int, *, layer_norm: bool = True) -> FeedForwardWeights:
    """Gains between 0.5 and 1.5: one near zero would make its channel's gradients a matter of luck in float32."""

    def norm(count: int) -> tuple[Tensor, Tensor]:
        return torch.rand(count) + 0.5, torch.randn(count) * 0.5

    given = FeedForwardWeights(
        *norm(channels),
        *(torch.randn(hidden, channels, 1, 1) / channels**0.5, torch.randn(hidden), *norm(hidden)),
        *(torch.randn(hidden, 1, 3, 3) / 3, torch.randn(hidden), *norm(hidden)),
        *(torch.randn(channels, hidden, 1, 1) / hidden**0.5, torch.randn(channels), *norm(channels)),
    )
    trained = [p.requires_grad_() for p in given if p is not None]
    return FeedForwardWeights(*trained) if layer_norm else FeedForwardWeights(None, None, *trained[2:])


def attention_weights(channels: int, heads: int, window: int, *, bias: bool = True) -> AttentionWeights:
    shapes = [(channels,), (channels,), (3 * channels, channels), (3 * channels,), (channels, channels), (channels,)]
    tensors = [torch.randn(s) * (channels**-0.5 if len(s) == 2 else 0.5) for s in shapes]
    table = torch.randn(heads, window**2, window**2) if bias else None
    return AttentionWeights(*(None if p is None else p.requires_grad_() for p in (*tensors, table)))


def running_statistics(weights: FeedForwardWeights, dtype: torch.dtype) -> Running:
    first, second, third = (
        RunningStatistics(torch.full(w.shape, 0.5, dtype=dtype), torch.full(w.shape, 2.0, dtype=dtype), 0.2, 1e-5)
        for w in (weights.norm1, weights.norm2, weights.norm3)
    )
    return first, second, third


def plain_feed_forward(
    x: Tensor, w: FeedForwardWeights, running: Running, eps: float, *, residual: bool = False
) -> Tensor:
    """The operations that ``ConvFFN`` consists of."""
    start = x

    def norm_gelu(x: Tensor, kept: RunningStatistics, weight: Tensor, bias: Tensor) -> Tensor:
        return F.gelu(F.batch_norm(x, kept.mean, kept.var, weight, bias, True, kept.momentum, kept.eps))

    if w.layer_weight is not None:
        x = F.layer_norm(x.permute(0, 2, 3, 1), x.shape[1:2], w.layer_weight, w.layer_bias, eps).permute(0, 3, 1, 2)
    x = norm_gelu(F.conv2d(x, w.fc1, w.fc1_bias), running[0], w.norm1, w.norm1_bias)
    x = F.conv2d(x, w.depthwise, w.depthwise_bias, padding=1, groups=x.shape[1])
    x = norm_gelu(x, running[1], w.norm2, w.norm2_bias)
    y = norm_gelu(F.conv2d(x, w.fc2, w.fc2_bias), running[2], w.norm3, w.norm3_bias)
    return start + y if residual else y


def feed_forward_training(x: Tensor, w: FeedForwardWeights, running: Running, eps: float, **more: bool) -> Tensor:
    """The kernels, on a map (B, C, H, W)."""
    return native_training.feed_forward_training(x.permute(0, 2, 3, 1), w, running, eps, **more).permute(0, 3, 1, 2)


def results_of(y: Tensor, x: Tensor, weights: Weights) -> Results:
    """Output and gradients of a fixed weighted sum of it, by name."""
    leaves = {"x": x, **{name: p for name, p in weights._asdict().items() if p is not None and p.requires_grad}}
    grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.dtype)
    return {"y": y.detach(), **dict(zip(leaves, torch.autograd.grad(y, list(leaves.values()), grad), strict=True))}


def run_feed_forward(
    run: Callable[[Tensor, FeedForwardWeights, Running, float], Tensor], x: Tensor, weights: FeedForwardWeights
) -> Results:
    leaf, running = x.clone().requires_grad_(), running_statistics(weights, x.dtype)
    results = results_of(run(leaf, weights, running, 1e-6), leaf, weights)
    moved = {f"{kind}{i}": getattr(kept, kind) for i, kept in enumerate(running) for kind in ("mean", "var")}
    return results | moved


def run_attention(
    x: Tensor, weights: AttentionWeights, heads: int, window: int, *, plain: bool = False, residual: bool = False
) -> Results:
    leaf = x.clone().requires_grad_()
    sizes = {"window": window, "num_heads": heads}
    if plain:
        normed = F.layer_norm(leaf, x.shape[-1:], weights.layer_weight, weights.layer_bias, 1e-6)
        y = window_attention(normed, *weights[2:6], weights.bias, **sizes)
        y = leaf + y if residual else y
    else:
        y = window_attention_training(leaf, weights, **sizes, layer_eps=1e-6, residual=residual)
    return results_of(y, leaf, weights)


def widened(weights: Weights) -> Weights:
    return type(weights)(*(None if p is None else p.detach().double().requires_grad_() for p in weights))
