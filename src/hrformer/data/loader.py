"""Items become batches: seeding, decoding, caching, worker processes. Errors name the file.

A batch is a dictionary. Tensors of equal shape are stacked, those of differing shape stay lists; ``index`` (B,) holds
the item numbers. Pictures stay uint8 until they are on the device.
"""

from __future__ import annotations

import logging
import math
import os
import random
import re
import shutil
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, default_collate

from hrformer.data.order import Key, mixed_seed
from hrformer.data.set_types import DataError, ImageSet

Item = dict[str, Any]
Batch = dict[str, Any]
Transform = Callable[[Item], Item]

_log = logging.getLogger(__name__)

REPLACE = "put a good file in its place, or leave it out with --data.skip-broken"
"""What to do about a file that cannot be read; the reason before it may say what a good one would be."""

CACHE_LIMIT = 2 << 30
"""Bytes of decoded pictures that are kept at most when nothing else is said."""

_PROBED = 32
"""Pictures that are decoded to see whether all of them would fit."""

SHARED_MEMORY = "/dev/shm"
"""Where Linux keeps it; containers get 64 MB of it unless they are told otherwise."""

MORE_SHARED_MEMORY = "docker run --shm-size 8g, or --ipc host"

_NO_WORKERS = "--runtime.workers 0 (of eval: --workers 0)"

_CAUSES = (
    (
        # What torch and the kernel say where shared memory is used up.
        r"no space left on device|shared memory|/torch_\w+|unable to mmap|bus error|cannot allocate memory",
        f"shared memory ({SHARED_MEMORY}) is used up; give more of it ({MORE_SHARED_MEMORY}), or take fewer workers: "
        f"{_NO_WORKERS} does without",
    ),
    (
        r"too many open files|ancdata",
        f"too many files are open at once; raise the limit (ulimit -n 65536), or take no workers: {_NO_WORKERS}",
    ),
    (
        r"signal: killed|exited unexpectedly|memoryerror|out of memory",
        "the system ended it, most likely for want of memory; take a smaller --runtime.cache-gb, or fewer workers: "
        f"{_NO_WORKERS} does without",
    ),
)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw from the CPU generators of torch, numpy and Python as if freshly seeded, and put them back after."""
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    # Not torch.manual_seed: that would reseed the GPUs as well, for good, and takes 100 times as long.
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    random.seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])


class PictureCache:
    """Decoded pictures in memory that all workers of a process share: all of the set, or none if they do not fit.

    ``limit`` is in bytes; so many ``threads`` decode.

    Raises:
        hrformer.data.images.ImageError: a picture cannot be read.
    """

    def __init__(self, source: ImageSet, limit: int = CACHE_LIMIT, threads: int = 2) -> None:
        owners = {source.picture(index): index for index in reversed(range(len(source)))}
        self._places: dict[int, tuple[int, tuple[int, ...]]] = {}
        self.complete = False
        kept: dict[int, NDArray[np.uint8]] = {}
        used = 0
        numbers = sorted(owners)
        probe = numbers[:: max(len(numbers) // _PROBED, 1)][:_PROBED]
        if sum(source.pixels(owners[number]).nbytes for number in probe) * len(numbers) > limit * len(probe):
            return
        with ThreadPoolExecutor(threads) as pool:
            for low in range(0, len(numbers), 256):
                chunk = numbers[low : low + 256]
                for number, pixels in zip(chunk, pool.map(lambda n: source.pixels(owners[n]), chunk), strict=True):
                    if used + pixels.nbytes > limit:
                        return
                    used += pixels.nbytes
                    kept[number] = pixels
        block = _shared_block(max(used, 1))
        if block is None:
            return
        memory, position = block.numpy(), 0
        for number in list(kept):
            picture = kept.pop(number)
            memory[position : position + picture.size] = picture.ravel()
            self._places[number] = (position, picture.shape)
            position += picture.size
        self._block = block
        self.complete = True

    def get(self, picture: int) -> NDArray[np.uint8] | None:
        """(H, W, 3) over the shared memory, or None where it is not kept."""
        if picture not in self._places:
            return None
        start, shape = self._places[picture]
        return self._block[start : start + math.prod(shape)].numpy().reshape(shape)


def _shared_block(size: int) -> torch.Tensor | None:
    """(size,) uint8 in memory that workers share, or None where there is too little; that is said in a warning."""
    free = free_shared_memory()
    # One block: every tensor in shared memory costs a file descriptor.
    if free is None or size <= free:
        with suppress(RuntimeError, OSError):
            return torch.empty(size, dtype=torch.uint8).share_memory_()
    _log.warning(
        f"decoded pictures are not kept: they need {size_text(size)} of shared memory, {size_text(free or 0)} are free "
        f"in {SHARED_MEMORY}; give more ({MORE_SHARED_MEMORY}), or set --runtime.cache-gb 0"
    )
    return None


@dataclass(frozen=True, slots=True)
class _Failure:
    """Travels from a worker in place of a batch, since exceptions arrive wrapped in the worker's traceback."""

    message: str


class LoaderDataset(Dataset[Any]):
    """Reads, seeds and transforms one item per key.

    Args:
        source: the set.
        transform: from ``source.item`` with ``index`` and ``epoch`` to what is batched; draws from the global
            generators only.
        seed: of the augmentation, with index and epoch.
        cache: decoded pictures, or None.
    """

    def __init__(self, source: ImageSet, transform: Transform, seed: int, cache: PictureCache | None = None) -> None:
        self.source, self.transform, self.seed, self.cache = source, transform, seed, cache

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, key: Key) -> Item | _Failure:
        index, epoch = key
        advice = f"; {REPLACE}"
        try:
            pixels = self.cache.get(self.source.picture(index)) if self.cache else None
            item = self.source.item(index, self.source.pixels(index) if pixels is None else pixels)
            advice = ""
            with seeded(mixed_seed(self.seed, epoch, index)):
                item = self.transform(item | {"index": index, "epoch": epoch})
            item.pop("epoch", None)
        except ValueError as error:
            name = self.source.file(index)
            text = str(error)
            return _Failure((text if name in text else f"{name}: {text}") + advice)
        except Exception as error:
            return _Failure(f"{self.source.file(index)}: {type(error).__name__}: {error}")
        return item


def collate(items: Sequence[Item | _Failure]) -> Batch | _Failure:
    """Stack what has one shape, list what has not; plain numbers become tensors."""
    rows = [item for item in items if not isinstance(item, _Failure)]
    if len(rows) < len(items):
        return next(item for item in items if isinstance(item, _Failure))
    return {name: _stacked([row[name] for row in rows]) for name in rows[0]}


def _stacked(values: list[Any]) -> Any:
    first = values[0]
    if isinstance(first, torch.Tensor):
        plain = [value.as_subclass(torch.Tensor) for value in values]
        if any(value.shape != first.shape for value in plain):
            return [value.contiguous() for value in plain]
        # In a worker torch writes once, straight into the memory that the main process will read.
        return default_collate(plain)
    if isinstance(first, int | float) and not isinstance(first, bool):
        return torch.tensor(values)
    return values


def _start_worker(_: int) -> None:
    # The main process decides what these mean, and workers end with it. Schedulers send SIGTERM to all of a job's
    # processes, and a run that is about to save must not lose its workers first.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def batches_of(
    dataset: LoaderDataset, order: Iterable[list[Key]], *, workers: int = 0, pin_memory: bool = False
) -> Iterator[Batch]:
    """Load batches in the given order.

    ``order`` has the keys of each batch and need not be held in memory. So many processes ``workers`` read ahead; 0
    reads in this one. ``pin_memory`` copies batches to page-locked memory, for faster transfer to a GPU.

    Yields:
        Batches, in the order given whatever the number of workers.

    Raises:
        DataError: an item cannot be read or transformed; the message names its file. Or a worker process has died or
            found no shared memory; the message says what to do.
    """
    loader: DataLoader[Any] = DataLoader(
        dataset,
        batch_sampler=order,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=pin_memory,
        worker_init_fn=_start_worker if workers else None,
        prefetch_factor=2 if workers else None,
        # Its own: the loader draws a seed at every start, which a run that is taken up again would draw once more.
        generator=torch.Generator(),
    )
    loaded: Any = iter(loader)
    try:
        while (batch := next(loaded, None)) is not None:
            if isinstance(batch, _Failure):
                raise DataError(batch.message)
            yield batch
    except (RuntimeError, OSError) as error:
        if not workers:
            raise
        raise DataError(worker_error(str(error))) from error
    finally:
        # Now, and not when the garbage collector comes to the traceback: then torch waits 5 s for each worker, and at
        # the end of the process for ever, since they do not heed its SIGTERM.
        if workers:
            loaded._shutdown_workers()
        del loaded


def default_workers(world_size: int = 1) -> int:
    """Worker processes for one of ``world_size`` processes: the cores it may use, less one for itself, at most 8."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(min(cores // world_size - 1, 8), 0)


def to_device(batch: Mapping[str, Any], device: torch.device) -> Batch:
    """Move all tensors of a batch, and those in lists, without waiting."""

    def moved(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return value.to(device, non_blocking=True)
        return [moved(one) for one in value] if isinstance(value, list) else value

    return {name: moved(value) for name, value in batch.items()}


def free_shared_memory() -> int | None:
    """Bytes of shared memory that are free; None where that cannot be asked."""
    try:
        return shutil.disk_usage(SHARED_MEMORY).free
    except OSError:
        return None


def worker_error(text: str) -> str:
    """Cause and remedy, in one line, of the failure of a process that loads data.

    ``text`` is that of torch's error, which may hold the worker's whole traceback.
    """
    last = text.strip().splitlines()[-1].strip() if text.strip() else "no reason given"
    # A traceback quotes lines of code, so only its end is looked at.
    remedies = (f"Remedy: {remedy}" for pattern, remedy in _CAUSES if re.search(pattern, last, re.IGNORECASE))
    remedy = next(remedies, f"{_NO_WORKERS} does without such processes")
    return f"a process that loads data failed: {last.rstrip('.')}. {remedy}"


def size_text(size: float) -> str:
    """Bytes for people: "64 MB"."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
