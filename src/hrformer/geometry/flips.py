"""Mirroring pictures, points and heatmaps. ``pairs`` lists the (left, right) joints that change places.

B pictures, K joints, H and W rows and columns.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

FlipPairs = Sequence[tuple[int, int]]


def flip_keypoints(points: NDArray[np.floating], width: float, pairs: FlipPairs) -> NDArray[np.floating]:
    """Points of the mirrored picture: x becomes width - 1 - x, left and right joints change places.

    Args:
        points: (..., K, 2) as (x, y), or (..., K, 3) as (x, y, visibility). With visibility, joints without label (0)
            come out as (0, 0, 0), as COCO writes them.
        width: of the picture in pixels.

    Raises:
        ValueError: the shape or a pair does not fit.
    """
    if points.ndim < 2 or points.shape[-1] not in (2, 3):
        raise ValueError(f"points must have shape (..., K, 2) or (..., K, 3), got {points.shape}")
    flipped = points[..., _mirror_order(points.shape[-2], pairs), :]
    flipped[..., 0] = width - 1 - flipped[..., 0]
    if points.shape[-1] == 3:
        flipped[..., :2] *= flipped[..., 2:] > 0
    return flipped


def merge_flipped(plain: Tensor, flipped: Tensor, pairs: FlipPairs, shift: bool = True) -> Tensor:
    """Mean of the heatmaps of a picture and of its mirror image (the flip test of pose estimation).

    Equal bit for bit to the official code and to mmpose.

    Args:
        plain: (B, K, H, W) output for the picture.
        flipped: (B, K, H, W) output for the mirrored picture, not yet mirrored back.
        shift: move these maps one column to the right, column 0 keeping its value. Mirroring the input mirrors a
            stride-4 map only up to a part of a cell; the published figures use the shift.

    Raises:
        ValueError: the shapes differ, or the shape or a pair does not fit.
    """
    if plain.shape != flipped.shape:
        raise ValueError(f"both outputs must have one shape, got {tuple(plain.shape)} and {tuple(flipped.shape)}")
    if flipped.ndim != 4:
        raise ValueError(f"heatmaps must be (B, K, H, W), got {tuple(flipped.shape)}")
    order = torch.tensor(_mirror_order(flipped.shape[1], pairs), device=flipped.device)
    back = flipped.index_select(1, order).flip(-1)
    if shift:
        back = torch.cat([back[..., :1], back[..., :-1]], dim=-1)
    return (plain + back) * 0.5


def _mirror_order(num_joints: int, pairs: FlipPairs) -> list[int]:
    """For each joint, the joint that it is in the mirrored picture."""
    order = list(range(num_joints))
    for left, right in pairs:
        if not (0 <= left < num_joints and 0 <= right < num_joints):
            raise ValueError(f"flip pair ({left}, {right}) does not fit {num_joints} joints")
        order[left], order[right] = right, left
    return order
