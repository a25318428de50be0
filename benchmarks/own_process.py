"""What is measured in processes of its own: peak memory on a CPU, and how long a user waits for the first result."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from candidates import Candidate, Job
from conditions import Settings
from hrformer.checkpoints.checkpoint import save_checkpoint
from hrformer.models.model import VisionModel
from networks import build_network

STEPS = ("imports", "load", "first result", "second result")
TO_FIRST_RESULT = "start to first result"
LIMIT = 1800
"""Seconds after which a process counts as hung."""


class ProbeError(RuntimeError):
    """A process that was to measure something failed; the message ends with what it said last."""


def run_script(name: str, order: Mapping[str, Any], **environment: str) -> Any:
    """Run a script of this folder with this interpreter.

    Args:
        name: of a script that reads JSON from standard input and writes JSON to standard output.
        order: what it reads.
        **environment: variables to add to this process's own.

    Raises:
        ProbeError: it failed, took longer than ``LIMIT``, or wrote something else.
    """
    command = [sys.executable, str(Path(__file__).with_name(name))]
    given, variables = json.dumps(order, default=str), os.environ | environment
    try:
        done = subprocess.run(
            command, input=given, capture_output=True, text=True, timeout=LIMIT, env=variables, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ProbeError(f"{name}: no answer within {LIMIT} s") from error
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"ended with code {done.returncode}"]
        raise ProbeError(f"{name}: {said[-1]}")
    try:
        # Libraries may greet on standard output first.
        return json.loads(done.stdout.strip().splitlines()[-1])
    except (ValueError, IndexError) as error:
        raise ProbeError(f"{name}: answered {done.stdout[-200:]!r}") from error


def peak_memory(job: Job, training: bool, settings: Settings) -> tuple[float, str]:
    """Peak of a forward pass or a training step on the CPU above the built network, where the candidate is alone.

    Returns:
        Bytes, and how they were measured.

    Raises:
        ProbeError: the candidate failed there.
    """
    answer = run_script("memory_probe.py", {"job": asdict(job), "training": training, "settings": asdict(settings)})
    return answer["above_model"], answer["method"]


def write_weights(candidate: Candidate, settings: Settings, folder: Path) -> Path:
    """Weight file of one of our models, for the process to load.

    Raises:
        ValueError: not a model of ours, or run in another way than ``hrformer.load`` does.
    """
    model = build_network(candidate, settings.checkouts, settings.seed)
    if not isinstance(model, VisionModel) or candidate.origin != "ours":
        raise ValueError(f"{candidate.label}: the start is measured through hrformer.load, which takes our models")
    if candidate.way not in ("eager", "fast"):
        raise ValueError(f"{candidate.label}: the start is measured for eager and fast")
    return save_checkpoint(model, folder / f"{candidate.model}_{candidate.task}.safetensors")


def time_start(candidate: Candidate, weights: Path, picture: Path, cache: Path, settings: Settings) -> dict[str, float]:
    """Start a process that loads weights and predicts twice.

    Args:
        candidate: "eager", or "fast" for ``hrformer.load(..., fast=True)``.
        weights: file to load.
        picture: file to predict on, by the task's published protocol.
        cache: folder of the package's cache; an empty one makes it a first start.
        settings: for device and threads.

    Returns:
        Seconds of each of ``STEPS``, and of all but the last under ``TO_FIRST_RESULT``.

    Raises:
        ProbeError: the process failed.
    """
    order = {
        "weights": weights,
        "picture": picture,
        "options": {"fast": True} if candidate.way == "fast" else {},
        "threads": settings.threads,
        "cpu": settings.device == "cpu",
    }
    points = [time.monotonic(), *run_script("start_probe.py", order, HRFORMER_HOME=str(cache))]
    steps = {name: points[number + 1] - points[number] for number, name in enumerate(STEPS)}
    return steps | {TO_FIRST_RESULT: points[3] - points[0]}
