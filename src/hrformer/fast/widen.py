"""Branches widened with channels of zeros, to widths that vector units and memory like better."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from hrformer.fast.folding import rounded_up, zero_padded
from hrformer.models.blocks import TransformerBlock
from hrformer.models.heads import ClassificationHead, FCNHead, OCRHead, PoseHead
from hrformer.models.trunk import HighResolutionTrunk


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
    out, into = rounded_up(conv.out_channels, align), rounded_up(conv.in_channels, align)
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
    old, new = norm.num_features, rounded_up(norm.num_features, align)
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
        return zero_padded(part, (part.shape[0], rounded_up(part.shape[1], align), *part.shape[2:]))

    weight = torch.cat([widened(part) for part in conv.weight.split(channels, 1)], 1)
    conv.weight = nn.Parameter(weight, requires_grad=False)
    conv.in_channels = weight.shape[1]
