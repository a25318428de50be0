"""Kernels recorded once for maps of one size, and run again in one call.

Between two kernels Python needs as long as a small kernel runs. A recording holds the kernels' structures; the maps
between them get places in one piece of memory, where maps that are not needed at the same time share their place.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hrformer.fast.x86.library import Call, find_half_library, find_library, recorded_calls

LARGEST = 1024
"""Bytes of a kernel's structure, as in source/program.cpp."""

ALIGNMENT = 64
"""Bytes; a cache line, and a vector of AVX-512."""

LONGEST = 16
"""Kernels that one picture passes before the next, as in source/program.cpp."""

FEWEST_TOKENS = 128
"""Of a picture that is taken alone: fewer do not pay for reading all weights."""

WIDEST_HALF = 160
"""Channels of pictures in bfloat16 that are taken alone: beyond, weights do not stay in a core's cache beside them."""

ARENA, INPUT, OUTPUTS = 0, 1, 2
"""Memories of a run: of the maps between, the input, and the first output."""


class NotRecordableError(RuntimeError):
    """Something else than kernels took part; the message says what."""


class _Step(ctypes.Structure):
    _fields_ = (
        ("function", ctypes.c_void_p),
        ("settings", ctypes.c_void_p),
        ("size", ctypes.c_int),
        ("relocations", ctypes.c_int),
        ("chain", ctypes.c_int),
        ("pictures", ctypes.c_int),
        ("picture", ctypes.c_ssize_t),
        ("amount", ctypes.c_int),
        ("one", ctypes.c_int),
        ("threads", ctypes.c_int),
    )


class _Relocation(ctypes.Structure):
    _fields_ = (("field", ctypes.c_int), ("memory", ctypes.c_int), ("place", ctypes.c_ssize_t))


@dataclass
class _Life:
    """A map between: its bytes, and the first and last step that use it."""

    size: int
    first: int
    last: int


def find_chains(calls: Sequence[Call]) -> dict[int, int]:
    """First call and length of every run of kernels that each make one map of the map before, picture by picture.

    Blocks of one branch are such a run where there are several pictures for every thread.
    """
    chains: dict[int, int] = {}
    start = 0
    for number in range(1, len(calls) + 1):
        goes_on = number < len(calls) and number - start < LONGEST and _follows(calls[number - 1], calls[number])
        if not goes_on:
            if number - start > 1 and _goes_by_picture(calls[start]):
                chains[start] = number - start
            start = number
    return chains


def _follows(first: Call, second: Call) -> bool:
    return (
        all(call.name in BY_PICTURE for call in (first, second))
        and first.tensors["y"].data_ptr() == second.tensors["x"].data_ptr()
        and first.tensors["y"].shape == second.tensors["x"].shape
    )


def _goes_by_picture(call: Call) -> bool:
    x = call.tensors["x"]
    batch, height, width, channels = x.shape
    if x.dtype == torch.bfloat16 and channels > WIDEST_HALF:
        return False
    threads = call.structure.from_buffer_copy(call.settings).threads
    return height * width >= FEWEST_TOKENS and (batch % threads == 0 or batch >= 4 * threads) and batch > 1


BY_PICTURE = {"attention": "batch", "feed_forward": "rows"}
"""Kernels that treat every picture by itself, and the field that says how many there are, or how many rows."""


def place_maps(lives: Sequence[tuple[int, int, int]]) -> tuple[list[int], int]:
    """Places in one memory for maps of which those used at the same time do not overlap.

    Args:
        lives: (bytes, first step, last step) of each; it has its place to itself from the first to the last.

    Returns:
        First byte of each, and the bytes of the memory. Large maps are placed first, each as low as it can be.
    """
    places = [0] * len(lives)
    done: list[int] = []
    for i in sorted(range(len(lives)), key=lambda i: -lives[i][0]):
        size, first, last = lives[i]
        busy = sorted(
            (places[j], places[j] + lives[j][0]) for j in done if lives[j][1] <= last and first <= lives[j][2]
        )
        at = 0
        for start, end in busy:
            if at + size <= start:
                break
            at = max(at, -(-end // ALIGNMENT) * ALIGNMENT)
        places[i] = at
        done.append(i)
    return places, max((place + life[0] for place, life in zip(places, lives, strict=True)), default=0)


class Program:
    """Kernels that compute some maps from one, recorded while ``function`` runs once.

    Args:
        function: from the input to tensors, by kernels and views only.
        x: an input; a run takes others of its shape and strides.

    Raises:
        NotRecordableError: a kernel read, or the function returned, what no kernel had written.
    """

    def __init__(self, function: Callable[[Tensor], Sequence[Tensor]], x: Tensor) -> None:
        library = (find_half_library() if x.dtype == torch.bfloat16 else find_library())[0]
        if library is None:
            raise NotRecordableError("there are no kernels")
        self._run = library.kernel("program")
        with recorded_calls() as calls:
            outputs = list(function(x))
        self._forms = [
            (y.dtype, y.shape, y.stride(), y.storage_offset(), y.untyped_storage().nbytes()) for y in outputs
        ]
        self._size = x.numel()
        self._plan(calls, x, outputs)

    def _plan(self, calls: list[Call], x: Tensor, outputs: list[Tensor]) -> None:
        memories = {y.untyped_storage().data_ptr(): OUTPUTS + i for i, y in enumerate(outputs)}
        if len(memories) < len(outputs) or x.untyped_storage().data_ptr() in memories:
            raise NotRecordableError("two results share their memory, or the input is one")
        memories[x.untyped_storage().data_ptr()] = INPUT
        written = {INPUT}
        lives: dict[int, _Life] = {}
        pointers: list[list[tuple[int, int, int, int]]] = []  # per call: field, memory, storage, byte
        for number, call in enumerate(calls):
            found = []
            for name, tensor in call.tensors.items():
                storage = tensor.untyped_storage()
                key = storage.data_ptr()
                memory = memories.get(key, ARENA)
                known = key in lives if memory == ARENA else memory in written
                if name == "y":
                    written.add(memory)
                    lives.setdefault(key, _Life(storage.nbytes(), number, number))
                elif not known:
                    raise NotRecordableError(f"kernel {number} reads what no kernel wrote")
                if memory == ARENA:
                    lives[key].last = number
                found.append((getattr(call.structure, name).offset, memory, key, tensor.data_ptr() - key))
            pointers.append(found)
        if not written.issuperset(memories.values()):
            raise NotRecordableError("a result was written by no kernel")
        between = {key: life for key, life in lives.items() if key not in memories}
        places, self._arena = place_maps([(life.size, life.first, life.last) for life in between.values()])
        self._assemble(calls, pointers, dict(zip(between, places, strict=True)))

    def _assemble(
        self, calls: list[Call], pointers: list[list[tuple[int, int, int, int]]], places: dict[int, int]
    ) -> None:
        self._kept: list[Any] = [(call.kernel, ctypes.create_string_buffer(call.settings)) for call in calls]
        if any(len(call.settings) > LARGEST for call in calls):
            raise NotRecordableError(f"a structure of more than {LARGEST} bytes")
        self._steps = (_Step * len(calls))(
            *(
                _Step(call.kernel.address, ctypes.addressof(settings), len(call.settings), len(found))
                for call, (_, settings), found in zip(calls, self._kept, pointers, strict=True)
            )
        )
        for start, length in find_chains(calls).items():
            x = calls[start].tensors["x"]
            self._steps[start].chain, self._steps[start].pictures = length, x.shape[0]
            self._steps[start].picture = x[0].nbytes
            for call, step in zip(calls[start : start + length], self._steps[start : start + length], strict=True):
                step.amount = getattr(call.structure, BY_PICTURE[call.name]).offset
                step.one = 1 if BY_PICTURE[call.name] == "batch" else x.shape[1]
                step.threads = call.structure.threads.offset
        flat = [
            _Relocation(field, memory, byte + places.get(key, 0) if memory == ARENA else byte)
            for found in pointers
            for field, memory, key, byte in found
        ]
        self._relocations = (_Relocation * len(flat))(*flat)

    def __call__(self, x: Tensor) -> list[Tensor]:
        """New tensors with the results for ``x``, contiguous in its memory and of the recorded size."""
        assert x.numel() == self._size
        arena = torch.empty(self._arena, dtype=torch.uint8, device="cpu")
        memories = [torch.empty(size // dtype.itemsize, dtype=dtype, device="cpu") for dtype, *_, size in self._forms]
        start = x.data_ptr() - x.itemsize * int(x.storage_offset())
        given = [arena.data_ptr(), start, *(one.data_ptr() for one in memories)]
        bases = (ctypes.c_void_p * len(given))(*given)
        self._run(
            steps=ctypes.addressof(self._steps),
            relocations=ctypes.addressof(self._relocations),
            memories=ctypes.addressof(bases),
            count=len(self._steps),
        )
        return [
            memory.as_strided(shape, stride, offset)
            for memory, (_, shape, stride, offset, _) in zip(memories, self._forms, strict=True)
        ]
