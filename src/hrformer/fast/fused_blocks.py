"""HRFormer's blocks for inference: the same function on kernels that pass over the map once.

Batch norms are folded into the convolutions in float64, bias tables are gathered once. Every stage goes through
``hrformer.fast.stages``, which takes a Triton kernel on CUDA devices, a compiled one on x86 processors or, with one log
line, the plain reference. Maps stay (B, C, H, W) in channels-last memory between modules. Dimension letters as in
``hrformer.fast.stages``.
"""

from __future__ import annotations

import copy
from functools import partial
from typing import TypeVar, cast

from torch import Tensor, nn

from hrformer.fast.eligibility import is_rewritten
from hrformer.fast.folding import (
    AttentionWeights,
    DepthwiseWeights,
    Frozen,
    PointwiseWeights,
    channels_last,
    folded_conv,
    rounded_up,
    zero_padded,
)
from hrformer.fast.fused_convs import FoldedConv, FusedConv, SeparableStep, fold_convolutions
from hrformer.fast.stages import attention_block, feed_forward_block, fusion_sum
from hrformer.fast.triton.graphs import side_by_side
from hrformer.fast.widen import widen
from hrformer.models.blocks import TransformerBlock
from hrformer.models.fusion import FusionUnit
from hrformer.models.trunk import HighResolutionModule, HighResolutionTrunk

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
        width, wide_head = rounded_up(self.channels, align), rounded_up(head_dim, align)
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
            nn.Sequential(*(_fused_block(block, align) for block in cast(nn.Sequential, branch)))
            for branch in module.branches
        )
        self.fuse = fuse_fusion(module.fuse)

    def forward(self, xs: list[Tensor]) -> list[Tensor]:
        """[(B, C_j, H_j, W_j)] -> the fused branches."""
        ways = [partial(branch, xs[i]) for i, branch in enumerate(self.branches)]
        return cast(list[Tensor], self.fuse(side_by_side(ways)))


def _fused_block(block: nn.Module, align: int) -> nn.Module:
    return fuse_block(block, align) if isinstance(block, TransformerBlock) else block


def fuse_block(block: TransformerBlock, align: int = 1) -> nn.Module:
    """A transformer block for inference with the weights of ``block``, which stays as it is.

    With ``align`` above 1 it takes and gives maps whose channels are filled up with zeros to multiples of it.
    """
    return FusedTransformerBlock(block, align)


def fuse_fusion(unit: FusionUnit) -> nn.Module:
    """A fusion unit for inference with the weights of ``unit``, which stays as it is."""
    return FusedFusionUnit(unit)


def fuse_trunk(model: Model, align: int = ALIGN) -> Model:
    """A copy of ``model`` in evaluation mode whose trunk and head are folded and fused.

    HRNet's own blocks stay; its branches run side by side and its fusion units are fused. Heads that are not of this
    package stay too, and so does a backbone that is no ``HighResolutionTrunk`` as a whole. Whether a trunk is what the
    fused one computes is ``eligibility.changed_part``'s part.

    Args:
        model: trained; read, not kept.
        align: branches are filled up to multiples of this where a head reads them; the kernels for x86 processors
            take any width.
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
    fold_convolutions(trunk)
    if is_rewritten(head):
        fold_convolutions(cast(nn.Module, head))
    return fused


def _fold_stem(trunk: HighResolutionTrunk) -> None:
    for conv, norm in (("conv1", "bn1"), ("conv2", "bn2")):
        found = getattr(trunk, conv)
        if isinstance(found, nn.Conv2d):  # not where only the first map is wanted
            setattr(trunk, conv, FusedConv(found, getattr(trunk, norm), relu=True))
            setattr(trunk, norm, nn.Identity())
    trunk.relu = nn.Identity()  # type: ignore[assignment]
