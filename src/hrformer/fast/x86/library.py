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

from hrformer.fast.x86.build import HALF_SETS, INSTRUCTION_SETS, library_path
from hrformer.fast.x86.structures import HALF_STRUCTURES, STRUCTURES, check_numbers

SWITCH = "HRFORMER_NATIVE"
"""Environment variable: "0" leaves the kernels alone; the name of an instruction set in ``build`` takes that one even
where a better one is there."""


CODES = {ctypes.c_void_p: "P", ctypes.c_int: "i", ctypes.c_float: "f"}
"""Types of fields as the module ``struct`` names them."""


class Kernel:
    """A function of the library with its structure filled in but for what changes between calls.

    Args:
        function: of the library.
        structure: its argument's type.
        constants: fields that stay; tensors are kept alive.
        lanes: floats in a vector.
        half: whether it computes in bfloat16.

    Raises:
        ValueError: a tensor does not fit the kernel.
    """

    def __init__(
        self,
        function: Any,
        structure: type[ctypes.Structure],
        constants: Mapping[str, Any],
        lanes: int,
        *,
        half: bool = False,
    ) -> None:
        self._function, self._structure, self._lanes, self._half = function, structure, lanes, half
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
            ValueError: a tensor is not of the kernel's dtype and size, contiguous and on the CPU.
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
        check_numbers(self._structure.__name__, numbers, tensors, self._lanes, in_memory=in_memory, half=self._half)
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
        instruction_set: that it is compiled for, as in ``build.INSTRUCTION_SETS`` or ``build.HALF_SETS``.
        half: whether its kernels compute in bfloat16.
        dtype: of the maps between kernels.
        runs: whether the system lets this process use them.
        pays: of kernels in bfloat16, whether they are quicker here than those in float32, measured in microseconds.

    Args:
        path: of the file.
        half: whether its kernels compute in bfloat16.
    """

    def __init__(self, path: str, *, half: bool = False) -> None:
        self._library = ctypes.CDLL(path)
        self.half, self.dtype = half, torch.bfloat16 if half else torch.float32
        self.runs = not half or bool(self._library.hrformer_may_run())
        self.pays = half and self.runs and bool(self._library.hrformer_pays())
        self.instruction_set = Path(path).stem.removeprefix("kernels_")
        self.lanes = int(self._library.hrformer_lanes())
        self._structures = {
            name: type(name, (ctypes.Structure,), {"_fields_": list(fields.items())})
            for name, fields in (HALF_STRUCTURES if half else STRUCTURES).items()
        }
        self._kernels: dict[str, Kernel] = {}

    def kernel(self, name: str, **constants: Any) -> Kernel:
        """The function of this name with these fields of its structure filled in, tensors as for ``call``."""
        function = getattr(self._library, f"hrformer_{name}")
        return Kernel(function, self._structures[name], constants, self.lanes, half=self.half)

    def call(self, name: str, *, in_memory: Any = False, **values: Any) -> None:
        """Run a kernel, see ``Kernel``."""
        if name not in self._kernels:
            self._kernels[name] = self.kernel(name)
        self._kernels[name](in_memory=in_memory, **values)


def _wanted() -> str:
    """What ``SWITCH`` asks for; empty for the best.

    Raises:
        ValueError: there is no such instruction set.
    """
    wanted = os.environ.get(SWITCH, "")
    known = [*INSTRUCTION_SETS, *HALF_SETS]
    if wanted not in ("", "0", *known):
        raise ValueError(f"{SWITCH} must be 0, {', '.join(known[:-1])} or {known[-1]}, got {wanted!r}")
    return wanted


@cache
def find_library() -> tuple[NativeLibrary | None, str]:
    """The kernels in float32 for this processor, or None and why there are none."""
    wanted = _wanted()
    if wanted == "0":
        return None, f"{SWITCH}=0 switches the kernels off"
    capability = torch.backends.cpu.get_cpu_capability().lower()
    if capability not in INSTRUCTION_SETS:
        return None, f"kernels need a processor with AVX2, torch finds {capability!r}"
    name = "avx2" if wanted == "avx2" else capability
    path = library_path(name)
    if not path.is_file():
        return None, "this installation holds no compiled kernels"
    try:
        return NativeLibrary(str(path)), ""
    except OSError as error:  # OpenMP's functions are torch's; a torch built without them has none
        return None, f"the kernels cannot be loaded: {error}"


@cache
def find_half_library() -> tuple[NativeLibrary | None, str]:
    """The kernels in bfloat16 for this processor, with AMX where the system allows it, or None and the reason."""
    wanted = _wanted()
    if wanted in ("0", "avx2"):
        return None, f"{SWITCH}={wanted} switches the kernels in bfloat16 off"
    have = processor_flags()
    reason = "kernels in bfloat16 need a processor with AVX512-BF16"
    for name, flags in HALF_SETS.items():
        if wanted in HALF_SETS and wanted != name:
            continue
        missing = [flag for flag in flags if flag not in have]
        if missing:
            reason = f"kernels in bfloat16 need a processor with {', '.join(missing)}"
            continue
        path = library_path(name)
        if not path.is_file():
            reason = "this installation holds no compiled kernels in bfloat16"
            continue
        try:
            library = NativeLibrary(str(path), half=True)
        except OSError as error:
            reason = f"the kernels in bfloat16 cannot be loaded: {error}"
            continue
        if library.runs:
            return library, ""
        reason = f"the system does not lend this process the registers of {name}"
    return None, reason


def processor_flags() -> frozenset[str]:
    """What the processor has and the system supports, by Linux's names."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line.partition(":")[2] for line in lines if line.startswith("flags")), "").split())
