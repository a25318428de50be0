"""Resizing of feature maps and logits, with the size fix-ups that published weights need."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx.experimental.symbolic_shapes import statically_known_true

UpsampleMode = Literal["nearest", "bilinear", "bilinear_aligned", "bilinear_to_size"]
UPSAMPLE_MODES: tuple[UpsampleMode, ...] = ("nearest", "bilinear", "bilinear_aligned", "bilinear_to_size")


def resize_bilinear(x: Tensor, size: tuple[int, int], *, align_corners: bool) -> Tensor:
    """Bilinear resize of (B, C, H, W) to ``size`` (height, width); returns ``x`` itself where nothing changes.

    A resize to the same size keeps every value, and a compiled graph for open sizes may do so."""
    if _has_size(x, size):
        return x
    return F.interpolate(x, size=[size[0], size[1]], mode="bilinear", align_corners=align_corners)


def _has_size(x: Tensor, size: tuple[int, int]) -> bool:
    """Whether a map has this (height, width); while a graph for open sizes is compiled, whether it always has.

    Asking for the sizes at hand would tie the graph to them. TorchScript skips the other branches of its own test.
    """
    if torch.jit.is_scripting():
        return x.shape[-2] == size[0] and x.shape[-1] == size[1]
    elif torch.compiler.is_compiling():
        return statically_known_true(x.shape[-2] == size[0]) and statically_known_true(x.shape[-1] == size[1])
    else:
        return x.shape[-2] == size[0] and x.shape[-1] == size[1]


def upsample_to(x: Tensor, factor: int, size: tuple[int, int], mode: str) -> Tensor:
    """Bring a coarse map to a finer branch: multiply the size by ``factor``, then fix up odd sizes.

    ``nearest`` (classification and segmentation): nearest, then bilinear with aligned corners where the size
    still differs. ``bilinear`` (pose): both steps bilinear, corners not aligned. ``bilinear_aligned``
    (HRNet-Semantic-Segmentation with OCR): one bilinear step to the target size, corners aligned.
    ``bilinear_to_size`` (the same repository without OCR): the same, corners not aligned.

    Args:
        x: (B, C, H, W).
        factor: 2 ** (number of branches between the two maps).
        size: target (height, width).
        mode: one of ``UPSAMPLE_MODES``, see above.
    """
    grown = [x.shape[-2] * factor, x.shape[-1] * factor]  # whole numbers; a scale factor is a float to the compiler
    if mode == "nearest":
        x = F.interpolate(x, size=grown, mode="nearest")
        return resize_bilinear(x, size, align_corners=True)
    if mode == "bilinear":
        x = F.interpolate(x, size=grown, mode="bilinear", align_corners=False)
        return resize_bilinear(x, size, align_corners=False)
    return resize_bilinear(x, size, align_corners=mode == "bilinear_aligned")
