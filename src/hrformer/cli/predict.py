"""``hrformer predict``: pictures in, a folder of results out."""

from __future__ import annotations

import math
import os
import shlex
import signal
import sys
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

import tyro

from hrformer.cli.arguments import (
    ClassifyArguments,
    Command,
    PoseArguments,
    PredictArguments,
    PredictGroup,
    SegmentArguments,
)
from hrformer.cli.inputs import Inputs, expand
from hrformer.cli.messages import INTERRUPTED, guarded, note, say
from hrformer.cli.output import OutputFolder
from hrformer.cli.video import run_videos
from hrformer.data.images import ImageError, LoadedImage, load_image
from hrformer.predict.boxes import WHOLE, DetectionTable
from hrformer.predict.detectors import MASK_WEIGHTS, detector_for
from hrformer.predict.pose import PosePredictor
from hrformer.predict.predictors import AnyPredictor, load
from hrformer.predict.results import Result
from hrformer.train.progress import bars
from hrformer.video.reading import is_video
from hrformer.wording import counted

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

TERMINATED = 143  # Exit code after SIGTERM

TASK_NAMES = {"segmentation": "segment", "classification": "classify"}  # Names of tasks that stand for commands, too

_TASKS = {PoseArguments: "pose", SegmentArguments: "segmentation", ClassifyArguments: "classification"}


def main(typed: Sequence[str]) -> int:
    """Run ``hrformer predict``; see ``hrformer.__main__.main``."""
    return guarded(lambda: run_predict(_parse(typed), typed), typed)


def _parse(typed: Sequence[str]) -> PredictArguments:
    words = [*typed[:1], *(TASK_NAMES.get(word, word) for word in typed[1:2]), *typed[2:]]
    # Without prefixes the options read --out rather than --task.out.
    config = (tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes)
    # All commands, since tyro's advice names a program by the first of its words only.
    return cast(PredictGroup, tyro.cli(cast(Any, Command), args=words, prog="hrformer", config=config)).task


def run_predict(arguments: PredictArguments, typed: Sequence[str]) -> int:
    """Predict on all inputs.

    Args:
        arguments: the parsed command line.
        typed: the command line as typed, to say how to go on after Ctrl-C.

    Returns:
        0; 1 if some inputs could not be read or predicted; 130 after Ctrl-C; 143 after SIGTERM.
    """
    _check_numbers(arguments)
    if any(map(is_video, arguments.inputs)):
        return _run_videos(arguments, typed)
    inputs = _checked_inputs(arguments)
    predictor, run = _loaded(arguments)
    options = _options(arguments, predictor, inputs.files)
    output = OutputFolder(arguments.out, run, pictures=arguments.pictures, resume=arguments.resume)
    output.unreadable.update(inputs.missing)
    if inputs.left_out:
        left = counted(len(inputs.left_out), "file")
        note(f"{left} left out, whose ending is no picture's, such as {inputs.left_out[0]}")
    todo = [file for file in inputs.files if not (arguments.resume and output.has(file))]
    output.plan(inputs.files)
    note(f"{predictor.info.name} ({arguments.weights}) on {predictor.device}")
    for setting, text in predictor.report.assumed.items() if predictor.report else ():
        note(f"assumed: {setting} {text}")
    try:
        with _terminable():
            done = _work(predictor, todo, options, output)
    except KeyboardInterrupt as stop:
        output.flush()
        resume = shlex.join(["hrformer", *typed, *([] if arguments.resume else ["--resume"])])
        finished = sum(output.has(file) for file in inputs.files)
        note(f"interrupted: {finished} of {len(inputs.files)} pictures are done, results in {arguments.out}")
        note(f"to go on: {resume}")
        return TERMINATED if isinstance(stop, _Terminated) else INTERRUPTED
    except BaseException:
        output.flush()
        raise
    output.flush()
    _report(arguments, output, done, skipped=len(inputs.files) - len(todo))
    return 1 if output.unreadable or output.failed else 0


def _loaded(arguments: PredictArguments) -> tuple[AnyPredictor, dict[str, Any]]:
    """The predictor, and what results depend on."""
    predictor = load(arguments.weights, arguments.device, fast=arguments.fast)
    wanted = _TASKS[type(arguments)]
    if predictor.task != wanted:
        raise ValueError(f"the weights {arguments.weights} are for {predictor.task}, not for {wanted}")
    return predictor, {"task": predictor.task, "weights": arguments.weights} | _recorded(arguments)


def _run_videos(arguments: PredictArguments, typed: Sequence[str]) -> int:
    """See ``hrformer.cli.video.run_videos``."""
    if pictures := [one for one in arguments.inputs if not is_video(one)]:
        raise ValueError(f"give videos or pictures, not both: {pictures[0]} is no video by its ending")
    predictor, run = _loaded(arguments)
    options = _options(arguments, predictor, ())
    note(f"{predictor.info.name} ({arguments.weights}) on {predictor.device}")
    try:
        with _terminable():
            return run_videos(arguments, predictor, options, run)
    except KeyboardInterrupt as stop:
        resume = shlex.join(["hrformer", *typed, *([] if arguments.resume else ["--resume"])])
        note(f"interrupted; what is done is kept in {arguments.out}")
        note(f"to go on: {resume}")
        return TERMINATED if isinstance(stop, _Terminated) else INTERRUPTED


class _Terminated(KeyboardInterrupt):
    """SIGTERM came."""


@contextmanager
def _terminable() -> Iterator[None]:
    """Within it SIGTERM ends the work as Ctrl-C does; without effect outside the main thread."""

    def stop(*_: object) -> None:
        raise _Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _silent_libraries() -> Iterator[None]:
    """Within it nothing reaches descriptor 2: libjpeg writes there about damaged files, past OpenCV's log level."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _check_numbers(arguments: PredictArguments) -> None:
    if not arguments.inputs:
        raise ValueError("no INPUT given: name picture files, folders, glob patterns or URLs, or videos")
    if arguments.batch_size < 1:
        raise ValueError(f"--batch-size must be at least 1, got {arguments.batch_size}")
    for name, value in _recorded(arguments).items():
        numbers = value if isinstance(value, list) else [value]
        if any(isinstance(number, float) and not math.isfinite(number) for number in numbers):
            raise ValueError(f"--{name.replace('_', '-')} must be finite, got {value}")
    if isinstance(arguments, PoseArguments) and (arguments.every < 1 or arguments.cutoff <= 0):
        raise ValueError(
            f"--every must be at least 1 and --cutoff above 0 Hz, got {arguments.every} and {arguments.cutoff}"
        )


def _checked_inputs(arguments: PredictArguments) -> Inputs:
    inputs = expand(arguments.inputs, arguments.out)
    if not inputs.files:
        raise ValueError("no pictures: " + "; ".join(f"{name}: {reason}" for name, reason in inputs.missing.items()))
    return inputs


def _options(arguments: PredictArguments, predictor: AnyPredictor, files: Sequence[str]) -> dict[str, Any]:
    """What ``predictor.stream`` takes, from what was typed."""
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
        table = DetectionTable.read(arguments.detections)
        unknown = [file for file in files if not table.has(file)]
        if files and len(unknown) == len(files):
            raise ValueError(f"{arguments.detections} has no detections for any of the pictures, such as {unknown[0]}")
        if unknown:
            note(f"no detections for {len(unknown)} of the pictures, such as {unknown[0]}")
        return options | {"detections": table}
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


def _recorded(arguments: PredictArguments) -> dict[str, Any]:
    """The options that results depend on, as JSON keeps them."""
    own = {field.name for field in fields(arguments)} - {field.name for field in fields(PredictArguments)}
    own -= {"every", "smooth", "cutoff"}  # of videos, which take note of them themselves
    values = {field.name: getattr(arguments, field.name) for field in fields(arguments) if field.name in own}
    return {
        name: str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value
        for name, value in values.items()
    }


def _work(predictor: AnyPredictor, files: Sequence[str], options: dict[str, Any], output: OutputFolder) -> int:
    """Predict and write; returns the number of pictures done."""
    done = ended = 0
    queue, unanswered = deque(files), deque[str]()
    alone: set[str] = set()
    with bars() as show:

        def end_one() -> None:
            nonlocal ended
            ended += 1
            show("pictures", ended, len(files))

        def readable() -> Iterator[LoadedImage]:
            while queue and not (unanswered and (queue[0] in alone or unanswered[0] in alone)):
                file = queue.popleft()
                try:
                    with _silent_libraries():
                        image = load_image(file)
                except ImageError as error:
                    output.unreadable[file] = str(error).removeprefix(f"{file}: ")
                    end_one()
                    continue
                unanswered.append(file)
                yield image

        stream: Iterator[Result] = iter(())
        while True:
            try:
                result = next(stream, None)
            except OSError:
                raise
            except Exception as error:
                if not unanswered:
                    raise
                if len(unanswered) == 1:
                    output.failed[unanswered[0]] = str(error) or type(error).__name__
                    end_one()
                else:  # one of a batch: each goes alone, to find out which
                    alone.update(unanswered)
                    queue.extendleft(reversed(unanswered))
                unanswered.clear()
                result = None  # an error ends a stream
            if result is not None:
                unanswered.remove(str(result.path))
                output.add(result)
                done += result.path not in output.failed
                end_one()
            elif queue:
                stream = predictor.stream(readable(), **options)
            else:
                return done


def _report(arguments: PredictArguments, output: OutputFolder, done: int, skipped: int) -> None:
    already = f", {skipped} had been done before" if skipped else ""
    say(f"{counted(done, 'picture')} predicted{already}{_peak_memory()}")
    say(f"results: {output.predictions_file}; file names and image ids: {output.images_file}")
    if arguments.pictures:
        say(f"annotated pictures: {output.folder / 'pictures'}")
    if isinstance(arguments, SegmentArguments):
        say(f"masks of class ids: {output.folder / 'masks'}")
    if output.nobody:
        note(f"nobody was found in {counted(len(output.nobody), 'picture')}, such as {output.nobody[0]}")
    for what, reasons in (("could not be read", output.unreadable), ("failed", output.failed)):
        if reasons:
            note(f"{what} ({len(reasons)}):")
        for name, reason in reasons.items():
            note(f"  {name}: {reason}")


def _peak_memory() -> str:
    """The most that this process has held, where the system says it."""
    try:
        # getrusage would count the program that started this one, too.
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
        most = 1024 * next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        if resource is None:
            return ""
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return f"; peak memory {most / 1e9:.1f} GB"
