"""Blocks of HRFormer in training on x86 processors: the compiled kernels as autograd functions.

Plain autograd stores six hidden maps per feed-forward network and the scores of every window; the kernels store at most
one map per network, none per attention, and compute the rest again in fewer passes. The plain modules of
``hrformer.models`` are the reference: outputs and gradients differ from theirs by float32 rounding (4e-7 of the largest
entry on a map of 32 channels, 2 x 21 x 20 cells). Under torch's autocast to bfloat16, where ``half_kernels`` are there,
products and hidden maps are bfloat16, and they differ by that rounding, no more than autocast's plain modules do.

Dimension letters: B batch, H and W size of the map, C channels, E hidden channels, K window side, N = K * K, h heads.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hrformer.fast.x86.library import NativeLibrary, find_half_library, find_library
from hrformer.fast.x86.structures import ATTENTION_WEIGHTS, FEED_FORWARD_WEIGHTS, filled_count, tensors_refusal

STORE_FROM = 64
"""Channels from which the first product's map is worth its memory: computing it again costs 2 * C operations per number
of a map that is E / C times as large as the input. In HRFormer-S all branches but the finest store it. From half as
many on the convolution's map is stored, which costs two passes to compute again."""

OPTIONAL = ("qkv", "proj", "bias")
"""Weights of attention whose gradients a kernel leaves out where it gets no memory for them."""

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


def feed_forward_training(
    x: Tensor, weights: FeedForwardWeights, running: Running, layer_eps: float, *, residual: bool = False
) -> Tensor:
    """Layer norm, 1x1, BN, GELU, depthwise 3x3, BN, GELU, 1x1, BN, GELU with the statistics of the batch.

    Args:
        x: (B, H, W, C), float32 on the CPU, with more than one cell in all; see ``training_refusal``.
        weights: parameters.
        running: running statistics of the three batch norms; moved in place.
        layer_eps: of the layer norm.
        residual: add ``x`` to the result.

    Returns:
        (B, H, W, C). Differentiable once.
    """
    settings = {"layer_eps": layer_eps, "residual": int(residual)}
    y: Tensor = _FeedForward.apply(x, running, settings, *weights)
    return y


def window_attention_training(
    x: Tensor, weights: AttentionWeights, *, window: int, num_heads: int, layer_eps: float, residual: bool = False
) -> Tensor:
    """Layer norm and multi-head self-attention inside windows, see ``hrformer.models.attention.WindowAttention``.

    Args:
        x: (B, H, W, C) tokens, float32 on the CPU; see ``training_refusal``.
        weights: parameters.
        window: K.
        num_heads: h; divides C.
        layer_eps: of the layer norm.
        residual: add ``x`` to the result.

    Returns:
        (B, H, W, C). Differentiable once.
    """
    settings = {"window": window, "heads": num_heads, "layer_eps": layer_eps, "residual": int(residual)}
    y: Tensor = _WindowAttention.apply(x, settings, *weights)
    return y


def training_refusal(x: Tensor, others: Sequence[Tensor | None]) -> str | None:
    """Why no compiled kernel trains a block with this input, parameters and statistics, or None where one does."""
    return tensors_refusal(x, others) or find_library()[1] or None


class _FeedForward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, running: Running, settings: dict[str, Any], *parameters: Tensor | None) -> Tensor:
        library, x = _block_kernels(), x.contiguous()
        ctx.library = library
        given = _by_field(FEED_FORWARD_WEIGHTS, parameters)
        ctx.size = {**_size(x), "hidden": given["depthwise"].shape[0], **settings}
        ctx.size["rows"] = ctx.size.pop("batch") * x.shape[1]
        hidden, channels = (filled_count(count, library.lanes) for count in (ctx.size["hidden"], x.shape[3]))
        expanded = x.new_empty(*x.shape[:3], hidden, dtype=library.dtype)  # after the first product
        y, reduced = torch.empty_like(x), torch.empty_like(x)  # reduced: after the second
        statistics = x.new_empty(4 * hidden + 2 * channels)  # means and 1 / standard deviations of the batch norms
        maps = {"x": x, "expanded": expanded, "reduced": reduced, "statistics": statistics}
        moved = {
            f"running_{name}{number}": value
            for number, kept in enumerate(running, start=1)
            for name, value in kept._asdict().items()
        }
        mixed = torch.empty_like(expanded)
        library.call("feed_forward_training", in_memory=True, y=y, mixed=mixed, **maps, **ctx.size, **given, **moved)
        kept = expanded if x.shape[-1] >= STORE_FROM else None, mixed if 2 * x.shape[-1] >= STORE_FROM else None
        ctx.save_for_backward(x, *kept, reduced, statistics, *parameters)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        saved = ctx.saved_tensors  # once: recomputation gives them one time only
        grad, x, expanded, mixed, reduced, statistics = in_order([grad, *saved[:5]])
        given = _by_field(FEED_FORWARD_WEIGHTS, saved[5:])
        needs = FeedForwardWeights(*ctx.needs_input_grad[3:])
        library = ctx.library
        hidden = filled_count(ctx.size["hidden"], library.lanes)
        wide = (*grad.shape[:3], hidden)
        works = {name: grad.new_empty(wide, dtype=library.dtype) for name in ("back2", "back1")}
        grad_x = torch.empty_like(grad)
        maps = {"grad": grad, "x": x, "reduced": reduced, "statistics": statistics, "grad_x": grad_x}
        grads = {name: None if weight is None else torch.empty_like(weight) for name, weight in given.items()}
        grads |= {name: torch.zeros_like(weight) for name in ZERO if (weight := given[name]) is not None}
        grads |= {name: None for name in ("fc1", "fc2") if not getattr(needs, name)}
        library.call(
            "feed_forward_training_backward",
            in_memory=True,
            **maps,
            expanded=torch.empty_like(works["back1"]) if expanded is None else expanded,
            expanded_given=int(expanded is not None),
            mixed=torch.empty_like(works["back1"]) if mixed is None else mixed,
            mixed_given=int(mixed is not None),
            **{f"{name}_grad": grads[name] for name in grads if name not in ZERO},
            **(works | ctx.size | given),
        )
        return (grad_x, None, None, *grads.values())


class _WindowAttention(torch.autograd.Function):
    """Window by window in a core's cache; stores nothing but the input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, settings: dict[str, Any], *parameters: Tensor | None) -> Tensor:
        x = x.contiguous()
        ctx.save_for_backward(x, *parameters)
        ctx.size, ctx.library = {**_size(x), **settings}, _block_kernels()
        y = torch.empty_like(x)
        ctx.library.call(
            "attention_training", in_memory=True, x=x, y=y, **ctx.size, **_by_field(ATTENTION_WEIGHTS, parameters)
        )
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        x, *weights = ctx.saved_tensors
        grad, x = in_order([grad, x])
        given, grad_x = _by_field(ATTENTION_WEIGHTS, weights), torch.empty_like(x)
        grads = {  # those of the matrices and of the bias are left out where nobody needs them
            name: None if weight is None or (name in OPTIONAL and not needed) else torch.empty_like(weight)
            for (name, weight), needed in zip(given.items(), ctx.needs_input_grad[2:], strict=True)
        }
        written = {f"{name}_grad": grad for name, grad in grads.items()}
        ctx.library.call(
            "attention_training_backward", in_memory=True, grad=grad, x=x, grad_x=grad_x, **ctx.size, **given, **written
        )
        return (grad_x, None, *grads.values())


def kernels() -> NativeLibrary:
    """The compiled kernels, which a refusal would have missed."""
    library, reason = find_library()
    assert library is not None, reason
    return library


def half_kernels() -> NativeLibrary | None:
    """The compiled kernels whose products are in bfloat16, where torch's autocast asks for it and they are there."""
    asked = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") is torch.bfloat16
    return find_half_library()[0] if asked else None


def _block_kernels() -> NativeLibrary:
    return half_kernels() or kernels()


def _size(x: Tensor) -> dict[str, Any]:
    return dict(zip(("batch", "height", "width", "channels"), x.shape, strict=True))


def in_order(tensors: Iterable[Tensor | None]) -> list[Any]:
    """Tensors as kernels take them: a gradient, or what a hook gives back for a saved tensor, may be any view."""
    return [
        tensor if tensor is None or _is_plain(tensor) else tensor.detach().resolve_neg().contiguous()
        for tensor in tensors
    ]


def _is_plain(tensor: Tensor) -> bool:
    return tensor.is_contiguous() and not tensor.is_neg()


def _by_field(fields: Iterable[str], weights: Sequence[Tensor | None]) -> dict[str, Any]:
    return dict(zip(fields, in_order(weights), strict=True))
