"""What ``optimize`` is asked for, and the backend and precision that a model gets for it."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal, get_args

import torch
from torch import nn

from hrformer.fast.eligibility import changed_part, part_in_training
from hrformer.fast.x86.library import find_half_library
from hrformer.fast.x86.model import native_model_refusal

Backend = Literal["auto", "native", "openvino", "onnxruntime", "triton", "reference"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)
Precision = Literal["fp32", "bf16", "auto"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

_NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16", torch.float64: "fp64"}
_INSTALL = "pip install 'hrformer[fast-cpu]'"


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """What ``optimize`` was asked for, see there."""

    backend: Backend = "auto"
    threads: int | None = None
    precision: Precision = "fp32"
    cache: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """What a model gets.

    Attributes:
        backend: never "auto".
        precision: of its products, such as "fp32".
        reason: why the plain network runs, or why not in the precision that was asked for; else empty.
    """

    backend: Backend
    precision: str
    reason: str = ""


def check_precision(precision: str, dtype: torch.dtype = torch.float32) -> None:
    """ValueError for what is not one of ``PRECISIONS``, or stands beside a type that weights are to have."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be 'fp32', 'bf16' or 'auto', got {precision!r}")
    if precision == "bf16" and dtype != torch.float32:
        raise ValueError(f"give precision or dtype, not both: got {precision!r} and {dtype}")


def weights_precision(model: nn.Module) -> str:
    """The type of a model's weights as precisions are called here: "fp32", "bf16", "fp16", "fp64"."""
    dtype = next((weight.dtype for weight in model.parameters()), torch.float32)
    return _NAMES.get(dtype, str(dtype))


def chosen(model: nn.Module, wanted: Wanted) -> Choice:
    """The backend and precision for a model; "reference" with the reason where no other applies.

    Raises:
        ValueError: the backend that was asked for by name does not run the model, or not in this precision.
    """
    backend = wanted.backend
    weight = next(model.parameters(), torch.empty(0, dtype=torch.float32, device="cpu"))
    if backend == "triton" and weight.device.type != "cuda":
        raise ValueError(f"backend 'triton' runs on CUDA, but the model is on {weight.device}")
    on_cpu = weight.device.type == "cpu" and weight.dtype == torch.float32
    if backend in ("native", "openvino", "onnxruntime") and not on_cpu:
        raise ValueError(
            f"backend {backend!r} runs float32 models on the CPU, this one is {weight.dtype} on {weight.device}"
        )
    if backend == "reference":
        return _plain(model, "", wanted)
    changed = changed_part(model) or part_in_training(model)
    if backend == "native" and changed:
        raise ValueError(f"backend 'native' does not run here: {changed}")
    if changed:
        return _plain(model, changed, wanted)
    if weight.device.type == "cuda":
        return Choice(backend="triton", precision=weights_precision(model))
    if not on_cpu:
        return _plain(model, f"no fast path for {weight.dtype} on {weight.device}", wanted)
    return _on_cpu(model, wanted)


def _on_cpu(model: nn.Module, wanted: Wanted) -> Choice:
    """The choice for a float32 model on the CPU that nobody has changed; the backend is one for it, or "auto"."""
    backend, precisions, refusal = wanted.backend, _in_turn(wanted.precision), ""
    if backend in ("auto", "native"):
        for precision in precisions:
            found = native_model_refusal(model, precision)
            if found is None:
                return Choice(backend="native", precision=precision)
            refusal = found
    if backend == "native":
        half = " in bf16" if wanted.precision == "bf16" else ""
        raise ValueError(f"backend 'native' does not run here{half}: {refusal}")
    if backend == "openvino" or (backend == "auto" and find_spec("openvino") is not None):
        return Choice(backend="openvino", precision=precisions[0])
    if backend == "onnxruntime" and wanted.precision == "bf16":
        raise ValueError("backend 'onnxruntime' computes in fp32; take 'native' or 'openvino' for bf16")
    if backend == "onnxruntime" or find_spec("onnxruntime") is not None:
        missing = f"{refusal}, and OpenVINO is not installed ({_INSTALL})"
        return Choice(backend="onnxruntime", precision="fp32", reason=_other(missing, "fp32", wanted))
    return _plain(model, f"{refusal}, and no runtime for the CPU is installed ({_INSTALL})", wanted)


def _in_turn(precision: Precision) -> tuple[Literal["fp32", "bf16"], ...]:
    """The precisions to try, the best first."""
    if precision == "auto":
        library = find_half_library()[0]
        return ("bf16", "fp32") if library is not None and library.pays else ("fp32",)
    return (precision,)


def _plain(model: nn.Module, reason: str, wanted: Wanted) -> Choice:
    precision = weights_precision(model)
    return Choice(backend="reference", precision=precision, reason=_other(reason, precision, wanted) or reason)


def _other(reason: str, precision: str, wanted: Wanted) -> str:
    """The reason for another precision than the one that was asked for by name; empty where it is that one."""
    if wanted.precision != "bf16" or precision == "bf16":
        return ""
    return f"{reason}; " * bool(reason) + f"products are {precision}, not bf16 as asked"
