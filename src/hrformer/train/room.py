"""Whether a run has the disk for its checkpoints and the shared memory for its batches, asked before it starts."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from hrformer.data.loader import MORE_SHARED_MEMORY, free_shared_memory, size_text
from hrformer.train.state import BEST, FOLDER, LAST

_READ_AHEAD = 2
"""Batches that torch keeps ready per process that loads data."""

_WEIGHTS = ("best.safetensors", "last.safetensors")


def disk_needed(model: nn.Module, *, averaged: bool) -> int:
    """Bytes that a run directory holds at most: checkpoints last and best, weights last and best, one being written.

    Args:
        model: whose trained parameters get two moments of AdamW each.
        averaged: whether a moving average of the weights is kept as well.
    """
    weights = _bytes(model.parameters()) + _bytes(model.buffers())
    moments = 2 * _bytes(p for p in model.parameters() if p.requires_grad)
    checkpoint = weights * (2 if averaged else 1) + moments
    return 3 * checkpoint + len(_WEIGHTS) * weights


def want_of_disk(out: Path, needed: int) -> str:
    """What to tell where a run directory has no room for so many bytes; empty where it has.

    What a run there has written already will be replaced, and counts as free.
    """
    place = next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.exists())
    try:
        free = shutil.disk_usage(place).free
    except OSError:
        return ""
    names = [*(f"{FOLDER}/{name}" for name in (LAST, BEST)), *_WEIGHTS]
    # Best may be last under another name, and then takes no room.
    files = {(found.st_dev, found.st_ino): found.st_size for name in names if (found := _found(out / name))}
    if free + sum(files.values()) >= needed:
        return ""
    return (
        f"{out}: its disk has {size_text(free)} free, the checkpoints of this run need about {size_text(needed)}; "
        "free some, or choose another --out or a smaller --model.name"
    )


def want_of_shared_memory(item: Mapping[str, Any], batch: int, workers: int) -> str:
    """What to tell where the batches that workers read ahead do not fit into shared memory; empty where they do.

    Args:
        item: of the training set, as it is batched.
        batch: items in a batch of one process.
        workers: processes that read ahead, of all processes on this machine.
    """
    free = free_shared_memory()
    one = sum(value.numel() * value.element_size() for value in item.values() if isinstance(value, Tensor))
    need = one * batch * workers * _READ_AHEAD
    if free is None or need <= free:
        return ""
    return (
        f"{workers} processes that load data need {size_text(need)} of shared memory for their batches, "
        f"{size_text(free)} are free: give more ({MORE_SHARED_MEMORY}), or take --runtime.workers 0"
    )


def _found(path: Path) -> os.stat_result | None:
    return path.stat() if path.is_file() else None


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
