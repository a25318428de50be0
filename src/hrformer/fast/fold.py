"""Batch norm folded into the convolution before it, and channels filled up with zeros."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def rounded_up(count: int, multiple: int) -> int:
    """The smallest multiple of ``multiple`` that is at least ``count``."""
    return -(-count // multiple) * multiple


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
