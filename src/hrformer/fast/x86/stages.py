"""The fused stages of inference on x86 processors, by the compiled kernels of ``hrformer.fast.x86``.

Maps are channels-last, (B, H, W, C), float32; results are new tensors. ``hrformer.fast.stages`` holds the plain
references and chooses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from hrformer.fast.folding import AttentionWeights, ConvolutionWeights, DepthwiseWeights, PointwiseWeights
from hrformer.fast.x86.library import Kernel, NativeLibrary, find_library
from hrformer.fast.x86.packing import NativeAttention, NativeLinear, filled
from hrformer.fast.x86.structures import tensors_refusal

ACTIVATIONS = {"none": 0, "gelu": 1, "relu": 2}
"""As ``enum Activation`` in the kernels' sources."""

MAX_TERMS = 4
"""Maps that the kernel of a fusion adds."""


def native_refusal(x: Tensor, others: Sequence[Tensor | None] = ()) -> str | None:
    """Why no compiled kernel runs on this map and what is added to it, or None where one does."""
    refusal = tensors_refusal(x, others)
    if refusal is not None:
        return refusal
    if torch.is_grad_enabled() and x.requires_grad:
        return "a gradient is wanted"
    return find_library()[1] or None


def applies(x: Tensor) -> bool:
    """Whether compiled kernels run on this map."""
    return native_refusal(x) is None


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


Constants = Callable[[int], Mapping[str, Any]]
"""Fields of a kernel that stay the same between calls, from the number of floats in a vector."""


def _library() -> NativeLibrary:
    library, reason = find_library()
    assert library is not None, reason
    return library


def _kernel(kernels: dict[str, Kernel], name: str, constants: Constants) -> Kernel:
    """The kernel kept beside its weights, or a new one with weights packed for it."""
    found = kernels.get(name)
    if found is None:
        library = _library()
        found = kernels[name] = library.kernel(name, **constants(library.lanes))
    return found


def attention_block(x: Tensor, weights: AttentionWeights) -> Tensor:
    """x + projection(window attention(LayerNorm(x))): (B, H, W, C) -> the same."""
    x = x.contiguous()
    kernel = _kernel(weights.kernels, "attention", partial(_attention_constants, weights))
    batch, height, width, _ = x.shape
    y = torch.empty_like(x)
    kernel(x=x, y=y, batch=batch, height=height, width=width)
    return y


def _attention_constants(w: AttentionWeights, lanes: int) -> Mapping[str, Any]:
    norm, products = (w.norm_weight, w.norm_bias), ((w.qkv_weight, w.qkv_bias), (w.proj_weight, w.proj_bias))
    packed = NativeAttention.of(norm, *products, w.bias, lanes, window=w.window, num_heads=w.num_heads, scale=w.scale)
    return {
        "channels": w.channels,
        "window": w.window,
        "heads": w.num_heads,
        "head_dim": w.head_dim,
        "eps": w.eps,
        "qkv": packed.qkv.weight,
        "qkv_bias": packed.qkv.bias,
        "proj": packed.proj.weight,
        "proj_bias": packed.proj.bias,
        "bias": packed.bias,
    }


def feed_forward_block(x: Tensor, first: PointwiseWeights, second: DepthwiseWeights) -> Tensor:
    """x + gelu(fc2(gelu(depthwise3x3(gelu(fc1(LayerNorm(x))))))): (B, H, W, C) -> the same.

    The kernel is kept beside ``second``, which belongs to one ``first`` for good.
    """
    x = x.contiguous()
    kernel = _kernel(second.kernels, "feed_forward", partial(_feed_forward_constants, first, second))
    batch, height, width, _ = x.shape
    y = torch.empty_like(x)
    kernel(x=x, y=y, rows=batch * height, height=height, width=width)
    return y


def _feed_forward_constants(first: PointwiseWeights, second: DepthwiseWeights, lanes: int) -> Mapping[str, Any]:
    assert first.norm_weight is not None
    assert first.norm_bias is not None
    fc1 = NativeLinear.of(first.weight, first.bias, (first.norm_weight, first.norm_bias), lanes)
    fc2 = NativeLinear.of(second.weight, second.bias, None, lanes)
    return {
        "channels": fc2.channels,
        "hidden": fc1.channels,
        "eps": first.eps,
        "fc1": fc1.weight,
        "fc1_bias": fc1.bias,
        "fc2": fc2.weight,
        "fc2_bias": fc2.bias,
        **_depthwise_constants(second, lanes),
    }


def _depthwise_constants(weights: DepthwiseWeights, lanes: int) -> Mapping[str, Any]:
    taps = filled(weights.depthwise.flatten(1).T, lanes)
    return {"depthwise": taps, "depthwise_bias": filled(weights.depthwise_bias, lanes)}


def pointwise(
    x: Tensor,
    weights: PointwiseWeights,
    *,
    activation: str = "none",
    residual: Tensor | None = None,
    after: str = "none",
) -> Tensor:
    """after(activation(x @ weight.T + bias) + residual): (..., K) -> (..., N), without a norm."""
    x = x.contiguous()
    kernel = _kernel(weights.kernels, "linear", partial(_linear_constants, weights))
    y = x.new_empty(*x.shape[:-1], weights.weight.shape[0])
    if residual is not None:
        residual = residual.contiguous()
    codes = {"activation": ACTIVATIONS[activation], "after": ACTIVATIONS[after]}
    kernel(x=x, y=y, rows=x.numel() // x.shape[-1], residual=residual, **codes)
    return y


def _linear_constants(weights: PointwiseWeights, lanes: int) -> Mapping[str, Any]:
    packed = NativeLinear.of(weights.weight, weights.bias, None, lanes)
    channels, depth = weights.weight.shape
    return {"depth": depth, "channels": channels, "weight": packed.weight, "bias": packed.bias}


def convolution(x: Tensor, weights: ConvolutionWeights, *, activation: str = "none") -> Tensor:
    """activation(convolution(x) + bias): (B, H, W, C) -> (B, H', W', N), without groups and dilation."""
    x = x.contiguous()
    kernel = _kernel(weights.kernels, "convolution", partial(_convolution_constants, weights))
    batch, height, width, _ = x.shape
    channels, _, *cells = weights.weight.shape
    sizes = zip((height, width), weights.padding, cells, weights.stride, strict=True)
    out_height, out_width = ((size + 2 * pad - cell) // stride + 1 for size, pad, cell, stride in sizes)
    y = x.new_empty(batch, out_height, out_width, channels)
    outside = {"out_height": out_height, "out_width": out_width, "activation": ACTIVATIONS[activation]}
    kernel(x=x, y=y, batch=batch, height=height, width=width, **outside)
    return y


def _convolution_constants(weights: ConvolutionWeights, lanes: int) -> Mapping[str, Any]:
    channels, depth, *cells = weights.weight.shape
    packed = NativeLinear.of(weights.weight.permute(0, 2, 3, 1).flatten(1), weights.bias, None, lanes)
    return {
        "depth": depth,
        "channels": channels,
        "kernel_height": cells[0],
        "kernel_width": cells[1],
        "stride_y": weights.stride[0],
        "stride_x": weights.stride[1],
        "padding_y": weights.padding[0],
        "padding_x": weights.padding[1],
        "weight": packed.weight,
        "bias": packed.bias,
        "zeros": weights.weight.new_zeros(depth, dtype=torch.float32),
    }


def depthwise_pointwise(
    x: Tensor,
    weights: DepthwiseWeights,
    *,
    middle: str = "none",
    activation: str = "none",
    residual: Tensor | None = None,
) -> Tensor:
    """activation(middle(depthwise3x3(x)) @ weight.T + bias) + residual, see ``ops.fused``."""
    x = x.contiguous()
    kernel = _kernel(weights.kernels, "separable", partial(_separable_constants, weights))
    batch, height, width, _ = x.shape
    size = (-(-height // weights.stride), -(-width // weights.stride))
    y = x.new_empty(batch, *size, weights.weight.shape[0])
    if residual is not None:
        residual = residual.contiguous()
    codes = {"middle": ACTIVATIONS[middle], "activation": ACTIVATIONS[activation]}
    kernel(x=x, y=y, batch=batch, height=height, width=width, residual=residual, **codes)
    return y


def _separable_constants(weights: DepthwiseWeights, lanes: int) -> Mapping[str, Any]:
    packed = NativeLinear.of(weights.weight, weights.bias, None, lanes)
    channels, depth = weights.weight.shape
    return {
        "depth": depth,
        "channels": channels,
        "stride": weights.stride,
        "weight": packed.weight,
        "bias": packed.bias,
        **_depthwise_constants(weights, lanes),
    }


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
    _library().call("fusion", y=y, **sizes, **fields, bilinear=int(bilinear))
    return y
