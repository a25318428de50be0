"""Training with the time that is left: recipes on given data, with weights that survive whatever ends the run."""

from __future__ import annotations

import argparse
import math
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

import gpu_device
from gpu_record import Case, Record
from hrformer.models.checkpoint import save_checkpoint
from hrformer.recipes.catalogue import find_recipe
from hrformer.train.config import AnyRun, ModelConfig, SaveConfig, ScheduleConfig
from hrformer.train.loop import train
from hrformer.train.run import Run

MOST_BYTES = 16_000_000
"""Of a file of weights, less than what borrowed machines hand back."""
LAST_SECONDS = 8
"""For a run to write its weights and its summary."""


def train_cases(options: argparse.Namespace, device: torch.device, record: Record) -> Iterator[Case]:
    """The recipes share the time that is left."""
    for number, name in enumerate(options.train):
        if not record.known(name):
            seconds = record.left() / (len(options.train) - number)
            yield name, lambda name=name, seconds=seconds: _train(name, options, device, record, seconds)


def _train(
    name: str, options: argparse.Namespace, device: torch.device, record: Record, seconds: float
) -> Mapping[str, Any]:
    config, out = _config(name, options, device), options.out / "train" / name
    weights = options.out / "weights" / f"{name}.safetensors"

    def keep(run: Run) -> None:
        files = write_small(run, weights)
        losses = {key: value / run.state.window["count"] for key, value in run.state.window.items() if key == "loss"}
        record.note(name, update=run.state.update, of=run.total, best=run.state.best, weights=files, **losses)

    # As Ctrl-C would: the run writes its checkpoint and ends.
    end = threading.Timer(max(seconds - LAST_SECONDS, 1), os.kill, (os.getpid(), signal.SIGTERM))
    end.daemon = True
    end.start()
    try:
        result = train(config, out, resume=True, saved=keep)
    finally:
        end.cancel()
    best = {} if result.best is None else {"score": f"{result.main} {result.best:.4f} at update {result.best_update}"}
    return {"update": result.update, "ended": result.interrupted or "at its end", **best}


def _config(name: str, options: argparse.Namespace, device: torch.device) -> AnyRun:
    """The recipe on the given data, without what a bare environment lacks: trackers, and drawn pictures."""
    config = find_recipe(name)()
    on_cpu = device.type == "cpu"
    runtime = replace(config.runtime, cpu=on_cpu, threads=0, workers=0 if on_cpu else None)
    config = replace(
        config,
        data=replace(config.data, root=options.data),
        runtime=runtime,
        log=replace(config.log, trackers=(), pictures=0),
        save=SaveConfig(every_updates=1 if options.tiny else 0, every_minutes=1),
    )
    if not options.tiny:
        return config
    return replace(
        config,
        model=ModelConfig(name=gpu_device.SPECK, head_planes=4, head_width=16),
        schedule=ScheduleConfig(updates=2),
        batch=replace(config.batch, total=4),
        validate_updates=2,
    )


def write_small(run: Run, path: Path) -> str:
    """Write a run's weights in 16 bits, as files of at most ``MOST_BYTES``; their names.

    One file is what ``hrformer.load`` takes. More are parts of it, ``NAME.1-of-3.safetensors`` and so on: the tensors
    of all parts together are the state dict.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    model = run.model_to_keep()
    half = {key: value.half() if value.is_floating_point() else value for key, value in model.state_dict().items()}
    total = sum(value.numel() * value.element_size() for value in half.values())
    # The header with names and shapes takes some, too.
    if total < 0.98 * MOST_BYTES:
        save_checkpoint(model, path, half=True, metadata={"recipe": f"{run.config.recipe}, update {run.state.update}"})
        return path.name
    count = math.ceil(total / (0.9 * MOST_BYTES))
    parts: list[dict[str, torch.Tensor]] = [{} for _ in range(count)]
    sizes = [0] * count
    for key, value in sorted(half.items(), key=lambda item: -item[1].numel()):
        smallest = sizes.index(min(sizes))
        parts[smallest][key] = value.contiguous().cpu()
        sizes[smallest] += value.numel() * value.element_size()
    names = [f"{path.stem}.{number}-of-{count}.safetensors" for number in range(1, count + 1)]
    for name, part in zip(names, parts, strict=True):
        whole = path.with_name(name + ".part")
        save_file(part, whole)
        os.replace(whole, path.with_name(name))
    return f"{names[0]} and {count - 1} more"
