"""Models executed by ONNX Runtime on the CPU: the second choice, where OpenVINO is not installed."""

from __future__ import annotations

import io
import warnings

import torch
from torch import Tensor, nn

from hrformer.fast.proof import FP32_BOUND
from hrformer.fast.runtimes.blocks import runtime_module
from hrformer.fast.runtimes.openvino import Plane


class ONNXRuntime:
    """Runs a module on batches of float32 pictures, one picture at a time with all threads.

    Args:
        module: in evaluation mode; maps (B, C, H, W) to a tensor or several.
        threads: at least 1.
    """

    bound = FP32_BOUND

    def __init__(self, module: nn.Module, *, threads: int) -> None:
        import onnxruntime

        self._options = onnxruntime.SessionOptions()
        self._options.intra_op_num_threads = threads
        self._options.log_severity_level = 3  # remarks on folded constants are nothing to the user
        self._new_session = onnxruntime.InferenceSession
        self._module = runtime_module(module)
        self._sessions: dict[Plane, onnxruntime.InferenceSession] = {}

    def forget(self, plane: Plane) -> None:
        """Drop the program for a size."""
        self._sessions.pop(plane, None)

    def run(self, x: Tensor) -> list[Tensor]:
        """(B, C, H, W) float32 on the CPU, B >= 1 -> the module's outputs in order, in tensors of their own."""
        plane = (x.shape[1], x.shape[2], x.shape[3])
        if plane not in self._sessions:
            graph = onnx_graph(self._module, plane)
            self._sessions[plane] = self._new_session(graph, self._options, providers=["CPUExecutionProvider"])
        session = self._sessions[plane]
        name = session.get_inputs()[0].name
        found = [session.run(None, {name: picture[None]}) for picture in x.contiguous().numpy()]
        return [torch.cat([torch.from_numpy(part) for part in parts]) for parts in zip(*found, strict=True)]


def onnx_graph(module: nn.Module, plane: Plane) -> bytes:
    """The module for one picture of (C, H, W) as ONNX.

    PyTorch's older exporter: the newer one needs a further package and takes several times as long.
    """
    buffer = io.BytesIO()
    example = torch.rand((1, *plane), generator=torch.Generator().manual_seed(0), dtype=torch.float32, device="cpu")
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # tracing remarks on sizes, which are constants here on purpose
        torch.onnx.export(module, (example,), buffer, dynamo=False, opset_version=20)  # type: ignore[arg-type]
    return buffer.getvalue()
