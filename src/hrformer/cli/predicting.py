"""What the engines of ``hrformer predict`` share: the predictor and its options, from what was typed."""

from __future__ import annotations

import math
import shlex
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from hrformer.cli.arguments import ClassifyArguments, PoseArguments, PredictArguments, SegmentArguments
from hrformer.cli.messages import INTERRUPTED, note
from hrformer.predict.boxes import WHOLE, DetectionTable
from hrformer.predict.detectors import MASK_WEIGHTS, detector_for
from hrformer.predict.pose import PosePredictor
from hrformer.predict.predictors import AnyPredictor, load

TERMINATED = 143  # Exit code after SIGTERM

_TASKS = {PoseArguments: "pose", SegmentArguments: "segmentation", ClassifyArguments: "classification"}


def check(arguments: PredictArguments) -> None:
    """ValueError for what no predictor can work with."""
    if not arguments.inputs:
        raise ValueError("no INPUT given: name picture files, folders, glob patterns or URLs, or videos")
    if arguments.batch_size < 1:
        raise ValueError(f"--batch-size must be at least 1, got {arguments.batch_size}")
    for name, value in recorded(arguments).items():
        numbers = value if isinstance(value, list) else [value]
        if any(isinstance(number, float) and not math.isfinite(number) for number in numbers):
            raise ValueError(f"--{name.replace('_', '-')} must be finite, got {value}")
    if isinstance(arguments, PoseArguments) and (arguments.every < 1 or not 0 < arguments.cutoff < math.inf):
        raise ValueError(
            f"--every must be at least 1 and --cutoff above 0 Hz, got {arguments.every} and {arguments.cutoff}"
        )


def predictor_of(arguments: PredictArguments) -> AnyPredictor:
    """The predictor that was asked for; errors as of ``load``, and ValueError if the weights are for another task."""
    predictor = load(arguments.weights, arguments.device, fast=arguments.fast, precision=arguments.precision)
    wanted = _TASKS[type(arguments)]
    if predictor.task != wanted:
        raise ValueError(f"the weights {arguments.weights} are for {predictor.task}, not for {wanted}")
    return predictor


def options_of(arguments: PredictArguments, predictor: AnyPredictor) -> dict[str, Any]:
    """What ``predictor.stream`` takes, from what was typed; ValueError for options that exclude each other."""
    # Arguments of the same name as an option of the predictor are that option.
    known = {field.name for field in fields(predictor.options)} - {"short_side"}
    options = {field.name: getattr(arguments, field.name) for field in fields(arguments) if field.name in known}
    if isinstance(arguments, SegmentArguments) and arguments.short_side is not None:
        options["short_side"] = arguments.short_side or None
    if not isinstance(arguments, PoseArguments):
        return options
    if arguments.detections is not None and arguments.detector is not None:
        raise ValueError("give --detections or --detector, not both")
    if arguments.detector in (None, WHOLE) and arguments.detector_weights is not None:
        raise ValueError("--detector-weights needs a --detector that takes weights, such as segmentation")
    if arguments.detections is not None:
        return options | {"detections": DetectionTable.read(arguments.detections)}
    assert isinstance(predictor, PosePredictor)
    name = arguments.detector or predictor.default_detector
    if name == WHOLE:
        options["detector"] = WHOLE
        if arguments.detector is None:
            note("each picture is taken for one person, animal or thing that fills it; --detections brings boxes")
    else:
        values: dict[str, Any] = {"score_threshold": arguments.detector_threshold, "device": predictor.device}
        options["detector"] = detector_for(name, weights_path=arguments.detector_weights, **values)
        if arguments.detector is None:
            note(f"people are found in the masks of {MASK_WEIGHTS}; --detector and --detections take others")
    return options


def run_of(arguments: PredictArguments, predictor: AnyPredictor) -> dict[str, Any]:
    """What is running: the task, the weights, the precision that runs, and all options that results depend on."""
    about = {"task": predictor.task, "weights": arguments.weights, "precision": predictor.precision}
    return about | recorded(arguments)


def say_what_runs(arguments: PredictArguments, predictor: AnyPredictor) -> None:
    """A line about model, weights and device, and another about the precision where one was asked for."""
    note(f"{predictor.info.name} ({arguments.weights}) on {predictor.device}")
    if arguments.precision != "fp32":
        note(predictor.precision_note)


def recorded(arguments: PredictArguments) -> dict[str, Any]:
    """The options that results depend on, as JSON keeps them."""
    own = {field.name for field in fields(arguments)} - {field.name for field in fields(PredictArguments)}
    own -= {"every", "smooth", "cutoff"}  # of videos, which take note of them themselves
    values = {field.name: getattr(arguments, field.name) for field in fields(arguments) if field.name in own}
    return {
        name: str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value
        for name, value in values.items()
    }


class Terminated(KeyboardInterrupt):
    """SIGTERM came."""


@contextmanager
def terminable() -> Iterator[None]:
    """Within it SIGTERM ends the work as Ctrl-C does; without effect outside the main thread."""

    def stop(*_: object) -> None:
        raise Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def interrupted(stop: KeyboardInterrupt, arguments: PredictArguments, typed: Sequence[str], done: str = "") -> int:
    """Say after Ctrl-C or SIGTERM how far it came, ``done``, and how to go on; returns the exit code."""
    resume = shlex.join(["hrformer", *typed, *([] if arguments.resume else ["--resume"])])
    note(f"interrupted: {done}results in {arguments.out}")
    note(f"to go on: {resume}")
    return TERMINATED if isinstance(stop, Terminated) else INTERRUPTED
