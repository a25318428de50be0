"""The compiled kernels: found for this processor, loaded once, called with tensors.

Every function of the library takes one structure, see ``structures``. Nothing is checked there; every tensor is checked
here, against ``sizes``, before its address is passed.
"""

from __future__ import annotations

import ctypes
import os
import struct
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hrformer.fast.x86.build import INSTRUCTION_SETS, library_path
from hrformer.fast.x86.structures import STRUCTURES, check_numbers

SWITCH = "HRFORMER_NATIVE"
"""Environment variable: "0" leaves the kernels alone, "avx2" takes those even where AVX-512 is there."""


CODES = {ctypes.c_void_p: "P", ctypes.c_int: "i", ctypes.c_float: "f"}
"""Types of fields as the module ``struct`` names them."""


class Kernel:
    """A function of the library with its structure filled in but for what changes between calls.

    Args:
        function: of the library.
        structure: its argument's type.
        constants: fields that stay; tensors are kept alive.
        lanes: floats in a vector.

    Raises:
        ValueError: a tensor does not fit the kernel.
    """

    def __init__(
        self, function: Any, structure: type[ctypes.Structure], constants: Mapping[str, Any], lanes: int
    ) -> None:
        self._function, self._structure, self._lanes = function, structure, lanes
        self.address = ctypes.cast(function, ctypes.c_void_p).value
        kinds = "".join(CODES[kind] for _, kind in structure._fields_)  # type: ignore[misc]
        padding = ctypes.sizeof(structure) - struct.calcsize(kinds)
        self._pack = struct.Struct(f"{kinds}{padding}x").pack
        self._numbers = dict.fromkeys((field for field, *_ in structure._fields_), 0)
        self._kept = self._fill(self._numbers, constants, in_memory=False)

    def __call__(self, *, in_memory: Any = False, **values: Any) -> None:
        """Run it; tensors are passed by address.

        Args:
            in_memory: whether the caller has seen that they are in memory, see ``structures.is_in_memory``.
            values: fields.

        Raises:
            ValueError: a tensor is not float32, contiguous, on the CPU and of the kernel's size.
        """
        numbers = self._numbers.copy()
        tensors = self._fill(numbers, values, in_memory=in_memory)
        numbers["threads"] = current_threads()
        settings = self._pack(*numbers.values())
        self._function(ctypes.byref(self._structure.from_buffer_copy(settings)))
        calls = getattr(_own, "calls", None)
        if calls is not None:
            calls.append(Call(self._structure.__name__, self, self._structure, settings, tensors))

    def _fill(self, numbers: dict[str, Any], values: Mapping[str, Any], *, in_memory: bool) -> dict[str, Tensor]:
        """Write values into the structure's numbers, tensors by address once they are known to fit; return these."""
        tensors = {}
        for name, value in values.items():
            if isinstance(value, Tensor):
                tensors[name] = value
            elif value is not None:
                numbers[name] = value
        check_numbers(self._structure.__name__, numbers, tensors, self._lanes, in_memory=in_memory)
        for name, tensor in tensors.items():
            numbers[name] = tensor.data_ptr()
        return tensors

    def __deepcopy__(self, memo: Any) -> None:
        raise TypeError("kernels hold addresses and cannot be copied")


@dataclass(frozen=True)
class Call:
    """A kernel that ran: its structure as it was, and the tensors that were no constants, kept alive."""

    name: str
    kernel: Kernel
    structure: type[ctypes.Structure]
    settings: bytes
    tensors: Mapping[str, Tensor]


_own = threading.local()


def current_threads() -> int:
    """Threads of kernels that the calling thread runs."""
    return getattr(_own, "threads", None) or torch.get_num_threads()


@contextmanager
def kernel_threads(count: int) -> Iterator[None]:
    """Let kernels that the calling thread runs use this many threads, whatever torch's number is."""
    before = getattr(_own, "threads", None)
    _own.threads = count
    try:
        yield
    finally:
        _own.threads = before


@contextmanager
def recorded_calls() -> Iterator[list[Call]]:
    """Collect the kernels that the calling thread runs. Recordings do not nest."""
    calls: list[Call] = []
    _own.calls = calls
    try:
        yield calls
    finally:
        _own.calls = None


class NativeLibrary:
    """One compiled file.

    Attributes:
        lanes: floats in a vector; packed weights depend on it.
        instruction_set: that it is compiled for, as in ``build.INSTRUCTION_SETS``.
    """

    def __init__(self, path: str) -> None:
        self._library = ctypes.CDLL(path)
        self.instruction_set = Path(path).stem.removeprefix("kernels_")
        self.lanes = int(self._library.hrformer_lanes())
        self._structures = {
            name: type(name, (ctypes.Structure,), {"_fields_": list(fields.items())})
            for name, fields in STRUCTURES.items()
        }
        self._kernels: dict[str, Kernel] = {}

    def kernel(self, name: str, **constants: Any) -> Kernel:
        """The function of this name with these fields of its structure filled in, tensors as for ``call``."""
        return Kernel(getattr(self._library, f"hrformer_{name}"), self._structures[name], constants, self.lanes)

    def call(self, name: str, *, in_memory: Any = False, **values: Any) -> None:
        """Run a kernel, see ``Kernel``."""
        if name not in self._kernels:
            self._kernels[name] = self.kernel(name)
        self._kernels[name](in_memory=in_memory, **values)


@cache
def find_library() -> tuple[NativeLibrary | None, str]:
    """The kernels for this processor, or None and why there are none."""
    wanted = os.environ.get(SWITCH, "")
    if wanted == "0":
        return None, f"{SWITCH}=0 switches the kernels off"
    capability = torch.backends.cpu.get_cpu_capability().lower()
    name = {"avx512": wanted or "avx512", "avx2": "avx2"}.get(capability)
    if name is None:
        return None, f"kernels need a processor with AVX2, torch finds {capability!r}"
    if name not in INSTRUCTION_SETS:
        raise ValueError(f"{SWITCH} must be 0, {' or '.join(INSTRUCTION_SETS)}, got {wanted!r}")
    path = library_path(name)
    if not path.is_file():
        return None, "this installation holds no compiled kernels"
    try:
        return NativeLibrary(str(path)), ""
    except OSError as error:  # OpenMP's functions are torch's; a torch built without them has none
        return None, f"the kernels cannot be loaded: {error}"
