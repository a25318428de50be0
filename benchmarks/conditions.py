"""The conditions of a run: set the same for every candidate, and written beside the figures."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from candidates import Origin
from hrformer.fast.x86.library import find_half_library
from hrformer.train.run_folder import versions

# Parameters of glibc's mallopt (malloc.h).
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGE = 2**30
# Older glibc accepts no more than half a heap.
_MOST_OLD_GLIBC = 2**25

_RUNTIMES = ("transformers", "openvino", "onnxruntime", "onnx")


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What applies to every candidate.

    Attributes:
        device: "cpu" or "cuda".
        threads: of torch and of the CPU runtimes; 0 keeps torch's number, which is that of the cores.
        seed: of weights and inputs.
        checkouts: of other implementations.
        picture: file for the kinds "stages" and "start"; None makes one.
        rounds: how often each candidate has its turn.
        seconds: of timed calls in one turn, at least; a call that takes longer is timed once per turn.
        warmup: seconds of calls before the timed ones, in every turn: caches, clocks and thread pools are then those
            of this candidate and not of its predecessor. At least one call.
    """

    device: str = "cpu"
    threads: int = 0
    seed: int = 0
    checkouts: Mapping[Origin, Path] = field(default_factory=dict)
    picture: Path | None = None
    rounds: int = 10
    seconds: float = 0.3
    warmup: float = 0.1

    def __post_init__(self) -> None:
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("device is cuda, but there is no GPU that torch can use")
        if self.rounds < 1:
            raise ValueError(f"rounds must be at least 1, got {self.rounds}")
        for name in ("threads", "seconds", "warmup"):
            if (value := getattr(self, name)) < 0:
                raise ValueError(f"{name} must not be negative, got {value}")


def apply(settings: Settings) -> str:
    """Bring this process under the conditions; returns what :func:`keep_freed_memory` says."""
    if settings.threads:
        torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    return keep_freed_memory()


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


def _instructions() -> str:
    """The processor's instruction sets: torch's, and that of our kernels in bfloat16 where there are some."""
    half = find_half_library()[0]
    return ", ".join([torch.backends.cpu.get_cpu_capability(), *([half.instruction_set] if half else [])])


def describe(device: str, malloc: str) -> dict[str, Any]:
    """Machine, versions, commit, date and conditions, in JSON types; what a reader needs to judge the figures.

    Args:
        device: of the run.
        malloc: from :func:`apply`.
    """
    found = versions()
    for name in _RUNTIMES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        memory = 0  # it cannot be asked here
    return found | {
        "device": device,
        "malloc": malloc,
        "threads": torch.get_num_threads(),
        "interop_threads": torch.get_num_interop_threads(),
        "cpu_capability": _instructions(),
        "memory_gib": round(memory / 2**30, 1),
        "tf32": torch.backends.cuda.matmul.allow_tf32 if device == "cuda" else None,
        "load_average": [round(value, 2) for value in os.getloadavg()] if hasattr(os, "getloadavg") else None,
    }
