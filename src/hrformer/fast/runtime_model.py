"""A copy of a trained model in the form that graph runtimes execute best, see ``runtime_blocks``."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn

from hrformer.fast.fold import rounded_up, zero_padded
from hrformer.fast.runtime_blocks import RuntimeBlock
from hrformer.layers.blocks import TransformerBlock
from hrformer.models.heads import ClassificationHead
from hrformer.models.model import VisionModel
from hrformer.models.trunk import HighResolutionTrunk

ALIGN = 8
"""Channels of branches grow to multiples of this: floats in a 256-bit register, half of a 512-bit one."""


def runtime_module(module: nn.Module) -> nn.Module:
    """``runtime_model`` for our models; other modules as they are, in evaluation mode."""
    return runtime_model(module) if isinstance(module, VisionModel) else module.eval()


@torch.no_grad()
def runtime_model(model: VisionModel, align: int = ALIGN) -> VisionModel:
    """A float32 copy in evaluation mode whose blocks are ``RuntimeBlock`` and whose branches are ``align``-ed wide.

    Inputs and outputs are those of ``model``; a bare trunk, whose maps are outputs, keeps its channels. Models with
    other backbones come back as plain copies.
    """
    copy = deepcopy(model).float().eval().requires_grad_(False)
    trunk = copy.backbone
    if not isinstance(trunk, HighResolutionTrunk):
        return copy
    if copy.head is None:
        align = 1
    channels = trunk.config.channels
    if any(count % align for count in channels):
        for name, part in trunk.named_children():
            if name.startswith(("transition", "stage")):
                _widen(part, align)
        if copy.head is not None:
            _widen_head(copy.head, [info.channels for info in trunk.feature_info], align)
    _replace_blocks(trunk, align)
    return copy


def _replace_blocks(module: nn.Module, align: int) -> None:
    for name, child in module.named_children():
        if isinstance(child, TransformerBlock):
            setattr(module, name, RuntimeBlock(child, align))
        else:
            _replace_blocks(child, align)


def _widen(module: nn.Module, align: int) -> None:
    """Fill the channels of every convolution and batch norm below ``module``; transformer blocks do so themselves."""
    if isinstance(module, TransformerBlock):
        return
    if isinstance(module, nn.Conv2d):
        _widen_conv(module, align)
    elif isinstance(module, nn.BatchNorm2d):
        _widen_norm(module, align)
    for child in module.children():
        _widen(child, align)


def _widen_conv(conv: nn.Conv2d, align: int) -> None:
    out, into = rounded_up(conv.out_channels, align), rounded_up(conv.in_channels, align)
    depthwise = conv.groups == conv.in_channels == conv.out_channels and conv.groups > 1
    assert depthwise or conv.groups == 1, "trunks have full and depthwise convolutions only"
    shape = (out, 1 if depthwise else into, *conv.kernel_size)
    conv.weight = nn.Parameter(zero_padded(conv.weight, shape), requires_grad=False)
    if conv.bias is not None:
        conv.bias = nn.Parameter(zero_padded(conv.bias, (out,)), requires_grad=False)
    conv.in_channels, conv.out_channels, conv.groups = into, out, into if depthwise else 1


def _widen_norm(norm: nn.BatchNorm2d, align: int) -> None:
    """Added channels have gain, shift and mean 0 and variance 1, so that zeros stay zeros."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    old, new = norm.num_features, rounded_up(norm.num_features, align)
    variance = zero_padded(norm.running_var, (new,))
    variance[old:] = 1.0
    norm.running_mean, norm.running_var = zero_padded(norm.running_mean, (new,)), variance
    norm.weight = nn.Parameter(zero_padded(norm.weight, (new,)), requires_grad=False)
    norm.bias = nn.Parameter(zero_padded(norm.bias, (new,)), requires_grad=False)
    norm.num_features = new


def _widen_head(head: nn.Module, channels: list[int], align: int) -> None:
    """Let the convolutions that read the trunk's maps skip the filling: one map each, or all side by side."""
    if isinstance(head, ClassificationHead):
        for count, incre in zip(channels, head.incre_modules, strict=True):
            for conv in incre.modules():
                if isinstance(conv, nn.Conv2d) and conv.groups == 1 and conv.in_channels == count:
                    _spread_inputs(conv, [count], align)
        return
    for conv in head.modules():
        if isinstance(conv, nn.Conv2d) and conv.in_channels == sum(channels):
            _spread_inputs(conv, channels, align)


def _spread_inputs(conv: nn.Conv2d, channels: list[int], align: int) -> None:
    def widened(part: Tensor) -> Tensor:
        return zero_padded(part, (part.shape[0], rounded_up(part.shape[1], align), *part.shape[2:]))

    weight = torch.cat([widened(part) for part in conv.weight.split(channels, 1)], 1)
    conv.weight = nn.Parameter(weight, requires_grad=False)
    conv.in_channels = weight.shape[1]
