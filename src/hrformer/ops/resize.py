"""Resizing of feature maps and logits, with the size fix-ups that published weights need."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

UpsampleMode = Literal["nearest", "bilinear", "bilinear_aligned", "bilinear_to_size"]
UPSAMPLE_MODES: tuple[UpsampleMode, ...] = ("nearest", "bilinear", "bilinear_aligned", "bilinear_to_size")


def resize_bilinear(x: Tensor, size: tuple[int, int], *, align_corners: bool) -> Tensor:
    """Bilinear resize of (B, C, H, W) to ``size`` (height, width); returns ``x`` itself where nothing changes."""
    if x.shape[-2] == size[0] and x.shape[-1] == size[1]:
        return x
    return F.interpolate(x, size=[size[0], size[1]], mode="bilinear", align_corners=align_corners)


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
    if mode == "nearest":
        x = F.interpolate(x, scale_factor=float(factor), mode="nearest")
        return resize_bilinear(x, size, align_corners=True)
    if mode == "bilinear":
        x = F.interpolate(x, scale_factor=float(factor), mode="bilinear", align_corners=False)
        return resize_bilinear(x, size, align_corners=False)
    return resize_bilinear(x, size, align_corners=mode == "bilinear_aligned")
