"""Pictures to class probabilities."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hrformer.data.images import LoadedImage, Pictures, load_images
from hrformer.data.preprocess import centre_crop
from hrformer.models.model import VisionModel
from hrformer.predict.base import PredictOptions, Predictor
from hrformer.predict.batching import run_in_batches
from hrformer.predict.results import Classification


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassificationOptions(PredictOptions):
    """ImageNet's protocol (one centre crop, no mirror image), and how much of it to report.

    Attributes:
        top_k: how many classes to report, at most all.
    """

    top_k: int = 5

    def __post_init__(self) -> None:
        PredictOptions.__post_init__(self)
        if self.top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {self.top_k}")


class ClassificationPredictor(Predictor[Classification, ClassificationOptions]):
    """Names what is in a picture. Arguments as for ``Predictor``."""

    task = "classification"

    def __init__(
        self, model: VisionModel, options: ClassificationOptions = ClassificationOptions(), **placement: Any
    ) -> None:
        super().__init__(model, options, **placement)

    def stream(self, images: Pictures, **options: Any) -> Iterator[Classification]:
        """Classify pictures one batch at a time.

        Args:
            images: see ``load_images``.
            **options: fields of ``ClassificationOptions``.
        """
        opts = self._merged(options)
        spec = self.info.input_spec
        jobs = ((image, [torch.tensor(centre_crop(self._pixels(image), spec))]) for image in load_images(images))
        for image, (probabilities,) in run_in_batches(jobs, lambda x: self._run(x, opts), opts.batch_size):
            yield self._result(image, probabilities, opts)

    @torch.inference_mode()
    def _run(self, pixels: Tensor, options: ClassificationOptions) -> Sequence[Tensor]:
        """(B, H, W, 3) uint8 -> B probability vectors (C,) on the CPU. Mirrored logits are averaged in."""
        x = self._network_input(pixels)
        logits = self.model(x).float()
        if options.flip:
            logits = (logits + self.model(x.flip(-1)).float()) / 2
        return list(logits.softmax(dim=1).cpu())

    def _result(self, image: LoadedImage, probabilities: Tensor, options: ClassificationOptions) -> Classification:
        # A stable sort rather than topk: equal probabilities come out in the order of the classes on any device.
        order = probabilities.argsort(descending=True, stable=True)[: options.top_k].tolist()
        names = self.info.class_names
        return Classification(
            image=image.pixels,
            path=image.path,
            class_ids=tuple(order),
            labels=tuple(names[i] if names else str(i) for i in order),
            probabilities=tuple(probabilities[order].tolist()),
        )
