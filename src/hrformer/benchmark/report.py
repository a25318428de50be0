"""A run as text: Markdown for files, rows for a terminal."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hrformer.benchmark.candidates import Candidate
from hrformer.benchmark.chart import shown
from hrformer.benchmark.records import UNITS, Document, Record, Verdict
from hrformer.benchmark.statistics import paired_ratio
from hrformer.files import write_file

COLUMNS = ("candidate", "batch", "size", "median", "quartiles", "images/s", "first call", "ratio")
TARGET_COLUMNS = ("target", "due", "measured", "verdict", "then", "compared")


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Rows of text under column names.

    Attributes:
        title: of the group.
        columns: names.
        rows: as many cells each as there are columns.
        note: below the table; empty where there is nothing to say.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def tables(document: Document) -> Iterator[Table]:
    """One table per group, then growth and targets where there are any."""
    titles = dict.fromkeys(record.group for record in document.records)
    for title in titles:
        yield _group_table(title, [one for one in document.records if one.group == title], document.baseline)
    if document.growth:
        note = "Time grows as size to the power of the exponent: 1 is growth in proportion."
        yield Table(
            title="Growth",
            columns=("candidate", "over", "exponent", "R²"),
            rows=tuple((one.label, one.over, f"{one.exponent:.2f}", f"{one.r_squared:.3f}") for one in document.growth),
            note=note,
        )
    if document.verdicts:
        rows = tuple(_target_row(one) for one in document.verdicts)
        yield Table(title="Targets", columns=TARGET_COLUMNS, rows=rows)


def baseline_of(records: Sequence[Record], label: str) -> Candidate | None:
    """What the ratios of a group are taken against.

    Args:
        records: of the group.
        label: of a candidate; where it is empty or not in the group, the first that is not ours, else the first.
    """
    measured = [record.candidate for record in records if record.rounds]
    named = [one for one in measured if label and one.label == label]
    foreign = [one for one in measured if one.origin != "ours" or one.model.startswith("hrnet")]
    return next(iter([*named, *foreign, *measured]), None)


def _group_table(title: str, records: Sequence[Record], label: str) -> Table:
    baseline = baseline_of(records, label)
    columns = (*COLUMNS[:1], "part", *COLUMNS[1:]) if any(record.part for record in records) else COLUMNS
    rows = []
    for record in records:
        cells = [record.candidate.label, str(record.batch), "x".join(map(str, record.size)), *_figures(record)]
        cells.append(_ratio(record, records, baseline))
        if len(columns) > len(COLUMNS):
            cells.insert(1, record.part)
        rows.append(tuple(cells))
    note = f"Ratio: how many times less than {baseline.label}, median over rounds." if baseline else ""
    notes = dict.fromkeys(record.note for record in records if record.note)
    if notes:
        note += f" Notes: {'; '.join(notes)}."
    return Table(title=title, columns=columns, rows=tuple(rows), note=note.strip())


def _figures(record: Record) -> list[str]:
    if record.failure:
        return [f"failed: {record.failure}", "", "", ""]
    unit, found = UNITS[record.kind], record.summary
    per_second = record.images_per_second
    return [
        shown(found.median, unit),
        f"{shown(found.p25, unit)} to {shown(found.p75, unit)}",
        "" if per_second is None else f"{per_second:.3g}",
        "" if record.first is None else shown(record.first, "s"),
    ]


def _ratio(record: Record, records: Sequence[Record], baseline: Candidate | None) -> str:
    """Against the baseline's record of the same batch, size and part."""
    if baseline is None or not record.rounds:
        return ""
    same = (record.batch, record.size, record.part)
    for other in records:
        if other.candidate == baseline and (other.batch, other.size, other.part) == same and other.rounds:
            return f"{paired_ratio(other.rounds, record.rounds).median:.2f}"
    return ""


def _target_row(verdict: Verdict) -> tuple[str, ...]:
    due = f"{'≥' if verdict.unit == 'x' else '≤'} {_with_unit(verdict.due, verdict.unit)}"
    then = "" if verdict.then is None else _with_unit(verdict.then, verdict.unit)
    if verdict.measured is None:
        return verdict.name, due, "", "not measured", then, verdict.reason
    measured = _with_unit(verdict.measured, verdict.unit)
    if verdict.spread is not None:
        measured += f" ({verdict.spread[0]:.2f} to {verdict.spread[1]:.2f})"
    return verdict.name, due, measured, "met" if verdict.met else "missed", then, " / ".join(verdict.winners)


def _with_unit(value: float, unit: str) -> str:
    if unit == "x":
        return f"{value:.2f}x"
    return f"{value:.2f}" if unit == "exponent" else f"{value:.3g} {unit}"


def conditions_line(document: Document) -> str:
    """Machine, versions, date, commit and settings in one sentence each."""
    found = document.conditions
    gpus = f"; {', '.join(found['gpus'])}" if found["gpus"] else "; no GPU"
    versions = [
        f"{name} {found[name]}"
        for name in ("torch", "triton", "openvino", "onnxruntime", "timm", "transformers")
        if found.get(name)
    ]
    memory = f", {found['memory_gib']} GiB" if found.get("memory_gib") else ""
    return (
        f"Machine: {found['cpu']}, {found['cores']} cores ({found.get('cpu_capability', '')}){memory}{gpus}. "
        f"Measured on: {found['device']}, {found['threads']} threads; malloc: {found['malloc']}. "
        f"Versions: Python {found['python']}, {', '.join(versions)}. "
        f"Commit: {found['commit'] or 'unknown'}. Date: {found['date']}."
    )


def markdown(document: Document, title: str) -> str:
    """The run as a section of a Markdown file, targets first."""
    parts = [f"## {title}", conditions_line(document), f"```sh\n{document.command}\n```"]
    ordered = sorted(tables(document), key=lambda table: table.title != "Targets")
    for table in ordered:
        parts += [f"### {table.title}", _pipes(table)]
        if table.note:
            parts.append(table.note)
    return "\n\n".join(parts) + "\n"


def _pipes(table: Table) -> str:
    lines = [table.columns, tuple("---" for _ in table.columns), *table.rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def figures_file(results: Path, name: str) -> Path:
    """Where the figures behind a section lie: a JSON file in the folder ``results`` beside the Markdown file."""
    return results.parent / "results" / f"{re.sub('[^a-z0-9]+', '-', name.lower()).strip('-')}.json"


def _marks(name: str) -> tuple[str, str]:
    return f"<!-- results of {name} -->", f"<!-- end of {name} -->"


def put_into(path: Path, name: str, text: str) -> None:
    """Put a section into a Markdown file, in place of the one of this name, else at the end.

    Args:
        path: file; made if absent.
        name: of the section, which is kept in comments around it.
        text: the section.

    Raises:
        ValueError: the file has the section's beginning and not its end.
        OSError: the file cannot be read or written.
    """
    first, last = _marks(name)
    before = path.read_text(encoding="utf-8") if path.exists() else "# Results\n"
    section = f"{first}\n{text.strip()}\n{last}"
    if first in before:
        if before.find(last) < before.find(first):
            raise ValueError(f"{path}: the section {name!r} has no end; add the line {last}")
        after = re.sub(f"{re.escape(first)}.*?{re.escape(last)}", lambda _: section, before, count=1, flags=re.DOTALL)
    else:
        after = f"{before.rstrip()}\n\n{section}\n"
    write_file(path, lambda part: part.write_text(after, encoding="utf-8"))


def sections(text: str) -> dict[str, str]:
    """Sections of a Markdown file by name, as :func:`put_into` wrote them."""
    found = re.findall(r"<!-- results of (.+?) -->\n(.*?)\n<!-- end of \1 -->", text, flags=re.DOTALL)
    return dict(found)
