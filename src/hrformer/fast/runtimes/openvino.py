"""Models executed by OpenVINO on the CPU, compiled once per input size and kept on disk."""

from __future__ import annotations

import hashlib
import inspect
import io
import logging
from collections.abc import Iterable, Sequence
from functools import cache
from inspect import isbuiltin, isfunction
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hrformer.fast.proof import BF16_BOUND, FP32_BOUND
from hrformer.fast.runtimes.blocks import runtime_module
from hrformer.fast.runtimes.openvino_graph import build_graph
from hrformer.files import write_file

_PLAIN = (bool, int, float, str, tuple, list, dict, torch.dtype, type(None))


def module_fingerprint(module: nn.Module, further: Iterable[object] = ()) -> str:
    """Hex digest that changes with any weight, any plain attribute of any submodule and any line of their code.

    Compiled graphs are stored under it, so it must not miss anything that changes a result: names of weights alone
    would not show another upsampling mode, and a version number would not show an edited checkout.

    Args:
        module: on any device.
        further: what else the stored thing depends on; its ``repr`` counts.
    """
    digest = hashlib.sha256()
    sources: dict[str, None] = {}
    for name, part in module.named_modules():
        kind = type(part)
        digest.update(f"{name}:{kind.__module__}.{kind.__qualname__}".encode())
        for key, value in sorted(vars(part).items()):
            if isinstance(value, Tensor):
                digest.update(f"{key}{tuple(value.shape)}{value.dtype}".encode() + _bytes(value))
            elif isfunction(value) or isbuiltin(value):  # an activation, say
                digest.update(f"{key}{value.__module__}{value.__qualname__}".encode() + _code(value))
            elif isinstance(value, _PLAIN) and key not in vars(nn.Module()):
                digest.update(f"{key}{value!r}".encode())
        sources.setdefault(inspect.getsourcefile(kind) or "")
    for source in [*sources, *map(str, sorted(Path(__file__).parent.glob("*.py")))]:
        digest.update(Path(source).read_bytes() if Path(source).is_file() else source.encode())
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(_bytes(tensor))
    for item in further:
        digest.update(repr(item).encode())
    return digest.hexdigest()


def _code(function: Any) -> bytes:
    """What a function does, also one without a name."""
    code = getattr(function, "__code__", None)
    return code.co_code + repr((code.co_names, code.co_consts)).encode() if code is not None else b""


def _bytes(tensor: Tensor) -> bytes:
    flat = tensor.detach().cpu().contiguous().view(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


logger = logging.getLogger("hrformer")

Plane = tuple[int, int, int]
"""(C, H, W) of one picture."""


@cache
def openvino_core() -> Any:
    """OpenVINO, imported when the first program is wanted: that takes a quarter of a second.

    One for a process, to its end. A core gives its thread a stack of its own for signal handlers, and takes it away
    when it goes: once two cores had gone, the thread had a stack that no longer existed, and the next Ctrl-C or
    finished loader worker was a segmentation fault (seen with OpenVINO 2026.4).
    """
    import openvino

    return openvino.Core()


def has_bf16() -> bool:
    """Whether OpenVINO computes in bfloat16 on this processor when it may."""
    return "BF16" in openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


class OpenVINORuntime:
    """Runs a module on batches of float32 pictures.

    Two programs per size, each compiled when first needed. One works on a single picture with all threads. The other
    has a stream per thread, each with a picture of its own: as pictures do not wait for each other, and one picture's
    maps fit into a core's caches where a batch's do not, a batch takes less time than in one piece.

    Args:
        module: in evaluation mode; maps (B, C, H, W) to a tensor or several.
        threads: at least 1.
        bf16: compute in bfloat16 where the processor has it. Off, every product is float32, also on processors
            where OpenVINO would choose bfloat16 by itself.
        folder: where compiled programs are kept, or None.
    """

    def __init__(self, module: nn.Module, *, threads: int, bf16: bool = False, folder: Path | None = None) -> None:
        self.bound = BF16_BOUND if bf16 else FP32_BOUND
        self._module = module
        self._threads = threads
        self._settings = {
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32",
        }
        self._folder = folder
        self._fingerprint = ""
        self._prepared: nn.Module | None = None
        self._graphs: dict[Plane, Any] = {}
        self._requests: dict[tuple[Plane, int], list[Any]] = {}

    def _about(self) -> tuple[Any, ...]:
        """What a compiled program depends on besides the model and the settings."""
        import openvino

        return (
            openvino.get_version(),
            openvino_core().get_property("CPU", "FULL_DEVICE_NAME"),
            openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"),
            torch.backends.cpu.get_cpu_capability(),
        )

    def forget(self, plane: Plane) -> None:
        """Drop the programs for a size."""
        for streams in {1, self._threads}:
            self._requests.pop((plane, streams), None)

    def run(self, x: Tensor) -> list[Tensor]:
        """(B, C, H, W) float32 on the CPU, B >= 1 -> the module's outputs in order, in tensors of their own."""
        plane = (x.shape[1], x.shape[2], x.shape[3])
        streams = self._threads if x.shape[0] >= self._threads else 1
        requests = self._requests_for(plane, streams)
        pictures = x.contiguous().numpy()
        found: list[list[Tensor]] = []
        for start in range(0, len(pictures), len(requests)):
            busy = list(zip(requests, pictures[start : start + len(requests)], strict=False))
            for request, picture in busy:
                request.start_async({0: picture[None]}, share_inputs=True)
            for request, _ in busy:
                request.wait()
            found += [[torch.from_numpy(o.data.copy()) for o in request.output_tensors] for request, _ in busy]
        return [torch.cat(parts) for parts in zip(*found, strict=True)]

    def _requests_for(self, plane: Plane, streams: int) -> list[Any]:
        key = (plane, streams)
        if key not in self._requests:
            program = self._program(plane, streams)
            self._requests[key] = [program.create_infer_request() for _ in range(streams)]
        return self._requests[key]

    def _program(self, plane: Plane, streams: int) -> Any:
        settings = self._settings | {"NUM_STREAMS": streams}
        path = self._path(plane, streams)
        if path is not None and path.is_file():
            try:
                return openvino_core().import_model(io.BytesIO(path.read_bytes()), "CPU", settings)
            except RuntimeError as error:
                logger.warning("%s cannot be used and is made anew: %s", path, str(error).partition("\n")[0])
        program = openvino_core().compile_model(self._graph(plane), "CPU", settings)
        if path is not None:
            self._keep(path, program)
        return program

    def _path(self, plane: Plane, streams: int) -> Path | None:
        if self._folder is None:
            return None
        if not self._fingerprint:
            self._fingerprint = module_fingerprint(self._module, (*self._about(), *self._settings.items()))[:24]
        size = "x".join(map(str, plane))
        return self._folder / f"openvino-{self._fingerprint}-{size}-{streams}.blob"

    def _keep(self, path: Path, program: Any) -> None:
        exported = program.export_model().getvalue()
        try:
            write_file(path, lambda part: part.write_bytes(exported))
        except OSError as error:
            logger.warning("the compiled model is not kept: %s", error)

    def _graph(self, plane: Plane) -> Any:
        if plane not in self._graphs:
            if self._prepared is None:
                self._prepared = runtime_module(self._module)
            self._graphs = {plane: openvino_graph(self._prepared, (1, *plane))}  # both programs come one after another
        return self._graphs[plane]


def openvino_graph(module: nn.Module, shape: Sequence[int]) -> Any:
    """The graph of a module: ours where it knows all its functions, else OpenVINO's own conversion, which is slow.

    Raises:
        RuntimeError: OpenVINO cannot convert the module.
    """
    import openvino

    try:
        return build_graph(module, shape)
    except Exception as error:  # a stand-in is no tensor in many ways
        logger.info("%s goes through OpenVINO's converter: %s", type(module).__name__, error)
    # Not zeros: a network may branch on its input's values while it is traced.
    seeded = torch.Generator().manual_seed(0)
    example = torch.rand(tuple(shape), generator=seeded, dtype=torch.float32, device="cpu")
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    try:
        return openvino.convert_model(module, example_input=example, input=[tuple(shape)])
    finally:  # it silences everybody's warnings, and leaves it at that
        root.setLevel(level)
        root.handlers[:] = handlers
