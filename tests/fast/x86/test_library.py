"""The library as Python sees it: structures as in the sources, found or refused with a reason."""

from __future__ import annotations

import ctypes
import re
import sys
from collections.abc import Iterator
from subprocess import run

import pytest
import torch

from hrformer.fast.x86 import library
from hrformer.fast.x86.build import SOURCE, library_path
from hrformer.fast.x86.library import NativeLibrary, find_library, kernel_threads
from hrformer.fast.x86.structures import STRUCTURES

needs_kernels = pytest.mark.skipif(find_library()[0] is None, reason=f"needs compiled kernels: {find_library()[1]}")

STRUCT = re.compile(r"^struct (\w+) \{\n(.*?)^\};", re.DOTALL | re.MULTILINE)
FUNCTION = re.compile(r'extern "C" void hrformer_(\w+)\(const (\w+)\* ')
FIELD = re.compile(r"^ *(?:const )?(\w+)(?=[ *])((?:[ *]*\w+(?:\[\d+\])?,?)+);", re.MULTILINE)
TYPES = {"float": ctypes.c_float, "int": ctypes.c_int}


def declared() -> dict[str, list[object]]:
    """Function -> types of its structure's fields, one after another, as the sources have them."""
    text = "\n".join(re.sub(r"//.*", "", path.read_text()) for path in sorted(SOURCE.iterdir()))
    structs = dict(STRUCT.findall(text))

    def fields(name: str) -> Iterator[object]:
        for kind, names in FIELD.findall(structs[name]):
            for one in names.split(","):
                count = int(found[1]) if (found := re.search(r"\[(\d+)\]", one)) else 1
                if "*" in one:
                    yield from [ctypes.c_void_p] * count
                elif kind in TYPES:
                    yield from [TYPES[kind]] * count
                else:
                    for _ in range(count):
                        yield from fields(kind)

    return {function: list(fields(name)) for function, name in FUNCTION.findall(text)}


def test_structures_are_those_of_the_sources() -> None:
    found = declared()
    assert found.keys() == STRUCTURES.keys()
    for name, types in found.items():
        assert list(STRUCTURES[name].values()) == types, name


@needs_kernels
def test_lanes_are_those_of_the_instruction_set() -> None:
    kernels = NativeLibrary(str(library_path("avx2")))
    assert (kernels.lanes, kernels.instruction_set) == (8, "avx2")


@needs_kernels
def test_threads_belong_to_the_caller() -> None:
    kernel = NativeLibrary(str(library_path("avx2"))).kernel("linear")
    seen: list[int] = []

    def watch(pointer: ctypes.c_void_p) -> None:
        seen.append(pointer._obj.threads)  # type: ignore[attr-defined]

    kernel._function = watch
    kernel()
    with kernel_threads(3):
        kernel()
        with kernel_threads(1):
            kernel()
        kernel()
    kernel()
    torch_threads = torch.get_num_threads()
    assert seen == [torch_threads, 3, 1, 3, torch_threads]


@pytest.fixture
def fresh() -> Iterator[None]:
    find_library.cache_clear()
    yield
    find_library.cache_clear()


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize(
    ("switch", "capability", "present", "reason"),
    [
        ("0", "AVX512", True, "HRFORMER_NATIVE=0 switches the kernels off"),
        ("", "DEFAULT", True, "kernels need a processor with AVX2, torch finds 'default'"),
        ("", "AVX2", False, "this installation holds no compiled kernels"),
    ],
)
def test_what_is_missing_is_said(
    switch: str, capability: str, present: bool, reason: str, monkeypatch: pytest.MonkeyPatch, tmp_path
) -> None:
    monkeypatch.setenv(library.SWITCH, switch)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    if not present:
        monkeypatch.setattr(library, "library_path", lambda name: tmp_path / "none.so")
    assert find_library() == (None, reason)


@pytest.mark.usefixtures("fresh")
def test_a_file_that_is_no_library_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    broken = tmp_path / "kernels.so"
    broken.write_bytes(b"not a library")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    monkeypatch.setattr(library, "library_path", lambda name: broken)
    found, reason = find_library()
    assert found is None
    assert reason.startswith("the kernels cannot be loaded: ")


@pytest.mark.usefixtures("fresh")
def test_a_wrong_switch_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(library.SWITCH, "sse")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    with pytest.raises(ValueError, match="HRFORMER_NATIVE must be 0, avx2 or avx512, got 'sse'"):
        find_library()


@needs_kernels
def test_kernels_use_the_threads_of_torch() -> None:
    """One OpenMP library in the process: two would fight for the cores."""
    script = (
        "import torch, hrformer.fast.x86.library as l; l.find_library();"
        "print(sum('gomp' in line or 'libomp' in line for line in set(m.split()[-1] for m in open('/proc/self/maps'))))"
    )
    done = run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"
