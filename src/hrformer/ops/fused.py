"""Fused stages of inference on channels-last maps: plain references, and the choice between them and the kernels.

A kernel runs where the map is on a CUDA device and ``kernel_refusal`` has no reason against it; elsewhere the
reference of the same signature does, and each reason is logged once. Dimension letters: B batch, H/W map size,
C channels, K input and N output channels of a matrix product.

Maps in float16 and bfloat16 are rounded less often than by the references: sums, softmax, LayerNorm, activation and
residual are float32 inside a kernel and only its result and the operands of its products are rounded. In Triton's
interpreter the largest error against float64 was 0.5 to 1.0 of the reference's own in float16 (tests/kernels).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor

from hrformer.kernels.depthwise_pointwise import PackedDepthwise, pack_depthwise
from hrformer.kernels.depthwise_pointwise import depthwise_pointwise as depthwise_pointwise_kernel
from hrformer.kernels.fusion_sum import MAX_TERMS
from hrformer.kernels.fusion_sum import fusion_sum as fusion_sum_kernel
from hrformer.kernels.launch import HAVE_TRITON, SOUND_ASSEMBLER, assembler_version
from hrformer.kernels.pointwise import PackedPointwise, pack_pointwise
from hrformer.kernels.pointwise import pointwise as pointwise_kernel
from hrformer.kernels.window_attention import MAX_HEAD_DIM, attention_forward
from hrformer.kernels.window_block import PackedWindowBlock, pack_window_block, window_block, window_block_applies
from hrformer.ops.resize import upsample_to
from hrformer.ops.windows import window_attention

logger = logging.getLogger("hrformer")

ACTIVATIONS = {"none": lambda x: x, "gelu": F.gelu, "relu": F.relu}
PRODUCT_DTYPES = (torch.float16, torch.bfloat16)
"""Float32 products would run on Triton's slow path, or with less precision than torch's."""
SUM_DTYPES = (torch.float16, torch.bfloat16, torch.float32)

_told: set[tuple[str, ...]] = set()


@dataclass(kw_only=True, eq=False)
class AttentionWeights:
    """Weights of LayerNorm, window attention and projection, as trained, in any one precision.

    Maps, norms and heads may be filled up with zeros to widths that load well.

    Attributes:
        norm_weight, norm_bias: (C,). ``eps``: of LayerNorm.
        qkv_weight, qkv_bias: (3hd, C) and (3hd,), rows query, key, value.
        proj_weight, proj_bias: (C, hd) and (C,).
        bias: (h, N, N) added to the scaled scores, N tokens of a window, or None.
        window: side in cells. ``num_heads``: h.
        normed: channels that LayerNorm counts, the first of C; None for all.
        scale: of the scores; None for d ** -0.5.
    """

    norm_weight: Tensor
    norm_bias: Tensor
    qkv_weight: Tensor
    qkv_bias: Tensor
    proj_weight: Tensor
    proj_bias: Tensor
    bias: Tensor | None
    window: int
    num_heads: int
    eps: float
    normed: int | None = None
    scale: float | None = None
    _whole: dict[torch.dtype, PackedWindowBlock] = field(default_factory=dict, repr=False)
    _parts: dict[torch.dtype, tuple[PackedPointwise, Tensor, Tensor | None, PackedPointwise]] = field(
        default_factory=dict, repr=False
    )

    @property
    def channels(self) -> int:
        """C."""
        return self.proj_weight.shape[0]

    @property
    def head_dim(self) -> int:
        """d."""
        return self.proj_weight.shape[1] // self.num_heads

    def whole(self, dtype: torch.dtype) -> PackedWindowBlock:
        """Layout for the kernel that does everything, made once."""
        if dtype not in self._whole:
            self._whole[dtype] = pack_window_block(
                (self.norm_weight, self.norm_bias),
                (self.qkv_weight, self.qkv_bias),
                (self.proj_weight, self.proj_bias),
                self.bias,
                dtype,
                window=self.window,
                num_heads=self.num_heads,
                normed=self.normed,
                scale=self.scale,
            )
        return self._whole[dtype]

    def parts(self, dtype: torch.dtype) -> tuple[PackedPointwise, Tensor, Tensor | None, PackedPointwise]:
        """Layout for three kernels, made once: normalise and qkv, token of the padding, bias, projection."""
        if dtype not in self._parts:
            self._parts[dtype] = (
                pack_pointwise(
                    self.qkv_weight, self.qkv_bias, (self.norm_weight, self.norm_bias), dtype, normed=self.normed
                ),
                self.qkv_bias.to(dtype).contiguous(),
                None if self.bias is None else self.bias.to(dtype).contiguous(),
                pack_pointwise(self.proj_weight, self.proj_bias, None, dtype),
            )
        return self._parts[dtype]


@dataclass(kw_only=True, eq=False)
class PointwiseWeights:
    """A matrix product over channels, weight (N, K) and bias (N,), with LayerNorm's (K,) before it or without.

    LayerNorm counts the first ``normed`` channels, all where it is None; the others hold zeros.
    """

    weight: Tensor
    bias: Tensor
    norm_weight: Tensor | None = None
    norm_bias: Tensor | None = None
    eps: float = 0.0
    normed: int | None = None
    _packed: dict[torch.dtype, PackedPointwise] = field(default_factory=dict, repr=False)

    def packed(self, dtype: torch.dtype) -> PackedPointwise:
        """Layout for the kernel, made once."""
        if dtype not in self._packed:
            norm = None
            if self.norm_weight is not None and self.norm_bias is not None:
                norm = (self.norm_weight, self.norm_bias)
            self._packed[dtype] = pack_pointwise(self.weight, self.bias, norm, dtype, normed=self.normed)
        return self._packed[dtype]


@dataclass(kw_only=True, eq=False)
class DepthwiseWeights:
    """A depthwise 3x3 convolution, (K, 3, 3) and (K,), then a matrix product, (N, K) and (N,)."""

    depthwise: Tensor
    depthwise_bias: Tensor
    weight: Tensor
    bias: Tensor
    stride: int = 1
    _packed: dict[torch.dtype, PackedDepthwise] = field(default_factory=dict, repr=False)

    def packed(self, dtype: torch.dtype) -> PackedDepthwise:
        """Layout for the kernel, made once."""
        if dtype not in self._packed:
            self._packed[dtype] = pack_depthwise(self.depthwise, self.depthwise_bias, self.weight, self.bias, dtype)
        return self._packed[dtype]


@cache
def _capability(index: int) -> tuple[int, int]:
    return torch.cuda.get_device_capability(index)


def kernel_refusal(x: Tensor, dtypes: Sequence[torch.dtype] = PRODUCT_DTYPES) -> str | None:
    """Why no kernel runs on this map, or None where one does."""
    if torch.compiler.is_compiling():
        return "the model is being compiled or exported"
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


def _say_once(message: str, *words: str) -> None:
    if (message, *words) not in _told:
        _told.add((message, *words))
        logger.info(message, *words)


def _uses_kernel(what: str, refusal: str | None) -> bool:
    """Whether there is no refusal; logs each one once."""
    if refusal is not None:
        _say_once("%s runs on plain PyTorch: %s", what, refusal)
    return refusal is None


def _layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float, normed: int | None) -> Tensor:
    """LayerNorm in the precision of x; channels beyond ``normed`` stay zero."""
    count, channels = normed or x.shape[-1], x.shape[-1]
    y = F.layer_norm(x[..., :count], (count,), weight[:count].to(x.dtype), bias[:count].to(x.dtype), eps)
    return F.pad(y, (0, channels - count)) if count < channels else y


def attention_block_reference(x: Tensor, weights: AttentionWeights) -> Tensor:
    """x + projection(window attention(LayerNorm(x))): (B, H, W, C) -> the same; see ``ops.windows``."""
    to = partial(torch.Tensor.to, dtype=x.dtype)
    w = weights
    y = _layer_norm(x, w.norm_weight, w.norm_bias, w.eps, w.normed)
    bias = None if w.bias is None else to(w.bias)
    parts = (to(w.qkv_weight), to(w.qkv_bias), to(w.proj_weight), to(w.proj_bias))
    return x + window_attention(y, *parts, bias, window=w.window, num_heads=w.num_heads, scale=w.scale)


def attention_block(x: Tensor, weights: AttentionWeights) -> Tensor:
    """``attention_block_reference`` by one kernel where a window fits one program, else by three."""
    refusal = kernel_refusal(x)
    if refusal is None and weights.head_dim > MAX_HEAD_DIM:
        refusal = f"heads of {weights.head_dim} channels, at most {MAX_HEAD_DIM}"
    if not _uses_kernel("window attention", refusal):
        return attention_block_reference(x, weights)
    if window_block_applies(weights.channels, weights.window) and _assembler_is_sound(x):
        return window_block(x, weights.whole(x.dtype), eps=weights.eps)
    return attention_in_parts(x, weights)


def _assembler_is_sound(x: Tensor) -> bool:
    """Whether the one kernel is compiled right for the map's device; logs once that it is not."""
    if not x.is_cuda or assembler_version() >= SOUND_ASSEMBLER:
        return True
    old, first = (".".join(map(str, version)) for version in (assembler_version(), SOUND_ASSEMBLER))
    _say_once("window attention runs as three kernels: ptxas %s miscompiles the one, %s does not", old, first)
    return False


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
    if not _uses_kernel("pointwise convolution", kernel_refusal(x)):
        return pointwise_reference(x, weights, activation=activation, residual=residual, after=after)
    packed = weights.packed(x.dtype)
    return pointwise_kernel(x, packed, eps=weights.eps, activation=activation, residual=residual, after=after)


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
    if not _uses_kernel("depthwise convolution", kernel_refusal(x)):
        return depthwise_pointwise_reference(x, weights, middle=middle, activation=activation, residual=residual)
    return depthwise_pointwise_kernel(
        x,
        weights.packed(x.dtype),
        stride=weights.stride,
        middle=middle,
        activation=activation,
        residual=residual,
    )


def _resized(term: Tensor, factor: int, size: tuple[int, int], mode: str) -> Tensor:
    """``upsample_to`` on a channels-last map."""
    return upsample_to(term.permute(0, 3, 1, 2), factor, size, mode).permute(0, 2, 3, 1)


def fusion_sum_reference(
    terms: Sequence[Tensor], factors: Sequence[int], size: tuple[int, int], *, mode: str
) -> Tensor:
    """ReLU of the sum of the terms, those with a factor above 1 resized by ``ops.resize.upsample_to``.

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
    refusal = kernel_refusal(terms[0], SUM_DTYPES)
    if refusal is None and len(terms) > MAX_TERMS:
        refusal = f"{len(terms)} terms, at most {MAX_TERMS}"
    if not _uses_kernel("fusion", refusal):
        return fusion_sum_reference(terms, factors, size, mode=mode)
    exact = mode in ("nearest", "bilinear")
    ready = [
        _resized(term, factor, size, mode)
        if exact and factor > 1 and (term.shape[1] * factor, term.shape[2] * factor) != size
        else term
        for term, factor in zip(terms, factors, strict=True)
    ]
    return fusion_sum_kernel(ready, size, mode="bilinear" if mode == "bilinear_to_size" else mode)
