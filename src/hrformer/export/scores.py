"""Scores of an exported file's network on a data set, beside those of the model that it was made from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hrformer.data.set_types import ImageSet
from hrformer.evaluate.evaluate import evaluate
from hrformer.evaluate.protocols import Protocol
from hrformer.export.files import ExportError
from hrformer.fast.runtimes.openvino import openvino_core
from hrformer.models.model import VisionModel
from hrformer.predict.exported import NETWORK_INPUT, NETWORK_OUTPUT, ExportedFile

Run = Callable[[NDArray[np.float32]], NDArray[np.float32]]
Feed = Mapping[str, NDArray[Any]]


def scores_before_and_after(
    model: VisionModel,
    path: Path,
    source: ImageSet,
    protocol: Protocol,
    *,
    limit: int | None = None,
    progress: Callable[[str, int, int], object] | None = None,
) -> dict[str, Any]:
    """The set's main score of a model in PyTorch, and of the network in an exported file, by the same protocol.

    Args:
        model: that the file was made from, float32.
        path: .onnx or .xml; the network is cut out of a pipeline.
        source, protocol, limit: see ``hrformer.evaluate.evaluate.evaluate``.
        progress: called with what is scored, the number of items done and the total.
    """
    network = VisionModel(_Network(_alone(path)), None, replace(model.info))
    before, after = (
        evaluate(one, source, protocol, limit=limit, progress=partial(progress, name) if progress else None)
        for name, one in (("before", model), ("after", network))
    )
    names = {"set": source.name, "items": before.items, "score": before.main}
    return names | {"before": before.value, "after": after.value}


class _Network(nn.Module):
    """A function of arrays as a network; of a pipeline with flip test the outputs for mirror images are left out."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.run = run
        self.place = nn.Parameter(torch.zeros(()), requires_grad=False)  # which says that it runs on the CPU

    def forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy(self.run(x.contiguous().numpy()))[: len(x)]


def _alone(path: Path) -> Run:
    """The network of an exported file, from its normalised input to its raw output."""
    file = ExportedFile(path)
    if file.facts["graph"] == "network":
        return lambda x: file.run(**{NETWORK_INPUT: x})[NETWORK_OUTPUT]
    run = {"onnx": _entered_in_onnx, "openvino": _entered_in_openvino}[file.runtime](path)

    def enter(x: NDArray[np.float32]) -> NDArray[np.float32]:
        # Of the pictures only their number and size is still read.
        number, channels, height, width = x.shape
        pictures: dict[str, NDArray[Any]]
        if "boxes" in file.facts["inputs"]:
            pictures = {"image": np.zeros((8, 8, channels), np.uint8), "boxes": np.ones((number, 4), np.float32)}
        else:
            pictures = {"images": np.zeros((number, height, width, channels), np.uint8)}
        short = file.facts["options"].get("short_side")
        if short not in (None, min(height, width)):
            raise ExportError(
                f"the set's protocol tests at {height} x {width} pixels, this file brings the short side to {short}; "
                f"export it with --short-side {min(height, width)}, or --graph network"
            )
        return run(pictures | {NETWORK_INPUT: x})

    return enter


def _entered_in_onnx(path: Path) -> Callable[[Feed], NDArray[np.float32]]:
    """The file as a function of its inputs and of the network's input, which is then not computed."""
    import onnx
    import onnxruntime

    model = onnx.load(path)
    graph, info = model.graph, onnx.helper.make_tensor_value_info
    maker = next(node for node in graph.node if NETWORK_INPUT in node.output)
    graph.node.remove(maker)
    graph.input.append(info(NETWORK_INPUT, onnx.TensorProto.FLOAT, None))
    del graph.output[:]
    graph.output.append(info(NETWORK_OUTPUT, onnx.TensorProto.FLOAT, None))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # what is no longer needed
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda feed: np.asarray(session.run([NETWORK_OUTPUT], dict(feed))[0])


def _entered_in_openvino(path: Path) -> Callable[[Feed], NDArray[np.float32]]:
    """The same for OpenVINO."""
    import openvino

    model = openvino_core().read_model(path)
    ports: Mapping[str, Any] = {
        name: port for op in model.get_ops() for port in op.outputs() for name in port.get_names()
    }
    entry = openvino.opset13.parameter(ports[NETWORK_INPUT].get_partial_shape(), openvino.Type.f32)
    for reader in ports[NETWORK_INPUT].get_target_inputs():
        reader.replace_source_output(entry.output(0))
    result = openvino.opset13.result(ports[NETWORK_OUTPUT])
    entry.output(0).set_names({NETWORK_INPUT})
    alone = openvino.Model([result], [*model.get_parameters(), entry], "network")
    program = openvino_core().compile_model(alone, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda feed: np.array(program(dict(feed))[0])
