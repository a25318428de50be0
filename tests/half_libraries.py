"""The kernels in bfloat16 that tests run: by the instructions where the processor has them, and by their emulation."""

from __future__ import annotations

import hashlib
import os
import shutil
from functools import cache
from pathlib import Path

import pytest

from hrformer.fast.x86 import build, model, program, stages, training
from hrformer.fast.x86.library import NativeLibrary, find_half_library, find_library, processor_flags

LIBRARIES = [*build.HALF_SETS, *(f"{name} emulated" for name in build.HALF_SETS)]
"""Every instruction set, and every emulation of one. Of kernels compiled with sanitizers each set is there once: these
see the memory of tiles in the emulation alone."""
if os.environ.get(build.FOLDER_SWITCH):
    LIBRARIES = ["amx_bf16 emulated", "avx512_bf16"]

FOLDER = Path(__file__).resolve().parents[1] / "build"


def half_library(which: str) -> NativeLibrary:
    """One of ``LIBRARIES``; skips the test where it cannot run."""
    name, _, emulated = which.partition(" ")
    if emulated:
        if build.refusal() is not None:
            pytest.skip(f"the emulation cannot be compiled: {build.refusal()}")
        if find_library()[0] is None:
            pytest.skip(f"the emulation needs AVX2: {find_library()[1]}")
        return _opened(_emulations() / build.library_path(name).name)
    if missing := [flag for flag in build.HALF_SETS[name] if flag not in processor_flags()]:
        pytest.skip(f"needs a processor with {', '.join(missing)}")
    path = build.library_path(name)
    if not path.is_file():
        pytest.skip("this installation holds no compiled kernels in bfloat16")
    library = _opened(path)
    if not library.runs:
        pytest.skip(f"the system does not lend this process the registers of {name}")
    return library


def any_half_library() -> NativeLibrary:
    """What this process takes by itself, else an emulation; for what does not depend on the instructions."""
    return find_half_library()[0] or half_library("avx512_bf16 emulated")


def use(monkeypatch: pytest.MonkeyPatch, library: NativeLibrary) -> None:
    """Let stages, recordings, models and training run on this one. Weights packed before stay with the one before."""
    for module in (stages, program, model, training):
        monkeypatch.setattr(module, "find_half_library", lambda: (library, ""))


@cache
def _opened(path: Path) -> NativeLibrary:
    return NativeLibrary(str(path), half=True)


@cache
def _emulations() -> Path:
    """The folder of the emulations: that beside kernels compiled in another way, or one made of these sources."""
    named = os.environ.get(build.FOLDER_SWITCH)
    if named and Path(named, "emulated").is_dir():
        return Path(named, "emulated")
    sources = sorted(path for path in build.SOURCE.rglob("*") if path.is_file())
    text = b"".join(path.read_bytes() for path in [*sources, Path(build.__file__)])
    return compiled_once(FOLDER / f"emulated-{hashlib.sha256(text).hexdigest()[:12]}")


def compiled_once(folder: Path) -> Path:
    """``folder`` with the emulations in it, compiled by the first process that asks; those of older sources go."""
    import fcntl

    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / "emulated.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            for old in folder.parent.glob("emulated-*"):
                shutil.rmtree(old)
            part = folder.with_name("emulating")
            part.mkdir(exist_ok=True)
            build.build_emulated(part)
            part.rename(folder)
    return folder
