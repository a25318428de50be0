"""Peak memory of one candidate on the CPU, measured in a process of its own.

Run as ``python -m hrformer.benchmark.memory_probe``, by ``memory``. Reads the candidate as JSON from standard input
and writes the result as JSON to standard output.
"""

from __future__ import annotations

import ctypes
import gc
import json
import platform
import resource
import sys
from pathlib import Path
from typing import Any

import torch

from hrformer.benchmark.calls import make_input, prepare_forward, prepare_training
from hrformer.benchmark.candidates import Candidate
from hrformer.benchmark.conditions import Conditions, apply
from hrformer.benchmark.networks import Sources, build_network

CALLS = 3
"""Forward passes or steps whose peak is taken, after as many that may build and compile."""


def measure(order: dict[str, Any]) -> dict[str, Any]:
    """Run the candidate and watch the process.

    Args:
        order: "candidate" (fields), "training" (bool), "batch", "size", "conditions" (fields), "checkouts".

    Returns:
        "above_model": bytes by which the peak of the calls exceeds the process with the built network; "process": bytes
        by which it exceeds the process before the network was built; "method".
    """
    candidate, conditions = Candidate(**order["candidate"]), Conditions(**order["conditions"])
    batch, (height, width), cpu = order["batch"], order["size"], torch.device("cpu")
    apply(conditions)
    checkouts = {name: Path(path) for name, path in order["checkouts"].items()}
    before = resident()
    network = build_network(candidate, Sources(checkouts=checkouts, seed=conditions.seed))
    built = resident()
    if order["training"]:
        call = prepare_training(network, candidate, batch, (height, width), cpu, conditions.seed)
    else:
        forward = prepare_forward(network, candidate, cpu)
        pictures = make_input(candidate, batch, (height, width), cpu, conditions.seed)

        def call() -> Any:
            return forward(pictures)

    for _ in range(CALLS):
        call()
    watch = PeakWatch()
    for _ in range(CALLS):
        call()
    peak = watch.peak()
    return {"above_model": peak - built, "process": peak - before, "method": watch.method}


def resident() -> int:
    """Bytes of this process in memory now, without what is merely kept for later; the peak so far off Linux."""
    give_back()
    found = _status("VmRSS")
    return _most_ever() if found is None else found


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
        found = _status("VmHWM") if self.method.startswith("VmHWM") else None
        return _most_ever() if found is None else found


def _status(field: str) -> int | None:
    """A field of /proc/self/status in bytes."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:")), None)


def _most_ever() -> int:
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Kilobytes on Linux, bytes on macOS.
    return most if sys.platform == "darwin" else most * 1024


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure(json.load(sys.stdin))))
