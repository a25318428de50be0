"""Augmentation and test-time preparation of pictures with masks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from hrformer.data.preprocess import draw_wear, resize, worn
from hrformer.data.set_types import IGNORE, as_image, as_pixels
from hrformer.data.transforms.settings import SegmentationAugment
from hrformer.geometry.input_spec import InputSpec
from hrformer.geometry.tiles import short_side_size


@dataclass(frozen=True, kw_only=True, slots=True)
class SegmentationDraw:
    """Everything about one augmentation that was left to chance."""

    flip: bool
    sizes: tuple[tuple[int, int], ...]  # (width, height) to resize to, one after the other
    crop: tuple[int, int]  # (y, x) of the cut-out part's corner in the resized picture
    extent: tuple[int, int, int, int]  # (y0, x0, y1, x1) of the cut-out part in the result
    brightness: int  # added to all channels
    contrast: float  # factor on all channels afterwards
    sharpness: float = 1.0  # share of its size to which the cut-out part is shrunk before it is enlarged again
    grey: bool = False  # whether its colours are taken away


class TrainSegmentation:
    """The augmentation of the HRFormer repository (openseg.pytorch), picture and mask alike.

    Short side to a fixed length where one is set, resizing by a random factor and aspect (picture bicubic, mask
    nearest), a random part of the training size, brightness, contrast. Mirroring comes first where the short side is
    set and after cutting out where it is not, as in the published runs. Where the resized picture is smaller than the
    training size, it is put at a random place; ``extent`` says which. Draws come from torch's global generator.
    """

    def __init__(self, settings: SegmentationAugment) -> None:
        self.settings = settings

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        """Draw and :meth:`apply` to ``image`` (3, H, W) uint8, ``mask`` (H, W) uint8 and ``index``."""
        if "mask" not in item:
            raise ValueError("training needs masks, and this part of the set has none")
        return self.apply(item, self.make_params(item))

    def make_params(self, item: dict[str, Any]) -> SegmentationDraw:
        """Draw for a picture of this size."""
        settings = self.settings
        height, width = item["image"].shape[-2:]
        flip = bool(torch.rand(()) < settings.flip)
        sizes = []
        if settings.short_side is not None:
            sizes.append(short_side_size((width, height), settings.short_side))
            width, height = sizes[0]
        scale, aspect = _uniform(*settings.scale), _uniform(*settings.aspect)
        # Rounded down, as in the published runs.
        width = max(int(width * math.sqrt(aspect) * scale), 1)
        height = max(int(height * math.sqrt(1 / aspect) * scale), 1)
        sizes.append((width, height))
        down, right = settings.size[0] - height, settings.size[1] - width
        y0, x0 = _whole(0, max(down, 0)), _whole(0, max(right, 0))
        sharpness, grey = draw_wear(settings.soften, settings.grey, lambda: float(torch.rand(())))
        return SegmentationDraw(
            flip=flip,
            sizes=tuple(sizes),
            crop=(_whole(0, max(-down, 0)), _whole(0, max(-right, 0))),
            extent=(y0, x0, y0 + min(height, settings.size[0]), x0 + min(width, settings.size[1])),
            brightness=_whole(-settings.brightness, settings.brightness),
            contrast=_uniform(1 - settings.contrast, 1 + settings.contrast),
            sharpness=sharpness,
            grey=grey,
        )

    def apply(self, item: dict[str, Any], draw: SegmentationDraw) -> dict[str, Any]:
        """Do what was drawn.

        Returns:
            ``image`` (3, h, w) uint8 and ``mask`` (h, w) uint8 of the training size, ``extent`` (4,) int64
            (y0, x0, y1, x1) where the picture lies in them, and ``index``.
        """
        # Black outside for now: after normalisation it becomes 0, by the extent.
        pixels = self._move(as_pixels(item["image"]), draw, self.settings.interpolation, 0)
        mask = self._move(item["mask"].numpy(), draw, "nearest", IGNORE)
        pixels = worn(pixels, draw.sharpness, draw.grey)
        if draw.brightness or draw.contrast != 1:
            values = (np.arange(256) + draw.brightness).clip(0, 255) * draw.contrast
            pixels = np.asarray(cv2.LUT(pixels, values.round().clip(0, 255).astype(np.uint8)), dtype=np.uint8)
        return {
            "image": as_image(pixels),
            "mask": torch.from_numpy(mask),
            "extent": torch.tensor(draw.extent),
            "index": item["index"],
        }

    def _move(
        self, values: NDArray[np.uint8], draw: SegmentationDraw, interpolation: str, outside: int
    ) -> NDArray[np.uint8]:
        flip_first = draw.flip and self.settings.short_side is not None
        if flip_first:
            values = np.asarray(cv2.flip(values, 1), dtype=np.uint8)
        for size in draw.sizes:
            values = resize(values, size, interpolation)
        y0, x0, y1, x1 = draw.extent
        (top, left), (height, width) = draw.crop, self.settings.size
        part = values[top : top + y1 - y0, left : left + x1 - x0]
        if draw.flip and not flip_first:
            part = np.asarray(cv2.flip(part, 1), dtype=np.uint8)
        if part.shape[:2] == (height, width):
            return np.ascontiguousarray(part)
        whole = np.full((height, width, *values.shape[2:]), outside, np.uint8)
        whole[y0:y1, x0:x1] = part
        return whole


def _uniform(low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand(()))


def _whole(low: int, high: int) -> int:
    """One of low..high."""
    return int(torch.randint(low, high + 1, ()))


def prepare_scene(
    item: dict[str, Any], spec: InputSpec, short_side: int | None = None, size: tuple[int, int] | None = None
) -> dict[str, Any]:
    """In tests: the picture resized by its short side, or to ``size`` (height, width); with neither it is kept.

    Returns:
        ``image`` (3, h, w) uint8, ``original`` (2,) int64 (H, W), ``index``, and ``mask`` as it came, if there is one:
        at its size scores are taken.
    """
    pixels = as_pixels(item["image"])
    height, width = size or pixels.shape[:2]
    if short_side is not None:
        width, height = short_side_size((width, height), short_side)
    original = torch.tensor(pixels.shape[:2])
    pixels = resize(pixels, (width, height), spec.interpolation)
    prepared = {"image": as_image(pixels), "original": original, "index": item["index"]}
    return prepared | {"mask": item["mask"]} if "mask" in item else prepared
