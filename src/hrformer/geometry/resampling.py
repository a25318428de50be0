"""Pillow's resizing as matrix products, so that a graph can hold it: filters that widen where pictures are shrunk."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_HALF = 0.5 + 2**-13
"""A half and what sums of 32-bit floats lose: Pillow, which counts in whole numbers, rounds halves up."""


def resample(
    planes: Tensor, size: tuple[int, int], new_size: tuple[int, int], interpolation: str, part: tuple[int, ...] = ()
) -> Tensor:
    """Resize (B, C, H, W), whole numbers from 0 to 255, as Pillow resizes pictures of 8 bits.

    Pillow rounds after each of the two passes, and so does this. The results differ by one grey level at most, and in
    fewer than one of two hundred values (``tests/geometry``).

    Args:
        planes: floating point.
        size: (H, W). ``new_size``: what all of it becomes.
        interpolation: "bilinear" or "antialiased", which are the same here, "bicubic", or "nearest".
        part: (top, left, height, width) of the result to make; all of it where left out.

    Returns:
        (B, C, height, width).
    """
    top, left, rows, columns = part or (0, 0, *new_size)
    across = _weights(size[1], new_size[1], left, columns, interpolation).to(planes)
    down = _weights(size[0], new_size[0], top, rows, interpolation).to(planes)
    planes = (planes @ across.T + _HALF).floor().clamp(0, 255)
    return (down @ planes + _HALF).floor().clamp(0, 255)


def _weights(length: Any, new: Any, start: int, count: int, interpolation: str) -> Tensor:
    """(count, length) share of each old pixel in the new pixels from ``start`` on; rows sum to 1."""
    # Where a new pixel's middle lies among the old ones, as whole and remainder: 32-bit floats would not hold it.
    twice = (2 * (torch.arange(count) + start) + 1) * length
    whole = twice // (2 * new)
    rest = (twice - whole * (2 * new)).float() / (2 * new)
    pixels = torch.arange(length)
    if interpolation == "nearest":
        return (pixels == whole[:, None]).float()
    distance = (pixels - whole[:, None]).float() + (0.5 - rest)[:, None]
    # Shrinking stretches the filter.
    distance = distance.abs() * torch.sym_min(1.0, new / length)
    shares = _cubic(distance) if interpolation == "bicubic" else (1 - distance).clamp(min=0)
    return shares / shares.sum(dim=1, keepdim=True)


def _cubic(x: Tensor) -> Tensor:
    """Keys' kernel with a = -0.5, as Pillow has it, for x >= 0."""
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return near.where(x < 1, far.where(x < 2, 0.0))
