"""Predictors of all tasks, and the function that makes the right one from a name or a file."""

from __future__ import annotations

import os
from typing import Any, TypeAlias

import torch

from hrformer.checkpoints.checkpoint import load_model
from hrformer.checkpoints.download import resolve_weights
from hrformer.fast.optimize import optimize
from hrformer.models.model import VisionModel
from hrformer.predict.base import Predictor
from hrformer.predict.classify import ClassificationPredictor
from hrformer.predict.pose import PosePredictor
from hrformer.predict.segment import SegmentationPredictor

__all__ = [
    "AnyPredictor",
    "ClassificationPredictor",
    "PosePredictor",
    "Predictor",
    "SegmentationPredictor",
    "load",
    "predictor_for",
]

AnyPredictor: TypeAlias = "ClassificationPredictor | PosePredictor | SegmentationPredictor"

_PREDICTORS: dict[str, type[ClassificationPredictor | PosePredictor | SegmentationPredictor]] = {
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
    """Make a predictor from published weights or a weight file.

    Args:
        name_or_path: a name that ``hrformer models`` lists, downloaded once, or the path of a weight file.
        device: where to run; None takes the GPU if there is one.
        dtype: of weights and arithmetic.
        fast: run through ``hrformer.optimize``; results differ by rounding.
        **overrides: what a file cannot tell, see ``hrformer.checkpoints.checkpoint.load_model``.

    Returns:
        The predictor for the weights' task.

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
    """Wrap a model in the predictor for its task, with the published test protocol as options.

    Raises:
        ValueError: the model has no head.
    """
    if model.task is None:
        raise ValueError(f"{model.info.name} is a bare backbone; a predictor needs a head for one of {[*_PREDICTORS]}")
    return _PREDICTORS[model.task](model, device=device, dtype=dtype)
