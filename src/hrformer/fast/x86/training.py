"""Blocks of HRFormer in training on x86 processors: the compiled kernels as autograd functions.

Plain autograd stores six hidden maps per feed-forward network and the scores of every window; the kernels store at most
one map per network, none per attention, and compute the rest again in fewer passes. The plain modules of
``hrformer.models`` are the reference: outputs and gradients differ from theirs by float32 rounding (4e-7 of the largest
entry on a map of 32 channels, 2 x 21 x 20 cells).

Dimension letters: B batch, H and W size of the map, C channels, E hidden channels, K window side, N = K * K, h heads.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hrformer.fast.x86.library import NativeLibrary, find_library
from hrformer.fast.x86.structures import ATTENTION_WEIGHTS, FEED_FORWARD_WEIGHTS, filled_count, tensors_refusal

STORE_FROM = 64
"""Channels from which the first product's map is worth its memory: computing it again costs 2 * C operations per number
of a map that is E / C times as large as the input. In HRFormer-S all branches but the finest store it."""

ZERO = ("fc1_bias", "depthwise_bias", "fc2_bias")
"""Biases before a batch norm: a constant there changes nothing, so that their gradients are zero, not rounding."""


class RunningStatistics(NamedTuple):
    """What a batch norm keeps between steps: (C,) buffers changed in place, and how."""

    mean: Tensor
    var: Tensor
    momentum: float
    eps: float


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


class AttentionWeights(NamedTuple):
    """Parameters in the order of their use, and the bias (h, N, N) or None."""

    layer_weight: Tensor  # (C,)
    layer_bias: Tensor
    qkv: Tensor  # (3C, C)
    qkv_bias: Tensor
    proj: Tensor  # (C, C)
    proj_bias: Tensor
    bias: Tensor | None


def feed_forward_training(x: Tensor, weights: FeedForwardWeights, running: Running, layer_eps: float) -> Tensor:
    """Layer norm, 1x1, BN, GELU, depthwise 3x3, BN, GELU, 1x1, BN, GELU with the statistics of the batch.

    Args:
        x: (B, H, W, C), float32 on the CPU, with more than one cell in all; see ``training_refusal``.
        weights: parameters.
        running: running statistics of the three batch norms; moved in place.
        layer_eps: of the layer norm.

    Returns:
        (B, H, W, C). Differentiable once.
    """
    y: Tensor = _FeedForward.apply(x, running, layer_eps, *weights)
    return y


def window_attention_training(
    x: Tensor, weights: AttentionWeights, *, window: int, num_heads: int, layer_eps: float
) -> Tensor:
    """Layer norm and multi-head self-attention inside windows, see ``hrformer.models.attention.WindowAttention``.

    Args:
        x: (B, H, W, C) tokens, float32 on the CPU; see ``training_refusal``.
        weights: parameters.
        window: K.
        num_heads: h; divides C.
        layer_eps: of the layer norm.

    Returns:
        (B, H, W, C). Differentiable once.
    """
    y: Tensor = _WindowAttention.apply(x, AttentionSettings(window, num_heads, layer_eps), *weights)
    return y


def training_refusal(x: Tensor, others: Sequence[Tensor | None]) -> str | None:
    """Why no compiled kernel trains a block with this input, parameters and statistics, or None where one does."""
    return tensors_refusal(x, others) or find_library()[1] or None


class _FeedForward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, running: Running, layer_eps: float, *parameters: Tensor | None) -> Tensor:
        keep = x.shape[-1] >= STORE_FROM
        y, maps = feed_forward_forward(x.contiguous(), parameters, running, layer_eps, keep=keep)
        ctx.layer_eps = layer_eps
        ctx.save_for_backward(*maps, *parameters)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        saved = ctx.saved_tensors  # once: recomputation gives them one time only
        grad, *maps = in_order([grad, *saved[:4]])
        needs = FeedForwardWeights(*ctx.needs_input_grad[3:])
        grad_x, grads = feed_forward_backward(
            grad, FeedForwardMaps(*maps), saved[4:], ctx.layer_eps, needs_fc1=bool(needs.fc1), needs_fc2=bool(needs.fc2)
        )
        return (grad_x, None, None, *grads)


class _WindowAttention(torch.autograd.Function):
    """Window by window in a core's cache; stores nothing but the input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, settings: AttentionSettings, *parameters: Tensor | None) -> Tensor:
        x, ctx.settings = x.contiguous(), settings
        ctx.save_for_backward(x, *parameters)
        return attention_forward(x, parameters, settings)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        x, *weights = ctx.saved_tensors
        grad, x = in_order([grad, x])
        grad_x, grads = attention_backward(grad, x, weights, ctx.settings, ctx.needs_input_grad[2:])
        return (grad_x, None, *grads)


def _library() -> NativeLibrary:
    library, reason = find_library()
    assert library is not None, reason
    return library


class FeedForwardMaps(NamedTuple):
    """What the backward pass of a feed-forward network needs of its forward pass."""

    x: Tensor  # (B, H, W, C)
    expanded: Tensor | None  # (B, H, W, E rounded up to whole vectors) after the first product, if kept
    reduced: Tensor  # (B, H, W, C) after the second product
    statistics: Tensor  # means and 1 / standard deviations of the batch norms


def feed_forward_forward(
    x: Tensor, weights: Sequence[Tensor | None], running: Sequence[RunningStatistics], layer_eps: float, *, keep: bool
) -> tuple[Tensor, FeedForwardMaps]:
    """Forward pass of ``feed_forward_training``; moves the running statistics.

    Args:
        x: (B, H, W, C), contiguous.
        weights: ``FeedForwardWeights``.
        running: statistics of the three batch norms.
        layer_eps: of the layer norm.
        keep: the map after the first product, for the backward pass.

    Returns:
        (B, H, W, C), and what the backward pass needs.
    """
    library = _library()
    given, size = _feed_forward_settings(x, weights, layer_eps)
    hidden, channels = filled_count(size["hidden"], library.lanes), filled_count(size["channels"], library.lanes)
    expanded = x.new_empty(*x.shape[:3], hidden)
    y, reduced = torch.empty_like(x), torch.empty_like(x)
    statistics = x.new_empty(4 * hidden + 2 * channels)
    moved: dict[str, Any] = {}
    for number, kept in enumerate(running, start=1):
        values = {"mean": kept.mean, "var": kept.var, "momentum": kept.momentum, "eps": kept.eps}
        moved |= {f"running_{name}{number}": value for name, value in values.items()}
    library.call(
        "feed_forward_training",
        x=x,
        y=y,
        expanded=expanded,
        mixed=torch.empty_like(expanded),
        reduced=reduced,
        statistics=statistics,
        **(size | given | moved),
    )
    return y, FeedForwardMaps(x, expanded if keep else None, reduced, statistics)


def feed_forward_backward(
    grad: Tensor,
    maps: FeedForwardMaps,
    weights: Sequence[Tensor | None],
    layer_eps: float,
    *,
    needs_fc1: bool,
    needs_fc2: bool,
) -> tuple[Tensor, list[Tensor | None]]:
    """Backward pass of :func:`feed_forward_forward`.

    Args:
        grad: (B, H, W, C), contiguous, of the output.
        maps: of the forward pass.
        weights: as there.
        layer_eps: as there.
        needs_fc1: whether the first product's weights need a gradient.
        needs_fc2: whether the second product's do.

    Returns:
        Gradient of the input, (B, H, W, C), and of the weights in their order and shapes.
    """
    library = _library()
    given, size = _feed_forward_settings(maps.x, weights, layer_eps)
    hidden = filled_count(size["hidden"], library.lanes)
    works = [grad.new_empty(*grad.shape[:3], hidden) for _ in range(3 if maps.expanded is not None else 4)]
    expanded = works.pop() if maps.expanded is None else maps.expanded
    grad_x = torch.empty_like(grad)
    grads = {name: None if weight is None else torch.empty_like(weight) for name, weight in given.items()}
    grads |= {name: torch.zeros_like(weight) for name in ZERO if (weight := given[name]) is not None}
    grads |= {name: None for name, needed in (("fc1", needs_fc1), ("fc2", needs_fc2)) if not needed}
    written = {f"{name}_grad": grads[name] for name in grads if name not in ZERO}
    library.call(
        "feed_forward_training_backward",
        grad=grad,
        x=maps.x,
        reduced=maps.reduced,
        expanded=expanded,
        expanded_given=int(maps.expanded is not None),
        statistics=maps.statistics,
        **dict(zip(("mixed", "back2", "back1"), works, strict=True)),
        grad_x=grad_x,
        **(size | given | written),
    )
    return grad_x, list(grads.values())


class AttentionSettings(NamedTuple):
    """Of a window attention in training."""

    window: int
    num_heads: int
    layer_eps: float


def attention_forward(x: Tensor, weights: Sequence[Tensor | None], settings: AttentionSettings) -> Tensor:
    """Forward pass of ``window_attention_training``; whose backward pass needs the input alone.

    Args:
        x: (B, H, W, C), contiguous.
        weights: ``AttentionWeights``.
        settings: sizes.
    """
    y = torch.empty_like(x)
    given = _contiguous(ATTENTION_WEIGHTS, weights)
    _library().call("attention_training", x=x, y=y, **_attention_size(x, settings), **given)
    return y


def attention_backward(
    grad: Tensor, x: Tensor, weights: Sequence[Tensor | None], settings: AttentionSettings, needs: Sequence[bool]
) -> tuple[Tensor, list[Tensor | None]]:
    """Backward pass of :func:`attention_forward`.

    Args:
        grad: (B, H, W, C), contiguous, of the output.
        x: as in the forward pass.
        weights: as there.
        settings: as there.
        needs: of every weight whether it needs a gradient; those of the matrices and of the bias are left out else.

    Returns:
        Gradient of the input, (B, H, W, C), and of the weights in their order and shapes.
    """
    given, grad_x = _contiguous(ATTENTION_WEIGHTS, weights), torch.empty_like(x)
    optional = ("qkv", "proj", "bias")
    grads = {
        name: torch.empty_like(weight) if weight is not None and (needed or name not in optional) else None
        for (name, weight), needed in zip(given.items(), needs, strict=True)
    }
    _library().call(
        "attention_training_backward",
        grad=grad,
        x=x,
        grad_x=grad_x,
        **_attention_size(x, settings),
        **given,
        **{f"{name}_grad": grad for name, grad in grads.items()},
    )
    return grad_x, list(grads.values())


def _attention_size(x: Tensor, settings: AttentionSettings) -> dict[str, Any]:
    batch, height, width, channels = x.shape
    size = {"batch": batch, "height": height, "width": width, "channels": channels, "window": settings.window}
    return {**size, "heads": settings.num_heads, "layer_eps": settings.layer_eps}


def in_order(tensors: Iterable[Tensor | None]) -> list[Any]:
    """Tensors as kernels take them: a gradient, or what a hook gives back for a saved tensor, may be any view."""
    return [None if tensor is None else tensor.detach().resolve_neg().contiguous() for tensor in tensors]


def _contiguous(fields: Iterable[str], weights: Sequence[Tensor | None]) -> dict[str, Any]:
    """Weights by field, in contiguous memory."""
    return dict(zip(fields, in_order(weights), strict=True))


def _feed_forward_settings(
    x: Tensor, weights: Sequence[Tensor | None], layer_eps: float
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Weights by field, and the sizes."""
    given = _contiguous(FEED_FORWARD_WEIGHTS, weights)
    batch, height, width, channels = x.shape
    depthwise = given["depthwise"]
    assert depthwise is not None
    size = {"rows": batch * height, "height": height, "width": width, "channels": channels}
    return given, {**size, "hidden": depthwise.shape[0], "layer_eps": layer_eps}
