"""Weights of the kernels in bfloat16, packed as ``source/half`` reads them, and the numbers behind their pointers.

Maps and the weights of products are bfloat16; biases, depthwise weights and all sums are float32. The tiles of AMX and
the dot products of AVX512-BF16 want weights in the same order: panels of 32 outputs, of 16 where no more are left, and
in a panel, for every two of the depth, the two weights of every output side by side. Depths are filled up to multiples
of 32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
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
    zero_padded,
)

GROUP = 32
"""Channels of a map that kernels take at once, and outputs of a panel."""

NEVER = -1e30
"""Score of places that are no tokens."""


def grouped(count: int) -> int:
    """``count`` rounded up to whole groups."""
    return -(-count // GROUP) * GROUP


def _filled(vector: Tensor) -> Tensor:
    return F.pad(vector.float(), (0, -vector.shape[-1] % GROUP)).contiguous()


def parted(tensor: Tensor) -> Tensor:
    """(..., n) -> (..., n rounded up to whole groups): of every group the numbers at even places, then those at odd.

    Kernels take a group of a map as two vectors so, which costs less than its order.
    """
    whole = F.pad(tensor, (0, -tensor.shape[-1] % GROUP))
    return whole.unflatten(-1, (-1, GROUP // 2, 2)).transpose(-1, -2).flatten(-3).contiguous()


def joined(dim: int) -> list[int]:
    """The order of a head's packed values: in pieces of 32, 16 and 8, of every eight the first four, then the rest."""
    order: list[int] = []
    while left := dim - len(order):
        piece = next(size for size in (32, 16, 8) if size <= left)
        places = torch.arange(piece).view(-1, 2, 4).transpose(0, 1).flatten() + len(order)
        order += places.tolist()
    return order


def pack_half(weight: Tensor) -> Tensor:
    """(N, K) weights of a product over K -> (K filled * N rounded up to 16,) bfloat16, panel after panel."""
    depth = grouped(weight.shape[1])
    columns = F.pad(weight.float(), (0, depth - weight.shape[1], 0, -weight.shape[0] % 16)).bfloat16()
    panels = [panel.reshape(-1, depth // 2, 2).transpose(0, 1).reshape(-1) for panel in columns.split(GROUP)]
    return torch.cat(panels)


def _product(name: str, weight: Tensor, bias: Tensor) -> dict[str, Tensor]:
    bias_name = "bias" if name == "weight" else f"{name}_bias"
    return {name: pack_half(weight), bias_name: _filled(bias)}


def _attention(w: AttentionWeights) -> dict[str, Any]:
    """Heads are filled up to whole 16 bytes. Softmax by powers of two: queries and biases are multiplied by log2(e)."""
    exponent = math.log2(math.e)
    qkv, proj = folded_attention(*w.pairs(), (w.head_dim**-0.5 if w.scale is None else w.scale) * exponent)
    heads, dim, tokens = w.num_heads, w.head_dim, w.window**2
    wide = -(-dim // 8) * 8
    rows = zero_padded(qkv[0].view(3, heads, dim, -1), (3, heads, wide, qkv[0].shape[1])).flatten(0, 2)
    shifts = zero_padded(qkv[1].view(3, heads, dim), (3, heads, wide)).flatten()
    out = zero_padded(proj[0].view(-1, heads, dim), (proj[0].shape[0], heads, wide))[..., joined(wide)].flatten(1)
    scores = torch.full((heads * tokens + 16, grouped(tokens)), NEVER, dtype=torch.float32, device=rows.device)
    scores[:-16, :tokens] = 0.0 if w.bias is None else w.bias.float().flatten(0, 1) * exponent
    return {
        "channels": w.channels,
        "window": w.window,
        "heads": heads,
        "head_dim": wide,
        "eps": w.eps,
        **_product("qkv", parted(rows), shifts),
        **_product("proj", out, proj[1]),
        "bias": scores,
    }


def _feed_forward(second: DepthwiseWeights, first: PointwiseWeights) -> dict[str, Any]:
    weight, bias = first.folded()
    return {
        "channels": second.weight.shape[0],
        "hidden": first.weight.shape[0],
        "eps": first.eps,
        **_product("fc1", parted(weight), bias),
        **_product("fc2", second.weight, second.bias),
        "depthwise": _filled(second.depthwise.flatten(1).T),
        "depthwise_bias": _filled(second.depthwise_bias),
    }


def _depthwise(weights: DepthwiseWeights) -> dict[str, Any]:
    taps = parted(weights.depthwise.flatten(1).T.float())
    return {"depthwise": taps, "depthwise_bias": parted(weights.depthwise_bias.float())}


def _linear(w: PointwiseWeights) -> dict[str, Any]:
    channels, depth = w.weight.shape
    return {"depth": depth, "channels": channels, **_product("weight", w.weight, w.bias)}


def _convolution(w: ConvolutionWeights) -> dict[str, Any]:
    channels, depth, *cells = w.weight.shape
    return {
        "depth": depth,
        "channels": channels,
        "kernel_height": cells[0],
        "kernel_width": cells[1],
        **dict(zip(("stride_y", "stride_x", "padding_y", "padding_x"), (*w.stride, *w.padding), strict=True)),
        **_product("weight", _cells(w.weight), w.bias),
    }


def _cells(weight: Tensor) -> Tensor:
    """(N, C, height, width) -> (N, height * width * C), cells before channels; each fills groups of its own where there
    are many channels."""
    cells = weight.permute(0, 2, 3, 1)
    return F.pad(cells, (0, _depth_of_cell(cells.shape[-1]) - cells.shape[-1])).flatten(1)


def _depth_of_cell(depth: int) -> int:
    """Channels that a cell under the kernel of a full convolution takes, see source/half/convolution.cpp."""
    return depth if depth < GROUP else grouped(depth)


def _separable(w: DepthwiseWeights) -> dict[str, Any]:
    channels, depth = w.weight.shape
    sizes = {"depth": depth, "channels": channels, "stride": w.stride}
    return {**sizes, **_product("weight", parted(w.weight), w.bias), **_depthwise(w)}


PACKERS: Mapping[str, Callable[..., dict[str, Any]]] = {
    "attention": _attention,
    "feed_forward": _feed_forward,
    "linear": _linear,
    "convolution": _convolution,
    "separable": _separable,
}
"""Kernel -> what makes the constant fields of its structure from the weights of its stage."""


def pack(name: str, weights: StageWeights, *further: Any) -> dict[str, Any]:
    """The constant fields of a kernel's structure."""
    return PACKERS[name](weights, *further)


HALVES = frozenset({"x", "y", "residual", "fc1", "fc2", "qkv", "proj", "weight", *(f"term{i}" for i in range(4))})
"""Fields that point to bfloat16; the others point to float32."""

_HIDDEN = frozenset({"expanded", "mixed", "back2", "back1"})
_MAPS = frozenset({"x", "added", "y", "grad", "grad_x", "grad_added"})

TRAINING_HALVES: dict[str, frozenset[str]] = {
    "feed_forward_training": _HIDDEN,
    "feed_forward_training_backward": _HIDDEN,
    "attention_training": frozenset(),
    "attention_training_backward": frozenset(),
    "batch_norm_training": _MAPS,
    "batch_norm_training_backward": _MAPS,
}
"""Kernels of training with products or maps in bfloat16 -> their fields that point to bfloat16. Weights, their
gradients and what blocks give and take are float32."""


def _panels(outputs: int, depth: int) -> int:
    return -(-outputs // 16) * 16 * grouped(depth)


def _feed_forward_sizes(s: Any) -> dict[str, int]:
    return {
        **dict.fromkeys(("x", "y"), s.rows * s.width * s.channels),
        "fc1": _panels(s.hidden, s.channels),
        "depthwise": 9 * grouped(s.hidden),
        **dict.fromkeys(("fc1_bias", "depthwise_bias"), grouped(s.hidden)),
        "fc2": _panels(s.channels, s.hidden),
        "fc2_bias": grouped(s.channels),
    }


def _attention_sizes(s: Any) -> dict[str, int]:
    inner = s.heads * s.head_dim
    return {
        **dict.fromkeys(("x", "y"), s.batch * s.height * s.width * s.channels),
        "qkv": _panels(3 * inner, s.channels),
        "qkv_bias": grouped(3 * inner),
        "proj": _panels(s.channels, inner),
        "proj_bias": grouped(s.channels),
        "bias": (s.heads * s.window**2 + 16) * grouped(s.window**2),
    }


def _linear_sizes(s: Any) -> dict[str, int]:
    return {
        "x": s.rows * s.depth,
        **dict.fromkeys(("y", "residual"), s.rows * s.channels),
        "weight": _panels(s.channels, s.depth),
        "bias": grouped(s.channels),
    }


def _convolution_sizes(s: Any) -> dict[str, int]:
    return {
        "x": s.batch * s.height * s.width * s.depth,
        "y": s.batch * s.out_height * s.out_width * s.channels,
        "weight": _panels(s.channels, s.kernel_height * s.kernel_width * _depth_of_cell(s.depth)),
        "bias": grouped(s.channels),
    }


def _separable_sizes(s: Any) -> dict[str, int]:
    cells = -(-s.height // s.stride) * -(-s.width // s.stride)
    return {
        "x": s.batch * s.height * s.width * s.depth,
        **dict.fromkeys(("y", "residual"), s.batch * cells * s.channels),
        "depthwise": 9 * grouped(s.depth),
        "depthwise_bias": grouped(s.depth),
        "weight": _panels(s.channels, s.depth),
        "bias": grouped(s.channels),
    }


def _fusion_sizes(s: Any) -> dict[str, int]:
    terms = {f"term{i}": s.batch * getattr(s, f"height{i}") * getattr(s, f"width{i}") * s.channels for i in range(4)}
    return {"y": s.batch * s.height * s.width * s.channels, **terms}


SIZES: Mapping[str, Callable[[Any], Mapping[str, int]]] = {
    "feed_forward": _feed_forward_sizes,
    "attention": _attention_sizes,
    "linear": _linear_sizes,
    "convolution": _convolution_sizes,
    "separable": _separable_sizes,
    "fusion": _fusion_sizes,
    "program": lambda s: {},
}
"""Kernel -> the numbers behind each pointer, from its structure."""
