"""``optimize``: a trained model in, a callable of the same signature out that gives the same results sooner."""

from __future__ import annotations

import logging
import threading
from collections import Counter, OrderedDict
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor, nn

from hrformer.fast.fused_blocks import fuse_trunk
from hrformer.fast.graphs import GraphedModel
from hrformer.fast.native_model import NativeModel, native_model_refusal
from hrformer.fast.onnx_runtime import ONNXRuntime
from hrformer.fast.openvino_runtime import OpenVINORuntime, Plane
from hrformer.kernels.launch import switched_off
from hrformer.models.download import cache_dir
from hrformer.models.model import ModelInfo, VisionModel
from hrformer.ops.resize import UpsampleMode

logger = logging.getLogger("hrformer")

Backend = Literal["auto", "native", "openvino", "onnxruntime", "triton", "reference"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)
Precision = Literal["fp32", "bf16"]

PLAIN_CALLS = 2
"""Calls of a size that the plain network answers: one picture and its mirror image are no reason for a program."""
MAX_SIZES = 8
"""Input sizes that keep a compiled program each; the least recently used one gives way."""


class Runtime(Protocol):
    """What ``FastModel`` asks of a runtime on the CPU."""

    name: str

    def run(self, x: Tensor) -> list[Tensor]: ...

    def forget(self, plane: Plane) -> None: ...


def optimize(
    model: nn.Module,
    *,
    backend: Backend = "auto",
    threads: int | None = None,
    precision: Precision = "fp32",
    cache: bool = True,
) -> FastModel:
    """Prepare a trained model for inference.

    Weights are copied: what happens to ``model`` later does not show. Batch norms are folded into convolutions and
    biases computed once. On CUDA, blocks become fused Triton kernels and every input size one CUDA graph; on x86
    processors HRFormer runs on this package's compiled kernels, and other networks, or HRFormer where those are
    missing, in OpenVINO or ONNX Runtime. Where none of that applies, the plain network answers, and one line of the
    logger "hrformer" says why. Outputs differ from the plain network's by rounding: on the CPU at most 1e-5 of the
    largest absolute output in the tests of this package.

    Args:
        model: on its device, in its dtype; made for one (B, C, H, W) input. Its mode does not matter.
        backend: "auto" takes Triton on CUDA, else the compiled kernels ("native") where they have the model, else
            OpenVINO, else ONNX Runtime, whichever is installed (``pip install 'hrformer[fast-cpu]'``), else the plain
            network.
        threads: of kernels and runtimes on the CPU; None takes ``torch.get_num_threads()``.
        precision: "bf16" takes OpenVINO on the CPU and lets it compute in bfloat16 on processors that can, with
            8 bits of mantissa. On CUDA the model's own dtype says it.
        cache: keep programs that OpenVINO compiled in the cache folder (``$HRFORMER_HOME/runtimes``).

    Raises:
        ValueError: unknown or impossible backend, precision or number of threads; "native" asked for by name where
            the compiled kernels do not run; ``HRFORMER_TRITON_OFF`` names a kernel that there is not.
        ModuleNotFoundError: the package of a backend asked for by name is not installed.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
    if precision not in get_args(Precision):
        raise ValueError(f"precision must be 'fp32' or 'bf16', got {precision!r}")
    if threads is not None and threads < 1:
        raise ValueError(f"threads must be at least 1, got {threads}")
    switched_off()  # an unknown name is told now and not in the middle of the first call
    chosen = _chosen(backend, model, precision)
    model = deepcopy(model).eval()
    if chosen == "native":
        assert isinstance(model, VisionModel)
        return FastModel(model, None, NativeModel(model, threads), chosen)
    if chosen == "triton":
        fused = fuse_trunk(model) if isinstance(model, VisionModel) else model
        return FastModel(model, None, GraphedModel(fused), chosen)
    if chosen == "reference":
        return FastModel(model, None, None, chosen)
    if find_spec(chosen) is None:
        raise ModuleNotFoundError(f"backend {chosen!r} needs a package: pip install 'hrformer[fast-cpu]'", name=chosen)
    count = threads or torch.get_num_threads()
    if chosen == "openvino":
        folder: Path | None = cache_dir() / "runtimes" if cache else None
        runtime: Runtime = OpenVINORuntime(model, threads=count, bf16=precision == "bf16", folder=folder)
    else:
        runtime = ONNXRuntime(model, threads=count)
    return FastModel(model, runtime, None, chosen)


def _chosen(backend: Backend, model: nn.Module, precision: Precision) -> Backend:
    """The backend for a model; "reference" with a line in the log where none applies."""
    weight = next(model.parameters(), torch.empty(0))
    if backend == "triton" and weight.device.type != "cuda":
        raise ValueError(f"backend 'triton' runs on CUDA, but the model is on {weight.device}")
    on_cpu = weight.device.type == "cpu" and weight.dtype == torch.float32
    if backend in ("native", "openvino", "onnxruntime") and not on_cpu:
        raise ValueError(
            f"backend {backend!r} runs float32 models on the CPU, this one is {weight.dtype} on {weight.device}"
        )
    refusal = "they compute in fp32, not bf16" if precision == "bf16" else native_model_refusal(model)
    if backend == "native" and refusal is not None:
        raise ValueError(f"backend 'native' does not run here: {refusal}")
    if backend != "auto":
        return backend
    if weight.device.type == "cuda":
        return "triton"
    if not on_cpu:
        logger.info("no fast path for %s on %s: the plain network runs", weight.dtype, weight.device)
        return "reference"
    if refusal is None:
        return "native"
    if find_spec("openvino") is not None:
        return "openvino"
    if find_spec("onnxruntime") is not None:
        return "onnxruntime"
    logger.info(
        "the plain network runs: %s, and no runtime for the CPU is installed (pip install 'hrformer[fast-cpu]')",
        refusal,
    )
    return "reference"


class FastModel(VisionModel):
    """What ``optimize`` returns: call it like the model it was made from. For inference only.

    OpenVINO and ONNX Runtime compile a program for every input size, which takes seconds. They do so when a size comes
    for the third time: neither the first result of a process, which may take a picture and its mirror image, nor
    pictures of many sizes wait for programs that are used once.

    It holds the plain network too, under the names it had, which answers where the backend cannot.

    Attributes:
        backend: what runs it: "native", "openvino", "onnxruntime", "triton" or "reference".
    """

    def __init__(self, model: nn.Module, runtime: Runtime | None, fused: nn.Module | None, backend: Backend) -> None:
        if isinstance(model, VisionModel):
            super().__init__(model.backbone, model.head, model.info)
        else:
            super().__init__(model, None, ModelInfo(name=type(model).__name__))
        self.fused = fused
        self.backend: Backend = backend
        self._runtime = runtime
        self._sizes: OrderedDict[Plane, None] = OrderedDict()
        self._seen: Counter[Plane] = Counter()
        self._lock = threading.Lock()  # a runtime's buffers serve one call at a time
        self._structure: Any = None
        super().train(False)

    def set_upsample(self, mode: UpsampleMode) -> None:
        """Not possible any more.

        Raises:
            ValueError: always; the compiled programs would not follow.
        """
        raise ValueError("an optimized model cannot be changed; set the upsampling first, then optimize")

    def train(self, mode: bool = True) -> FastModel:
        """Only ``eval()`` is possible.

        Raises:
            ValueError: training mode is asked for.
        """
        if mode:
            raise ValueError("an optimized model is for inference; train the model that it was made from")
        return self

    @torch.no_grad()
    def forward(self, x: Tensor) -> Any:
        """The model's result for (B, C, H, W); never carries a gradient."""
        if self.fused is not None and (self.backend != "native" or self._suits(x)):
            return self.fused(x)
        if self._runtime is None or not self._suits(x):
            return super().forward(x)
        with self._lock:
            plane = (x.shape[1], x.shape[2], x.shape[3])
            if not self._is_due(plane):
                return super().forward(x)
            try:
                return self._as_model(self._runtime.run(x), x)
            except RuntimeError as error:
                logger.warning("%s fails, the plain network runs from now on: %s", self.backend, _first_line(error))
                self._runtime, self.backend = None, "reference"
        return super().forward(x)

    @staticmethod
    def _suits(x: Tensor) -> bool:
        return x.ndim == 4 and x.device.type == "cpu" and x.dtype == torch.float32 and x.numel() > 0

    def _is_due(self, plane: Plane) -> bool:
        if plane in self._sizes:
            self._sizes.move_to_end(plane)
            return True
        self._seen[plane] += 1
        if self._seen[plane] <= PLAIN_CALLS:
            return False
        self._sizes[plane] = None
        if len(self._sizes) > MAX_SIZES:
            assert self._runtime is not None
            self._runtime.forget(self._sizes.popitem(last=False)[0])
        return True

    def _as_model(self, outputs: list[Tensor], x: Tensor) -> Any:
        """Outputs in the container that the model returns, which one call of it on a small picture shows."""
        if self._structure is None:
            self._structure = super().forward(x[:1]) if len(outputs) > 1 else outputs[0]
        if isinstance(self._structure, dict):
            return dict(zip(self._structure, outputs, strict=True))
        return outputs[0] if isinstance(self._structure, Tensor) else type(self._structure)(outputs)

    def extra_repr(self) -> str:
        return f"backend={self.backend}"


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
