"""Folded weights of the fused stages of inference, and the layouts that kernels want, each made once.

Dimension letters: C channels, K input and N output channels of a matrix product, h heads, d head dimension.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from hrformer.fast.triton.depthwise_pointwise import PackedDepthwise, pack_depthwise
from hrformer.fast.triton.pointwise import PackedPointwise, pack_pointwise
from hrformer.fast.triton.window_block import PackedWindowBlock, pack_window_block
from hrformer.fast.x86.library import Kernel


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

    kernels: dict[str, Kernel] = field(default_factory=dict, repr=False)

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
    kernels: dict[str, Kernel] = field(default_factory=dict, repr=False)

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
    kernels: dict[str, Kernel] = field(default_factory=dict, repr=False)

    def packed(self, dtype: torch.dtype) -> PackedDepthwise:
        """Layout for the kernel, made once."""
        if dtype not in self._packed:
            self._packed[dtype] = pack_depthwise(self.depthwise, self.depthwise_bias, self.weight, self.bias, dtype)
        return self._packed[dtype]


@dataclass(kw_only=True, eq=False)
class ConvolutionWeights:
    """A convolution, weight (N, C / groups, height, width) and bias (N,), in the memory format that it is to run in."""

    weight: Tensor
    bias: Tensor
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    kernels: dict[str, Kernel] = field(default_factory=dict, repr=False)
