"""Predictors of classes for pictures and for pixels, and the function that makes a predictor from a name or a file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from hrformer.checkpoints.checkpoint import load_model
from hrformer.checkpoints.download import resolve_weights
from hrformer.data.images import LoadedImage
from hrformer.data.preprocess import centre_crop
from hrformer.fast.optimize import optimize
from hrformer.models.model import ModelInfo, VisionModel
from hrformer.predict.base import PredictOptions, Predictor
from hrformer.predict.pose import PosePredictor
from hrformer.predict.results import Classification
from hrformer.predict.segment import SegmentationPredictor


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

    def _job(self, image: LoadedImage, options: ClassificationOptions) -> tuple[LoadedImage, list[Tensor]]:
        return image, [torch.tensor(centre_crop(self._pixels(image), self.info.input_spec))]

    @torch.inference_mode()
    def _run(self, pixels: Tensor, options: ClassificationOptions) -> Sequence[Tensor]:
        """(B, H, W, 3) uint8 -> B probability vectors (C,) on the CPU. Mirrored logits are averaged in."""
        x = self._network_input(pixels)
        logits = self.model(x).float()
        if options.flip:
            logits = (logits + self.model(x.flip(-1)).float()) / 2
        return list((logits / self.info.temperature).softmax(dim=1).cpu())

    def _result(self, image: LoadedImage, answers: Sequence[Tensor], options: ClassificationOptions) -> Classification:
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


AnyPredictor: TypeAlias = ClassificationPredictor | PosePredictor | SegmentationPredictor

_PREDICTORS: dict[str, type[AnyPredictor]] = {
    predictor.task: predictor for predictor in (ClassificationPredictor, PosePredictor, SegmentationPredictor)
}


def load(
    name_or_path: str | os.PathLike[str],
    device: str | torch.device | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    fast: bool = False,
    **overrides: Any,
) -> AnyPredictor:
    """The predictor for the task of published weights or of a weight file.

    Args:
        name_or_path: a name that ``hrformer models`` lists, downloaded once, the path of a weight file, or
            ``hf://OWNER/REPO[@REVISION][/FILE]`` on the Hugging Face Hub.
        device: where to run; None takes the GPU if there is one.
        dtype: of weights and arithmetic.
        fast: run through ``hrformer.optimize``; results differ by rounding.
        **overrides: what a file cannot tell, see ``hrformer.checkpoints.checkpoint.load_model``.

    Raises:
        ValueError: unknown name, or the file is not one that can be loaded, or it has no head.
        FileNotFoundError: there is no such file.
        DownloadError: the weights could not be fetched.
    """
    path, published = resolve_weights(name_or_path)
    model, report = load_model(path, published=published, **overrides)
    predictor = predictor_for(model, device=device, dtype=dtype)
    predictor.report = report
    if fast:
        predictor.model = optimize(model)
    return predictor


def predictor_for(
    model: VisionModel, *, device: str | torch.device | None = None, dtype: torch.dtype = torch.float32
) -> AnyPredictor:
    """The predictor for a model's task, with the published test protocol as options; ValueError without a head."""
    if model.task is None:
        raise ValueError(f"{model.info.name} is a bare backbone; a predictor needs a head for one of {[*_PREDICTORS]}")
    return _PREDICTORS[model.task](model, device=device, dtype=dtype)
