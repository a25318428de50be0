"""The folder of a run: its lock, the disk space that it needs, its checkpoints, and what it ran on.

Random numbers are no part of a checkpoint: order, augmentation and dropout are functions of the seed and the update's
number.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hrformer.data.loader import size_text
from hrformer.fast.x86.library import find_library
from hrformer.files import write_file
from hrformer.train.config import AnyRun
from hrformer.train.config_file import from_dict, to_dict
from hrformer.train.distributed import together
from hrformer.train.record import flat

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"
"""File that names the process at work in the folder."""

LAST, BEST = "last.pt", "best.pt"
"""Checkpoints, to go on from."""

BEST_WEIGHTS, LAST_WEIGHTS = "best.safetensors", "last.safetensors"
"""What ``hrformer.load`` takes."""

FREE_TO_CHANGE = (
    *("data.root", "data.more_roots", "data.val_root", "data.skip_broken"),
    *("runtime.", "save.", "log.", "batch.per_device", "recipe"),
)
"""Settings that a resumed run may change; all others would make it another run."""

_FORMAT = 1

# OpenCV has two names.
_PACKAGES = (
    *("hrformer", "torch", "torchvision", "timm", "numpy", "opencv-python", "opencv-python-headless", "pillow"),
    *("accelerate", "faster-coco-eval", "triton"),
)


class ResumeError(ValueError):
    """A run cannot be taken up again; the message says why and what to do."""


@contextmanager
def run_lock(out: Path, *, main: bool = True) -> Iterator[None]:
    """Keep other runs out of a folder; it is made if absent, and removed again if it stays empty.

    The main process holds the lock for all processes of its run. The system itself releases it when the process ends,
    however it ends. File systems without locks, and Windows, go without.

    Raises:
        ValueError: another run is at work there.
    """
    made, path = not out.exists(), out / LOCK
    with together():
        file = _locked(path) if main and fcntl is not None else None
    try:
        yield
    finally:
        if file is not None:
            path.unlink(missing_ok=True)
            os.close(file)
            if made and not any(out.iterdir()):
                out.rmdir()


def _locked(path: Path) -> int | None:
    """The open lock file; None where the file system has no locks."""
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            # Not flock, which workers that outlive their process would go on holding.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(file, 200).decode(errors="replace").strip()
            os.close(file)
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                return None
            raise ValueError(
                f"{path.parent}: another run is at work in this folder ({holder or 'an unknown process'}); wait for "
                "its end, stop it, or choose another --out"
            ) from None
        # Whoever held it before may have removed the file since it was opened.
        if path.exists() and os.path.samestat(os.stat(path), os.fstat(file)):
            os.ftruncate(file, 0)
            os.write(file, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
            return file
        os.close(file)


def require_disk(out: Path, model: nn.Module, *, averaged: bool) -> None:
    """Raise a ValueError where a run's files have no room; what a run there has written already will be replaced.

    Args:
        out: run folder.
        model: to be trained.
        averaged: whether a moving average of the weights is kept as well.
    """
    weights = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
    # AdamW keeps two numbers for each weight.
    moments = 2 * sum(p.nbytes for p in model.parameters() if p.requires_grad)
    # Checkpoints last and best, one that is being written, and two files of weights.
    needed = 3 * (weights * (2 if averaged else 1) + moments) + 2 * weights
    place = next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.exists())
    try:
        free = shutil.disk_usage(place).free
    except OSError:
        return
    paths = [checkpoint_path(out), checkpoint_path(out, BEST), out / BEST_WEIGHTS, out / LAST_WEIGHTS]
    # Best may be last under another name, and then takes no room.
    sizes = {path.stat().st_ino: path.stat().st_size for path in paths if path.is_file()}
    if free + sum(sizes.values()) < needed:
        raise ValueError(
            f"{out}: its disk has {size_text(free)} free, the checkpoints of this run need about {size_text(needed)}; "
            "free some, or choose another --out or a smaller --model.name"
        )


@dataclass(kw_only=True, slots=True)
class TrainState:
    """Progress of a run."""

    update: int = 0  # optimiser steps done
    best: float | None = None  # best validation score so far; None before the first
    best_update: int = -1  # when it was reached
    last_validation: int = -1  # update of the last validation; -1 before the first
    validations: int = 0  # how many there were
    stale: int = 0  # how many there were since the best
    window: dict[str, float] = field(default_factory=dict)  # sums of the losses since the last line of the log
    seconds: float = 0.0  # time spent, over all runs


def checkpoint_path(out: Path, name: str = LAST) -> Path:
    """Where a checkpoint of a run lies."""
    return out / "checkpoints" / name


def save_state(out: Path, state: TrainState, **content: Any) -> None:
    """Write ``last.pt``, whole or not at all: progress, and what :func:`read_state` is to return beside it."""
    content = {"format": _FORMAT, "state": asdict(state), **content}
    write_file(checkpoint_path(out), lambda part: torch.save(content, part))


def keep_as(out: Path, name: str) -> None:
    """Keep the present ``last.pt`` under another name too, without writing it again where the disk allows that."""
    last = checkpoint_path(out)

    def copy(part: Path) -> None:
        part.unlink(missing_ok=True)
        try:
            os.link(last, part)
        except OSError:
            shutil.copyfile(last, part)

    write_file(checkpoint_path(out, name), copy)


def read_state(path: Path) -> tuple[TrainState, dict[str, Any]]:
    """Read a checkpoint of a run, without unpickling objects.

    Returns:
        Progress, and the rest of the file: "config", "model", "optimizer", "ema", "scaler", "data".

    Raises:
        ResumeError: there is none, or it is not one of ours.
    """
    if not path.is_file():
        raise ResumeError(f"there is no checkpoint {path}; start the run without --resume")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        found = content.get("format")
        state = TrainState(**content.pop("state")) if found == _FORMAT else None
    except Exception as error:
        raise ResumeError(
            f"{path} cannot be read as a training checkpoint ({error}); another one may lie beside it"
        ) from error
    if state is None:
        raise ResumeError(f"{path} is a checkpoint of format {found}, this version reads {_FORMAT}")
    return state, content


def check_same_run(path: Path, saved: dict[str, Any], config: AnyRun) -> None:
    """Refuse to go on with settings that would make it another run.

    Args:
        path: of the checkpoint.
        saved: configuration in it; fields that have come since are at their defaults.
        config: as asked for now.

    Raises:
        ResumeError: naming every field that differs, or one that this version does not know.
    """
    try:
        before = flat(to_dict(from_dict(saved)))
    except ValueError as error:
        raise ResumeError(f"{path} was written by another version: {error}") from error
    after = flat(to_dict(config))
    different = [
        f"{name}: {before.get(name)!r} -> {after.get(name)!r}"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name) and not name.startswith(FREE_TO_CHANGE)
    ]
    if different:
        raise ResumeError(
            "the checkpoint belongs to a run with other settings: " + "; ".join(different) + ". Give the old ones, "
            "or start a new run from its weights with --model.init"
        )


def versions() -> dict[str, Any]:
    """Versions, machine, commit and date, in JSON types; a number means little without them.

    Returns:
        "date" (UTC); versions of "python" and of the packages, where installed; "kernels": instruction set of the
        compiled kernels that train on a CPU, or why there are none; "commit" of the checkout the package is imported
        from, None where it is installed or git is absent; "platform", "cpu", "cores" (that this process may use),
        "gpus" (their names), "cuda" and "cudnn" (None without a GPU).
    """
    packages = {}
    for name in _PACKAGES:
        with suppress(PackageNotFoundError):
            packages[name.partition("-python")[0]] = version(name)
    kernels, refusal = find_library()
    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        **packages,
        "kernels": kernels.instruction_set if kernels else refusal,
        "commit": _commit(Path(__file__).resolve().parent),
        "platform": platform.platform(),
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "gpus": gpus,
        "cuda": torch.version.cuda if gpus else None,
        "cudnn": torch.backends.cudnn.version() if gpus else None,
    }


def write_versions(out: Path) -> None:
    """Write :func:`versions` to ``versions.json`` of a run folder."""
    text = json.dumps(versions(), indent=2, ensure_ascii=False) + "\n"
    write_file(out / "versions.json", lambda part: part.write_text(text, encoding="utf-8"))


def _cpu_model() -> str:
    """As Linux names it; elsewhere what Python knows."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.lower().startswith(("model name", "hardware")) and value.strip():
                return value.strip()
    return platform.processor() or platform.machine()


def _commit(folder: Path) -> str | None:
    """Commit of the checkout that tracks the folder's files, marked where they differ from it."""

    def git(*arguments: str) -> str | None:
        with suppress(OSError, subprocess.TimeoutExpired):
            done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=20)
            return done.stdout.strip() if done.returncode == 0 else None
        return None

    # A package installed into an environment may lie inside somebody else's checkout, which does not track it.
    if git("ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    commit = git("rev-parse", "HEAD")
    return f"{commit} with changes" if commit and git("status", "--porcelain", "--", "..") else commit
