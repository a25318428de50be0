"""What a run ran on: versions, machine, commit. Written beside every result, since a number means little without."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from hrformer.fast.x86.library import find_library
from hrformer.files import write_file

FILE = "versions.json"

# Shown name -> names on the package index; OpenCV has two.
_PACKAGES = {
    "hrformer": ("hrformer",),
    "torch": ("torch",),
    "torchvision": ("torchvision",),
    "timm": ("timm",),
    "numpy": ("numpy",),
    "opencv": ("opencv-python-headless", "opencv-python"),
    "pillow": ("pillow",),
    "accelerate": ("accelerate",),
    "faster-coco-eval": ("faster-coco-eval",),
    "triton": ("triton",),
}


def versions() -> dict[str, Any]:
    """Versions, machine, commit and date, in JSON types.

    Returns:
        "date" (UTC); versions of "python" and of the packages, where installed; "kernels": instruction set of the
        compiled kernels that train on a CPU, or why there are none; "commit" of the checkout the package is imported
        from, None where it is installed or git is absent; "platform", "cpu", "cores" (that this process may use),
        "gpus" (their names), "cuda" and "cudnn" (None without a GPU).
    """
    kernels, refusal = find_library()
    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        **{name: found for name, names in _PACKAGES.items() if (found := _installed(names)) is not None},
        "kernels": kernels.instruction_set if kernels else refusal,
        "commit": _commit(Path(__file__).resolve().parent),
        "platform": platform.platform(),
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "gpus": gpus,
        "cuda": torch.version.cuda if gpus else None,
        "cudnn": torch.backends.cudnn.version() if gpus else None,
    }


def write_versions(out: Path) -> dict[str, Any]:
    """Write :func:`versions` to ``versions.json`` of a run directory, and return them."""
    found = versions()
    text = json.dumps(found, indent=2, ensure_ascii=False) + "\n"
    write_file(out / FILE, lambda part: part.write_text(text, encoding="utf-8"))
    return found


def _installed(names: tuple[str, ...]) -> str | None:
    for name in names:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return None


def _cpu_model() -> str:
    """As Linux names it; elsewhere what Python knows."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.lower().startswith(("model name", "hardware")))
    return next(named, "") or platform.processor() or platform.machine()


def _commit(folder: Path) -> str | None:
    """Commit of the checkout that tracks the folder's files, marked where they differ from it."""
    # A package installed into an environment may lie inside somebody else's checkout, which does not track it.
    if _git(folder, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    commit = _git(folder, "rev-parse", "HEAD")
    changed = _git(folder, "status", "--porcelain", "--", "..")
    return f"{commit} with changes" if commit and changed else commit


def _git(folder: Path, *arguments: str) -> str | None:
    """What git prints, or None where it fails."""
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
