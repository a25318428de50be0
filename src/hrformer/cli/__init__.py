"""The command ``hrformer``: parse, call, print."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import tyro

from hrformer.cli.arguments import Command, ConvertArguments, ModelsArguments, PredictGroup
from hrformer.cli.convert import run_convert
from hrformer.cli.messages import note
from hrformer.cli.models import run_models
from hrformer.cli.predict import INTERRUPTED, run_predict

DESCRIPTION = "HRFormer and HRNet: predictions on pictures, models and weights."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: command line without the program's name; None takes the process's own.

    Returns:
        Exit code: 0; 1 if some inputs could not be read; 2 for wrong usage and every other error; 130 after Ctrl-C.
    """
    typed = list(sys.argv[1:] if arguments is None else arguments)
    try:
        command = _parse(typed)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 2
    debug = os.environ.get("HRFORMER_DEBUG", "") not in ("", "0")
    try:
        if isinstance(command, PredictGroup):
            debug = debug or command.task.debug
            return run_predict(command.task, typed)
        debug = debug or command.debug
        return run_models(command) if isinstance(command, ModelsArguments) else run_convert(command)
    except KeyboardInterrupt:
        note("interrupted")
        return INTERRUPTED
    except Exception as error:
        if debug:
            raise
        note(f"error: {_described(error)}")
        return 2


def _parse(typed: list[str]) -> PredictGroup | ModelsArguments | ConvertArguments:
    # Without prefixes the options read --out rather than --task.out.
    config = (tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes)
    return tyro.cli(Command, args=typed, prog="hrformer", description=DESCRIPTION, config=config)


def _described(error: Exception) -> str:
    """The message alone where it was written for users, else with the kind of error and how to learn more."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    # DownloadError is a RuntimeError of ours; torch's own need the name to make sense.
    if isinstance(error, ValueError | OSError) or type(error).__module__.startswith("hrformer."):
        return str(error)
    return f"{type(error).__name__}: {error} (set HRFORMER_DEBUG=1 to see where)"
