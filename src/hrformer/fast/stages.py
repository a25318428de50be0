"""Fused stages of inference on channels-last maps: plain references, and the choice between them and the kernels.

A kernel runs where ``kernel_refusal`` has no reason against it: Triton's on CUDA devices, the compiled ones on x86
processors. Elsewhere the reference of the same signature does, and each reason is logged once.
``HRFORMER_TRITON_OFF`` switches Triton's kernels off one by one, see ``hrformer.fast.triton.launch.switched_off``.
Dimension letters: B batch, H/W map size, C channels, K input and N output channels of a matrix product.

Maps in float16 and bfloat16 are rounded less often than by the references: sums, softmax, LayerNorm, activation and
residual are float32 inside a kernel and only its result and the operands of its products are rounded. In Triton's
interpreter the largest error against float64 was 0.5 to 1.0 of the reference's own in float16 (tests/fast/triton).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hrformer.fast.compiled import upsample_sooner
from hrformer.fast.folding import AttentionWeights, ConvolutionWeights, DepthwiseWeights, PointwiseWeights
from hrformer.fast.triton.conv_relu import conv_relu
from hrformer.fast.triton.depthwise_pointwise import depthwise_pointwise as depthwise_pointwise_kernel
from hrformer.fast.triton.fusion_sum import MAX_TERMS
from hrformer.fast.triton.fusion_sum import fusion_sum as fusion_sum_kernel
from hrformer.fast.triton.launch import HAVE_TRITON, SOUND_ASSEMBLER, assembler_version, switched_off
from hrformer.fast.triton.pointwise import pointwise as pointwise_kernel
from hrformer.fast.triton.window_attention import MAX_HEAD_DIM, attention_forward
from hrformer.fast.triton.window_block import window_block, window_block_applies
from hrformer.fast.x86 import stages as native
from hrformer.models.attention import attend_in_windows, crop_windows, pad_to_windows

logger = logging.getLogger("hrformer")

ACTIVATIONS = {"none": lambda x: x, "gelu": F.gelu, "relu": F.relu}
PRODUCT_DTYPES = (torch.float16, torch.bfloat16)
"""Float32 products would run on Triton's slow path, or with less precision than torch's."""
MULTIPLYING = ("nearest", "bilinear")
"""Modes of upsampling that multiply the size before they fit it."""
SUM_DTYPES = (torch.float16, torch.bfloat16, torch.float32)

_told: set[tuple[str, ...]] = set()


@cache
def _capability(index: int) -> tuple[int, int]:
    return torch.cuda.get_device_capability(index)


def kernel_refusal(x: Tensor, dtypes: Sequence[torch.dtype] = PRODUCT_DTYPES) -> str | None:
    """Why no kernel runs on this map, or None where one does."""
    if torch.compiler.is_compiling():
        return "the model is being compiled or exported"
    if x.device.type == "cpu" and not x.is_cuda:
        return native.native_refusal(x) or "the compiled kernels do not have this case"
    if not x.is_cuda or torch.version.hip is not None:
        return f"the map is on {x.device.type}, kernels need CUDA"
    if not HAVE_TRITON:
        return "Triton is not installed"
    if _capability(x.get_device()) < (8, 0):
        return "kernels need a GPU of compute capability 8.0 or later"
    if x.dtype not in dtypes:
        return f"the map is {x.dtype}, kernels take {', '.join(map(str, dtypes))}"
    if torch.is_grad_enabled() and x.requires_grad:
        return "a gradient is wanted"
    return None


def _uses_kernel(what: str, refusal: str | None, instead: str = "on plain PyTorch") -> bool:
    """Whether there is no refusal; logs each one once."""
    if refusal is not None and (what, refusal) not in _told:
        _told.add((what, refusal))
        logger.info("%s runs %s: %s", what, instead, refusal)
    return refusal is None


def _layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float, normed: int | None) -> Tensor:
    """LayerNorm in the precision of x; channels beyond ``normed`` stay zero."""
    count, channels = normed or x.shape[-1], x.shape[-1]
    y = F.layer_norm(x[..., :count], (count,), weight[:count].to(x.dtype), bias[:count].to(x.dtype), eps)
    return F.pad(y, (0, channels - count)) if count < channels else y


def attention_block_reference(x: Tensor, weights: AttentionWeights) -> Tensor:
    """x + projection(window attention(LayerNorm(x))): (B, H, W, C) -> the same; see ``models.attention``."""
    to = partial(torch.Tensor.to, dtype=x.dtype)
    w = weights
    y = _layer_norm(x, w.norm_weight, w.norm_bias, w.eps, w.normed)
    bias = None if w.bias is None else to(w.bias)
    packed = F.linear(pad_to_windows(y, w.window), to(w.qkv_weight), to(w.qkv_bias))
    attended = attend_in_windows(packed, bias, w.window, w.num_heads, w.scale)
    attended = crop_windows(attended, x.shape[1], x.shape[2], w.window)
    return x + F.linear(attended, to(w.proj_weight), to(w.proj_bias))


def attention_block(x: Tensor, weights: AttentionWeights) -> Tensor:
    """``attention_block_reference`` by one kernel where a window fits one program, else by three."""
    if native.takes(x, weights.channels) and not _is_filled(weights.normed, x):
        return native.attention_block(x, weights)
    refusal = kernel_refusal(x)
    if refusal is None and weights.head_dim > MAX_HEAD_DIM:
        refusal = f"heads of {weights.head_dim} channels, at most {MAX_HEAD_DIM}"
    if refusal is None and _takes_one_kernel(x, weights):
        return window_block(x, weights.whole(x.dtype), eps=weights.eps)
    if not _uses_kernel("window attention", refusal or switched_off("pointwise", "window_attention")):
        return attention_block_reference(x, weights)
    return attention_in_parts(x, weights)


def _assembler_refusal(x: Tensor) -> str | None:
    """Why the one kernel is not compiled right for the map's device, or None where it is."""
    if not x.is_cuda or assembler_version() >= SOUND_ASSEMBLER:
        return None
    old, first = (".".join(map(str, version)) for version in (assembler_version(), SOUND_ASSEMBLER))
    return f"ptxas {old} miscompiles the one, {first} does not"


def _takes_one_kernel(x: Tensor, weights: AttentionWeights) -> bool:
    """Whether the one kernel has this block, is switched on and sound; logs once that it is not."""
    if not window_block_applies(weights.channels, weights.window):
        return False
    return _uses_kernel("window attention", switched_off("window_block") or _assembler_refusal(x), "as three kernels")


def attention_in_parts(x: Tensor, weights: AttentionWeights) -> Tensor:
    """The attention block as three kernels, for wide maps and large windows."""
    qkv, pad_token, bias, proj = weights.parts(x.dtype)
    packed = pointwise_kernel(x, qkv, eps=weights.eps)
    sizes = {"window": weights.window, "num_heads": weights.num_heads}
    attended, _ = attention_forward(packed, pad_token, bias, scale=weights.scale, **sizes)
    return pointwise_kernel(attended, proj, residual=x)


def pointwise_reference(
    x: Tensor,
    weights: PointwiseWeights,
    *,
    activation: str = "none",
    residual: Tensor | None = None,
    after: str = "none",
) -> Tensor:
    """after(activation(LayerNorm(x) @ weight.T + bias) + residual): (..., K) -> (..., N)."""
    to = partial(torch.Tensor.to, dtype=x.dtype)
    if weights.norm_weight is not None and weights.norm_bias is not None:
        x = _layer_norm(x, weights.norm_weight, weights.norm_bias, weights.eps, weights.normed)
    y = ACTIVATIONS[activation](F.linear(x, to(weights.weight), to(weights.bias)))
    return ACTIVATIONS[after](y if residual is None else y + residual)


def pointwise(
    x: Tensor,
    weights: PointwiseWeights,
    *,
    activation: str = "none",
    residual: Tensor | None = None,
    after: str = "none",
) -> Tensor:
    """``pointwise_reference`` by one kernel."""
    channels, depth = weights.weight.shape
    shape = (*x.shape[:-1], channels)
    if weights.norm_weight is None and native.takes(x, depth, residual, shape):
        return native.pointwise(x, weights, activation=activation, residual=residual, after=after)
    if not _uses_kernel("pointwise convolution", kernel_refusal(x) or switched_off("pointwise")):
        return pointwise_reference(x, weights, activation=activation, residual=residual, after=after)
    packed = weights.packed(x.dtype)
    return pointwise_kernel(x, packed, eps=weights.eps, activation=activation, residual=residual, after=after)


def convolution_reference(x: Tensor, weights: ConvolutionWeights, *, activation: str = "none") -> Tensor:
    """activation(convolution(x) + bias): (B, H, W, C) -> (B, H', W', N); with ReLU one call of cuDNN on CUDA."""
    w = weights
    convolve = conv_relu if activation == "relu" else F.conv2d
    options: dict[str, Any] = {"stride": w.stride, "padding": w.padding, "dilation": w.dilation, "groups": w.groups}
    y = convolve(x.permute(0, 3, 1, 2), w.weight.to(x.dtype), w.bias.to(x.dtype), **options)
    return (y if activation in ("none", "relu") else ACTIVATIONS[activation](y)).permute(0, 2, 3, 1).contiguous()


def convolution(x: Tensor, weights: ConvolutionWeights, *, activation: str = "none") -> Tensor:
    """``convolution_reference``; on an x86 processor by one kernel."""
    plain = weights.groups == 1 and weights.dilation == (1, 1)
    if plain and native.takes(x, weights.weight.shape[1]) and _covers(x, weights):
        return native.convolution(x, weights, activation=activation)
    return convolution_reference(x, weights, activation=activation)


def _covers(x: Tensor, weights: ConvolutionWeights) -> bool:
    """Whether the padded map (B, H, W, C) is at least as large as the convolution's cells."""
    cells = weights.weight.shape[2:]
    return all(x.shape[i + 1] + 2 * weights.padding[i] >= cells[i] for i in range(2))


def depthwise_pointwise_reference(
    x: Tensor,
    weights: DepthwiseWeights,
    *,
    middle: str = "none",
    activation: str = "none",
    residual: Tensor | None = None,
) -> Tensor:
    """activation(middle(depthwise3x3(x)) @ weight.T + bias) + residual, padding 1.

    (B, H, W, K) -> (B, ceil(H / stride), ceil(W / stride), N).
    """
    to = partial(torch.Tensor.to, dtype=x.dtype)
    taps = to(weights.depthwise)[:, None]
    y = F.conv2d(
        x.permute(0, 3, 1, 2), taps, to(weights.depthwise_bias), weights.stride, padding=1, groups=taps.shape[0]
    )
    y = ACTIVATIONS[middle](y).permute(0, 2, 3, 1)
    y = ACTIVATIONS[activation](F.linear(y, to(weights.weight), to(weights.bias)))
    return y if residual is None else y + residual


def depthwise_pointwise(
    x: Tensor,
    weights: DepthwiseWeights,
    *,
    middle: str = "none",
    activation: str = "none",
    residual: Tensor | None = None,
) -> Tensor:
    """``depthwise_pointwise_reference`` by one kernel, which never writes the depthwise stage's map."""
    size = [-(-side // weights.stride) for side in x.shape[1:3]]
    if native.takes(x, weights.depthwise.shape[0], residual, (x.shape[0], *size, weights.weight.shape[0])):
        return native.depthwise_pointwise(x, weights, middle=middle, activation=activation, residual=residual)
    if not _uses_kernel("depthwise convolution", kernel_refusal(x) or switched_off("depthwise_pointwise")):
        return depthwise_pointwise_reference(x, weights, middle=middle, activation=activation, residual=residual)
    return depthwise_pointwise_kernel(
        x,
        weights.packed(x.dtype),
        stride=weights.stride,
        middle=middle,
        activation=activation,
        residual=residual,
    )


def feed_forward_block_reference(x: Tensor, first: PointwiseWeights, second: DepthwiseWeights) -> Tensor:
    """x + gelu(fc2(gelu(depthwise3x3(gelu(fc1(LayerNorm(x))))))): (B, H, W, C) -> the same."""
    hidden = pointwise_reference(x, first, activation="gelu")
    return depthwise_pointwise_reference(hidden, second, middle="gelu", activation="gelu", residual=x)


def feed_forward_block(x: Tensor, first: PointwiseWeights, second: DepthwiseWeights) -> Tensor:
    """``feed_forward_block_reference`` by two kernels on a GPU, by one on a CPU that writes neither hidden map."""
    whole = first.norm_weight is not None and not _is_filled(first.normed, x)
    if whole and native.takes(x, second.weight.shape[0]):
        return native.feed_forward_block(x, first, second)
    hidden = pointwise(x, first, activation="gelu")
    return depthwise_pointwise(hidden, second, middle="gelu", activation="gelu", residual=x)


def _is_filled(normed: int | None, x: Tensor) -> bool:
    return normed is not None and normed < x.shape[-1]


def _resized(term: Tensor, factor: int, size: tuple[int, int], mode: str) -> Tensor:
    """``models.fusion.upsample_to`` on a channels-last map."""
    return upsample_sooner(term.permute(0, 3, 1, 2), factor, size, mode).permute(0, 2, 3, 1)


def fusion_sum_reference(
    terms: Sequence[Tensor], factors: Sequence[int], size: tuple[int, int], *, mode: str
) -> Tensor:
    """ReLU of the sum of the terms, those with a factor above 1 resized by ``models.fusion.upsample_to``.

    Args:
        terms: (B, h, w, C) each.
        factors: of each term: 1 where it has the result's size, else what ``upsample_to`` multiplies by.
        size: (H, W) of the result.
        mode: of ``upsample_to``.

    Returns:
        (B, H, W, C).
    """
    total: Tensor | None = None
    for term, factor in zip(terms, factors, strict=True):
        y = term if factor == 1 else _resized(term, factor, size, mode)
        total = y if total is None else total + y
    assert total is not None, "a fusion has at least one term"
    return F.relu(total)


def fusion_sum(terms: Sequence[Tensor], factors: Sequence[int], size: tuple[int, int], *, mode: str) -> Tensor:
    """``fusion_sum_reference`` by one kernel that resizes on the fly.

    A term whose size times its factor is not the result's needs a second resizing in modes "nearest" and
    "bilinear"; torch does both before the kernel adds it.
    """
    refusal = kernel_refusal(terms[0], SUM_DTYPES) or switched_off("fusion_sum")
    if refusal is None and len(terms) > MAX_TERMS:
        refusal = f"{len(terms)} terms, at most {MAX_TERMS}"
    exact = mode in MULTIPLYING
    runs_native = exact and native.fuses(terms, factors, size)
    if not runs_native and not _uses_kernel("fusion", refusal):
        return fusion_sum_reference(terms, factors, size, mode=mode)
    ready = [
        _resized(term, factor, size, mode)
        if exact and factor > 1 and (term.shape[1] * factor, term.shape[2] * factor) != size
        else term
        for term, factor in zip(terms, factors, strict=True)
    ]
    if runs_native:
        return native.fusion_sum(ready, [size[0] // term.shape[1] for term in ready], size, bilinear=mode == "bilinear")
    return fusion_sum_kernel(ready, size, mode="bilinear" if mode == "bilinear_to_size" else mode)
