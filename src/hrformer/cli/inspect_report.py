"""A report of an inspection in print: numbers first, then what is wrong, each with its fix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from hrformer.cli.messages import say, wide_console
from hrformer.data.inspection.report import Report
from hrformer.wording import counted

ROWS_SHOWN = 40
"""Of longer lists the first and the last of so many rows are printed; ``report.json`` has all."""

_BAR = 16

_CAPTIONS = {
    "classification": "share of the pictures, and their number:",
    "pose": "share of the people looked at in whom the joint is labelled, and labelled as hidden:",
    "segmentation": "share of the labelled pixels, and number of the pictures that have the class:",
}


def print_report(report: Report) -> None:
    """Numbers by part, labels side by side, findings."""
    say(f"{report.data or 'no data'}, {report.task}")
    for split, numbers in report.statistics.items():
        for line in _number_lines(split, numbers):
            say(line)
    rows = {
        split: numbers.get("classes") or numbers.get("joints") or [] for split, numbers in report.statistics.items()
    }
    if any(rows.values()):
        say("")
        say(_CAPTIONS[report.task])
        wide_console().print(_label_table(report.task, {split: table for split, table in rows.items() if table}))
    say("")
    for finding in report.findings:
        say(f"{finding.severity}: {finding.split}: {finding.what}")
        if finding.where:
            say(f"  where: {finding.places}")
        if finding.fix:
            say(f"  fix: {finding.fix}")
    if not report.findings:
        say("nothing wrong was found")


def _number_lines(split: str, numbers: Mapping[str, Any]) -> list[str]:
    items, pictures, looked_at = numbers["items"], numbers["pictures"], numbers["looked_at"]
    seen = "all looked at" if looked_at == pictures else f"{looked_at} looked at"
    lines = [
        f"{split}: {counted(items, 'item')} on {counted(pictures, 'picture')}, {seen}"
        if items != pictures
        else f"{split}: {counted(pictures, 'picture')}, {seen}"
    ]
    if "width" in numbers:
        sides = "; ".join(f"{name} {_spread(numbers[name])}" for name in ("width", "height"))
        lines.append(f"  {sides} pixels")
        mean, std = (" ".join(f"{value:.3f}" for value in numbers[name]) for name in ("mean", "std"))
        lines.append(f"  channels in 0..1: mean {mean}, standard deviation {std}")
    if "void" in numbers:
        lines.append(f"  void: {numbers['void']:.1%} of the pixels")
    if numbers.get("box_side"):
        lines.append(
            f"  people looked at: {numbers['people']}, {numbers['people_per_picture']:.1f} per picture; "
            f"longer side of the boxes {_spread(numbers['box_side'])} pixels"
        )
    if numbers.get("annotations"):
        lines.append(
            f"  annotations in the file: {numbers['annotations']}, of them {counted(numbers['crowds'], 'crowd')}, "
            f"{numbers['without_joints']} without joints, {numbers['without_area']} without area"
        )
    return lines


def _spread(values: Mapping[str, float]) -> str:
    low, high = values["smallest"], values["largest"]
    return f"{low:.0f}" if low == high else f"{low:.0f} to {high:.0f}, median {values['median']:.0f}"


def _label_table(task: str, rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> Table:
    """Classes or joints, with a bar for the first part and numbers for all."""
    label, share, other = ("joint", "labelled", "hidden") if task == "pose" else ("class", "share", "pictures")
    first = list(next(iter(rows.values())))
    table = Table(box=None, pad_edge=False, header_style="")
    table.add_column(label, overflow="fold")
    table.add_column("", no_wrap=True, min_width=_BAR)
    for split in rows:
        table.add_column(split, justify="right")
        table.add_column(other, justify="right")
    by_name = [{row["name"]: row for row in part} for part in rows.values()]
    largest = max(row[share] for row in first) or 1
    cut = ROWS_SHOWN // 2 if len(first) > ROWS_SHOWN else len(first)
    for number, row in enumerate([*first[:cut], *first[max(cut, len(first) - cut) :]]):
        if number == cut:
            table.add_row(f"… {len(first) - ROWS_SHOWN} more")
        cells = [row["name"], "█" * round(_BAR * row[share] / largest)]
        for named in by_name:
            found = named.get(row["name"])
            if found is None:
                cells += ["–", "–"]
            elif task == "pose":
                cells += [f"{found[share]:.1%}", f"{found[other]:.1%}"]
            else:
                cells += [f"{found[share]:.2%}", str(found[other])]
        table.add_row(*cells)
    return table
