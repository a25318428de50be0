"""HRFormer and HRNet for inference: the same function on kernels that pass over a map once.

Batch norms are folded into the convolutions in float64, bias tables are gathered once. Every stage goes through
``hrformer.fast.stages``, which takes a Triton kernel on CUDA devices, a compiled one on x86 processors or, with one log
line, the plain reference. Maps stay (B, C, H, W) in channels-last memory between modules and are (B, H, W, C) inside.
Dimension letters as in ``hrformer.fast.stages``.
"""

from __future__ import annotations

import copy
from functools import partial
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from hrformer.fast.eligibility import HEADS, is_foldable, plain_kind
from hrformer.fast.folding import (
    AttentionWeights,
    ConvolutionWeights,
    DepthwiseWeights,
    Frozen,
    PointwiseWeights,
    channels_last,
    folded_conv,
    widen,
    zero_padded,
)
from hrformer.fast.stages import (
    attention_block,
    convolution,
    depthwise_pointwise,
    feed_forward_block,
    fusion_sum,
    pointwise,
)
from hrformer.fast.triton.graphs import side_by_side
from hrformer.fast.triton.launch import round_up
from hrformer.models.blocks import Bottleneck, TransformerBlock
from hrformer.models.fusion import FusionUnit
from hrformer.models.heads import ObjectAttention
from hrformer.models.trunk import HighResolutionModule, HighResolutionTrunk

CONTAINERS = (nn.Sequential, nn.ModuleList, ObjectAttention)
"""What calls its parts as modules; other kinds might read the layers in them and are left alone."""


class FoldedConv(Frozen):
    """A convolution with its batch norm and, where asked, ReLU, on channels-last maps; 1x1 as a matrix product."""

    def __init__(self, conv: nn.Conv2d, norm: nn.Module, *, relu: bool) -> None:
        super().__init__()
        weight, bias = folded_conv(conv, norm)
        self.relu = relu
        self.options: dict[str, Any] = {
            name: getattr(conv, name) for name in ("stride", "padding", "dilation", "groups")
        }
        one_cell = conv.kernel_size == conv.stride == (1, 1) and conv.padding == (0, 0)
        self.is_product = one_cell and conv.groups == 1
        self.weight: Tensor
        self.hold("weight", weight.flatten(1) if self.is_product else weight, conv.weight.dtype)
        if not self.is_product:
            self.weight = self.weight.contiguous(memory_format=torch.channels_last)
        self.hold("bias", bias, conv.weight.dtype)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """(B, H, W, C) -> (B, H', W', C'); a product adds a residual and rectifies the sum."""
        if residual is not None:
            return pointwise(x, self.lend(PointwiseWeights, ""), residual=residual, after="relu")
        if self.is_product:
            return pointwise(x, self.lend(PointwiseWeights, ""), activation="relu" if self.relu else "none")
        weights = self.lend(ConvolutionWeights, "", **self.options)
        return convolution(x, weights, activation="relu" if self.relu else "none")


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


class FusedConv(nn.Module):
    """A convolution, its batch norm or identity, ReLU if asked: (B, C, H, W) -> (B, C', H', W'), channels-last.

    One without a batch norm makes a result, not a map for the next: it computes in its weights' precision.
    """

    def __init__(self, conv: nn.Conv2d, norm: nn.Module, *, relu: bool) -> None:
        super().__init__()
        self.is_last = isinstance(norm, nn.Identity)
        self.conv = FoldedConv(conv, norm, relu=relu)

    def forward(self, x: Tensor) -> Tensor:
        x = channels_last(x)
        y: Tensor = self.conv(x.to(self.conv.weight.dtype) if self.is_last else x)
        return y.permute(0, 3, 1, 2)


class FusedBottleneck(nn.Module):
    """``Bottleneck`` in evaluation mode: the residual and the last ReLU belong to the last product.

    Args:
        block: trained; read, not kept.
    """

    def __init__(self, block: Bottleneck) -> None:
        super().__init__()
        self.conv1 = FoldedConv(block.conv1, block.bn1, relu=True)
        self.conv2 = FoldedConv(block.conv2, block.bn2, relu=True)
        self.downsample: nn.Module = nn.Identity()
        if isinstance(block.downsample, nn.Sequential):
            conv, norm = block.downsample
            self.downsample = FoldedConv(cast(nn.Conv2d, conv), norm, relu=False)
        self.conv3 = FoldedConv(block.conv3, block.bn3, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, 4 * planes, H, W)."""
        y = channels_last(x)
        out: Tensor = self.conv3(self.conv2(self.conv1(y)), self.downsample(y))
        return out.permute(0, 3, 1, 2)


def fold_convolutions(module: nn.Module, *, lone: bool = False) -> None:
    """Replace what can be folded below ``module``, in place: bottlenecks, and convolutions in a Sequential whose
    next layer is a batch norm, with the ReLU behind it; where asked, full convolutions on their own too."""
    if plain_kind(type(module)) is nn.Sequential:
        _fold_sequence(cast(nn.Sequential, module))
    for name, child in list(module.named_children()):
        if plain_kind(type(child)) is Bottleneck:
            setattr(module, name, FusedBottleneck(cast(Bottleneck, child)))
        elif plain_kind(type(child)) in CONTAINERS:
            fold_convolutions(child, lone=lone)
        elif lone and type(child) is nn.Conv2d and child.groups == 1 and is_foldable(child):
            setattr(module, name, FusedConv(child, nn.Identity(), relu=False))


def _fold_sequence(module: nn.Sequential) -> None:
    layers: list[nn.Module] = list(module)
    folded: list[nn.Module] = []
    while layers:
        layer, *layers = layers
        if layers and _are_folded(layer, layers[0]):
            norm, *layers = layers
            relu = bool(layers) and type(layers[0]) is nn.ReLU and is_foldable(layers[0])
            layers = layers[1:] if relu else layers
            folded.append(FusedConv(cast(nn.Conv2d, layer), norm, relu=relu))
        else:
            folded.append(layer)
    while len(module):
        del module[0]
    module.extend(folded)


def _are_folded(conv: nn.Module, norm: nn.Module) -> bool:
    """Whether they are a convolution and its batch norm, which may be one made for several processes."""
    kinds = type(conv) is nn.Conv2d and type(norm) in (nn.BatchNorm2d, nn.SyncBatchNorm)
    return kinds and is_foldable(conv) and is_foldable(norm) and conv.out_channels == norm.num_features


Model = TypeVar("Model", bound=nn.Module)

ALIGN = 8
"""Half-precision channels in the 16 bytes that a thread loads at once: 78 channels would load 4 bytes at a time."""


class FusedTransformerBlock(Frozen):
    """``TransformerBlock`` in evaluation mode: one to three kernels for attention, one or two for the rest.

    Args:
        block: trained; read, not kept.
        align: channels of the maps, and of every head, are filled up with zeros to multiples of this.
    """

    def __init__(self, block: TransformerBlock, align: int = 1) -> None:
        super().__init__()
        attn, ffn = block.attn, block.ffn
        dtype = attn.qkv.weight.dtype
        self.window, self.num_heads = attn.window, attn.num_heads
        self.eps = (block.norm1.eps, block.norm2.eps)
        self.channels = attn.proj.out_features
        head_dim = self.channels // self.num_heads
        self.scale = head_dim**-0.5
        width, wide_head = round_up(self.channels, align), round_up(head_dim, align)
        heads = (3, self.num_heads, wide_head)
        qkv = zero_padded(attn.qkv.weight.view(3, self.num_heads, head_dim, -1), (*heads, width)).flatten(0, 2)
        qkv_bias = zero_padded(attn.qkv.bias.view(3, self.num_heads, head_dim), heads).flatten()
        proj = zero_padded(attn.proj.weight.view(-1, self.num_heads, head_dim), (width, *heads[1:])).flatten(1)
        fc1, fc2 = folded_conv(ffn.fc1, ffn.norm1), folded_conv(ffn.fc2, ffn.norm3)
        depthwise = folded_conv(ffn.dw3x3, ffn.norm2)
        held = {
            "attn_norm_weight": zero_padded(block.norm1.weight, (width,)),
            "attn_norm_bias": zero_padded(block.norm1.bias, (width,)),
            "attn_qkv_weight": qkv,
            "attn_qkv_bias": qkv_bias,
            "attn_proj_weight": proj,
            "attn_proj_bias": zero_padded(attn.proj.bias, (width,)),
            "attn_bias": attn.gathered_bias(),
            "fc1_norm_weight": zero_padded(block.norm2.weight, (width,)),
            "fc1_norm_bias": zero_padded(block.norm2.bias, (width,)),
            "fc1_weight": zero_padded(fc1[0].flatten(1), (fc1[0].shape[0], width)),
            "fc1_bias": fc1[1],
            "fc2_depthwise": depthwise[0].flatten(0, 1),
            "fc2_depthwise_bias": depthwise[1],
            "fc2_weight": zero_padded(fc2[0].flatten(1), (width, fc2[0].shape[1])),
            "fc2_bias": zero_padded(fc2[1], (width,)),
        }
        for name, value in held.items():
            self.hold(name, value, dtype)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        y = channels_last(x)
        sizes = {"window": self.window, "num_heads": self.num_heads, "normed": self.channels, "scale": self.scale}
        y = attention_block(y, self.lend(AttentionWeights, "attn_", eps=self.eps[0], **sizes))
        first = self.lend(PointwiseWeights, "fc1_", eps=self.eps[1], normed=self.channels)
        y = feed_forward_block(y, first, self.lend(DepthwiseWeights, "fc2_"))
        return y.permute(0, 3, 1, 2)

    def extra_repr(self) -> str:
        return f"window={self.window}, num_heads={self.num_heads}"


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
        maps = [channels_last(x) for x in xs]
        kept = [i for i, row in enumerate(self.paths) if len(cast(nn.ModuleList, row)) > 0]
        made = dict(zip(kept, side_by_side([partial(self._output, i, maps) for i in kept]), strict=True))
        return [made.get(i, xs[i]) for i in range(len(self.paths))]


class FusedModule(nn.Module):
    """``HighResolutionModule`` in evaluation mode: branches side by side, then the exchange between them.

    Args:
        module: its blocks and its fusion unit are replaced where they have a fused form.
        align: what the channels of its maps were filled up to, see ``FusedTransformerBlock``.
    """

    def __init__(self, module: HighResolutionModule, align: int = 1) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(
                *(
                    FusedTransformerBlock(block, align) if isinstance(block, TransformerBlock) else block
                    for block in cast(nn.Sequential, branch)
                )
            )
            for branch in module.branches
        )
        self.fuse = FusedFusionUnit(module.fuse)

    def forward(self, xs: list[Tensor]) -> list[Tensor]:
        """[(B, C_j, H_j, W_j)] -> the fused branches."""
        ways = [partial(branch, xs[i]) for i, branch in enumerate(self.branches)]
        return cast(list[Tensor], self.fuse(side_by_side(ways)))


def fuse_trunk(model: Model, align: int = ALIGN, *, lone: bool = False) -> Model:
    """A copy of ``model`` in evaluation mode whose trunk and head are folded and fused.

    HRNet's own blocks stay; its branches run side by side and its fusion units are fused. Heads that are not of this
    package stay too, and so does a backbone that is no ``HighResolutionTrunk`` as a whole. Whether a trunk is what the
    fused one computes is ``eligibility.changed_part``'s part.

    Args:
        model: trained; read, not kept.
        align: branches are filled up to multiples of this where a head reads them; the kernels for x86 processors
            take any width.
        lone: fuse convolutions too that no batch norm follows.
    """
    fused = copy.deepcopy(model).eval()
    trunk, head = getattr(fused, "backbone", None), getattr(fused, "head", None)
    if not isinstance(trunk, HighResolutionTrunk):
        return fused
    align = widen(trunk, head, align)
    for stage in (trunk.stage2, trunk.stage3, trunk.stage4):
        for name, module in stage.named_children():
            setattr(stage, name, FusedModule(cast(HighResolutionModule, module), align))
    _fold_stem(trunk)
    fold_convolutions(trunk, lone=lone)
    if type(head) in HEADS:
        fold_convolutions(cast(nn.Module, head), lone=lone)
    return fused


def _fold_stem(trunk: HighResolutionTrunk) -> None:
    for conv, norm in (("conv1", "bn1"), ("conv2", "bn2")):
        found = getattr(trunk, conv)
        if isinstance(found, nn.Conv2d):  # not where only the first map is wanted
            setattr(trunk, conv, FusedConv(found, getattr(trunk, norm), relu=True))
            setattr(trunk, norm, nn.Identity())
    trunk.relu = nn.Identity()  # type: ignore[assignment]
