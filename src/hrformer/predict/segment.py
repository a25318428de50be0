"""Pictures to a class per pixel."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hrformer.data.images import LoadedImage, Pictures, load_images
from hrformer.data.preprocess import resize_short_side
from hrformer.geometry.tiles import fuse_scales, label_map, pad_to_multiple
from hrformer.models.model import ModelInfo, VisionModel
from hrformer.predict.base import PredictOptions, Predictor
from hrformer.predict.batching import run_in_batches
from hrformer.predict.results import Segmentation


@dataclass(frozen=True, kw_only=True, slots=True)
class SegmentationOptions(PredictOptions):
    """The official single-scale test; see :func:`default_options` for what depends on the data set.

    Attributes:
        short_side: bring the picture's short side to this many pixels first; None keeps the picture's size.
        scales: factors on the network input; raw logits are summed over them. (0.75, 1, 1.25) is the official
            multi-scale test, together with ``flip``.
        pad: pad on the right and below to a multiple of this many pixels, after normalisation; 1 does not pad. None:
            8 with several scales, else 1, as the official code does (ADE20K excepted, which it always pads).
    """

    batch_size: int = 1
    short_side: int | None = 520
    scales: tuple[float, ...] = (1.0,)
    pad: int | None = None

    def __post_init__(self) -> None:
        PredictOptions.__post_init__(self)
        if self.short_side is not None and self.short_side < 1:
            raise ValueError(f"short_side must be None or at least 1 pixel, got {self.short_side}")
        if not self.scales or min(self.scales) <= 0:
            raise ValueError(f"scales must be one or more numbers above 0, got {self.scales}")
        if self.pad is not None and self.pad < 1:
            raise ValueError(f"pad must be None or at least 1 pixel, got {self.pad}")

    @property
    def pad_multiple(self) -> int:
        """Multiple of pixels that the network input is padded to; 1 for none."""
        if self.pad is not None:
            return self.pad
        return 8 if tuple(self.scales) != (1.0,) else 1


def default_options(info: ModelInfo) -> SegmentationOptions:
    """Published test protocol of the weights' data set: Cityscapes at its own size, ADE20K padded to 8.

    Everything else has its short side resized to the shorter side of the training crop.
    """
    dataset = info.dataset.lower()
    return SegmentationOptions(
        short_side=None if "cityscapes" in dataset else min(info.input_spec.size),
        pad=8 if "ade20k" in dataset else None,
    )


class SegmentationPredictor(Predictor[Segmentation, SegmentationOptions]):
    """Assigns a class to every pixel. Arguments as for ``Predictor``; no options means ``default_options``."""

    task = "segmentation"

    def __init__(self, model: VisionModel, options: SegmentationOptions | None = None, **placement: Any) -> None:
        super().__init__(model, options or default_options(model.info), **placement)

    def stream(self, images: Pictures, **options: Any) -> Iterator[Segmentation]:
        """Segment pictures whole, in one pass each; a batch holds neighbours of equal size.

        Args:
            images: see ``load_images``.
            **options: fields of ``SegmentationOptions``.
        """
        opts = self._merged(options)
        jobs = ((image, [self._prepare(image, opts)]) for image in load_images(images))
        for image, (logits,) in run_in_batches(jobs, lambda x: self._run(x, opts), opts.batch_size):
            yield Segmentation(
                image=image.pixels,
                mask=label_map(logits, image.size),
                class_names=self.info.class_names,
                palette=self.info.palette,
                path=image.path,
            )

    def _prepare(self, image: LoadedImage, options: SegmentationOptions) -> Tensor:
        pixels = image.pixels
        if options.short_side is not None:
            pixels = resize_short_side(pixels, options.short_side, self.info.input_spec.interpolation)
        return torch.tensor(pixels)

    @torch.inference_mode()
    def _run(self, pixels: Tensor, options: SegmentationOptions) -> Sequence[Tensor]:
        """(B, h, w, 3) uint8 -> B times logits (C, h, w) on the model's device."""
        padded = pad_to_multiple(self._network_input(pixels), options.pad_multiple)
        logits = fuse_scales(lambda x: self.model(x).float(), padded, options.scales, options.flip)
        return list(logits[:, :, : pixels.shape[1], : pixels.shape[2]])
