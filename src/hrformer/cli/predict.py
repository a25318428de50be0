"""``hrformer predict``: pictures in, a folder of results out."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import tyro

from hrformer.cli.arguments import Command, PoseArguments, PredictArguments, PredictGroup, SegmentArguments
from hrformer.cli.inputs import Inputs, expand
from hrformer.cli.messages import guarded, note, say
from hrformer.cli.output import OutputFolder
from hrformer.cli.predict_ray import run_on_cluster
from hrformer.cli.predicting import (
    check,
    interrupted,
    options_of,
    predictor_of,
    run_of,
    say_what_runs,
    terminable,
)
from hrformer.cli.video import run_videos
from hrformer.data.images import LoadedImage, load_image
from hrformer.predict.boxes import DetectionTable
from hrformer.predict.outcomes import Outcome, predict_each
from hrformer.predict.predictors import AnyPredictor
from hrformer.train.progress import bars
from hrformer.video.reading import is_video
from hrformer.wording import counted

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

TASK_NAMES = {"segmentation": "segment", "classification": "classify"}  # Names of tasks that stand for commands, too


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
    if any(map(is_video, arguments.inputs)):
        return _run_videos(arguments, typed)
    if arguments.engine == "ray":
        return run_on_cluster(arguments, typed)
    check(arguments)
    inputs = expand(arguments.inputs, arguments.out)
    if not inputs.files:
        raise ValueError("no pictures: " + "; ".join(f"{name}: {reason}" for name, reason in inputs.missing.items()))
    predictor = predictor_of(arguments)
    options = options_of(arguments, predictor)
    if isinstance(arguments, PoseArguments) and arguments.detections is not None:
        _check_detections(options["detections"], arguments.detections, inputs)
    run = run_of(arguments, predictor)
    output = OutputFolder(arguments.out, run, pictures=arguments.pictures, resume=arguments.resume)
    output.unreadable.update(inputs.missing)
    if inputs.left_out:
        left = counted(len(inputs.left_out), "file")
        note(f"{left} left out, whose ending is no picture's, such as {inputs.left_out[0]}")
    todo = [file for file in inputs.files if not (arguments.resume and output.has(file))]
    output.plan(inputs.files)
    say_what_runs(arguments, predictor)
    for setting, text in predictor.report.assumed.items() if predictor.report else ():
        note(f"assumed: {setting} {text}")
    try:
        with terminable():
            done = _work(predictor, todo, options, output)
    except KeyboardInterrupt as stop:
        output.flush()
        finished = sum(output.has(file) for file in inputs.files)
        return interrupted(stop, arguments, typed, f"{finished} of {len(inputs.files)} pictures are done, ")
    except BaseException:
        output.flush()
        raise
    output.flush()
    _report(arguments, output, done, skipped=len(inputs.files) - len(todo))
    return 1 if output.unreadable or output.failed else 0


def _run_videos(arguments: PredictArguments, typed: Sequence[str]) -> int:
    """See ``hrformer.cli.video.run_videos``."""
    check(arguments)
    if pictures := [one for one in arguments.inputs if not is_video(one)]:
        raise ValueError(f"give videos or pictures, not both: {pictures[0]} is no video by its ending")
    if arguments.engine == "ray":
        raise ValueError(f"--engine ray is for pictures, and {arguments.inputs[0]} is a video; leave out --engine")
    predictor = predictor_of(arguments)
    options = options_of(arguments, predictor)
    say_what_runs(arguments, predictor)
    try:
        with terminable():
            return run_videos(arguments, predictor, options, run_of(arguments, predictor))
    except KeyboardInterrupt as stop:
        return interrupted(stop, arguments, typed)


def _check_detections(table: DetectionTable, name: Path, inputs: Inputs) -> None:
    unknown = [file for file in inputs.files if not table.has(file)]
    if len(unknown) == len(inputs.files):
        raise ValueError(f"{name} has no detections for any of the pictures, such as {unknown[0]}")
    if unknown:
        note(f"no detections for {len(unknown)} of the pictures, such as {unknown[0]}")


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


def _work(predictor: AnyPredictor, files: Sequence[str], options: dict[str, Any], output: OutputFolder) -> int:
    """Predict and write; returns the number of pictures done."""
    done = ended = 0
    with bars() as show:

        def told(outcome: Outcome) -> None:
            nonlocal done, ended
            if outcome.result is None:
                (output.unreadable if outcome.unreadable else output.failed)[outcome.name] = outcome.error
            else:
                output.add(outcome.result)
                done += outcome.name not in output.failed
            ended += 1
            show("pictures", ended, len(files))

        predict_each(predictor, [(file, partial(_load_quietly, file)) for file in files], options, told)
    return done


def _load_quietly(file: str) -> LoadedImage:
    with _silent_libraries():
        return load_image(file)


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
