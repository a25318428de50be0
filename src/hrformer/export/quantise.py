"""Static 8-bit quantisation of the network inside an exported graph, by the tools of its runtime.

What lies before and after the network stays float32: a grey level or a place in a heatmap has more than 8 bits.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from hrformer.export.files import FILE_NAMES
from hrformer.fast.runtimes.openvino import openvino_core
from hrformer.predict.exported import NETWORK_INPUT, NETWORK_OUTPUT

Feeds = Iterable[Mapping[str, NDArray[Any]]]
_QUANTISED = ("Conv", "MatMul", "Gemm")


def quantised_onnx(model: Any, feeds: Feeds, folder: Path) -> Any:
    """8-bit weights per channel and 8-bit activations for the network's convolutions and products, by ONNX Runtime.

    Args:
        model: ``onnx.ModelProto`` in float32; its inner tensors have their names.
        feeds: inputs of calibration, by name.
        folder: for files on the way.
    """
    import onnx
    import onnxruntime
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left: Iterator[Any] = iter(feeds)

        def get_next(self) -> Any:
            return next(self.left, None)

    onnxruntime.set_default_logger_severity(3)  # remarks on constants that are not folded
    plain, folded, done = (folder / f"{name}.onnx" for name in ("plain", "folded", "quantised"))
    model = _with_inner_outputs(model)
    onnx.save(model, plain)
    # Batch norms become part of the convolutions before them.
    quant_pre_process(plain, folded, skip_symbolic_shape=True, skip_onnx_shape=True)
    inside = inner_nodes(onnx.load(folded).graph)
    quantize_static(
        folded,
        done,
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=list(_QUANTISED),
        nodes_to_quantize=[node.name for node in inside if node.op_type in _QUANTISED],
        # Products of two activations are scores of attention, and their softmax; 8 bits of those cost too much.
        extra_options={"MatMulConstBOnly": True},
    )
    quantised = onnx.load(done)
    outputs = [one.name for one in quantised.graph.output]
    for name in (NETWORK_INPUT, NETWORK_OUTPUT):
        if len(outputs) > 1 and name in outputs:
            del quantised.graph.output[outputs.index(name)]
            outputs.remove(name)
    return quantised


def _with_inner_outputs(model: Any) -> Any:
    """A copy whose inner tensors are outputs, too, so that nothing is optimised across them."""
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    known = {one.name for one in copy.graph.output} | {one.name for one in copy.graph.input}
    made = {name for node in copy.graph.node for name in node.output}
    for name in (NETWORK_INPUT, NETWORK_OUTPUT):
        if name in made - known:
            copy.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    return copy


def inner_nodes(graph: Any) -> list[Any]:
    """The network's nodes without those that read its input, whose exact values are worth more than a moment."""
    return [node for node in network_nodes(graph) if NETWORK_INPUT not in node.input]


def network_nodes(graph: Any) -> list[Any]:
    """The nodes between the network's input and its output."""
    makers = {name: node for node in graph.node for name in node.output}
    ends = [NETWORK_OUTPUT] if NETWORK_OUTPUT in makers else [one.name for one in graph.output]
    seen: set[str] = set()
    found: list[Any] = []
    while ends:
        name = ends.pop()
        if name in seen or name == NETWORK_INPUT or name not in makers:
            continue
        node = makers[name]
        seen.update(node.output)
        found.append(node)
        ends += list(node.input)
    return found


def quantised_openvino(model: Any, feeds: Feeds, folder: Path) -> Any:
    """The same for OpenVINO by NNCF, with its settings for transformers.

    Args:
        model: ``onnx.ModelProto`` in float32.
        feeds: inputs of calibration, by name.
        folder: for a file on the way.
    """
    import nncf
    import onnx

    file = folder / FILE_NAMES["onnx"]
    onnx.save(model, file)
    graph = openvino_core().read_model(file)
    inside = {node.name for node in inner_nodes(model.graph)}
    # OpenVINO splits some nodes, and calls the parts by the node's name and a slash.
    ignored = nncf.IgnoredScope(
        names=[
            name
            for op in graph.get_ordered_ops()
            if (name := op.get_friendly_name()).partition("/")[0] not in inside
            and op.get_type_name() not in ("Constant", "Parameter", "Result")
        ],
        validate=False,
    )
    samples = [dict(one) for one in feeds]
    data = nncf.Dataset(samples)
    return nncf.quantize(
        graph, data, model_type=nncf.ModelType.TRANSFORMER, ignored_scope=ignored, subset_size=len(samples)
    )
