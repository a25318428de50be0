"""The library as Python sees it: structures as in the sources, found or refused with a reason."""

from __future__ import annotations

import ctypes
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from subprocess import run

import pytest
import torch

from hrformer.fast.x86 import library
from hrformer.fast.x86.build import HALF_SETS, SHARED, SOURCE, library_path
from hrformer.fast.x86.half import HALVES, TRAINING_HALVES
from hrformer.fast.x86.library import NativeLibrary, find_half_library, find_library, kernel_threads, processor_flags
from hrformer.fast.x86.structures import HALF_STRUCTURES, STRUCTURES, Fields

needs_kernels = pytest.mark.skipif(find_library()[0] is None, reason=f"needs compiled kernels: {find_library()[1]}")

STRUCT = re.compile(r"^struct (\w+) \{\n(.*?)^\};", re.DOTALL | re.MULTILINE)
FUNCTION = re.compile(r'extern "C" void hrformer_(\w+)\(const (\w+)\* ')
FIELD = re.compile(r"^ *(?:const )?(\w+)(?=[ *])((?:[ *]*\w+(?:\[\d+\])?,?)+);", re.MULTILINE)
TYPES = {"float": ctypes.c_float, "int": ctypes.c_int}


def declared(paths: Iterable[Path]) -> dict[str, list[tuple[object, str]]]:
    """Function -> its structure's fields, one after another, as the sources have them: type for ctypes, name in C++."""
    text = "\n".join(re.sub(r"//.*", "", path.read_text()) for path in paths)
    structs = dict(STRUCT.findall(text))

    def fields(name: str) -> Iterator[tuple[object, str]]:
        for kind, names in FIELD.findall(structs[name]):
            for one in names.split(","):
                count = int(found[1]) if (found := re.search(r"\[(\d+)\]", one)) else 1
                if "*" in one:
                    yield from [(ctypes.c_void_p, kind)] * count
                elif kind in TYPES:
                    yield from [(TYPES[kind], kind)] * count
                else:
                    for _ in range(count):
                        yield from fields(kind)

    return {function: list(fields(name)) for function, name in FUNCTION.findall(text)}


FLOAT_SOURCES = sorted(path for path in SOURCE.iterdir() if path.is_file())
SHARED_SOURCES = [path for path in FLOAT_SOURCES if path.stem in SHARED or path.name.startswith("training_")]
HALF_SOURCES = [*sorted((SOURCE / "half").iterdir()), SOURCE / "fusion.h", *SHARED_SOURCES]


@pytest.mark.parametrize(
    ("structures", "sources"), [(STRUCTURES, FLOAT_SOURCES), (HALF_STRUCTURES, HALF_SOURCES)], ids=["float", "half"]
)
def test_structures_are_those_of_the_sources(structures: dict[str, Fields], sources: list[Path]) -> None:
    found = declared(sources)
    if structures is HALF_STRUCTURES:
        del found["fusion_training_backward"]
    assert found.keys() == structures.keys()
    for name, fields in found.items():
        assert list(structures[name].values()) == [kind for kind, _ in fields], name


def test_pointers_to_bfloat16_are_those_of_the_sources() -> None:
    """Those of sources for both kinds of numbers are `number` or `Number`."""
    found = declared(HALF_SOURCES)
    for function in HALF_STRUCTURES.keys() - {"program"}:
        halves = [name != "float" for kind, name in found[function] if kind is ctypes.c_void_p]
        pointers = [field for field, kind in HALF_STRUCTURES[function].items() if kind is ctypes.c_void_p]
        assert [field in TRAINING_HALVES.get(function, HALVES) for field in pointers] == halves, function


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
    for find in (find_library, find_half_library):
        find.cache_clear()
    yield
    for find in (find_library, find_half_library):
        find.cache_clear()


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
    names = "0, avx2, avx512, amx_bf16 or avx512_bf16"
    for find in (find_library, find_half_library):
        with pytest.raises(ValueError, match=f"HRFORMER_NATIVE must be {names}, got 'sse'"):
            find()


class Half:
    """Stands for a ``NativeLibrary`` in bfloat16; the system lends the registers of some."""

    lent: tuple[str, ...] = tuple(HALF_SETS)

    def __init__(self, path: str, *, half: bool) -> None:
        assert half
        self.name = Path(path).stem.removeprefix("kernels_")
        self.runs = self.name in self.lent


@pytest.fixture
def machine(fresh: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """Pretend what the processor has, which files there are, and what the system lends."""

    def pretend(
        *,
        flags: Iterable[str] = HALF_SETS["amx_bf16"],
        files: Iterable[str] = HALF_SETS,
        lent: Iterable[str] = HALF_SETS,
    ) -> None:
        for name in files:
            (tmp_path / f"kernels_{name}.so").touch()
        monkeypatch.delenv(library.SWITCH, raising=False)
        monkeypatch.setattr(library, "processor_flags", lambda: frozenset(flags))
        monkeypatch.setattr(library, "library_path", lambda name: tmp_path / f"kernels_{name}.so")
        monkeypatch.setattr(library, "NativeLibrary", type("Lent", (Half,), {"lent": tuple(lent)}))

    return pretend


def found_half() -> tuple[str | None, str]:
    """Name of the instruction set that is taken, and the reason."""
    library, reason = find_half_library()
    return getattr(library, "name", None), reason


@pytest.mark.parametrize(
    ("given", "wanted", "name", "reason"),
    [
        ({}, "", "amx_bf16", ""),
        ({}, "avx512", "amx_bf16", ""),
        ({}, "amx_bf16", "amx_bf16", ""),
        ({}, "avx512_bf16", "avx512_bf16", ""),
        ({"flags": HALF_SETS["avx512_bf16"]}, "", "avx512_bf16", ""),
        ({"lent": ["avx512_bf16"]}, "", "avx512_bf16", ""),
        ({"files": ["avx512_bf16"]}, "", "avx512_bf16", ""),
        ({}, "0", None, "HRFORMER_NATIVE=0 switches the kernels in bfloat16 off"),
        ({}, "avx2", None, "HRFORMER_NATIVE=avx2 switches the kernels in bfloat16 off"),
        (
            {"flags": ["avx512f", "avx512dq", "avx512bw", "avx512vl"]},
            "",
            None,
            "kernels in bfloat16 need a processor with avx512_bf16",
        ),
        (
            {"flags": HALF_SETS["avx512_bf16"]},
            "amx_bf16",
            None,
            "kernels in bfloat16 need a processor with amx_tile, amx_bf16",
        ),
        ({"files": []}, "", None, "this installation holds no compiled kernels in bfloat16"),
        (
            {"lent": []},
            "amx_bf16",
            None,
            "the system does not lend this process the registers of amx_bf16",
        ),
    ],
)
def test_the_best_that_runs_is_taken_or_the_reason_said(
    machine: Callable[..., None],
    given: dict[str, list[str]],
    wanted: str,
    name: str | None,
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine(**given)
    monkeypatch.setenv(library.SWITCH, wanted)
    assert found_half() == (name, reason)


@pytest.mark.usefixtures("fresh")
def test_a_file_in_bfloat16_that_is_no_library_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "kernels.so"
    broken.write_bytes(b"not a library")
    monkeypatch.delenv(library.SWITCH, raising=False)
    monkeypatch.setattr(library, "processor_flags", lambda: frozenset(HALF_SETS["amx_bf16"]))
    monkeypatch.setattr(library, "library_path", lambda name: broken)
    found, reason = find_half_library()
    assert found is None
    assert reason.startswith("the kernels in bfloat16 cannot be loaded: ")


def test_flags_are_those_of_the_first_processor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    known = processor_flags()
    assert not known or "fpu" in known
    (tmp_path / "cpuinfo").write_text("model name\t: one\nflags\t\t: fpu amx_bf16\n\nflags\t\t: other\n")
    for path, flags in ((tmp_path / "cpuinfo", {"fpu", "amx_bf16"}), (tmp_path / "none", set())):
        monkeypatch.setattr(library, "Path", lambda name, path=path: path)
        assert processor_flags() == flags


@needs_kernels
def test_kernels_use_the_threads_of_torch() -> None:
    """One OpenMP library in the process: two would fight for the cores."""
    script = (
        "import torch, hrformer.fast.x86.library as l; l.find_library();"
        "print(sum('gomp' in line or 'libomp' in line for line in set(m.split()[-1] for m in open('/proc/self/maps'))))"
    )
    done = run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"
