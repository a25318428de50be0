"""Masks of another size than their picture: what that means, and what to do about it."""

from __future__ import annotations

from collections.abc import Sequence

SAME_SHAPE = 0.02
"""Aspect ratios that differ by no more than this share are equal but for rounding."""


def size_advice(mask: tuple[int, int], picture: tuple[int, int]) -> str:
    """What to do about a mask of another (width, height) than the upright picture; resize only what keeps its shape."""
    if mask == (picture[1], picture[0]):
        return (
            "the sides are swapped: the mask was drawn on the picture as it is stored (EXIF orientation) or turned by "
            "hand; turn the mask by 90 degrees, and do not resize it"
        )
    across, down = mask[0] / picture[0], mask[1] / picture[1]
    if min(mask) < 1 or abs(across / down - 1) > SAME_SHAPE:
        return (
            "the shapes differ too, so one of both was cut or turned, or the mask belongs to another picture: find the "
            "mask that was drawn on this picture, or draw it again, and do not resize it"
        )
    return f"resize the mask to {picture[0]} x {picture[1]} by nearest neighbour only, or save it so again"


def size_problem(mask_file: str, mask: Sequence[int], picture_file: str, picture: Sequence[int]) -> str:
    """Message about a mask of another size; ``mask`` and ``picture`` are the shapes (H, W, ...)."""
    return (
        f"{mask_file}: the mask is {mask[1]} x {mask[0]} pixels, its picture {picture_file} is {picture[1]} x "
        f"{picture[0]}; they must have one size: {size_advice((mask[1], mask[0]), (picture[1], picture[0]))}"
    )
