"""Programs beside PyTorch that ``gpu.py`` looks for, and what it runs on; standard library only."""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from argparse import Namespace
from collections.abc import Iterator
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

SOUND = (12, 9)
"""As ``SOUND_ASSEMBLER`` of ``hrformer.kernels.launch``, which says why and cannot be imported without torch."""
PACKAGES = ("torch", "triton", "torchvision", "timm", "numpy", "transformers", "accelerate", "pytest")


def assembler() -> tuple[Path | None, str]:
    """The first ptxas that compiles right, or None, and a line about it.

    One that ``TRITON_PTXAS_PATH`` names comes first, then what Triton's wheel brings, then CUDA toolkits.
    """
    tried = []
    for path in _assemblers():
        found = release(path)
        if found >= SOUND:
            return path, f"{path}, {found[0]}.{found[1]}"
        tried.append(f"{path} is {found[0]}.{found[1]}" if found > (0, 0) else f"{path} does not run")
    wanted = ".".join(map(str, SOUND))
    return None, f"none of at least {wanted}, so attention runs as three kernels ({'; '.join(tried) or 'none found'})"


def _assemblers() -> Iterator[Path]:
    named = os.environ.get("TRITON_PTXAS_PATH")
    found = [Path(named)] if named else []
    spec = find_spec("triton")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        found += [Path(folder, "backends", "nvidia", "bin", name) for name in ("ptxas-blackwell", "ptxas")]
    found += _in_toolkits("ptxas")
    yield from dict.fromkeys(path for path in found if path.is_file())


def release(path: Path) -> tuple[int, int]:
    """Version of a ptxas; (0, 0) where it does not say."""
    try:
        said = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=20, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return 0, 0
    match = re.search(r"release (\d+)\.(\d+)", said)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def sanitizer() -> str | None:
    """Path of compute-sanitizer."""
    return next((str(path) for path in _in_toolkits("compute-sanitizer") if path.is_file()), None)


def _in_toolkits(program: str) -> list[Path]:
    """Where a program of a CUDA toolkit may lie: named folders, PATH, the usual place, NVIDIA's wheels."""
    homes = [Path(os.environ[name]) for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    homes += sorted(Path("/usr/local").glob("cuda*"), reverse=True)
    homes += [home for folder in sys.path for home in sorted(Path(folder or ".", "nvidia").glob("*"), reverse=True)]
    on_path = shutil.which(program)
    found = [Path(on_path)] if on_path else []
    return found + [home / folder / program for home in homes for folder in ("bin", "compute-sanitizer")]


def describe(options: Namespace, assembler_line: str, environment: dict[str, str]) -> dict[str, str]:
    """What a reader needs to judge the page: command, date, versions, commit, tools, switches."""
    root = Path(__file__).resolve().parents[1]
    return {
        "command": shlex.join(["python", *sys.argv]),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "limit": f"{options.minutes:g} minutes",
        "versions": ", ".join([f"Python {platform.python_version()}", *_versions()]),
        "commit": _said(["git", "-C", str(root), "rev-parse", "HEAD"]) or "not known: no git here",
        "driver": _said(
            ["nvidia-smi", "--query-gpu=name,driver_version,clocks.sm,power.limit", "--format=csv,noheader"]
        )
        or "nvidia-smi does not answer",
        "ptxas": assembler_line,
        "compute-sanitizer": sanitizer() or "absent",
        "kernels switched off": environment.get("HRFORMER_TRITON_OFF") or "none",
        "processor": f"{os.cpu_count()} cores",
    }


def _versions() -> Iterator[str]:
    for name in PACKAGES:
        try:
            yield f"{name} {version(name)}"
        except PackageNotFoundError:
            continue


def _said(command: list[str]) -> str:
    try:
        finished = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return finished.stdout.strip().partition("\n")[0] if finished.returncode == 0 else ""
