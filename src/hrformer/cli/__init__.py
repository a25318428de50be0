"""The command ``hrformer``: parse, call, print."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import cv2
import tyro

from hrformer.cli.arguments import (
    Command,
    EvaluateArguments,
    InspectArguments,
    InspectDataArguments,
    ModelsArguments,
    PredictGroup,
    TrainArguments,
)
from hrformer.cli.bench import BenchArguments, run_bench
from hrformer.cli.convert import run_convert
from hrformer.cli.evaluate import run_evaluate
from hrformer.cli.inspect import run_inspect
from hrformer.cli.messages import complain, note
from hrformer.cli.models import run_models
from hrformer.cli.predict import INTERRUPTED, run_predict
from hrformer.cli.runs import RunCommand, parse_run
from hrformer.cli.train import run_train
from hrformer.train.distributed import PeerFailed

DESCRIPTION = "HRFormer and HRNet: predictions on pictures, models and weights, training and evaluation."

RUN_COMMANDS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "train": (TrainArguments(), ()),
    "eval": (EvaluateArguments(), ("data", "evaluation")),
    "inspect data": (InspectDataArguments(), ()),
}
"""Commands about one run: their own options, and the sections of the run that they let be changed; none for all."""

TASK_NAMES = {"segmentation": "segment", "classification": "classify"}
"""Names of tasks that ``predict`` understands, too."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: command line without the program's name; None takes the process's own.

    Returns:
        Exit code: 0; 1 if some inputs could not be read; 2 for wrong usage and every other error; 130 after Ctrl-C,
            143 after SIGTERM.
    """
    typed = list(sys.argv[1:] if arguments is None else arguments)
    # Looked for here because errors may come before the command is known.
    debug = "--debug" in typed or os.environ.get("HRFORMER_DEBUG", "") not in ("", "0")
    # OpenCV's own remarks on broken files would tear the progress bars; errors name these files.
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        return _run(_parse(typed), typed)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 2
    except KeyboardInterrupt:
        note("interrupted")
        return INTERRUPTED
    except Exception as error:
        if debug:
            raise
        # The process that failed has told why; the others only end, too.
        if not isinstance(error, PeerFailed):
            complain(_described(error))
        return 2


def _parse(typed: list[str]) -> Any:
    # The fields of a run are known only with the run, so it is looked up before the rest is parsed.
    for name, (options, sections) in RUN_COMMANDS.items():
        words = len(name.split())
        if " ".join(typed[:words]) == name and len(typed) > words and not typed[words].startswith("-"):
            return parse_run(options, typed[words:], command=name, sections=sections)
    if typed[:1] == ["predict"] and len(typed) > 1:
        typed = ["predict", TASK_NAMES.get(typed[1], typed[1]), *typed[2:]]
    # Without prefixes the options read --out rather than --task.out.
    config = (tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes)
    commands = Command | Annotated[BenchArguments, tyro.conf.subcommand("bench")]
    return tyro.cli(commands, args=typed, prog="hrformer", description=DESCRIPTION, config=config)


def _run(command: Any, typed: list[str]) -> int:
    if isinstance(command, PredictGroup):
        return run_predict(command.task, typed)
    options = command.options if isinstance(command, RunCommand) else command
    if isinstance(options, BenchArguments):
        return run_bench(options)
    if isinstance(options, TrainArguments):
        return run_train(command)
    if isinstance(options, EvaluateArguments):
        return run_evaluate(command)
    if isinstance(options, InspectArguments | InspectDataArguments):
        return run_inspect(command)
    return run_models(options) if isinstance(options, ModelsArguments) else run_convert(options)


def _described(error: Exception) -> str:
    """The message alone where it was written for users, else with the kind of error and how to learn more."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    # DownloadError is a RuntimeError of ours; torch's own need the name to make sense.
    if isinstance(error, ValueError | OSError | ImportError) or type(error).__module__.startswith("hrformer."):
        return str(error)
    return f"{type(error).__name__}: {error} (set HRFORMER_DEBUG=1 to see where)"
