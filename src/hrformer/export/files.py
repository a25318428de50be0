"""A pipeline or a network as a file of ONNX, OpenVINO or torch.export, which says itself what it is."""

from __future__ import annotations

import gc
import io
import json
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from hrformer.checkpoints.matching import current_settings
from hrformer.checkpoints.weight_files import header_of
from hrformer.export.pipelines import AnswerOnly, Network, Pipeline
from hrformer.fast.runtimes.openvino import openvino_core
from hrformer.predict.base import PredictOptions
from hrformer.predict.exported import KEY

Format = Literal["onnx", "openvino", "torch"]
Precision = Literal["fp32", "fp16", "bf16", "int8"]
FILE_NAMES: dict[Format, str] = {"onnx": "model.onnx", "openvino": "model.xml", "torch": "model.pt2"}
PACKAGES = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("onnx", "onnxscript", "openvino"), "torch": ()}


class ExportError(ValueError):
    """A model cannot be exported, or its file answers otherwise than the model; the message says which and why."""


def check_packages(to: Format, precision: Precision) -> None:
    """ImportError, with what to install, where a package is missing; ExportError for what no runtime has."""
    if to == "torch" and precision == "int8":
        raise ExportError("int8 is for --to onnx and --to openvino; torch.export has fp32, fp16 and bf16")
    if to == "onnx" and precision == "bf16":
        raise ExportError("ONNX Runtime has no bf16 convolutions; it takes fp32, fp16 and int8, OpenVINO bf16 as well")
    wanted = (*PACKAGES[to], *(("nncf",) if (to, precision) == ("openvino", "int8") else ()))
    for name in wanted:
        if find_spec(name) is None:
            raise ImportError(f"exporting to {to} needs {name}: pip install 'hrformer[export]'")


def describe(
    module: Pipeline | Network, options: PredictOptions | None, precision: Precision, source: Mapping[str, Any]
) -> dict[str, Any]:
    """What is stored in the file: all that its users need to know about its inputs, its answer and its origin.

    Args:
        module: what is exported.
        options: of the predictor, where they are part of the graph.
        precision: of the network.
        source: weights, sha256, licence.
    """
    info = module.info
    skeleton = info.skeleton
    return {
        "task": info.task,
        "graph": "network" if isinstance(module, Network) else "pipeline",
        "precision": precision,
        "inputs": list(module.inputs),
        "outputs": list(module.outputs),
        "names": list(skeleton.keypoints if skeleton else info.class_names),
        "skeleton": [list(edge) for edge in skeleton.edges] if skeleton else [],
        "flip_pairs": [list(pair) for pair in skeleton.flip_pairs] if skeleton else [],
        "sigmas": list(skeleton.sigmas) if skeleton else [],
        "palette": [list(colour) for colour in info.palette],
        "input_spec": info.input_spec.to_dict(),
        "options": asdict(options) if options is not None else {},
        "source": dict(source),
        "versions": {name: _version(name) for name in ("hrformer", "torch", *PACKAGES["onnx"], "openvino", "nncf")},
        "header": header_of(info, info.options | current_settings(module.model)),
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def traced(module: Pipeline | Network | AnswerOnly, example: Sequence[Tensor]) -> torch.export.ExportedProgram:
    """The program of a module for any number and any size that ``module.open_axes`` leaves open.

    Raises:
        ExportError: the network has operations that torch.export cannot record.
    """
    shapes: Any = tuple(dict.fromkeys(axes, torch.export.Dim.DYNAMIC) for axes in module.open_axes)
    if isinstance(module, AnswerOnly):  # whose inputs are one argument
        shapes = (shapes,)
    try:
        with quietly(), torch.no_grad():
            program = torch.export.export(module, tuple(example), dynamic_shapes=shapes, strict=False)
    except Exception as error:  # the tracer raises what it likes
        reason = str(error).strip().partition("\n")[0][:300]
        raise ExportError(f"{module.info.name} cannot be exported for open sizes: {reason}") from error
    return program


def write_torch(program: torch.export.ExportedProgram, path: Path, facts: Mapping[str, Any]) -> None:
    """Write a .pt2 file."""
    with quietly():
        torch.export.save(program, path, extra_files={f"{KEY}.json": json.dumps(facts)})


def onnx_model(program: torch.export.ExportedProgram, module: Pipeline | Network) -> Any:
    """The program as an ``onnx.ModelProto`` whose outputs are the module's; inner tensors keep their names."""
    names: dict[str, Any] = {"input_names": [*module.inputs], "output_names": [*module.outputs, *module.inner]}
    # Unoptimised: runtimes do that themselves, and the optimiser takes as long as all the rest.
    with quietly(), torch.no_grad():
        made = torch.onnx.export(program, dynamo=True, optimize=False, verbose=False, **names)
    assert made is not None
    model = made.model_proto
    del model.graph.output[len(module.outputs) :]
    del model.metadata_props[:]
    for node in model.graph.node:  # where each came from in Python: half of the file
        del node.metadata_props[:]
        node.doc_string = ""
    return model


def write_onnx(model: Any, path: Path, facts: Mapping[str, Any]) -> None:
    """Write an .onnx file."""
    import onnx

    onnx.helper.set_model_props(model, {KEY: json.dumps(facts)})
    onnx.save(model, path)


def write_openvino(model: Any, path: Path, facts: Mapping[str, Any]) -> None:
    """Write an ONNX model as .xml and .bin."""

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / FILE_NAMES["onnx"]
        write_onnx(model, file, facts)
        save_openvino(openvino_core().read_model(file), path, facts)


def save_openvino(model: Any, path: Path, facts: Mapping[str, Any]) -> None:
    """Write an OpenVINO model as .xml and .bin; weights stay as they are unless the precision is fp16."""
    import openvino

    model.set_rt_info(json.dumps(facts), KEY)
    openvino.save_model(model, path, compress_to_fp16=facts["precision"] == "fp16")


@contextmanager
def quietly() -> Iterator[None]:
    """Without the remarks of exporters, which are about their own code, and without pauses to collect garbage.

    A graph holds a million objects that live to its end; there is nothing to collect in between.
    """
    root, collecting = logging.root.manager.disable, gc.isenabled()
    gc.disable()
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with redirect_stdout(io.StringIO()):  # NNCF's progress
                yield
    finally:
        logging.disable(root)
        if collecting:
            gc.enable()
