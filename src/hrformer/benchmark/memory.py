"""Peak memory of a forward pass or a training step above that of the built network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

import torch

from hrformer.benchmark.candidates import Candidate
from hrformer.benchmark.conditions import Conditions
from hrformer.benchmark.memory_probe import CALLS
from hrformer.benchmark.networks import Sources
from hrformer.benchmark.processes import run_module

PROBE = "hrformer.benchmark.memory_probe"


def peak_on_gpu(prepare: Callable[[], Callable[[], object]], device: torch.device) -> int:
    """Bytes that torch's allocator had in use at the worst moment, above those of the built network.

    Args:
        prepare: makes the call; the network lies on the device before. What a runtime keeps for itself counts.
        device: the GPU.
    """
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated(device)
    call = prepare()
    for _ in range(CALLS):
        call()
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    for _ in range(CALLS):
        call()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def peak_in_own_process(
    candidate: Candidate, training: bool, batch: int, size: tuple[int, int], sources: Sources, conditions: Conditions
) -> tuple[int, str]:
    """The same on the CPU, where memory belongs to the process: the candidate is built in one of its own.

    Returns:
        Bytes, and how they were measured.

    Raises:
        ProbeError: the candidate failed there.
    """
    order = {
        "candidate": asdict(candidate),
        "training": training,
        "batch": batch,
        "size": size,
        "conditions": asdict(conditions),
        "checkouts": {name: str(path) for name, path in sources.checkouts.items()},
    }
    answer = run_module(PROBE, order)
    return int(answer["above_model"]), str(answer["method"])
