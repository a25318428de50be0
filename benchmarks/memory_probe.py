"""Peak memory of one candidate on the CPU, measured in a process of its own; started by ``own_process.peak_memory``."""

from __future__ import annotations

import ctypes
import gc
import json
import platform
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from calls import Forward, make_input, prepare_training
from candidates import Candidate, Job
from conditions import Settings, apply
from networks import build_network

CALLS = 3
"""Forward passes or steps whose peak is taken, after as many that may build and compile."""


def measure(order: dict[str, Any]) -> dict[str, Any]:
    """Run the candidate and watch the process.

    Args:
        order: "job" and "settings" (fields of theirs), "training" (bool).

    Returns:
        "above_model": bytes by which the peak of the calls exceeds the process with the built network; "method".
    """
    given, settings, device = order["job"], Settings(**order["settings"]), torch.device("cpu")
    height, width = given["size"]
    job = Job(candidate=Candidate(**given["candidate"]), batch=given["batch"], size=(height, width))
    apply(settings)
    checkouts = {name: Path(path) for name, path in settings.checkouts.items()}
    network = build_network(job.candidate, checkouts, settings.seed)
    built = resident()
    call = prepare(network, job, order["training"], device, settings.seed)
    for _ in range(CALLS):
        call()
    watch = PeakWatch()
    for _ in range(CALLS):
        call()
    return {"above_model": watch.peak() - built, "method": watch.method}


def prepare(network: nn.Module, job: Job, training: bool, device: torch.device, seed: int) -> Callable[[], object]:
    """A forward pass or a training step."""
    if training:
        return prepare_training(network, job, device, seed)
    forward, pictures = Forward(network, job.candidate, device), make_input(job, device, seed)
    return lambda: forward(pictures)


def peak_on_gpu(network: nn.Module, job: Job, training: bool, device: torch.device, seed: int) -> float:
    """Bytes that torch's allocator had in use at the worst moment, above those of the network built on the GPU.

    What a runtime keeps for itself counts.
    """
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated(device)
    call = prepare(network, job, training, device, seed)
    for _ in range(CALLS):
        call()
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    for _ in range(CALLS):
        call()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def resident() -> int:
    """Bytes of this process in memory now, without what is merely kept for later; the peak so far off Linux."""
    give_back()
    return _status("VmRSS") or _most_ever()


def give_back() -> None:
    """Collect garbage and return free memory to the system, so that it is not taken for memory in use."""
    gc.collect()
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


class PeakWatch:
    """Highest memory of this process from now on.

    Linux keeps the mark in VmHWM and lets a process reset its own. Where that is not allowed, or there is no such
    mark, ``getrusage`` gives the peak since the start of the process, building included; ``method`` says which.
    """

    def __init__(self) -> None:
        give_back()
        try:
            Path("/proc/self/clear_refs").write_text("5")
            self.method = "VmHWM, reset before the calls"
        except OSError:
            self.method = "getrusage, since the start of the process"

    def peak(self) -> int:
        """Bytes."""
        found = _status("VmHWM") if self.method.startswith("VmHWM") else 0
        return found or _most_ever()


def _status(field: str) -> int:
    """A field of /proc/self/status in bytes; 0 where it is not to be had."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:")), 0)


def _most_ever() -> int:
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Kilobytes on Linux, bytes on macOS.
    return most if sys.platform == "darwin" else most * 1024


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure(json.load(sys.stdin))))
