"""Folded weights of the fused stages of inference: how they are made, the layouts that kernels want, who holds them;
and branches widened with channels of zeros, to widths that vector units and memory like better."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from hrformer.fast.triton.depthwise_pointwise import PackedDepthwise, pack_depthwise
from hrformer.fast.triton.launch import round_up
from hrformer.fast.triton.pointwise import PackedPointwise, pack_pointwise
from hrformer.fast.triton.window_block import PackedWindowBlock, pack_window_block
from hrformer.models.blocks import TransformerBlock
from hrformer.models.heads import ClassificationHead, FCNHead, OCRHead, PoseHead
from hrformer.models.trunk import HighResolutionTrunk

Made = TypeVar("Made")
Weights = TypeVar("Weights", bound="StageWeights")
Pair = tuple[Tensor, Tensor]
"""Weight and bias."""


def zero_padded(x: Tensor, shape: Sequence[int]) -> Tensor:
    """``x`` in the corner of a tensor of zeros of ``shape``; no side may shrink."""
    assert len(shape) == x.ndim
    assert all(new >= old for new, old in zip(shape, x.shape, strict=True))
    pads = [(0, new - old) for new, old in zip(shape, x.shape, strict=True)]
    return F.pad(x, [side for pair in reversed(pads) for side in pair])


@torch.no_grad()
def folded_conv(conv: nn.Conv2d, norm: nn.Module | None = None) -> tuple[Tensor, Tensor]:
    """Weight and bias, float64, of the convolution that equals ``norm(conv(x))`` with running statistics.

    ``y = (Wx + b - mean) / sqrt(var + eps) * gain + shift`` is a convolution too (Ioffe and Szegedy 2015, 3.1).

    Raises:
        ValueError: the norm keeps no running statistics, so that its result depends on the batch.
    """
    weight = conv.weight.double()
    bias = weight.new_zeros(weight.shape[0]) if conv.bias is None else conv.bias.double()
    if norm is None or isinstance(norm, nn.Identity):
        return weight, bias
    if not isinstance(norm, nn.modules.batchnorm._BatchNorm) or norm.running_mean is None or norm.running_var is None:
        raise ValueError(f"only a batch norm with running statistics can be folded, got {norm}")
    scale = torch.rsqrt(norm.running_var.double() + norm.eps)
    shift = -norm.running_mean.double() * scale
    if norm.weight is not None:
        shift, scale = shift * norm.weight.double(), scale * norm.weight.double()
    if norm.bias is not None:
        shift = shift + norm.bias.double()
    return weight * scale.view(-1, 1, 1, 1), bias * scale + shift


def folded_attention(norm: Pair, qkv: Pair, proj: Pair, scale: float) -> tuple[Pair, Pair]:
    """The two products of window attention, float64, with the norm's gain and shift and the scale of queries folded in.

    They are for padded tokens that hold zeros after the first product. A constant added to all keys changes no softmax,
    and one added to all values passes it unchanged: the biases of keys go, those of values move into the projection.

    Args:
        norm: gain and shift (C,). ``qkv``: (3hd, C) and (3hd,). ``proj``: (C, hd) and (C,).
        scale: of the scores.
    """
    weight, whole = qkv[0].double(), qkv[1].double().view(3, -1)
    factors = torch.tensor([scale, 1.0, 1.0], dtype=torch.float64, device=weight.device)[:, None]
    # Real tokens hold the norm's shift, those of the padding do not: it stays with keys and values.
    moved = (weight @ norm[1].double()).view(3, -1)
    moved[0] += whole[0]
    scaled = (weight * norm[0].double()).view(3, -1, weight.shape[1]) * factors[..., None]
    out = proj[0].double()
    return (scaled.flatten(0, 1), (moved * factors).flatten()), (out, proj[1].double() + out @ whole[2])


@dataclass(kw_only=True, eq=False)
class StageWeights:
    """Weights of one stage as trained, in any one precision, and what was made of them for kernels."""

    made: dict[Any, Any] = field(default_factory=dict, repr=False)

    def once(self, key: Any, make: Callable[[], Made]) -> Made:
        """What ``make`` makes, made once and kept under ``key``."""
        if key not in self.made:
            self.made[key] = make()
        return cast(Made, self.made[key])


@dataclass(kw_only=True, eq=False)
class AttentionWeights(StageWeights):
    """Weights of LayerNorm, window attention and projection.

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

    @property
    def channels(self) -> int:
        """C."""
        return self.proj_weight.shape[0]

    @property
    def head_dim(self) -> int:
        """d."""
        return self.proj_weight.shape[1] // self.num_heads

    def whole(self, dtype: torch.dtype) -> PackedWindowBlock:
        """Layout for the kernel that does everything."""
        sizes: dict[str, Any] = {name: getattr(self, name) for name in ("window", "num_heads", "normed", "scale")}
        return self.once(dtype, lambda: pack_window_block(*self.pairs(), self.bias, dtype, **sizes))

    def parts(self, dtype: torch.dtype) -> tuple[PackedPointwise, Tensor, Tensor | None, PackedPointwise]:
        """Layout for three kernels: normalise and qkv, token of the padding, bias, projection."""
        norm, qkv, proj = self.pairs()
        return self.once(
            ("parts", dtype),
            lambda: (
                pack_pointwise(*qkv, norm, dtype, normed=self.normed),
                self.qkv_bias.to(dtype).contiguous(),
                None if self.bias is None else self.bias.to(dtype).contiguous(),
                pack_pointwise(*proj, None, dtype),
            ),
        )

    def pairs(self) -> tuple[Pair, Pair, Pair]:
        """Of the norm, the first product and the projection."""
        return (
            (self.norm_weight, self.norm_bias),
            (self.qkv_weight, self.qkv_bias),
            (self.proj_weight, self.proj_bias),
        )


@dataclass(kw_only=True, eq=False)
class PointwiseWeights(StageWeights):
    """A matrix product over channels, weight (N, K) and bias (N,), with LayerNorm's (K,) before it or without.

    LayerNorm counts the first ``normed`` channels, all where it is None; the others hold zeros.
    """

    weight: Tensor
    bias: Tensor
    norm_weight: Tensor | None = None
    norm_bias: Tensor | None = None
    eps: float = 0.0
    normed: int | None = None

    def folded(self) -> Pair:
        """The product alone, float64, with the gain and shift of LayerNorm folded in; there must be one."""
        assert self.norm_weight is not None
        assert self.norm_bias is not None
        weight = self.weight.double()
        return weight * self.norm_weight.double(), self.bias.double() + weight @ self.norm_bias.double()

    def packed(self, dtype: torch.dtype) -> PackedPointwise:
        """Layout for the kernel."""
        gain, shift = self.norm_weight, self.norm_bias
        norm = None if gain is None or shift is None else (gain, shift)
        return self.once(dtype, lambda: pack_pointwise(self.weight, self.bias, norm, dtype, normed=self.normed))


@dataclass(kw_only=True, eq=False)
class DepthwiseWeights(StageWeights):
    """A depthwise 3x3 convolution, (K, 3, 3) and (K,), then a matrix product, (N, K) and (N,)."""

    depthwise: Tensor
    depthwise_bias: Tensor
    weight: Tensor
    bias: Tensor
    stride: int = 1

    def packed(self, dtype: torch.dtype) -> PackedDepthwise:
        """Layout for the kernel."""
        tensors = (self.depthwise, self.depthwise_bias, self.weight, self.bias)
        return self.once(dtype, lambda: pack_depthwise(*tensors, dtype))


@dataclass(kw_only=True, eq=False)
class ConvolutionWeights(StageWeights):
    """A convolution, weight (N, C / groups, height, width) and bias (N,), in the memory format that it is to run in."""

    weight: Tensor
    bias: Tensor
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1


class Frozen(nn.Module):
    """A module that holds folded weights as buffers and lends them to ``hrformer.fast.stages``.

    The kernels' own layouts are made at the first call and thrown away when the module moves or is copied. Weights
    are not meant to change: loading others into the buffers would leave those layouts behind.
    """

    def __init__(self) -> None:
        super().__init__()
        self._weights: dict[str, Any] = {}

    def hold(self, name: str, value: Tensor | None, dtype: torch.dtype) -> None:
        """Register a buffer that no state dict holds: it can be made again from the trained model."""
        held = None if value is None else value.detach().to(dtype).contiguous()
        self.register_buffer(name, held, persistent=False)

    def lend(self, kind: type[Weights], prefix: str, **settings: Any) -> Weights:
        """The buffers whose names start with ``prefix`` as weights of one stage."""
        if prefix not in self._weights:
            tensors: dict[str, Any] = {
                name.removeprefix(prefix): held for name, held in self._buffers.items() if name.startswith(prefix)
            }
            self._weights[prefix] = kind(**tensors, **settings)
        return cast(Weights, self._weights[prefix])

    def _apply(self, fn: Any, recurse: bool = True) -> Frozen:
        self._weights = {}
        return super()._apply(fn, recurse)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_weights": {}}


def channels_last(x: Tensor) -> Tensor:
    """(B, C, H, W) -> contiguous (B, H, W, C), free where the memory is channels-last; in autocast's precision."""
    if torch.is_autocast_enabled(x.device.type):
        x = x.to(torch.get_autocast_dtype(x.device.type))
    return x.permute(0, 2, 3, 1).contiguous()


@torch.no_grad()
def widen(trunk: HighResolutionTrunk, head: nn.Module | None, align: int) -> int:
    """Fill the branches of a trunk up to multiples of ``align``, in place; the head skips the filling.

    Transformer blocks are left as they are: whatever replaces them has to take and give the wider maps.

    Args:
        trunk: in evaluation mode.
        head: that reads its maps; a trunk without one keeps its channels, which are outputs, and so does one with a
            head whose reading layers are not known.
        align: 1 changes nothing.

    Returns:
        What the branches are multiples of now: ``align``, or 1 where they keep their channels.

    Raises:
        ValueError: a batch norm keeps no running statistics.
    """
    readers = None if head is None else _readers(head, [info.channels for info in trunk.feature_info])
    if readers is None:
        return 1
    if any(count % align for count in trunk.config.channels):
        for name, part in trunk.named_children():
            if name.startswith(("transition", "stage")):
                _widen(part, align)
        for conv, parts in readers:
            _spread_inputs(conv, parts, align)
    return align


def _widen(module: nn.Module, align: int) -> None:
    """Fill the channels of every convolution and batch norm below ``module``; transformer blocks do so themselves."""
    if isinstance(module, TransformerBlock):
        return
    if isinstance(module, nn.Conv2d):
        _widen_conv(module, align)
    elif isinstance(module, _BatchNorm):
        _widen_norm(module, align)
    for child in module.children():
        _widen(child, align)


def _widen_conv(conv: nn.Conv2d, align: int) -> None:
    out, into = round_up(conv.out_channels, align), round_up(conv.in_channels, align)
    depthwise = conv.groups == conv.in_channels == conv.out_channels and conv.groups > 1
    assert depthwise or conv.groups == 1, "trunks have full and depthwise convolutions only"
    shape = (out, 1 if depthwise else into, *conv.kernel_size)
    conv.weight = nn.Parameter(zero_padded(conv.weight, shape), requires_grad=False)
    if conv.bias is not None:
        conv.bias = nn.Parameter(zero_padded(conv.bias, (out,)), requires_grad=False)
    conv.in_channels, conv.out_channels, conv.groups = into, out, into if depthwise else 1


def _widen_norm(norm: _BatchNorm, align: int) -> None:
    """Added channels have gain, shift and mean 0 and variance 1, so that zeros stay zeros."""
    if norm.running_mean is None or norm.running_var is None:
        raise ValueError(f"only a batch norm with running statistics can be folded, got {norm}")
    old, new = norm.num_features, round_up(norm.num_features, align)
    variance = zero_padded(norm.running_var, (new,))
    variance[old:] = 1.0
    norm.running_mean, norm.running_var = zero_padded(norm.running_mean, (new,)), variance
    norm.weight = nn.Parameter(zero_padded(norm.weight, (new,)), requires_grad=False)
    norm.bias = nn.Parameter(zero_padded(norm.bias, (new,)), requires_grad=False)
    norm.num_features = new


def _readers(head: nn.Module, channels: list[int]) -> list[tuple[nn.Conv2d, list[int]]] | None:
    """The convolutions that read the trunk's maps, each with the channels of its maps side by side.

    None where the head is not one of ours, or something else than a convolution reads the maps.
    """
    try:
        found = _reading_layers(head, channels)
    except (AttributeError, IndexError, TypeError):  # parts of the head were taken out or replaced
        return None
    if all(type(conv) is nn.Conv2d and conv.groups == 1 and conv.in_channels == sum(parts) for conv, parts in found):
        return found or None
    return None


def _reading_layers(head: Any, channels: list[int]) -> list[tuple[Any, list[int]]]:
    if type(head) is ClassificationHead:
        blocks = [(cast(Any, incre)[0], [n]) for n, incre in zip(channels, head.incre_modules, strict=True)]
        ways = [(block.downsample, parts) for block, parts in blocks]
        firsts = [(block.conv1, parts) for block, parts in blocks]
        return firsts + [(way[0], parts) for way, parts in ways if not isinstance(way, nn.Identity)]
    if type(head) is PoseHead:
        return [(head.final_layer, channels)]
    if type(head) is OCRHead:
        return [(head.aux[0], channels), (head.pixel[0], channels)]
    return [(head.last_layer[0], channels)] if type(head) is FCNHead else []


def _spread_inputs(conv: nn.Conv2d, channels: list[int], align: int) -> None:
    def widened(part: Tensor) -> Tensor:
        return zero_padded(part, (part.shape[0], round_up(part.shape[1], align), *part.shape[2:]))

    weight = torch.cat([widened(part) for part in conv.weight.split(channels, 1)], 1)
    conv.weight = nn.Parameter(weight, requires_grad=False)
    conv.in_channels = weight.shape[1]
