"""``optimize``: a trained model in, a callable of the same signature out that gives the same results sooner."""

from __future__ import annotations

import logging
import threading
from collections import Counter, OrderedDict
from importlib.util import find_spec
from numbers import Integral
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_unflatten

from hrformer.fast.choice import BACKENDS, Backend, Precision, Wanted, check_precision, chosen, weights_precision
from hrformer.fast.eligibility import is_watched
from hrformer.fast.fused import fuse_trunk
from hrformer.fast.proof import is_finite, structure_of_same
from hrformer.fast.runtimes.onnx import ONNXRuntime
from hrformer.fast.runtimes.openvino import OpenVINORuntime, Plane, has_bf16
from hrformer.fast.snapshot import Snapshot, copied
from hrformer.fast.triton.graphs import GraphedModel
from hrformer.fast.triton.launch import switched_off
from hrformer.fast.x86.model import NativeModel
from hrformer.files import cache_dir
from hrformer.models.fusion import UpsampleMode
from hrformer.models.model import ModelInfo, VisionModel

logger = logging.getLogger("hrformer")

PLAIN_CALLS = 2
"""Calls of a size that the plain network answers: one picture and its mirror image are no reason for a program."""
MAX_THREADS = 1024
MAX_SIZES = 8
"""Input sizes that keep a compiled program each; the least recently used one gives way."""


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
    logger "hrformer" says why. Outputs differ from the plain network's by rounding: in float32 on the CPU at most 1e-5
    of the largest absolute output in the tests of this package.

    Args:
        model: on its device, in its dtype; made for one (B, C, H, W) input. Its mode does not matter.
        backend: "auto" takes Triton on CUDA, else the compiled kernels ("native") where they have the model, else
            OpenVINO, else ONNX Runtime, whichever is installed (``pip install 'hrformer[fast-cpu]'``), else the plain
            network.
        threads: of kernels and runtimes on the CPU; None takes ``torch.get_num_threads()``.
        precision: of products on the CPU; weights, inputs and outputs are float32 in any case. "bf16", with 8 bits of
            mantissa, takes the compiled kernels where they and the processor have it, else OpenVINO; without either,
            products are float32 and the logger says so. "auto" is "bf16" on processors where the compiled kernels have
            it, else "fp32". On CUDA the model's own dtype says it.
        cache: keep programs that OpenVINO compiled in the cache folder (``$HRFORMER_HOME/runtimes``).

    Raises:
        ValueError: unknown or impossible backend, precision or number of threads; "native" asked for by name where
            the compiled kernels do not run, or not in bf16; ``HRFORMER_TRITON_OFF`` names a kernel that there is not.
        ModuleNotFoundError: the package of a backend asked for by name is not installed.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
    check_precision(precision)
    if threads is not None:
        if isinstance(threads, bool) or not isinstance(threads, Integral) or not 1 <= threads <= MAX_THREADS:
            raise ValueError(f"threads must be a whole number from 1 to {MAX_THREADS}, got {threads!r}")
        threads = int(threads)
    switched_off()  # an unknown name is told now and not in the middle of the first call
    wanted = Wanted(backend=backend, threads=threads, precision=precision, cache=cache)
    plain = copied(model.plain if isinstance(model, FastModel) else model).eval()
    return FastModel(plain, _engine(plain, wanted), wanted)


class Engine:
    """What runs a model, made from it: a fused network or a runtime; the plain network where there is neither.

    Attributes:
        backend: as in ``FastModel``.
        reason: as in ``FastModel``.
        precision: of products; empty for the type of the weights.
        runtime: an ``OpenVINORuntime`` or ``ONNXRuntime``.
    """

    def __init__(
        self,
        backend: Backend,
        reason: str = "",
        *,
        precision: str = "",
        fused: nn.Module | None = None,
        runtime: Any = None,
    ) -> None:
        self.backend, self.reason, self.precision = backend, reason, precision
        self.fused, self.runtime = fused, runtime
        self._sizes: OrderedDict[Plane, dict[tuple[int, bool], TreeSpec]] = OrderedDict()
        self._seen: Counter[Plane] = Counter()

    def is_due(self, plane: Plane) -> bool:
        """Whether a runtime has a program for a size, or is to make one now."""
        if plane in self._sizes:
            self._sizes.move_to_end(plane)
            return True
        self._seen[plane] += 1
        if self._seen[plane] <= PLAIN_CALLS:
            return False
        self._sizes[plane] = {}
        if len(self._sizes) > MAX_SIZES:
            self.runtime.forget(self._sizes.popitem(last=False)[0])
        return True

    def answer(self, x: Tensor, plain: nn.Module) -> Any:
        """The runtime's result for a size that is due, in the containers that the plain network returns.

        The first time that a size comes in a batch of some length, the program has to prove itself: pictures go through
        it one by one, and what a network does across them shows in no single one.

        Raises:
            DifferenceError: the plain network gives another result.
        """
        proved, kind = self._sizes[_plane(x)], (x.shape[0], x.requires_grad)
        if kind not in proved:
            proved[kind] = structure_of_same(self.runtime.run, plain, x, self.runtime.bound)
        return tree_unflatten(self.runtime.run(x), proved[kind])


@torch.inference_mode(False)
@torch.no_grad()
def _engine(model: nn.Module, wanted: Wanted) -> Engine:
    """What runs ``model``, which stays as it is, in evaluation mode.

    Raises:
        ValueError, ModuleNotFoundError: see ``optimize``.
    """
    choice = chosen(model, wanted)
    backend, precision, reason = choice.backend, choice.precision, choice.reason
    if backend == "native":
        assert isinstance(model, VisionModel)
        fused: nn.Module = NativeModel(model, wanted.threads, cast(Any, precision))
        return Engine(backend, precision=precision, fused=fused)
    if backend == "triton":
        fused = fuse_trunk(model) if isinstance(model, VisionModel) else model
        return Engine(backend, precision=precision, fused=GraphedModel(fused))
    if backend == "reference":
        if reason:
            logger.info("the plain network runs: %s", reason)
        return Engine(backend, reason, precision=precision)
    if find_spec(backend) is None:
        raise ModuleNotFoundError(
            f"backend {backend!r} needs a package: pip install 'hrformer[fast-cpu]'", name=backend
        )
    if backend == "openvino" and precision == "bf16" and not has_bf16():
        precision, reason = "fp32", "products are fp32, not bf16 as asked: OpenVINO has no bf16 on this processor"
    if reason:
        logger.info("%s runs: %s", backend, reason)
    threads = wanted.threads or torch.get_num_threads()
    if backend == "onnxruntime":
        return Engine(backend, reason, precision=precision, runtime=ONNXRuntime(model, threads=threads))
    folder: Path | None = cache_dir() / "runtimes" if wanted.cache else None
    runtime = OpenVINORuntime(model, threads=threads, bf16=precision == "bf16", folder=folder)
    return Engine(backend, reason, precision=precision, runtime=runtime)


class FastModel(VisionModel):
    """What ``optimize`` returns: call it like the model it was made from. For inference only.

    OpenVINO and ONNX Runtime compile a program for every input size, which takes seconds. They do so when a size comes
    for the third time: neither the first result of a process, which may take a picture and its mirror image, nor
    pictures of many sizes wait for programs that are used once.

    It holds a plain network too, under the names it had, which answers where the backend cannot. Its weights are what
    the state dict shows. Whatever is loaded into them, moves them to another device or precision or writes to them
    counts: what is fast is made anew from them at the next call. Copies and pickles hold the plain network only, and
    make the rest when they are called.

    Args:
        model: in evaluation mode, kept.
        engine: made from it, or None to make it at the first call.
        wanted: how to make it again.
    """

    def __init__(self, model: nn.Module, engine: Engine | None, wanted: Wanted) -> None:
        if isinstance(model, VisionModel):
            super().__init__(model.backbone, model.head, model.info)
            # The same dicts, so that both hold the same parts for good.
            self._modules, self._parameters, self._buffers = model._modules, model._parameters, model._buffers
        else:
            super().__init__(model, None, ModelInfo(name=type(model).__name__))
        self.__dict__["_plain"] = model  # not a part by this name too
        self._wanted = wanted
        self._lock = threading.Lock()  # a runtime's buffers serve one call at a time
        super().train(False)
        self._use(engine)

    def _use(self, engine: Engine | None) -> None:
        self._snapshot = Snapshot(self.plain)
        self._engine = engine

    @property
    def plain(self) -> nn.Module:
        """The plain network, of the type that was given to ``optimize``."""
        plain: nn.Module = self.__dict__["_plain"]
        return plain

    @property
    def backend(self) -> Backend:
        """What runs it: "native", "openvino", "onnxruntime", "triton" or "reference"."""
        return self._ready().backend

    @property
    def reason(self) -> str:
        """Why the plain network runs, or why not in the precision that was asked for; else empty."""
        return self._ready().reason

    @property
    def precision(self) -> str:
        """What its products are computed in: "fp32" or "bf16"; "fp16" or "fp64" for weights of these types."""
        return self._ready().precision or weights_precision(self.plain)

    @property
    def fused(self) -> nn.Module | None:
        """The fused network of the backends "native" and "triton"."""
        return self._ready().fused

    def _ready(self) -> Engine:
        """The engine for the weights as they are now."""
        engine = self._engine
        later = (engine is not None and engine.backend == "triton") or torch.compiler.is_compiling()
        if engine is not None and (later or self._snapshot.still_holds()):
            return engine
        if any(type(parameter) is Tensor for parameter in self.plain.parameters()):
            return Engine("reference", "tensors stand in for its parameters, as in torch.func.functional_call")
        with self._lock:
            if self._engine is engine or self._engine is None:  # no other thread was faster
                try:
                    made = _engine(self.plain, self._wanted)
                except (ValueError, ModuleNotFoundError) as error:  # after a move or on another machine
                    logger.info("the plain network runs: %s", error)
                    made = Engine("reference", str(error))
                self._use(made)
            assert self._engine is not None
            return self._engine

    def __setattr__(self, name: str, value: Any) -> None:
        """Another head, or another backbone, counts as other weights do."""
        super().__setattr__(name, value)
        if name in self._modules and "_engine" in self.__dict__:
            self._engine = None

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_engine": None, "_snapshot": None, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._lock = threading.Lock()

    def _apply(self, fn: Any, recurse: bool = True) -> FastModel:
        """Moves and casts the plain network; where that changes something, the rest is made anew."""
        super()._apply(fn, recurse)
        if self._engine is not None and self._snapshot.has_moved(self.plain):
            self._engine = None
        return self

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """As of every module; the next call runs with what was loaded."""
        found = super().load_state_dict(*args, **kwargs)
        self._engine = None
        return found

    def apply(self, fn: Any) -> FastModel:
        """As of every module, to the plain network's parts; the next call runs with what that left."""
        super().apply(fn)
        self._engine = None
        return self

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
        self.plain.eval()
        return self

    @torch.no_grad()
    def forward(self, x: Tensor) -> Any:
        """The model's result for (B, C, H, W); never carries a gradient."""
        if is_watched(x):
            return self.plain(x)
        engine = self._ready()
        if engine.fused is not None and (engine.backend != "native" or self._suits(x)):
            result = engine.fused(x)
            if engine.backend != "triton" or self._snapshot.still_holds():  # looked at while the device works
                return result
            self._engine = None
            return self.forward(x)
        if engine.runtime is None or not self._suits(x):
            return self.plain(x)
        with self._lock:
            if not is_finite(x) or not engine.is_due(_plane(x)):  # a runtime's ReLU makes 0 of NaN
                return self.plain(x)
            try:
                return engine.answer(x, self.plain)
            except Exception as error:  # converters raise whatever they meet
                result = self.plain(x)  # which raises an error of its own where the input is at fault
                logger.warning("%s fails, the plain network runs from now on: %s", engine.backend, _first_line(error))
                self._use(Engine("reference", f"{engine.backend} fails: {_first_line(error)}"))
                return result

    @staticmethod
    def _suits(x: Tensor) -> bool:
        fits = x.ndim == 4 and x.device.type == "cpu" and x.dtype == torch.float32 and x.numel() > 0
        return fits and not torch.is_autocast_enabled("cpu")  # which decides the precision of every operation

    def extra_repr(self) -> str:
        return f"backend={self.backend}" + (f", reason={self.reason!r}" if self.reason else "")


def _plane(x: Tensor) -> Plane:
    return x.shape[1], x.shape[2], x.shape[3]


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
