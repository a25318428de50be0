"""HRFormer's blocks for inference on CUDA devices: the same function on kernels that pass over the map once.

Batch norms are folded into the convolutions in float64, bias tables are gathered once. Every stage goes through
``hrformer.ops.fused``, which takes a Triton kernel or, with one log line, the plain reference. Maps stay
(B, C, H, W) in channels-last memory between modules. Dimension letters as in ``hrformer.ops.fused``.
"""

from __future__ import annotations

import copy
from functools import partial
from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hrformer.fast.fold import folded_conv
from hrformer.fast.graphs import side_by_side
from hrformer.layers.blocks import TransformerBlock
from hrformer.layers.fusion import FusionUnit
from hrformer.models.trunk import HighResolutionModule
from hrformer.ops.fused import (
    AttentionWeights,
    DepthwiseWeights,
    PointwiseWeights,
    attention_block,
    depthwise_pointwise,
    fusion_sum,
    pointwise,
)
from hrformer.ops.windows import gather_bias

Weights = TypeVar("Weights", AttentionWeights, DepthwiseWeights, PointwiseWeights)
Model = TypeVar("Model", bound=nn.Module)


class Frozen(nn.Module):
    """A module that holds folded weights as buffers and lends them to ``hrformer.ops.fused``.

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


def _channels_last(x: Tensor) -> Tensor:
    """(B, C, H, W) -> contiguous (B, H, W, C), free where the memory is channels-last; in autocast's precision."""
    if torch.is_autocast_enabled(x.device.type):
        x = x.to(torch.get_autocast_dtype(x.device.type))
    return x.permute(0, 2, 3, 1).contiguous()


class FusedTransformerBlock(Frozen):
    """``TransformerBlock`` in evaluation mode: attention in one kernel or three, the feed-forward network in two.

    Args:
        block: trained; read, not kept.
    """

    def __init__(self, block: TransformerBlock) -> None:
        super().__init__()
        attn, ffn = block.attn, block.ffn
        dtype = attn.qkv.weight.dtype
        self.window, self.num_heads = attn.window, attn.num_heads
        self.eps = (block.norm1.eps, block.norm2.eps)
        bias: Tensor | None = None
        if attn.position_bias:
            bias = gather_bias(attn.relative_position_bias_table, attn.relative_position_index, attn.window)
        fc1, fc2 = folded_conv(ffn.fc1, ffn.norm1), folded_conv(ffn.fc2, ffn.norm3)
        depthwise = folded_conv(ffn.dw3x3, ffn.norm2)
        held = {
            "attn_norm_weight": block.norm1.weight,
            "attn_norm_bias": block.norm1.bias,
            "attn_qkv_weight": attn.qkv.weight,
            "attn_qkv_bias": attn.qkv.bias,
            "attn_proj_weight": attn.proj.weight,
            "attn_proj_bias": attn.proj.bias,
            "attn_bias": bias,
            "fc1_norm_weight": block.norm2.weight,
            "fc1_norm_bias": block.norm2.bias,
            "fc1_weight": fc1[0].flatten(1),
            "fc1_bias": fc1[1],
            "fc2_depthwise": depthwise[0].flatten(0, 1),
            "fc2_depthwise_bias": depthwise[1],
            "fc2_weight": fc2[0].flatten(1),
            "fc2_bias": fc2[1],
        }
        for name, value in held.items():
            self.hold(name, value, dtype)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        y = _channels_last(x)
        sizes = {"window": self.window, "num_heads": self.num_heads}
        y = attention_block(y, self.lend(AttentionWeights, "attn_", eps=self.eps[0], **sizes))
        hidden = pointwise(y, self.lend(PointwiseWeights, "fc1_", eps=self.eps[1]), activation="gelu")
        weights = self.lend(DepthwiseWeights, "fc2_")
        y = depthwise_pointwise(hidden, weights, middle="gelu", activation="gelu", residual=y)
        return y.permute(0, 3, 1, 2)

    def extra_repr(self) -> str:
        return f"window={self.window}, num_heads={self.num_heads}"


class FoldedConv(Frozen):
    """A convolution with its batch norm and, where asked, ReLU, on channels-last maps; 1x1 as a matrix product."""

    def __init__(self, conv: nn.Conv2d, norm: nn.Module, *, relu: bool) -> None:
        super().__init__()
        weight, bias = folded_conv(conv, norm)
        self.relu = relu
        self.stride, self.padding, self.groups = conv.stride, conv.padding, conv.groups
        self.is_product = conv.kernel_size == (1, 1) and conv.stride == (1, 1) and conv.groups == 1
        self.weight: Tensor
        self.hold("weight", weight.flatten(1) if self.is_product else weight, conv.weight.dtype)
        if not self.is_product:
            self.weight = self.weight.contiguous(memory_format=torch.channels_last)
        self.hold("bias", bias, conv.weight.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H', W', C')."""
        if self.is_product:
            return pointwise(x, self.lend(PointwiseWeights, ""), activation="relu" if self.relu else "none")
        weight, bias = self.weight.to(x.dtype), cast(Tensor, self.bias).to(x.dtype)
        y = F.conv2d(x.permute(0, 3, 1, 2), weight, bias, self.stride, self.padding, 1, self.groups)
        return (F.relu(y) if self.relu else y).permute(0, 2, 3, 1).contiguous()


class SeparableStep(Frozen):
    """Depthwise 3x3 at stride 2 and 1x1, each with batch norm, then ReLU where asked: one kernel."""

    def __init__(self, step: nn.Sequential) -> None:
        super().__init__()
        conv, norm, point, norm2, *rest = step
        depthwise, depthwise_bias = folded_conv(cast(nn.Conv2d, conv), norm)
        weight, bias = folded_conv(cast(nn.Conv2d, point), norm2)
        self.relu = len(rest) > 0
        self.stride = cast(nn.Conv2d, conv).stride[0]
        dtype = cast(nn.Conv2d, conv).weight.dtype
        self.hold("depthwise", depthwise.flatten(0, 1), dtype)
        self.hold("depthwise_bias", depthwise_bias, dtype)
        self.hold("weight", weight.flatten(1), dtype)
        self.hold("bias", bias, dtype)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, ceil(H / 2), ceil(W / 2), C')."""
        weights = self.lend(DepthwiseWeights, "", stride=self.stride)
        return depthwise_pointwise(x, weights, activation="relu" if self.relu else "none")


def _fused_path(path: nn.Module) -> nn.Module:
    """One input's way to one output, on channels-last maps."""
    if isinstance(path, nn.Identity):
        return nn.Identity()
    parts = list(cast(nn.Sequential, path))
    if isinstance(parts[0], nn.Conv2d):
        return FoldedConv(parts[0], parts[1], relu=False)
    steps: list[nn.Module] = []
    for step in parts:
        layers = list(cast(nn.Sequential, step))
        conv = cast(nn.Conv2d, layers[0])
        if conv.groups > 1:
            steps.append(SeparableStep(cast(nn.Sequential, step)))
        else:
            steps.append(FoldedConv(conv, layers[1], relu=len(layers) > 2))
    return nn.Sequential(*steps)


class FusedFusionUnit(nn.Module):
    """``FusionUnit`` in evaluation mode: every output summed, resized and rectified by one kernel.

    Args:
        unit: trained; read, not kept.
    """

    def __init__(self, unit: FusionUnit) -> None:
        super().__init__()
        self.upsample = unit.upsample
        rows = [[_fused_path(path) for path in cast(nn.ModuleList, row)] for row in unit.paths]
        self.paths = nn.ModuleList(nn.ModuleList(row) for row in rows)

    def _output(self, i: int, maps: list[Tensor]) -> Tensor:
        row = cast(nn.ModuleList, self.paths[i])
        terms = [path(maps[j]) for j, path in enumerate(row)]
        factors = [1 << max(j - i, 0) for j in range(len(terms))]
        size = (maps[i].shape[1], maps[i].shape[2])
        return fusion_sum(terms, factors, size, mode=self.upsample).permute(0, 3, 1, 2)

    def forward(self, xs: list[Tensor]) -> list[Tensor]:
        """Branches [(B, C_j, H_j, W_j)] -> the outputs, of the same sizes."""
        maps = [_channels_last(x) for x in xs]
        kept = [i for i, row in enumerate(self.paths) if len(cast(nn.ModuleList, row)) > 0]
        made = dict(zip(kept, side_by_side([partial(self._output, i, maps) for i in kept]), strict=True))
        return [made.get(i, xs[i]) for i in range(len(self.paths))]


class FusedModule(nn.Module):
    """``HighResolutionModule`` in evaluation mode: branches side by side, then the exchange between them.

    Args:
        module: its blocks and its fusion unit are replaced where they have a fused form.
    """

    def __init__(self, module: HighResolutionModule) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(*(_fused_block(block) for block in cast(nn.Sequential, branch))) for branch in module.branches
        )
        self.fuse = fuse_fusion(module.fuse)

    def forward(self, xs: list[Tensor]) -> list[Tensor]:
        """[(B, C_j, H_j, W_j)] -> the fused branches."""
        ways = [partial(branch, xs[i]) for i, branch in enumerate(self.branches)]
        return cast(list[Tensor], self.fuse(side_by_side(ways)))


def _fused_block(block: nn.Module) -> nn.Module:
    return fuse_block(block) if isinstance(block, TransformerBlock) else block


def fuse_block(block: TransformerBlock) -> nn.Module:
    """A transformer block for inference with the weights of ``block``, which stays as it is."""
    return FusedTransformerBlock(block)


def fuse_fusion(unit: FusionUnit) -> nn.Module:
    """A fusion unit for inference with the weights of ``unit``, which stays as it is."""
    return FusedFusionUnit(unit)


def fuse_trunk(model: Model) -> Model:
    """A copy of ``model`` in evaluation mode whose high-resolution modules are fused; everything else is as it was.

    HRNet's blocks stay; its branches run side by side and its fusion units are fused.
    """
    fused = copy.deepcopy(model).eval()
    for parent in list(fused.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, HighResolutionModule):
                setattr(parent, name, FusedModule(child))
    return fused
