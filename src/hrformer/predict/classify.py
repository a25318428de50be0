"""Pictures to class probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hrformer.data.images import LoadedImage
from hrformer.data.preprocess import centre_crop
from hrformer.models.model import ModelInfo
from hrformer.predict.base import PredictOptions, Predictor
from hrformer.predict.results import Classification


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassificationOptions(PredictOptions):
    """ImageNet's protocol (one centre crop, no mirror image), and how much of it to report."""

    top_k: int = 5  # how many classes to report, at most all

    def __post_init__(self) -> None:
        PredictOptions.__post_init__(self)
        if self.top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {self.top_k}")


class ClassificationPredictor(Predictor[Classification, ClassificationOptions]):
    """Names what is in a picture. Arguments as for ``Predictor``."""

    task = "classification"

    @staticmethod
    def default_options(info: ModelInfo) -> ClassificationOptions:
        """The same for all weights."""
        return ClassificationOptions()

    def prepare(self, image: LoadedImage, options: ClassificationOptions) -> tuple[LoadedImage, list[Tensor]]:
        return image, [torch.tensor(centre_crop(self._pixels(image), self.info.input_spec))]

    @torch.inference_mode()
    def run(self, pixels: Tensor, options: ClassificationOptions) -> Sequence[Tensor]:
        """(B, H, W, 3) uint8 -> B probability vectors (C,) on the CPU. Mirrored logits are averaged in."""
        x = self._network_input(pixels)
        logits = self._output(x)
        if options.flip:
            logits = (logits + self._output(x.flip(-1))) / 2
        return list((logits / self.info.temperature).softmax(dim=1).cpu())

    def finish(self, image: LoadedImage, answers: Sequence[Tensor], options: ClassificationOptions) -> Classification:
        # A stable sort rather than topk: equal probabilities come out in the order of the classes on any device.
        order = answers[0].argsort(descending=True, stable=True)[: options.top_k].tolist()
        names = self.info.class_names
        return Classification(
            image=image.pixels,
            path=image.path,
            class_ids=tuple(order),
            labels=tuple(names[i] if names else str(i) for i in order),
            probabilities=tuple(answers[0][order].tolist()),
        )
