"""A predictor from a name, a file or a model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, TypeAlias

import torch

from hrformer.checkpoints.checkpoint import load_model
from hrformer.checkpoints.download import resolve_weights
from hrformer.fast.choice import Precision, check_precision
from hrformer.fast.optimize import optimize
from hrformer.models.model import VisionModel, find_device
from hrformer.predict.classify import ClassificationPredictor
from hrformer.predict.exported import ExportedFile, exported_model, is_exported, pipeline_predictor
from hrformer.predict.pose import PosePredictor
from hrformer.predict.segment import SegmentationPredictor

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
    precision: Precision = "fp32",
    **overrides: Any,
) -> AnyPredictor:
    """The predictor for the task of published weights or of a weight file.

    Args:
        name_or_path: a name that ``hrformer models`` lists, downloaded once, the path of a weight file, or
            ``hf://OWNER/REPO[@REVISION][/FILE]`` on the Hugging Face Hub; or a file that ``hrformer export`` wrote
            (.onnx, .xml, .pt2), which runs in its own runtime on the CPU.
        device: where to run; None takes the GPU if there is one.
        dtype: of weights and arithmetic.
        fast: run through ``hrformer.optimize``; results differ by rounding.
        precision: of the network's products. With ``fast`` on the CPU that of ``hrformer.optimize``; elsewhere "bf16"
            is PyTorch's autocast, with ``fast`` on a GPU weights in bfloat16, and "auto" is "fp32".
        **overrides: what a file cannot tell, see ``hrformer.checkpoints.checkpoint.load_model``.

    Raises:
        ValueError: unknown name, or the file is not one that can be loaded, or it has no head; an unknown precision, or
            one beside a ``dtype``.
        FileNotFoundError: there is no such file.
        DownloadError: the weights could not be fetched.
    """
    check_precision(precision, dtype)
    if is_exported(name_or_path):
        path = Path(name_or_path).expanduser()
        if fast or dtype != torch.float32 or precision != "fp32" or overrides:
            raise ValueError(
                f"{path.name} is a finished program; fast, dtype, precision and settings of weights do not apply to it"
            )
        return _load_exported(path, device)
    path, published = resolve_weights(name_or_path)
    model, report = load_model(path, published=published, **overrides)
    if not fast:
        predictor = predictor_for(model, device=device, dtype=dtype, precision=precision)
    else:
        if precision == "bf16" and find_device(device).type != "cpu":
            dtype = torch.bfloat16
        predictor = predictor_for(model, device=device, dtype=dtype)
        predictor.model = optimize(model, precision=precision)
    predictor.report, predictor.weights = report, path
    return predictor


def _load_exported(path: Path, device: str | torch.device | None) -> AnyPredictor:
    """The predictor of an exported file, which stays what it is."""
    if device is not None and torch.device(device).type != "cpu":
        raise ValueError(f"{path.name} runs on the CPU here, got device {str(device)!r}")
    file = ExportedFile(path)
    if file.facts["graph"] == "pipeline":
        return pipeline_predictor(file)
    return predictor_for(exported_model(file), device="cpu")


def predictor_for(
    model: VisionModel,
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype = torch.float32,
    precision: Precision = "fp32",
) -> AnyPredictor:
    """The predictor for a model's task, with the published test protocol as options; ValueError without a head."""
    if model.task is None:
        raise ValueError(f"{model.info.name} is a bare backbone; a predictor needs a head for one of {[*_PREDICTORS]}")
    return _PREDICTORS[model.task](model, device=device, dtype=dtype, precision=precision)
