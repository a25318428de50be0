"""The conditions of a run: set the same for every candidate, and written beside the figures."""

from __future__ import annotations

import ctypes
import os
import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from hrformer.train.versions import versions

# Parameters of glibc's mallopt (malloc.h).
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGE = 2**30
# Older glibc accepts no more than half a heap.
_MOST_OLD_GLIBC = 2**25

_RUNTIMES = ("transformers", "openvino", "onnxruntime", "onnx")


@dataclass(frozen=True, kw_only=True, slots=True)
class Conditions:
    """What applies to every candidate.

    Attributes:
        device: "cpu" or "cuda".
        threads: of torch and of the CPU runtimes; 0 keeps torch's number, which is that of the cores.
        seed: of weights and inputs.
    """

    device: str = "cpu"
    threads: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.device not in ("cpu", "cuda"):
            raise ValueError(f"device must be cpu or cuda, got {self.device!r}")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("device is cuda, but there is no GPU that torch can use")
        if self.threads < 0:
            raise ValueError(f"threads must not be negative, got {self.threads}")


def apply(conditions: Conditions) -> dict[str, Any]:
    """Bring this process under the conditions.

    Returns:
        "malloc": what :func:`keep_freed_memory` says; "threads".
    """
    if conditions.threads:
        torch.set_num_threads(conditions.threads)
    torch.manual_seed(conditions.seed)
    return {"malloc": keep_freed_memory(), "threads": torch.get_num_threads()}


def keep_freed_memory() -> str:
    """Let glibc keep what is freed instead of giving it back to the system at every step.

    Without this a forward pass spends a large part of its time on page faults, and how large depends on what ran
    before it in the same process.

    Returns:
        The thresholds now in force, or why there are none.
    """
    if platform.libc_ver()[0] != "glibc":
        return "not glibc: as it is"
    mallopt = ctypes.CDLL(None).mallopt
    threshold = next((size for size in (_LARGE, _MOST_OLD_GLIBC) if mallopt(_MMAP_THRESHOLD, size)), 0)
    trimmed = _LARGE if mallopt(_TRIM_THRESHOLD, _LARGE) else 0
    return f"glibc: mmap threshold {threshold >> 20} MiB, trim threshold {trimmed >> 20} MiB"


def describe(applied: dict[str, Any], device: str) -> dict[str, Any]:
    """Machine, versions, commit, date and conditions, in JSON types; what a reader needs to judge the figures.

    Args:
        applied: from :func:`apply`.
        device: of the run.
    """
    found = versions()
    found |= {name: number for name in _RUNTIMES if (number := _installed(name)) is not None}
    return found | {
        "device": device,
        **applied,
        "interop_threads": torch.get_num_interop_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "memory_gib": round(_memory() / 2**30, 1),
        "tf32": torch.backends.cuda.matmul.allow_tf32 if device == "cuda" else None,
        "load_average": [round(value, 2) for value in os.getloadavg()] if hasattr(os, "getloadavg") else None,
    }


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _memory() -> int:
    """Bytes of the machine's memory; 0 where it cannot be asked."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0
