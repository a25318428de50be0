"""Pictures to a class per pixel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hrformer.data.images import LoadedImage
from hrformer.data.preprocess import resize
from hrformer.geometry.tiles import (
    ELONGATED,
    blend_windows,
    fuse_scales,
    label_map,
    pad_to_multiple,
    short_side_size,
    smallest_ids,
)
from hrformer.models.model import ModelInfo
from hrformer.predict.base import PredictOptions, Predictor, free_memory
from hrformer.predict.results import Segmentation

_PIXEL_BYTES = 2500
"""Memory per pixel of network input. Measured at 512 x 1024: 1060 to 1450 for our models with 11 to 150 classes, 2360
for timm's ResNet-50 with an OCR head."""

_SMALLEST_TILE = 128


@dataclass(frozen=True, kw_only=True, slots=True)
class SegmentationOptions(PredictOptions):
    """The official single-scale test; ``SegmentationPredictor.default_options`` has what depends on the data set."""

    batch_size: int = 1
    # bring the picture's short side to this many pixels first; None keeps the picture's size
    short_side: int | None = 520
    # factors on the network input; raw logits are summed over them. (0.75, 1, 1.25) is the official multi-scale test,
    # together with ``flip``
    scales: tuple[float, ...] = (1.0,)
    # pad on the right and below to a multiple of this many pixels, after normalisation; 1 does not pad. None: 8 with
    # several scales, else 1, as the official code does (ADE20K excepted, which it always pads)
    pad: int | None = None
    # (height, width) of windows over the network input, blended where they overlap; None takes the picture whole as
    # long as ``memory`` allows it, and the largest square windows that it allows after that
    tile: tuple[int, int] | None = None
    memory: float | None = None  # GB that the network's pass over a picture may take; None is half of what is free

    def __post_init__(self) -> None:
        PredictOptions.__post_init__(self)
        if self.short_side is not None and self.short_side < 1:
            raise ValueError(f"short_side must be None or at least 1 pixel, got {self.short_side}")
        if not self.scales or min(self.scales) <= 0:
            raise ValueError(f"scales must be one or more numbers above 0, got {self.scales}")
        if self.pad is not None and self.pad < 1:
            raise ValueError(f"pad must be None or at least 1 pixel, got {self.pad}")
        if self.tile is not None and (len(self.tile) != 2 or min(self.tile) < 1):
            raise ValueError(f"tile must be None or (height, width) in pixels, got {self.tile}")
        if self.memory is not None and not self.memory > 0:
            raise ValueError(f"memory must be None or above 0 GB, got {self.memory}")

    @property
    def pad_multiple(self) -> int:
        """Multiple of pixels that the network input is padded to; 1 for none."""
        if self.pad is not None:
            return self.pad
        return 8 if tuple(self.scales) != (1.0,) else 1


class SegmentationPredictor(Predictor[Segmentation, SegmentationOptions]):
    """Assigns a class to every pixel, in one pass or in tiles. Arguments as for ``Predictor``."""

    task = "segmentation"

    @staticmethod
    def default_options(info: ModelInfo) -> SegmentationOptions:
        """Published test protocol of the weights' data set: Cityscapes at its own size, ADE20K padded to 8.

        Everything else has its short side resized to the shorter side of the training crop.
        """
        dataset = info.dataset.lower()
        return SegmentationOptions(
            short_side=None if "cityscapes" in dataset else min(info.input_spec.size),
            pad=8 if "ade20k" in dataset else None,
        )

    def tile_for(self, size: tuple[int, int], options: SegmentationOptions) -> tuple[int, int] | None:
        """Tile that a network input of ``size`` (height, width) is taken in; None takes it whole."""
        if options.tile is not None:
            return options.tile
        classes = self.info.num_classes
        pixel = _PIXEL_BYTES * max(options.scales) ** 2 + 12 * classes
        budget = free_memory(self.device) / 2 if options.memory is None else options.memory * 1e9
        if size[0] * size[1] * pixel * options.batch_size <= budget:
            return None
        # One tile goes through the network at a time, beside the logits of a row of tiles: pixel a^2 + row a = budget.
        row = 8 * classes * size[1]
        side = (math.sqrt(row**2 + 4 * pixel * budget) - row) / (2 * pixel)
        side = max(int(side) // 32 * 32, _SMALLEST_TILE)
        return side, side

    @staticmethod
    def network_size(size: tuple[int, int], options: SegmentationOptions) -> tuple[int, int]:
        """(width, height) that a picture of this size is brought to for scale 1."""
        if options.short_side is None:
            return size
        short, long = sorted(size)
        most = options.short_side * ELONGATED * short // long
        return short_side_size(size, min(options.short_side, max(short, most)))

    def prepare(self, image: LoadedImage, options: SegmentationOptions) -> tuple[Any, list[Tensor]]:
        """A picture, its network input and tile; and what of it joins a batch: the whole, or nothing where in tiles."""
        size = self.network_size(image.size, options)
        pixels = torch.tensor(resize(self._pixels(image), size, self.info.input_spec.interpolation))
        tile = self.tile_for((size[1], size[0]), options)
        return (image, pixels, tile), [pixels] if tile is None else []

    @torch.inference_mode()
    def run(self, pixels: Tensor, options: SegmentationOptions) -> Sequence[Tensor]:
        """(B, h, w, 3) uint8 -> B times logits (C, h, w) on the model's device."""
        padded = pad_to_multiple(self._network_input(pixels), options.pad_multiple)
        logits = fuse_scales(self._output, padded, options.scales, options.flip)
        if not bool(logits.isfinite().all()):
            raise ValueError("the network answered NaN or infinity")
        return list(logits[:, :, : pixels.shape[1], : pixels.shape[2]])

    @torch.inference_mode()
    def finish(self, job: Any, answers: Sequence[Tensor], options: SegmentationOptions) -> Segmentation:
        image, pixels, tile = job

        def run(y0: int, x0: int, y1: int, x1: int) -> Tensor:
            return self.run(pixels[None, y0:y1, x0:x1], options)[0]

        if tile is None:
            mask = label_map(answers[0], image.size)
        else:
            ids = blend_windows(run, (pixels.shape[0], pixels.shape[1]), tile, image.size)
            mask = smallest_ids(ids, self.info.num_classes)
        names, palette = self.info.class_names, self.info.palette
        return Segmentation(image=image.pixels, mask=mask, class_names=names, palette=palette, path=image.path)
