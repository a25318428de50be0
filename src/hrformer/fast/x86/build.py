"""Compile the kernels: what the build of a wheel does, and an installation from source.

Run without this package's dependencies, by ``hatch_build.py``. A machine without a C++ compiler, or another than
x86-64 with Linux, gets no kernels and other ways to run.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
SOURCE = FOLDER / "source"

FOLDER_SWITCH = "HRFORMER_NATIVE_FOLDER"
"""Environment variable: where kernels compiled in another way lie; else they are beside this file."""

INSTRUCTION_SETS = {
    "avx2": ("-mavx2", "-mfma", "-DLANES=8"),
    "avx512": (
        *("-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mfma"),
        *("-mprefer-vector-width=512", "-DLANES=16"),
    ),
}
"""Name -> compiler flags; torch names processors' capabilities the same way, in capitals."""

_AVX512 = INSTRUCTION_SETS["avx512"]

HALF_SETS: dict[str, tuple[str, ...]] = {
    "amx_bf16": ("avx512f", "avx512dq", "avx512bw", "avx512vl", "avx512_bf16", "amx_tile", "amx_bf16"),
    "avx512_bf16": ("avx512f", "avx512dq", "avx512bw", "avx512vl", "avx512_bf16"),
}
"""Instruction sets of the kernels in bfloat16, the best first -> what a processor must have, by Linux's names."""

HALF_FLAGS = {
    "amx_bf16": (*_AVX512, "-mavx512bf16", "-mamx-tile", "-mamx-bf16", "-DHALF", "-DHALF_TILES"),
    "avx512_bf16": (*_AVX512, "-mavx512bf16", "-DHALF"),
}
"""Name -> compiler flags."""

_EMULATED = ("-mavx2", "-mfma", "-DLANES=16", "-DHALF", "-DHALF_EMULATED", "-Wno-psabi")

EMULATED_FLAGS = {"amx_bf16": (*_EMULATED, "-DHALF_TILES"), "avx512_bf16": _EMULATED}
"""The same for plain loops that round as the instructions for bfloat16 do: for tests, where a processor lacks them."""

_TRAINING = ("attention", "attention_backward", "batch_norm", "feed_forward", "feed_forward_backward")

SHARED = ("crowd", "memory", "program", "team", *(f"training_{part}" for part in _TRAINING))
"""Sources that the kernels in bfloat16 share with those in float32."""

FLAGS = ("-std=c++17", "-O3", "-fPIC", "-fopenmp", "-fno-exceptions", "-fno-rtti", "-fvisibility=default", "-Wall")


def library_path(instruction_set: str) -> Path:
    """Where the kernels for an instruction set lie once compiled."""
    return Path(os.environ.get(FOLDER_SWITCH) or FOLDER, _file_name(instruction_set))


def _file_name(instruction_set: str) -> str:
    return f"kernels_{instruction_set}.so"


def compiler() -> list[str] | None:
    """The C++ compiler as a command: ``$CXX``, else c++, g++ or clang++; None without one."""
    if os.environ.get("CXX"):
        return shlex.split(os.environ["CXX"])
    found = next((path for path in map(shutil.which, ("c++", "g++", "clang++")) if path), None)
    return None if found is None else [found]


def refusal() -> str | None:
    """Why no kernels can be compiled here, or None."""
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "AMD64"):
        return f"kernels are for Linux on x86-64, this is {sys.platform} on {platform.machine()}"
    if compiler() is None:
        return "no C++ compiler was found ($CXX, c++, g++ or clang++)"
    return None


def build(folder: Path = FOLDER, flags: Sequence[str] = ()) -> list[Path]:
    """Compile all kernels and return their files. Those in bfloat16 are left out where the compiler is too old.

    Args:
        folder: where they go.
        flags: for the compiler and the linker, after the usual ones.

    Raises:
        RuntimeError: they cannot be compiled here; the message says why.
    """
    reason = refusal()
    if reason is not None:
        raise RuntimeError(reason)
    made = [_build(name, own, sorted(SOURCE.glob("*.cpp")), folder, flags) for name, own in INSTRUCTION_SETS.items()]
    for name, own in HALF_FLAGS.items():
        try:
            made.append(build_half(name, folder, (*own, *flags)))
        except RuntimeError:
            library_path_in(folder, name).unlink(missing_ok=True)
    return made


def build_half(name: str, folder: Path, flags: Sequence[str]) -> Path:
    """Compile the kernels in bfloat16 into ``folder`` under a name.

    Raises:
        RuntimeError: the compiler fails, as one does that does not know the instructions.
    """
    sources = sorted((SOURCE / "half").glob("*.cpp")) + [SOURCE / f"{one}.cpp" for one in SHARED]
    return _build(name, (), sources, folder, flags)


def build_emulated(folder: Path, flags: Sequence[str] = ()) -> list[Path]:
    """Compile the kernels in bfloat16 without their instructions, under the same names, and return their files.

    Raises:
        RuntimeError: the compiler fails.
    """
    return [build_half(name, folder, (*own, *flags)) for name, own in EMULATED_FLAGS.items()]


def _build(name: str, own: Sequence[str], sources: Sequence[Path], folder: Path, flags: Sequence[str]) -> Path:
    command = compiler()
    assert command is not None
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = [str(Path(scratch, f"{one.stem}.o")) for one in sources]
        commands = [
            [*command, *FLAGS, *own, *flags, "-c", str(source), "-o", target]
            for source, target in zip(sources, objects, strict=True)
        ]
        list(pool.map(_run, commands))
        link = [*command, "-shared", "-static-libgcc", *flags]
        return _link(link, objects, Path(scratch), library_path_in(folder, name))


def library_path_in(folder: Path, name: str) -> Path:
    """The file of an instruction set in a folder."""
    return folder / _file_name(name)


def _link(command: list[str], objects: list[str], scratch: Path, target: Path) -> Path:
    """Not with OpenMP's library: its functions are those that torch has loaded, so that both share their threads."""
    made = scratch / target.name
    _run([*command, *objects, "-o", str(made)])
    part = target.with_suffix(".part")
    shutil.copyfile(made, part)
    part.replace(target)
    return target


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{shlex.join(command[:1])} failed: {done.stderr.strip()[-2000:]}")


if __name__ == "__main__":
    emulated = sys.argv[1:2] == ["--emulated"]
    arguments = sys.argv[1 + emulated :]
    (build_emulated if emulated else build)(Path(arguments[0]) if arguments else FOLDER, arguments[1:])
