"""Scores as tables."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from hrformer.cli.messages import say, wide_console
from hrformer.evaluate.protocols import Evaluation
from hrformer.train.progress import label_of, share_text
from hrformer.wording import counted


def show_scores(outcome: Evaluation) -> None:
    """Print the scores: those of the whole set, then those of each class or joint."""
    console = wide_console()
    table = Table(title=f"{outcome.task}, {counted(outcome.items, 'item')}", title_justify="left")
    table.add_column("score", no_wrap=True)
    table.add_column("value", justify="right")
    if outcome.intervals:
        table.add_column(f"{outcome.confidence:.0%} interval")
    for name, value in outcome.scores.items():
        if isinstance(value, list | dict):
            continue
        cells = [label_of(name), _cell(value)]
        if outcome.intervals:
            ends = outcome.intervals.get(name)
            cells.append(f"{share_text(ends[0])} to {share_text(ends[1])}" if ends else "")
        table.add_row(*cells)
    console.print(table)
    for name, rows in outcome.scores.items():
        if isinstance(rows, list) and rows and isinstance(rows[0], dict):
            console.print(_row_table(label_of(name), rows))
    for example in outcome.worst:
        say(f"worst: {share_text(example.score)} {example.file}")


def _row_table(title: str, rows: list[dict[str, Any]]) -> Table:
    table = Table(title=title, title_justify="left")
    for name in rows[0]:
        table.add_column(label_of(name), justify="left" if name == "name" else "right")
    for row in rows:
        table.add_row(*(_cell(value) for value in row.values()))
    return table


def _cell(value: Any) -> str:
    """Shares as percentages, counts as they are, a dash for what there is none of."""
    if value is None:
        return "–"
    return share_text(value) if isinstance(value, float) else str(value)
