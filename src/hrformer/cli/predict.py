"""``hrformer predict``: pictures in, a folder of results out."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import cv2
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from hrformer.cli.arguments import ClassifyArguments, PoseArguments, PredictArguments, SegmentArguments
from hrformer.cli.inputs import Inputs, expand
from hrformer.cli.messages import note, say
from hrformer.cli.output import OutputFolder
from hrformer.data.images import ImageError, LoadedImage, load_image
from hrformer.predict.boxes import DetectionTable
from hrformer.predict.classify import ClassificationPredictor
from hrformer.predict.detector import PersonDetector
from hrformer.predict.pose import PosePredictor
from hrformer.predict.predictors import AnyPredictor, load
from hrformer.predict.segment import SegmentationPredictor

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""

_TASKS: dict[type[PredictArguments], type[AnyPredictor]] = {
    PoseArguments: PosePredictor,
    SegmentArguments: SegmentationPredictor,
    ClassifyArguments: ClassificationPredictor,
}


def run_predict(arguments: PredictArguments, typed: Sequence[str]) -> int:
    """Predict on all inputs.

    Args:
        arguments: the parsed command line.
        typed: the command line as typed, to say how to go on after Ctrl-C.

    Returns:
        0; 1 if some inputs could not be read; 130 after Ctrl-C.

    Raises:
        ValueError: no pictures, weights for another task, or options that do not fit together.
        OSError: results cannot be written.
    """
    inputs = _checked_inputs(arguments)
    predictor = load(arguments.weights, arguments.device, fast=arguments.fast)
    wanted = _TASKS[type(arguments)]
    if not isinstance(predictor, wanted):
        raise ValueError(f"the weights {arguments.weights} are for {predictor.task}, not for {wanted.task}")
    options = _options(arguments, predictor, inputs)
    run = {"task": predictor.task, "weights": arguments.weights} | _recorded(arguments)
    output = OutputFolder(arguments.out, run, pictures=arguments.pictures, resume=arguments.resume)
    output.unreadable.update(inputs.missing)
    todo = [file for file in inputs.files if not (arguments.resume and output.has(file))]
    output.plan(inputs.files)
    # OpenCV's own remarks on broken files would tear the progress bar; the list at the end names them.
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    note(f"{predictor.info.name} ({arguments.weights}) on {predictor.device}")
    for setting, text in predictor.report.assumed.items() if predictor.report else ():
        note(f"assumed: {setting} {text}")
    try:
        done = _work(predictor, todo, options, output)
    except KeyboardInterrupt:
        output.flush()
        resume = shlex.join(["hrformer", *typed, *([] if arguments.resume else ["--resume"])])
        finished = sum(output.has(file) for file in inputs.files)
        note(f"interrupted: {finished} of {len(inputs.files)} pictures are done, results in {arguments.out}")
        note(f"to go on: {resume}")
        return INTERRUPTED
    except BaseException:
        output.flush()
        raise
    output.flush()
    _report(arguments, output, done, skipped=len(inputs.files) - len(todo))
    return 1 if output.unreadable else 0


def _checked_inputs(arguments: PredictArguments) -> Inputs:
    if not arguments.inputs:
        raise ValueError("no INPUT given: name picture files, folders, glob patterns or URLs")
    if arguments.batch_size < 1:
        raise ValueError(f"--batch-size must be at least 1, got {arguments.batch_size}")
    inputs = expand(arguments.inputs, arguments.out)
    if not inputs.files:
        raise ValueError("no pictures: " + "; ".join(f"{name}: {reason}" for name, reason in inputs.missing.items()))
    return inputs


def _options(arguments: PredictArguments, predictor: AnyPredictor, inputs: Inputs) -> dict[str, Any]:
    """What ``predictor.stream`` takes, from what was typed."""
    options: dict[str, Any] = {"batch_size": arguments.batch_size}
    if isinstance(arguments, ClassifyArguments):
        return options | {"top_k": arguments.top_k, "flip": arguments.flip}
    if isinstance(arguments, SegmentArguments):
        options |= {name: getattr(arguments, name) for name in ("scales", "flip", "tile", "memory")}
        return options if arguments.short_side is None else options | {"short_side": arguments.short_side or None}
    assert isinstance(arguments, PoseArguments)
    if arguments.detections is not None and arguments.detector is not None:
        raise ValueError("give --detections or --detector, not both")
    if arguments.detector is None and arguments.detector_weights is not None:
        raise ValueError("--detector-weights needs --detector")
    names = ("joint_threshold", "box_threshold", "flip", "nms", "fast_crop")
    options |= {name: getattr(arguments, name) for name in names}
    if arguments.detections is not None:
        table = DetectionTable.read(arguments.detections)
        unknown = [file for file in inputs.files if not table.has(file)]
        if len(unknown) == len(inputs.files):
            raise ValueError(f"{arguments.detections} has no detections for any of the pictures, such as {unknown[0]}")
        if unknown:
            note(f"no detections for {len(unknown)} of the pictures, such as {unknown[0]}")
        options["detections"] = table
    if arguments.detector is not None:
        options["detector"] = PersonDetector(
            arguments.detector,
            score_threshold=arguments.detector_threshold,
            weights_path=arguments.detector_weights,
            device=predictor.device,
        )
    return options


def _recorded(arguments: PredictArguments) -> dict[str, Any]:
    """The options that results depend on, as JSON keeps them."""
    general = {field.name for field in fields(PredictArguments)}
    own = {field.name: getattr(arguments, field.name) for field in fields(arguments) if field.name not in general}
    return {
        name: str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value
        for name, value in own.items()
    }


def _work(predictor: AnyPredictor, files: Sequence[str], options: dict[str, Any], output: OutputFolder) -> int:
    """Predict and write; returns the number of pictures done."""
    columns = (BarColumn(), MofNCompleteColumn(), Rate(), TextColumn("left:"), TimeRemainingColumn())
    done = 0
    with Progress(TextColumn("{task.description}"), *columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("pictures", total=len(files))

        def readable() -> Iterator[LoadedImage]:
            for file in files:
                try:
                    yield load_image(file)
                except ImageError as error:
                    output.unreadable[file] = str(error).removeprefix(f"{file}: ")
                    progress.advance(bar)

        for result in predictor.stream(readable(), **options):
            output.add(result)
            done += 1
            progress.advance(bar)
    return done


class Rate(ProgressColumn):
    """Pictures per second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f}/s" if speed >= 1 else f"{1 / speed:.1f} s each")


def _report(arguments: PredictArguments, output: OutputFolder, done: int, skipped: int) -> None:
    already = f", {skipped} had been done before" if skipped else ""
    say(f"{done} pictures predicted{already}")
    say(f"results: {output.predictions_file}; file names and image ids: {output.images_file}")
    if arguments.pictures:
        say(f"annotated pictures: {output.folder / 'pictures'}")
    if isinstance(arguments, SegmentArguments):
        say(f"masks of class ids: {output.folder / 'masks'}")
    if output.unreadable:
        note(f"could not be read ({len(output.unreadable)}):")
        for name, reason in output.unreadable.items():
            note(f"  {name}: {reason}")
