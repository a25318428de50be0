"""The fused stages of inference on x86 processors, by the compiled kernels of ``hrformer.fast.x86``.

Maps are channels-last, (B, H, W, C), float32 or bfloat16; results are new tensors of the same kind.
``hrformer.fast.stages`` holds the plain references and chooses. Weights are packed once into the layout that the
kernels read: panels of vectors of outputs, see ``source/product.h``, or ``half`` for those in bfloat16.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hrformer.fast.folding import (
    AttentionWeights,
    ConvolutionWeights,
    DepthwiseWeights,
    PointwiseWeights,
    StageWeights,
    folded_attention,
)
from hrformer.fast.x86 import half
from hrformer.fast.x86.library import Kernel, NativeLibrary, find_half_library, find_library
from hrformer.fast.x86.structures import tensors_refusal

ACTIVATIONS = {"none": 0, "gelu": 1, "relu": 2}
"""As ``enum Activation`` in the kernels' sources."""

MAX_TERMS = 4
"""Maps that the kernel of a fusion adds."""

NEVER = -1e30
"""Score of places that are no tokens, finite so that the kernels' exponential stays finite."""


def native_refusal(x: Tensor, others: Sequence[Tensor | None] = ()) -> str | None:
    """Why no compiled kernel runs on this map and what is added to it, or None where one does."""
    in_half = x.dtype == torch.bfloat16
    refusal = tensors_refusal(x, others, torch.bfloat16 if in_half else torch.float32)
    if refusal is not None:
        return refusal
    if torch.is_grad_enabled() and x.requires_grad:
        return "a gradient is wanted"
    return (find_half_library() if in_half else find_library())[1] or None


def takes(x: Tensor, channels: int, residual: Tensor | None = None, shape: Sequence[int] = ()) -> bool:
    """Whether they run on (B, H, W, ``channels``), and add ``residual`` of ``shape``; what does not fit is torch's."""
    fits = x.ndim == 4 and x.shape[-1] == channels and (residual is None or tuple(residual.shape) == tuple(shape))
    return fits and native_refusal(x, (residual,)) is None


def fuses(terms: Sequence[Tensor], factors: Sequence[int], size: tuple[int, int]) -> bool:
    """Whether they add these terms, each of the result's ``size`` after its factor, or after torch has resized it."""
    batch, channels = terms[0].shape[0], terms[0].shape[-1]
    fits = all(
        term.ndim == 4
        and (term.shape[0], term.shape[3]) == (batch, channels)
        and (factor > 1 or tuple(term.shape[1:3]) == size)
        for term, factor in zip(terms, factors, strict=True)
    )
    return fits and len(terms) <= MAX_TERMS and native_refusal(terms[0], terms[1:]) is None


def panel_widths(vectors: int) -> list[int]:
    """Vectors of every panel, together ``vectors``; the rule of ``panel_vectors`` in ``source/product.h``."""
    widths = []
    while vectors > 0:
        widths.append(4 if vectors == 4 else min(vectors, 3))
        vectors -= widths[-1]
    return widths


def filled(vector: Tensor, lanes: int) -> Tensor:
    """(..., n) -> (..., n rounded up to whole vectors), with zeros, float32 and contiguous."""
    return F.pad(vector.float(), (0, -vector.shape[-1] % lanes)).contiguous()


def pack_product(weight: Tensor, lanes: int) -> Tensor:
    """(N, K) weights of a product over K -> (K * N rounded up to whole vectors,) float32, panel after panel."""
    columns = filled(weight.T, lanes)  # (K, N)
    panels = columns.split([width * lanes for width in panel_widths(columns.shape[1] // lanes)], 1)
    return torch.cat([panel.reshape(-1) for panel in panels])


def _product(name: str, weight: Tensor, bias: Tensor, lanes: int) -> dict[str, Tensor]:
    """A kernel's fields ``name`` and its bias, packed from (N, K) and (N,)."""
    bias_name = "bias" if name == "weight" else f"{name}_bias"
    return {name: pack_product(weight.double(), lanes), bias_name: filled(bias.double(), lanes)}


def _library(x: Tensor) -> NativeLibrary:
    """That for maps of this dtype."""
    library, reason = find_half_library() if x.dtype == torch.bfloat16 else find_library()
    assert library is not None, reason
    return library


def _kernel(name: str, x: Tensor, weights: StageWeights, *further: Any) -> Kernel:
    """The kernel for maps of this dtype kept beside its weights, or a new one with its fields made of them."""
    key = (name, x.dtype)
    found: Kernel | None = weights.made.get(key)
    if found is None:
        library = _library(x)
        if library.half:
            fields = half.pack(name, weights, *further)
        else:
            fields = PACKERS[name](weights, library.lanes, *further)
        found = weights.made[key] = library.kernel(name, **fields)
    return found


def attention_block(x: Tensor, weights: AttentionWeights) -> Tensor:
    """x + projection(window attention(LayerNorm(x))): (B, H, W, C) -> the same."""
    x = x.contiguous()
    batch, height, width, _ = x.shape
    y = torch.empty_like(x)
    _kernel("attention", x, weights)(x=x, y=y, batch=batch, height=height, width=width)
    return y


def _attention(w: AttentionWeights, lanes: int) -> dict[str, Any]:
    qkv, proj = folded_attention(*w.pairs(), w.head_dim**-0.5 if w.scale is None else w.scale)
    tokens = w.window**2
    rows = (w.num_heads, tokens, tokens + -tokens % lanes)
    scores = torch.full(rows, NEVER, dtype=torch.float32, device=w.qkv_weight.device)
    scores[..., :tokens] = 0.0 if w.bias is None else w.bias.float()
    return {
        "channels": w.channels,
        "window": w.window,
        "heads": w.num_heads,
        "head_dim": w.head_dim,
        "eps": w.eps,
        **_product("qkv", *qkv, lanes),
        **_product("proj", *proj, lanes),
        "bias": scores,
    }


def feed_forward_block(x: Tensor, first: PointwiseWeights, second: DepthwiseWeights) -> Tensor:
    """x + gelu(fc2(gelu(depthwise3x3(gelu(fc1(LayerNorm(x))))))): (B, H, W, C) -> the same.

    The kernel is kept beside ``second``, which belongs to one ``first`` for good.
    """
    x = x.contiguous()
    batch, height, width, _ = x.shape
    y = torch.empty_like(x)
    kernel = _kernel("feed_forward", x, second, first)
    kernel(x=x, y=y, rows=batch * height, height=height, width=width)
    return y


def _feed_forward(second: DepthwiseWeights, lanes: int, first: PointwiseWeights) -> dict[str, Any]:
    return {
        "channels": second.weight.shape[0],
        "hidden": first.weight.shape[0],
        "eps": first.eps,
        **_product("fc1", *first.folded(), lanes),
        **_product("fc2", second.weight, second.bias, lanes),
        **_depthwise(second, lanes),
    }


def _depthwise(weights: DepthwiseWeights, lanes: int) -> dict[str, Any]:
    taps = filled(weights.depthwise.flatten(1).T, lanes)
    return {"depthwise": taps, "depthwise_bias": filled(weights.depthwise_bias, lanes)}


def _sum(residual: Tensor | None) -> Tensor | None:
    return None if residual is None else residual.contiguous()


def pointwise(
    x: Tensor,
    weights: PointwiseWeights,
    *,
    activation: str = "none",
    residual: Tensor | None = None,
    after: str = "none",
) -> Tensor:
    """after(activation(x @ weight.T + bias) + residual): (..., K) -> (..., N), without a norm."""
    y = x.new_empty(*x.shape[:-1], weights.weight.shape[0])
    codes = {"activation": ACTIVATIONS[activation], "after": ACTIVATIONS[after]}
    rows = x.numel() // x.shape[-1]
    _kernel("linear", x, weights)(x=x.contiguous(), y=y, rows=rows, residual=_sum(residual), **codes)
    return y


def _linear(w: PointwiseWeights | DepthwiseWeights, lanes: int) -> dict[str, Any]:
    channels, depth = w.weight.shape
    return {"depth": depth, "channels": channels, **_product("weight", w.weight, w.bias, lanes)}


def convolution(x: Tensor, weights: ConvolutionWeights, *, activation: str = "none") -> Tensor:
    """activation(convolution(x) + bias): (B, H, W, C) -> (B, H', W', N), without groups and dilation."""
    batch, height, width, _ = x.shape
    channels, _, *cells = weights.weight.shape
    sizes = zip((height, width), weights.padding, cells, weights.stride, strict=True)
    out_height, out_width = ((size + 2 * pad - cell) // stride + 1 for size, pad, cell, stride in sizes)
    y = x.new_empty(batch, out_height, out_width, channels)
    outside = {"out_height": out_height, "out_width": out_width, "activation": ACTIVATIONS[activation]}
    kernel = _kernel("convolution", x, weights)
    kernel(x=x.contiguous(), y=y, batch=batch, height=height, width=width, **outside)
    return y


def _convolution(w: ConvolutionWeights, lanes: int) -> dict[str, Any]:
    channels, depth, *cells = w.weight.shape
    return {
        "depth": depth,
        "channels": channels,
        "kernel_height": cells[0],
        "kernel_width": cells[1],
        **dict(zip(("stride_y", "stride_x", "padding_y", "padding_x"), (*w.stride, *w.padding), strict=True)),
        **_product("weight", w.weight.permute(0, 2, 3, 1).flatten(1), w.bias, lanes),
        "zeros": w.weight.new_zeros(depth, dtype=torch.float32),
    }


def depthwise_pointwise(
    x: Tensor,
    weights: DepthwiseWeights,
    *,
    middle: str = "none",
    activation: str = "none",
    residual: Tensor | None = None,
) -> Tensor:
    """activation(middle(depthwise3x3(x)) @ weight.T + bias) + residual, see ``hrformer.fast.stages``."""
    batch, height, width, _ = x.shape
    y = x.new_empty(batch, -(-height // weights.stride), -(-width // weights.stride), weights.weight.shape[0])
    codes = {"middle": ACTIVATIONS[middle], "activation": ACTIVATIONS[activation]}
    kernel = _kernel("separable", x, weights)
    kernel(x=x.contiguous(), y=y, batch=batch, height=height, width=width, residual=_sum(residual), **codes)
    return y


def _separable(w: DepthwiseWeights, lanes: int) -> dict[str, Any]:
    return {**_linear(w, lanes), **_depthwise(w, lanes), "stride": w.stride}


def fusion_sum(
    terms: Sequence[Tensor], factors: Sequence[int], size: tuple[int, int], *, bilinear: bool = False
) -> Tensor:
    """ReLU of the sum of maps (B, h, w, C), at most ``MAX_TERMS``, resized by their factors.

    Args:
        terms: their height and width times their factor is the result's.
        factors: of each term.
        size: (H, W) of the result.
        bilinear: how to resize, corners not aligned; else cells are repeated.
    """
    terms = [term.contiguous() for term in terms]
    batch, channels = terms[0].shape[0], terms[0].shape[3]
    y = terms[0].new_empty(batch, *size, channels)
    fields: dict[str, Tensor | int] = {}
    for i, (term, factor) in enumerate(zip(terms, factors, strict=True)):
        fields |= {f"term{i}": term, f"height{i}": term.shape[1], f"width{i}": term.shape[2], f"factor{i}": factor}
    sizes = {"batch": batch, "height": size[0], "width": size[1], "channels": channels}
    _library(y).call("fusion", y=y, **sizes, **fields, bilinear=int(bilinear))
    return y


PACKERS: Mapping[str, Callable[..., dict[str, Any]]] = {
    "attention": _attention,
    "feed_forward": _feed_forward,
    "linear": _linear,
    "convolution": _convolution,
    "separable": _separable,
}
"""Kernel -> what makes the constant fields of its structure from the weights of its stage and the lanes of a vector."""
