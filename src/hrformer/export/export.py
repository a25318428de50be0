"""``export``: a trained model in; out comes a folder with a file for another runtime, its report and a script."""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from hrformer.export.files import (
    FILE_NAMES,
    ExportError,
    Format,
    Precision,
    check_packages,
    describe,
    onnx_model,
    quietly,
    save_openvino,
    traced,
    write_onnx,
    write_openvino,
    write_torch,
)
from hrformer.export.pipelines import AnswerOnly, Network, Pipeline, pipeline_for
from hrformer.export.proof import CaseResult, cases_for, latency, make_case, prove, read_pictures
from hrformer.export.quantise import quantised_onnx, quantised_openvino
from hrformer.fast.optimize import FastModel, optimize
from hrformer.files import sha256_of
from hrformer.models.model import VisionModel
from hrformer.predict.base import PredictOptions, Predictor
from hrformer.predict.exported import ExportedFile
from hrformer.predict.predictors import predictor_for
from hrformer.predict.segment import SegmentationOptions

Graph = Literal["pipeline", "network"]
REPORT, SCRIPT = "report.json", "predict.py"
CALIBRATION = 16  # pictures or boxes, at least
_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportReport:
    """What was written and how well it answers; ``report.json`` holds the same.

    Attributes:
        file: the exported file.
        facts: what the file says about itself.
        results: how far each run lay off.
        milliseconds: one picture through the file, the plain predictor's network steps in PyTorch, and ``optimize``.
        megabytes: of the file and what belongs to it.
        scores: on a data set, before and after, where one was given.
        conditions: processor, versions, date.
    """

    file: Path
    facts: Mapping[str, Any]
    results: Sequence[CaseResult]
    milliseconds: Mapping[str, float]
    megabytes: float
    conditions: Mapping[str, str]
    scores: Mapping[str, Any] | None = None

    @property
    def worst(self) -> CaseResult:
        """The run with the largest error against what float32 allows."""
        return max(self.results, key=lambda result: result.error / max(result.allowed, 1e-30))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; the header is left out, as the file has it."""
        facts = {name: value for name, value in self.facts.items() if name != "header"}
        return {
            "file": self.file.name,
            "sha256": sha256_of(self.file),
            "megabytes": round(self.megabytes, 2),
            "about": facts,
            "proof": [asdict(result) | {"allowed": result.allowed} for result in self.results],
            "milliseconds": {name: round(value, 2) for name, value in self.milliseconds.items()},
            "scores": self.scores,
            "conditions": dict(self.conditions),
        }


def export(
    model: Predictor[Any, Any] | VisionModel,
    path: str | Path,
    *,
    to: Format = "onnx",
    graph: Graph = "pipeline",
    precision: Precision = "fp32",
    pictures: Sequence[str | Path] = (),
    weights: str | Path | None = None,
    licence: str = "",
    score: Callable[[VisionModel, Path], Mapping[str, Any]] | None = None,
    told: Callable[[str], object] | None = None,
    **options: Any,
) -> ExportReport:
    """Write a model as one file for another runtime, once that file is seen to answer as the model does.

    Args:
        model: a predictor, whose options become part of the graph, or a model.
        path: folder for the file, ``report.json`` and ``predict.py``; made if absent. An earlier export is replaced.
        to: "onnx" for ONNX Runtime and others, "openvino", or "torch" for a program of ``torch.export``.
        graph: "pipeline" takes pictures as they are and answers with keypoints, masks or probabilities; "network" takes
            normalised tensors and gives the raw output.
        precision: of the network: "fp32", "fp16", "bf16", or "int8", which is calibrated on ``pictures``.
        pictures: files that it is tried on, and calibrated; three bundled photographs where none are given.
        weights: the file that the model was loaded from, for the record; a predictor from ``hrformer.load`` knows it.
        licence: its terms, for the record.
        score: called with the float32 model and the file, for the record: scores on a data set before and after, see
            ``hrformer.export.scores``.
        told: called with a line about what comes next.
        **options: changes to the predictor's options, such as ``flip=False``.

    Raises:
        ExportError: a ``ValueError``: the model or its options cannot be exported so, or the file answers otherwise
            than the model; nothing is left under the final name.
        ImportError: a package is missing; which.
        ImageError: a picture cannot be read.
    """
    check_packages(to, precision)
    folder = Path(path).expanduser()
    _check_folder(folder)
    network, chosen = _plain(model, options, graph)
    source = _source(model, network, weights, licence)
    wanted = _Wanted(network=network, options=chosen, graph=graph, to=to, precision=precision)
    photographs = read_pictures(pictures)
    part = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.tmp")
    part.mkdir(parents=True)
    try:
        report = _made(part, wanted, source, photographs, score, told or (lambda _: None))
        if folder.exists():
            shutil.rmtree(folder)
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return replace(report, file=folder / report.file.name)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Wanted:
    """What is to be written."""

    network: VisionModel  # float32
    options: PredictOptions | None  # None for a bare network
    graph: Graph
    to: Format
    precision: Precision

    def module(self, dtype: torch.dtype = torch.float32) -> Pipeline | Network:
        """The graph's code, around a network of its own where that is not float32."""
        network = self.network if dtype == torch.float32 else deepcopy(self.network)
        return _module(network, self.options, self.graph, dtype)


def _made(
    folder: Path,
    wanted: _Wanted,
    source: Mapping[str, Any],
    pictures: Sequence[NDArray[np.uint8]],
    score: Callable[[VisionModel, Path], Mapping[str, Any]] | None,
    tell: Callable[[str], object],
) -> ExportReport:
    """File, proof, report and script in a folder."""
    module = wanted.module()  # judged against float32 throughout
    facts = describe(module, wanted.options, wanted.precision, source)
    file = folder / FILE_NAMES[wanted.to]
    tell("recording the network's operations; takes some minutes for the large models")
    _write(file, wanted, facts, pictures)
    tell(f"written, {_megabytes(folder):.1f} MB; running it on pictures")
    report = ExportReport(
        file=file,
        facts=facts,
        results=prove(file, module, wanted.options, pictures),
        milliseconds=_latencies(file, module, pictures),
        megabytes=_megabytes(folder),
        scores=score(wanted.network, file) if score is not None else None,
        conditions=_conditions(),
    )
    (folder / REPORT).write_text(json.dumps(report.to_dict(), indent=1) + "\n", encoding="utf-8")
    if wanted.graph == "pipeline":
        shutil.copyfile(Path(__file__).with_name("predict_script.py"), folder / SCRIPT)
    return report


def verify(
    path: str | Path, model: Predictor[Any, Any] | VisionModel, *, pictures: Sequence[str | Path] = ()
) -> list[CaseResult]:
    """Try an exported file again, here and now, against the model that it was made from.

    Args:
        path: of the file.
        model: as for ``export``.
        pictures: as for ``export``.

    Raises:
        ExportError: it answers otherwise than it must.
        CheckpointError: it cannot be opened.
    """
    file = ExportedFile(Path(path).expanduser())
    graph = file.facts["graph"]
    network, options = _plain(model, file.options, graph)
    if network.info.name != file.info.name or network.info.num_classes != file.info.num_classes:
        raise ExportError(
            f"{file.path.name} holds {file.info.name} with {file.info.num_classes} outputs, not {network.info.name} "
            f"with {network.info.num_classes}"
        )
    return prove(file.path, _module(network, options, graph, torch.float32), options, read_pictures(pictures))


def _plain(
    model: Predictor[Any, Any] | VisionModel, changes: Mapping[str, Any], graph: Graph
) -> tuple[VisionModel, PredictOptions | None]:
    """A float32 copy of the network on the CPU, and the options that become part of a pipeline."""
    network = model.model if isinstance(model, Predictor) else model
    if isinstance(network, FastModel):
        raise ExportError("this model went through optimize(); export the one that it was made from")
    network = deepcopy(network).float().cpu().eval().requires_grad_(False)
    if graph == "network":
        return network, None
    if network.task is None:
        raise ExportError(f"{network.info.name} is a bare backbone without an answer; export it with --graph network")
    options = model.options if isinstance(model, Predictor) else predictor_for(network, device="cpu").options
    try:
        options = replace(options, **changes)
    except TypeError as error:
        raise ExportError(f"unknown option for {network.task}: {error}") from error
    if isinstance(options, SegmentationOptions) and (tuple(options.scales) != (1.0,) or options.tile is not None):
        raise ExportError("a graph holds one scale and the whole picture; export with scales=(1.0,) and tile=None")
    if network.task == "pose" and options.flip and network.info.skeleton is None:
        raise ExportError("these weights do not name their keypoints, so left and right are unknown: pass flip=False")
    return network, options


def _module(
    network: VisionModel, options: PredictOptions | None, graph: Graph, dtype: torch.dtype
) -> Pipeline | Network:
    if graph == "network":
        return Network(network, dtype)
    assert options is not None
    return pipeline_for(network, options, dtype)


def _write(file: Path, wanted: _Wanted, facts: Mapping[str, Any], pictures: Sequence[NDArray[np.uint8]]) -> None:
    to, precision = wanted.to, wanted.precision
    # OpenVINO rounds weights or arithmetic by itself.
    module = wanted.module(torch.float32 if to == "openvino" else _DTYPES.get(precision, torch.float32))
    example = [
        torch.from_numpy(value) for value in make_case(module, pictures, _example_size(module), 3).inputs.values()
    ]
    if to == "torch":
        write_torch(traced(AnswerOnly(module) if isinstance(module, Pipeline) else module, example), file, facts)
        return
    model = onnx_model(traced(module, example), module)
    with tempfile.TemporaryDirectory() as folder, quietly():
        if to == "onnx":
            if precision == "int8":
                model = quantised_onnx(model, _calibration(module, pictures), Path(folder))
            write_onnx(model, file, facts)
        elif precision == "int8":
            save_openvino(quantised_openvino(model, _calibration(module, pictures), Path(folder)), file, facts)
        else:
            write_openvino(model, file, facts)


def _example_size(module: Pipeline | Network) -> tuple[int, int]:
    """(height, width) of the example: none that a multiple of a window or of a stride could explain."""
    if isinstance(module, Network):
        return cases_size(module)
    return (333, 411)


def cases_size(module: Network) -> tuple[int, int]:
    """(height, width) that a bare network is traced at."""
    height, width = module.info.input_spec.size
    return (height, width) if len(module.open_axes[0]) == 1 else (height + 9, width + 18)


def _calibration(module: Pipeline | Network, pictures: Sequence[NDArray[np.uint8]]) -> Iterator[Mapping[str, Any]]:
    """Inputs for calibration: each picture alone, again and again until there are ``CALIBRATION``."""
    for round_ in range(-(-CALIBRATION // len(pictures))):
        for pixels in pictures:
            size = pixels.shape[0] - 7 * round_, pixels.shape[1] - 5 * round_
            size = cases_size(module) if isinstance(module, Network) else (max(size[0], 32), max(size[1], 32))
            yield make_case(module, [pixels], size, 1).inputs


def _latencies(file: Path, module: Pipeline | Network, pictures: Sequence[NDArray[np.uint8]]) -> dict[str, float]:
    """Milliseconds of one picture, or one person, by the file, by the same steps in PyTorch, and with ``optimize``."""
    case = cases_for(module, pictures)[0]
    opened = ExportedFile(file)
    tensors = [torch.from_numpy(value) for value in case.inputs.values()]
    found = {opened.runtime: latency(lambda: opened.run(**case.inputs))}
    with torch.inference_mode():
        found["pytorch"] = latency(lambda: module(*tensors))
        if opened.runtime != "torch":
            plain = module.model
            module.model = optimize(plain)
            try:
                found["optimize"] = latency(lambda: module(*tensors))
            finally:
                module.model = plain
    return found


def _source(
    model: Predictor[Any, Any] | VisionModel, network: VisionModel, weights: str | Path | None, licence: str
) -> dict[str, Any]:
    """Where the weights come from: the file and its sha256, else that of the tensors."""
    path = weights or (model.weights if isinstance(model, Predictor) else None)
    if path is not None and Path(path).is_file():
        digest = sha256_of(Path(path))
    else:
        sums = hashlib.sha256()
        for name, value in network.state_dict().items():
            sums.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
        digest = sums.hexdigest()
    known = {"weights": Path(path).name if path is not None else "", "sha256": digest, "licence": licence}
    return known | {"dataset": network.info.dataset, "origin": network.info.source}


def _megabytes(folder: Path) -> float:
    return sum(one.stat().st_size for one in folder.iterdir()) / 1e6


def _check_folder(folder: Path) -> None:
    """ExportError for a folder with anything in it but an earlier export."""
    if folder.exists() and not folder.is_dir():
        raise ExportError(f"{folder} is a file; give a folder, in which the exported file is called model.onnx or so")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / REPORT).is_file():
        raise ExportError(f"{folder} holds other files; give an empty or new folder")


def _conditions() -> dict[str, str]:
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": platform.processor() or platform.machine(),
        "threads": str(torch.get_num_threads()),
        "python": platform.python_version(),
    }
