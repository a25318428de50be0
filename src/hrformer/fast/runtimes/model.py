"""A copy of a trained model in the form that graph runtimes execute best, see ``runtime_blocks``."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import nn

from hrformer.fast.runtimes.blocks import RuntimeBlock
from hrformer.fast.widen import widen
from hrformer.models.blocks import TransformerBlock
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
    _replace_blocks(trunk, widen(trunk, copy.head, align))
    return copy


def _replace_blocks(module: nn.Module, align: int) -> None:
    for name, child in module.named_children():
        if isinstance(child, TransformerBlock):
            setattr(module, name, RuntimeBlock(child, align))
        else:
            _replace_blocks(child, align)
