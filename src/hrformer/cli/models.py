"""``hrformer models``: what can be built, how large it is, and which weights there are."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from hrformer.checkpoints.registry import WeightEntry, list_weights
from hrformer.cli.arguments import ModelsArguments
from hrformer.cli.complexity import DEFINITION, measure
from hrformer.cli.messages import say, wide_console
from hrformer.cli.model_sizes import MEASURED
from hrformer.models.model import TASKS
from hrformer.zoo import DEFAULT_CLASSES, INPUT_SPECS, list_models


def run_models(arguments: ModelsArguments) -> int:
    """Print the tables.

    Raises:
        ValueError: no model or weights match the names, or the size cannot be used.
    """
    if arguments.size is not None and min(arguments.size) < 32:
        raise ValueError(f"--size must be at least 32 32 (height width), got {arguments.size}")
    weights = [entry for entry in list_weights() if _wanted(arguments.names, entry.name, entry.model)]
    models = [name for name in list_models() if _wanted(arguments.names, name)]
    if not models and not weights:
        raise ValueError(f"no model or weights match {' '.join(arguments.names)}; `hrformer models` lists all")
    console = wide_console()
    if models:
        console.print(_model_table(models, weights, arguments.size))
        outputs = ", ".join(f"{task} {count}" for task, count in DEFAULT_CLASSES.items())
        say(f"MACs: {DEFINITION}. Classes or keypoints: {outputs}.\n")
    if weights:
        console.print(_weight_table(weights))
        say('Use a name as --weights NAME or hrformer.load("NAME"); a local file works as well.')
    return 0


def _wanted(patterns: Sequence[str], *names: str) -> bool:
    return not patterns or any(pattern in name for pattern in patterns for name in names)


def _model_table(models: Sequence[str], weights: Sequence[WeightEntry], size: tuple[int, int] | None) -> Table:
    table = Table(title="Models", title_justify="left")
    table.add_column("name", no_wrap=True)
    for task in TASKS:
        height, width = size or INPUT_SPECS[task].size
        table.add_column(f"{task}\nparams", justify="right")
        table.add_column(f"{height}x{width}\nGMACs", justify="right")
    table.add_column("weights", justify="right")
    for name in models:
        cells = []
        for task in TASKS:
            if size is None:
                parameters, macs = MEASURED[name, task]
            else:
                measured = measure(name, task, size)
                parameters, macs = measured.parameters, measured.macs
            cells += [f"{parameters / 1e6:.2f} M", f"{macs / 1e9:.3f}"]
        available = sum(entry.model == name for entry in weights)
        table.add_row(name, *cells, str(available) if available else "-")
    return table


def _weight_table(weights: Sequence[WeightEntry]) -> Table:
    table = Table(title="Weights", title_justify="left")
    table.add_column("name", no_wrap=True)
    table.add_column("task")
    table.add_column("input", justify="right")
    table.add_column("from")
    table.add_column("result")
    for entry in weights:
        height, width = entry.input_spec.size
        table.add_row(entry.name, entry.task or "backbone", f"{height}x{width}", entry.origin, entry.score)
    return table
