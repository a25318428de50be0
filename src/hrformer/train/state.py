"""Everything a run needs to go on as if it had never stopped, in one file that is whole or not there.

Random numbers are no part of it: order, augmentation and dropout are functions of the seed and the update's number.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from hrformer.files import write_file

FORMAT = 1
FOLDER = "checkpoints"
LAST, BEST = "last.pt", "best.pt"


class ResumeError(ValueError):
    """A run cannot be taken up again; the message says why and what to do."""


@dataclass(kw_only=True, slots=True)
class TrainState:
    """Progress of a run.

    Attributes:
        update: optimiser steps done.
        best: best validation score so far; None before the first.
        best_update: when it was reached.
        last_validation: update of the last validation; -1 before the first.
        validations: how many there were.
        stale: how many there were since the best.
        window: sums of the losses since the last line of the log, by name, and "count".
        seconds: time spent, over all runs.
    """

    update: int = 0
    best: float | None = None
    best_update: int = -1
    last_validation: int = -1
    validations: int = 0
    stale: int = 0
    window: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0


def checkpoint_path(out: Path, name: str = LAST) -> Path:
    """Where a checkpoint of a run lies."""
    return out / FOLDER / name


def save_state(
    out: Path,
    state: TrainState,
    *,
    config: dict[str, Any],
    model: dict[str, Any],
    optimizer: dict[str, Any],
    ema: dict[str, Any] | None = None,
    scaler: dict[str, Any] | None = None,
    data: dict[str, Any] | None = None,
) -> Path:
    """Write ``last.pt``.

    Args:
        out: run directory.
        state: progress.
        config: of the run, in JSON types.
        model: state dict.
        optimizer: state dict.
        ema: state dict of the averaged model.
        scaler: state dict of the loss scaler of fp16.
        data: fingerprints of the parts of the data set.
    """
    content = {
        "format": FORMAT,
        "state": {name: getattr(state, name) for name in TrainState.__slots__},
        "config": config,
        "model": model,
        "optimizer": optimizer,
        "ema": ema,
        "scaler": scaler,
        "data": data,
    }
    path = checkpoint_path(out)
    write_file(path, lambda part: torch.save(content, part))
    return path


def keep_as(out: Path, name: str) -> Path:
    """Keep the present ``last.pt`` under another name too, without writing it again where the disk allows that."""
    last, kept = checkpoint_path(out), checkpoint_path(out, name)

    def copy(part: Path) -> None:
        part.unlink(missing_ok=True)
        try:
            os.link(last, part)
        except OSError:
            shutil.copyfile(last, part)

    write_file(kept, copy)
    return kept


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
        if content.get("format") != FORMAT:
            raise ResumeError(f"{path} is a checkpoint of format {content.get('format')}, this version reads {FORMAT}")
        state = TrainState(**content.pop("state"))
    except ResumeError:
        raise
    except Exception as error:
        raise ResumeError(
            f"{path} cannot be read as a training checkpoint ({error}); another one may lie beside it"
        ) from error
    return state, content


def check_same_run(saved: dict[str, Any], now: dict[str, Any], free: tuple[str, ...]) -> None:
    """Refuse to go on with settings that would make it another run.

    Args:
        saved: configuration in the checkpoint.
        now: configuration asked for.
        free: dotted names, or beginnings of them, that may differ: where things lie and how the machine is used.

    Raises:
        ResumeError: names every field that differs.
    """
    before, after = _flat(saved), _flat(now)
    different = [
        f"{name}: {before.get(name)!r} -> {after.get(name)!r}"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name) and not name.startswith(free)
    ]
    if different:
        raise ResumeError(
            "the checkpoint belongs to a run with other settings: " + "; ".join(different) + ". Give the old ones, "
            "or start a new run from its weights with --model.init"
        )


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = list(value) if isinstance(value, tuple) else value
    return flat
