"""Exported files (ONNX, OpenVINO, torch.export) opened in their own runtime, and the predictors that run them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hrformer.checkpoints.pickles import CheckpointError
from hrformer.checkpoints.weight_files import read_header
from hrformer.data.images import LoadedImage
from hrformer.fast.runtimes.openvino import openvino_core
from hrformer.geometry.boxes import box_to_crop
from hrformer.geometry.tiles import smallest_ids
from hrformer.models.model import ModelInfo, VisionModel
from hrformer.predict.base import Predictor
from hrformer.predict.classify import ClassificationOptions, ClassificationPredictor
from hrformer.predict.pose import People, PoseOptions, PosePredictor
from hrformer.predict.results import Keypoints, Segmentation
from hrformer.predict.segment import SegmentationOptions, SegmentationPredictor

SUFFIXES = {".onnx": "onnx", ".xml": "openvino", ".pt2": "torch"}
"""File ending -> runtime."""

KEY = "hrformer"
"""Under this name an exported file holds its description, JSON."""

NETWORK_INPUT, NETWORK_OUTPUT = "network_input", "network_output"
"""Tensors inside a pipeline by which it is judged, and the ends of a bare network."""

Arrays = Mapping[str, NDArray[Any]]


def is_exported(path: str | os.PathLike[str]) -> bool:
    """Whether a file name is that of an exported file."""
    return Path(path).suffix.lower() in SUFFIXES


class ExportedFile:
    """One exported file in its runtime, on the CPU.

    Args:
        path: .onnx, .xml with its .bin beside it, or .pt2.
        inner: also answer with the tensors inside a pipeline, see ``NETWORK_INPUT``; not for .pt2.
        level: ONNX Runtime's optimisations: "disable_all", "basic", "extended", "layout" or "all".

    Attributes:
        facts: what the file says about itself: see ``hrformer.export.files.describe``.
        info: what the weights stand for.

    Raises:
        FileNotFoundError: no such file.
        CheckpointError: damaged, or not written by ``hrformer export``.
        ImportError: its runtime is not installed.
    """

    def __init__(self, path: Path, *, inner: bool = False, level: str = "all") -> None:
        if not path.is_file():
            raise FileNotFoundError(f"no exported file {path}")
        self.path = path
        self.runtime = SUFFIXES[path.suffix.lower()]
        try:
            opened = _OPENED[self.runtime](path, inner, level)
        except ImportError as error:
            package = {"onnx": "onnxruntime", "openvino": "openvino"}.get(self.runtime, "torch")
            raise ImportError(f"{path.name} runs on {package}: pip install {package} ({error})") from error
        except Exception as error:  # runtimes raise what they like
            reason = str(error).strip().partition("\n")[0]
            raise CheckpointError(f"{path} cannot be opened by its runtime: {reason}") from error
        text, self._call = opened
        try:
            self.facts: dict[str, Any] = json.loads(text)
            self.info: ModelInfo = read_header(self.facts["header"], path.name)
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{path} was not written by `hrformer export`: it does not describe itself"
            ) from error

    @property
    def options(self) -> dict[str, Any]:
        """The predictor's options that are part of the graph; none of a bare network."""
        return {name: tuple(v) if isinstance(v, list) else v for name, v in self.facts["options"].items()}

    def run(self, **inputs: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Outputs by name for inputs by name."""
        return self._call(inputs)


def _open_onnx(path: Path, inner: bool, level: str) -> tuple[str, Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # Sizes change with every picture: a plan or a pool of memory for each would only grow.
    options.enable_mem_pattern = options.enable_cpu_mem_arena = False
    options.log_severity_level = 3
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = getattr(levels, f"ORT_{'ENABLE_' * (level != 'disable_all')}{level.upper()}")
    source: str | bytes = str(path)
    if inner:
        import onnx

        model = onnx.load(path)
        names = [NETWORK_INPUT, NETWORK_OUTPUT]
        model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
        source = model.SerializeToString()
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    outputs = [one.name for one in session.get_outputs()]

    def call(inputs: Arrays) -> dict[str, NDArray[Any]]:
        return dict(zip(outputs, session.run(outputs, dict(inputs)), strict=True))

    return session.get_modelmeta().custom_metadata_map.get(KEY, ""), call


def _open_openvino(path: Path, inner: bool, level: str) -> tuple[str, Any]:
    import openvino

    model = openvino_core().read_model(path)
    text = model.get_rt_info(KEY).astype(str) if model.has_rt_info(KEY) else ""
    facts = json.loads(text) if text else {"outputs": []}
    outputs = list(facts["outputs"])
    if inner:
        model.add_outputs([NETWORK_INPUT, NETWORK_OUTPUT])
        outputs += [NETWORK_INPUT, NETWORK_OUTPUT]
    # Otherwise some processors compute in bfloat16.
    settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "bf16" if facts.get("precision") == "bf16" else "f32"}
    program = openvino.Core.compile_model(openvino_core(), model, "CPU", settings)
    places = [program.output(name) for name in outputs]  # a tensor may have several names

    def call(inputs: Arrays) -> dict[str, NDArray[Any]]:
        found = program(dict(inputs))
        return {name: found[place].copy() for name, place in zip(outputs, places, strict=True)}

    return text, call


def _open_torch(path: Path, inner: bool, level: str) -> tuple[str, Any]:
    extra = {f"{KEY}.json": ""}
    program = torch.export.load(path, extra_files=extra)
    module = program.module()
    text = extra[f"{KEY}.json"]
    facts = json.loads(text) if text else {}

    @torch.inference_mode()
    def call(inputs: Arrays) -> dict[str, NDArray[Any]]:
        found = module(*(torch.from_numpy(np.ascontiguousarray(inputs[name])) for name in facts["inputs"]))
        parts = [found] if isinstance(found, Tensor) else list(found.values() if isinstance(found, dict) else found)
        return dict(zip(facts["outputs"], (part.numpy() for part in parts), strict=True))

    return text, call


_OPENED = {"onnx": _open_onnx, "openvino": _open_openvino, "torch": _open_torch}


class RuntimeNetwork(nn.Module):
    """A bare network's file as a backbone: (B, C, H, W) float32 -> its raw output."""

    def __init__(self, file: ExportedFile) -> None:
        super().__init__()
        self.file = file

    @property
    def precision(self) -> str:
        """What the file was exported with, such as "fp32" or "int8"."""
        return str(self.file.facts["precision"])

    def forward(self, x: Tensor) -> Any:
        found = self.file.run(**{NETWORK_INPUT: x.detach().cpu().float().contiguous().numpy()})
        maps = {name: torch.from_numpy(value) for name, value in found.items()}
        return maps[NETWORK_OUTPUT] if [*maps] == [NETWORK_OUTPUT] else maps


def exported_model(file: ExportedFile) -> VisionModel:
    """A model whose forward pass is that of an exported network; one without weights for a pipeline."""
    return VisionModel(RuntimeNetwork(file), None, file.info)


class _FixedOptions(Predictor[Any, Any]):
    """What predictors of pipelines share: options that are part of the graph stay as they were exported."""

    fixed: ClassVar[tuple[str, ...]] = ("flip",)

    def __init__(self, file: ExportedFile) -> None:
        model = exported_model(file)
        super().__init__(model, replace(self.default_options(file.info), **file.options), device="cpu")
        self.file = file

    def merged_options(self, given: dict[str, Any]) -> Any:
        merged = super().merged_options(given)
        for name in self.fixed:
            if (value := getattr(merged, name)) != (kept := getattr(self.options, name)):
                raise ValueError(
                    f"{self.file.path.name} was exported with {name}={kept!r}, which is part of its graph: pass "
                    f"{name}={kept!r}, or export it again for {name}={value!r} or with --graph network"
                )
        return merged


class ExportedClassification(_FixedOptions, ClassificationPredictor):
    """Class probabilities from an exported pipeline."""

    def prepare(self, image: LoadedImage, options: ClassificationOptions) -> tuple[LoadedImage, list[Tensor]]:
        return image, [torch.tensor(self._pixels(image))]

    def run(self, pixels: Tensor, options: ClassificationOptions) -> Sequence[Tensor]:
        return list(torch.from_numpy(self.file.run(images=pixels.numpy())["probabilities"]))


class ExportedPose(_FixedOptions, PosePredictor):
    """Keypoints from an exported pipeline."""

    fixed = ("flip", "shift")

    def prepare(self, image: Any, options: PoseOptions) -> tuple[People, Sequence[Tensor]]:
        image, found = image
        height, width = self.info.input_spec.size
        centers, sizes = box_to_crop(found.boxes, aspect=width / height)
        return People(image=image, found=found, centers=centers, sizes=sizes), ()

    def finish(self, people: People, answers: Sequence[Any], options: PoseOptions) -> Keypoints:
        pixels, boxes = self._pixels(people.image), people.found.boxes.astype(np.float32)
        parts = [boxes[start : start + options.batch_size] for start in range(0, len(boxes), options.batch_size)]
        found = [self.file.run(image=pixels, boxes=part)["keypoints"] for part in parts]
        keypoints = np.concatenate([np.empty((0, self.info.num_classes, 3), np.float32), *found])
        return self._keypoints(people, keypoints, options)


class ExportedSegmentation(_FixedOptions, SegmentationPredictor):
    """Masks from an exported pipeline, whole pictures only."""

    fixed = ("flip", "short_side", "scales", "pad", "tile", "memory")

    def prepare(self, image: LoadedImage, options: SegmentationOptions) -> tuple[LoadedImage, list[Tensor]]:
        return image, [torch.tensor(self._pixels(image))]

    def run(self, pixels: Tensor, options: SegmentationOptions) -> Sequence[Tensor]:
        return list(torch.from_numpy(self.file.run(images=pixels.numpy())["masks"]))

    def finish(self, image: LoadedImage, answers: Sequence[Tensor], options: SegmentationOptions) -> Segmentation:
        names, palette = self.info.class_names, self.info.palette
        mask = smallest_ids(answers[0], self.info.num_classes)
        return Segmentation(image=image.pixels, mask=mask, class_names=names, palette=palette, path=image.path)


AnyExported: TypeAlias = ExportedClassification | ExportedPose | ExportedSegmentation

_PREDICTORS: dict[str, type[AnyExported]] = {
    predictor.task: predictor for predictor in (ExportedClassification, ExportedPose, ExportedSegmentation)
}


def pipeline_predictor(file: ExportedFile) -> AnyExported:
    """The predictor for the task of an exported pipeline, which runs the whole of it."""
    assert file.info.task is not None
    return _PREDICTORS[file.info.task](file)
