"""Every command by its name, and the words of a command line that names none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import tyro

from hrformer.cli.arguments import (
    Command,
    ConvertArguments,
    ConvertLabelsArguments,
    ConvertResultsArguments,
    EvaluateArguments,
    ExportArguments,
    InspectDataArguments,
    ModelsArguments,
    PushArguments,
    TrainArguments,
)
from hrformer.cli.bench import BenchArguments, run_bench
from hrformer.cli.evaluate import run_evaluate
from hrformer.cli.export import run_export
from hrformer.cli.inspect import run_inspect
from hrformer.cli.labels import run_convert_labels
from hrformer.cli.messages import guarded
from hrformer.cli.models import run_convert, run_models
from hrformer.cli.push import run_push
from hrformer.cli.results import run_convert_results
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


def main(typed: Sequence[str]) -> int:
    """Run one command other than ``predict``; see ``hrformer.__main__.main``."""
    return guarded(lambda: _run(_parse(typed)), typed, untold=(PeerFailed,))


def _parse(typed: Sequence[str]) -> Any:
    # The fields of a run are known only with the run, so it is looked up before the rest is parsed.
    for name, (options, sections) in RUN_COMMANDS.items():
        words = len(name.split())
        if " ".join(typed[:words]) == name and len(typed) > words and not typed[words].startswith("-"):
            return parse_run(options, typed[words:], command=name, sections=sections)
    # Without prefixes the options read --out rather than --task.out.
    config = (tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes)
    commands = Command | Annotated[BenchArguments, tyro.conf.subcommand("bench")]
    return tyro.cli(commands, args=typed, prog="hrformer", description=DESCRIPTION, config=config)


def _run(command: Any) -> int:
    options = command.options if isinstance(command, RunCommand) else command
    if isinstance(options, BenchArguments):
        return run_bench(options)
    if isinstance(options, ConvertArguments):
        return run_convert(options)
    if isinstance(options, ConvertResultsArguments):
        return run_convert_results(options)
    if isinstance(options, ConvertLabelsArguments):
        return run_convert_labels(options)
    if isinstance(options, ModelsArguments):
        return run_models(options)
    if isinstance(options, ExportArguments):
        return run_export(options)
    if isinstance(options, PushArguments):
        return run_push(options)
    if isinstance(options, TrainArguments):
        return run_train(command)
    return run_evaluate(command) if isinstance(options, EvaluateArguments) else run_inspect(command)
