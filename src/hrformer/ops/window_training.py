"""Window attention in training on the CPU: layer norm, attention and projection with one backward pass.

``window_attention`` behind a layer norm is the reference. Autograd stores the normalised tokens, the packed
product twice, scaled copies of it and the probabilities more than once; this stores the input, the windows'
queries, keys and values, the probabilities and the attended values.

In float32 the compiled kernels do it where they are there, and store the input alone, see ``native_training``.

Dimension letters: B batch, H and W map size, C channels, K window side, N = K * K tokens of a window, h heads,
d head dimension, G = B * windows * h groups that attend among themselves.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from hrformer.ops import native_training
from hrformer.ops.native_training import AttentionSettings, training_refusal
from hrformer.ops.normalisation import conv_backward, pointwise
from hrformer.ops.windows import window_padding


class AttentionWeights(NamedTuple):
    """Parameters in the order of their use, and the bias (h, N, N) or None."""

    layer_weight: Tensor  # (C,)
    layer_bias: Tensor
    qkv: Tensor  # (3C, C)
    qkv_bias: Tensor
    proj: Tensor  # (C, C)
    proj_bias: Tensor
    bias: Tensor | None


class _Grid(NamedTuple):
    """How windows lie on a map."""

    batch: int
    height: int
    width: int
    window: int
    num_heads: int

    @property
    def padding(self) -> tuple[int, int, int, int]:
        return window_padding(self.height, self.width, self.window)

    @property
    def padded(self) -> tuple[int, int]:
        left, right, top, bottom = self.padding
        return self.height + top + bottom, self.width + left + right


def window_attention_training(
    x: Tensor, weights: AttentionWeights, *, window: int, num_heads: int, layer_eps: float
) -> Tensor:
    """Layer norm and multi-head self-attention inside windows, see ``hrformer.ops.windows.window_attention``.

    Args:
        x: (B, H, W, C) tokens, float32 or float64 on the CPU.
        weights: parameters.
        window: K.
        num_heads: h.
        layer_eps: of the layer norm.

    Returns:
        (B, H, W, C). Differentiable once.
    """
    channels, tokens = x.shape[-1], window * window
    vectors = [(channels,)] * 2
    shapes = [*vectors, (3 * channels, channels), (3 * channels,), (channels, channels), (channels,)]
    refused = training_refusal(x, weights, [*shapes, (num_heads, tokens, tokens)]) or channels % num_heads
    kind = _WindowAttention if refused or x.ndim != 4 else _NativeWindowAttention
    y: Tensor = kind.apply(x, window, num_heads, layer_eps, *weights)
    return y


def _to_windows(maps: Tensor, grid: _Grid, parts: int) -> Tensor:
    """(B, H', W', parts * C) -> (parts, G, N, d), contiguous: one copy."""
    k, (height, width) = grid.window, grid.padded
    maps = maps.view(grid.batch, height // k, k, width // k, k, parts, grid.num_heads, -1)
    dim = maps.shape[-1]
    return maps.permute(5, 0, 1, 3, 6, 2, 4, 7).reshape(parts, -1, k * k, dim)


def _to_maps(windows: Tensor, grid: _Grid) -> Tensor:
    """(parts, G, N, d) -> (B, H', W', parts * C), contiguous: one copy."""
    k, (height, width) = grid.window, grid.padded
    parts, dim = windows.shape[0], windows.shape[-1]
    windows = windows.view(parts, grid.batch, height // k, width // k, grid.num_heads, k, k, dim)
    return windows.permute(1, 2, 5, 3, 6, 0, 4, 7).reshape(grid.batch, height, width, -1)


def _pad(maps: Tensor, grid: _Grid) -> Tensor:
    left, right, top, bottom = grid.padding
    return F.pad(maps, (0, 0, left, right, top, bottom)) if any(grid.padding) else maps


def _crop(maps: Tensor, grid: _Grid) -> Tensor:
    left, _, top, _ = grid.padding
    return maps[:, top : top + grid.height, left : left + grid.width].contiguous()


def _linear(tokens: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A linear layer on (B, H, W, C) as a 1x1 convolution, which oneDNN runs faster than MKL its product."""
    return pointwise(tokens.permute(0, 3, 1, 2), weight, bias).permute(0, 2, 3, 1)


def _linear_backward(
    grad: Tensor, tokens: Tensor, weight: Tensor, needed: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    grad_x, grad_weight = conv_backward(grad.permute(0, 3, 1, 2), tokens.permute(0, 3, 1, 2), weight, needed)
    return None if grad_x is None else grad_x.permute(0, 2, 3, 1).contiguous(), grad_weight


def _probabilities(query: Tensor, key: Tensor, bias: Tensor | None) -> Tensor:
    """Softmax of the scaled scores plus bias, (G, N, N)."""
    groups, num_tokens, dim = query.shape
    scale = dim**-0.5
    if bias is None:
        scores = torch.bmm(query, key.transpose(1, 2)).mul_(scale)
    else:
        scores = bias.expand(groups // bias.shape[0], *bias.shape).reshape(groups, num_tokens, num_tokens)
        if scores.data_ptr() == bias.data_ptr():  # one window: a view, which must not be written to
            scores = scores.clone()
        scores.baddbmm_(query, key.transpose(1, 2), alpha=scale)
    return torch.softmax(scores, -1)


class _WindowAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, window: int, num_heads: int, layer_eps: float, *parameters: Tensor | None
    ) -> Tensor:
        w = AttentionWeights(*parameters)  # type: ignore[arg-type]
        x = x.contiguous()
        grid = _Grid(x.shape[0], x.shape[1], x.shape[2], window, num_heads)
        normed, mean, rstd = torch.native_layer_norm(x, x.shape[-1:], w.layer_weight, w.layer_bias, layer_eps)
        if any(grid.padding):  # padded tokens hold the biases and take part
            packed = _pad(_linear(normed, w.qkv, None), grid).add_(w.qkv_bias)
        else:
            packed = _linear(normed, w.qkv, w.qkv_bias)
        windows = _to_windows(packed, grid, 3)
        probabilities = _probabilities(windows[0], windows[1], w.bias)
        attended = _crop(_to_maps(torch.bmm(probabilities, windows[2])[None], grid), grid)
        ctx.grid, ctx.layer_eps = grid, layer_eps
        ctx.save_for_backward(x, mean, rstd, windows, probabilities, attended, *w)
        return _linear(attended, w.proj, w.proj_bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        x, mean, rstd, windows, probabilities, attended, *parameters = ctx.saved_tensors
        w, grid = AttentionWeights(*parameters), ctx.grid
        needs = AttentionWeights(*ctx.needs_input_grad[4:])
        grad = grad.contiguous()
        proj_bias = grad.sum((0, 1, 2)) if needs.proj_bias else None
        grad_out, proj = _linear_backward(grad, attended, w.proj, (True, bool(needs.proj)))
        assert grad_out is not None
        grads, scores = _attention_backward(_to_windows(_pad(grad_out, grid), grid, 1)[0], windows, probabilities)
        bias = scores.view(-1, *w.bias.shape).sum(0) if w.bias is not None and needs.bias else None
        packed = _to_maps(grads, grid)
        qkv_bias = packed.sum((0, 1, 2)) if needs.qkv_bias else None
        normed = torch.native_layer_norm(x, x.shape[-1:], w.layer_weight, w.layer_bias, ctx.layer_eps)[0]
        needs_x = ctx.needs_input_grad[0] or needs.layer_weight or needs.layer_bias
        grad_x, qkv = _linear_backward(_crop(packed, grid), normed, w.qkv, (bool(needs_x), bool(needs.qkv)))
        layer: tuple[Tensor | None, ...] = (None, None)
        if grad_x is not None:
            grad_x, *layer = torch.ops.aten.native_layer_norm_backward(
                grad_x, x, x.shape[-1:], mean, rstd, w.layer_weight, w.layer_bias, [True, True, True]
            )
        return (grad_x, None, None, None, *layer, qkv, qkv_bias, proj, proj_bias, bias)


class _NativeWindowAttention(torch.autograd.Function):
    """The same by the compiled kernels, window by window in a core's cache; stores nothing but the input."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, window: int, num_heads: int, layer_eps: float, *parameters: Tensor | None
    ) -> Tensor:
        x, ctx.settings = x.contiguous(), AttentionSettings(window, num_heads, layer_eps)
        ctx.save_for_backward(x, *parameters)
        return native_training.attention_forward(x, parameters, ctx.settings)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        x, *weights = ctx.saved_tensors
        needs = ctx.needs_input_grad[4:]
        grad, x = native_training.in_order([grad, x])
        grad_x, grads = native_training.attention_backward(grad, x, weights, ctx.settings, needs)
        return (grad_x, None, None, None, *grads)


def _attention_backward(grad: Tensor, windows: Tensor, probabilities: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of the windows' queries, keys and values (3, G, N, d) and of the scores (G, N, N)."""
    query, key, value = windows
    scale = query.shape[-1] ** -0.5
    grads = torch.empty_like(windows)
    torch.bmm(probabilities.transpose(1, 2), grad, out=grads[2])
    scores = torch.bmm(grad, value.transpose(1, 2))
    scores = torch._softmax_backward_data(scores, probabilities, -1, scores.dtype)
    torch.baddbmm(grads[0], scores, key, beta=0, alpha=scale, out=grads[0])
    torch.baddbmm(grads[1], scores.transpose(1, 2), query, beta=0, alpha=scale, out=grads[1])
    return grads, scores
