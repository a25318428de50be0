"""How long a user waits for the first result: interpreter, imports, weights, compilation, picture."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from hrformer.benchmark.candidates import Candidate
from hrformer.benchmark.conditions import Conditions
from hrformer.benchmark.networks import Sources, build_network
from hrformer.benchmark.processes import run_module
from hrformer.checkpoints.checkpoint import save_checkpoint
from hrformer.models.model import VisionModel

PROBE = "hrformer.benchmark.start_probe"
STEPS = ("imports", "load", "first result", "second result")
TOTAL = "start to first result"


def write_weights(candidate: Candidate, sources: Sources, folder: Path) -> Path:
    """Weight file of one of our models, for the process to load.

    Raises:
        ValueError: not a model of ours.
    """
    model = build_network(candidate, sources)
    if not isinstance(model, VisionModel) or candidate.origin != "ours":
        raise ValueError(f"{candidate.label}: the start is measured through hrformer.load, which takes our models")
    return save_checkpoint(model, folder / f"{candidate.model}_{candidate.task}.safetensors")


def time_start(
    candidate: Candidate, weights: Path, picture: Path, cache: Path, conditions: Conditions
) -> dict[str, float]:
    """Start a process that loads weights and predicts twice.

    Args:
        candidate: "eager", or "fast" for ``hrformer.load(..., fast=True)``.
        weights: file to load.
        picture: file to predict on, by the task's published protocol.
        cache: folder of the package's cache; an empty one makes it a first start.
        conditions: device and threads.

    Returns:
        Seconds of each of ``STEPS``, and of all but the last under ``TOTAL``.

    Raises:
        ProbeError: the process failed.
        ValueError: the candidate is run in another way.
    """
    if candidate.way not in ("eager", "fast"):
        raise ValueError(f"{candidate.label}: the start is measured for eager and fast")
    options: dict[str, Any] = {"fast": True} if candidate.way == "fast" else {}
    order = {
        "weights": str(weights),
        "picture": str(picture),
        "options": options,
        "threads": conditions.threads,
        "cpu": conditions.device == "cpu",
    }
    started = time.monotonic()
    points = run_module(PROBE, order, environment={"HRFORMER_HOME": str(cache)})
    imported, loaded, first, second = (points[name] for name in ("imported", "loaded", "first", "second"))
    steps = dict(zip(STEPS, (imported - started, loaded - imported, first - loaded, second - first), strict=True))
    return steps | {TOTAL: first - started}
