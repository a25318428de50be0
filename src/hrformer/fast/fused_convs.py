"""Convolutions with their batch norm folded, for inference. Maps are (B, H, W, C) inside."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from hrformer.fast.eligibility import is_foldable
from hrformer.fast.folding import (
    ConvolutionWeights,
    DepthwiseWeights,
    Frozen,
    PointwiseWeights,
    channels_last,
    folded_conv,
)
from hrformer.fast.stages import convolution, depthwise_pointwise, pointwise
from hrformer.models.blocks import Bottleneck
from hrformer.models.heads import ObjectAttention

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

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H', W', C')."""
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
    """A convolution, its batch norm or identity, ReLU if asked: (B, C, H, W) -> (B, C', H', W'), channels-last."""

    def __init__(self, conv: nn.Conv2d, norm: nn.Module, *, relu: bool) -> None:
        super().__init__()
        self.conv = FoldedConv(conv, norm, relu=relu)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(channels_last(x))
        return y.permute(0, 3, 1, 2)


class FusedBottleneck(Frozen):
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
        weight, bias = folded_conv(block.conv3, block.bn3)
        self.hold("conv3_weight", weight.flatten(1), block.conv3.weight.dtype)
        self.hold("conv3_bias", bias, block.conv3.weight.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, 4 * planes, H, W)."""
        y = channels_last(x)
        inner = self.conv2(self.conv1(y))
        out = pointwise(inner, self.lend(PointwiseWeights, "conv3_"), residual=self.downsample(y), after="relu")
        return out.permute(0, 3, 1, 2)


def fold_convolutions(module: nn.Module) -> None:
    """Replace what can be folded below ``module``, in place: bottlenecks, and convolutions in a Sequential whose
    next layer is a batch norm, with the ReLU behind it."""
    for name, child in list(module.named_children()):
        if type(child) is Bottleneck:
            setattr(module, name, FusedBottleneck(child))
        elif type(child) in CONTAINERS:
            fold_convolutions(child)
    if type(module) is nn.Sequential:
        _fold_sequence(module)


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


def replace_lone_convolutions(module: nn.Module) -> None:
    """Let the kernels of ``ops.fused`` run the full convolutions below ``module`` that nothing was folded into."""
    for name, child in list(module.named_children()):
        if type(child) is nn.Conv2d and child.groups == 1 and is_foldable(child):
            setattr(module, name, FusedConv(child, nn.Identity(), relu=False))
        elif type(child) in CONTAINERS:
            replace_lone_convolutions(child)
