"""Compiling: from the sources in place, and clear reasons where it cannot be."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from hrformer.fast.x86 import build

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.mark.slow
@pytest.mark.skipif(build.refusal() is not None, reason=f"cannot compile here: {build.refusal()}")
def test_compiling_makes_every_file(tmp_path: Path) -> None:
    """Unoptimised, which takes a third of the time: the installation compiles them as they are used."""
    made = build.build(tmp_path, ["-O0"])
    names = [*build.INSTRUCTION_SETS, *build.HALF_FLAGS]
    # Those in bfloat16 only where the compiler knows the instructions.
    assert [path.name for path in made] in ([f"kernels_{name}.so" for name in names[:n]] for n in (2, 4))
    assert sorted(tmp_path.iterdir()) == sorted(made)
    # Undefined but for OpenMP's functions: those are torch's.
    script = "import ctypes, sys, torch; [ctypes.CDLL(path).hrformer_lanes() for path in sys.argv[1:2]]"
    subprocess.run([sys.executable, "-c", script, *map(str, made)], check=True)


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(build.sys, "platform", "linux")
    monkeypatch.setattr(build.platform, "machine", lambda: "x86_64")
    with pytest.raises(RuntimeError, match="no C\\+\\+ compiler was found"):
        build.build()
    monkeypatch.setattr(build.platform, "machine", lambda: "aarch64")
    with pytest.raises(RuntimeError, match="kernels are for Linux on x86-64, this is linux on aarch64"):
        build.build()


def test_a_failing_compiler_is_quoted_and_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build.sys, "platform", "linux")
    monkeypatch.setattr(build.platform, "machine", lambda: "x86_64")
    monkeypatch.setenv("CXX", f"{sys.executable} -c 'import sys; sys.exit(\"no such flag\")'")
    with pytest.raises(RuntimeError, match="failed: no such flag"):
        build.build(tmp_path)
    assert list(tmp_path.iterdir()) == []


COMPILER = """
import sys
from pathlib import Path

if "-mavx512bf16" in sys.argv and {old}:
    sys.exit("unrecognized command-line option '-mavx512bf16'")
Path(sys.argv[sys.argv.index("-o") + 1]).write_bytes(b"compiled")
"""


@pytest.fixture
def pretended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Let a script be the compiler; gives the folder for what it makes."""

    def pretend(script: str) -> Path:
        monkeypatch.setattr(build.sys, "platform", "linux")
        monkeypatch.setattr(build.platform, "machine", lambda: "x86_64")
        (tmp_path / "compiler.py").write_text(script)
        monkeypatch.setenv("CXX", f"{sys.executable} {tmp_path / 'compiler.py'}")
        (tmp_path / "made").mkdir()
        return tmp_path / "made"

    return pretend


@pytest.mark.parametrize("old", [False, True])
def test_an_old_compiler_leaves_out_the_kernels_in_bfloat16(old: bool, pretended: Callable[[str], Path]) -> None:
    """A file of an earlier build, which may be of other sources, does not stay."""
    folder = pretended(COMPILER.format(old=old))
    (folder / "kernels_amx_bf16.so").write_bytes(b"from before")
    made = build.build(folder)
    names = [*build.INSTRUCTION_SETS, *([] if old else build.HALF_FLAGS)]
    assert [path.name for path in made] == [f"kernels_{name}.so" for name in names]
    assert sorted(folder.iterdir()) == sorted(made)
    assert {path.read_bytes() for path in made} == {b"compiled"}
    if old:
        with pytest.raises(RuntimeError, match="unrecognized command-line option"):
            build.build_half("amx_bf16", folder, build.HALF_FLAGS["amx_bf16"])


def test_an_emulation_needs_no_more_than_avx2(pretended: Callable[[str], Path]) -> None:
    folder = pretended(COMPILER.format(old=True))
    assert [path.name for path in build.build_emulated(folder)] == [f"kernels_{name}.so" for name in build.HALF_SETS]
    assert not [flag for flags in build.EMULATED_FLAGS.values() for flag in flags if "avx512" in flag or "amx" in flag]


@pytest.mark.parametrize("compiles", [True, False])
def test_wheel_holds_what_was_compiled_or_is_for_any_platform(compiles: bool, tmp_path: Path) -> None:
    """The hook itself, on a copy, with a compiler that takes no time."""
    pytest.importorskip("hatchling", reason="needs hatchling, from the extra 'dev'")
    project, package = tmp_path / "project", Path("src", "hrformer")
    shutil.copytree(
        REPOSITORY / package / "fast" / "x86", project / package / "fast" / "x86", ignore=lambda *_: {"__pycache__"}
    )
    for stale in (project / package / "fast" / "x86").glob("*.so"):
        stale.unlink()
    for name in ("pyproject.toml", "hatch_build.py", "README.md", "LICENSE", package / "__init__.py"):
        shutil.copy(REPOSITORY / name, project / name)
    (tmp_path / "compiler.py").write_text(
        COMPILER.format(old=False) if compiles else "raise SystemExit('out of order')"
    )
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    environment = os.environ | {"CXX": f"{sys.executable} {tmp_path / 'compiler.py'}"}
    done = subprocess.run(command, cwd=project, check=True, capture_output=True, text=True, env=environment)
    (wheel,) = tmp_path.glob("*.whl")
    names = [*build.INSTRUCTION_SETS, *build.HALF_FLAGS]
    compiled = {f"hrformer/fast/x86/kernels_{name}.so" for name in names}
    held = set(zipfile.ZipFile(wheel).namelist())
    assert {"hrformer/fast/x86/source/vectors.h", "hrformer/fast/x86/source/half/half.h"} <= held
    if compiles and build.refusal() is None:
        assert compiled <= held
        assert wheel.name.startswith("hrformer-")
        assert "-py3-none-linux_x86_64" in wheel.name
    else:
        assert not compiled & held
        assert wheel.name.endswith("-py3-none-any.whl")
        assert "hrformer without compiled kernels: " in done.stdout + done.stderr
