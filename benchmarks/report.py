"""A run as Markdown, and the file that holds a section for each run."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from candidates import Candidate
from hrformer.files import write_file
from records import Document, Record, Verdict, seconds
from timing import paired_ratio

COLUMNS = ("candidate", "batch", "size", "median", "quartiles", "images/s", "first call", "ratio")
TARGET_COLUMNS = ("target", "due", "measured", "verdict", "then", "compared")
GROWTH_COLUMNS = ("candidate", "over", "exponent", "R²")
SHOWN_VERSIONS = ("torch", "triton", "openvino", "onnxruntime", "timm", "transformers")


def markdown(document: Document, title: str) -> str:
    """The run as a section of a Markdown file: conditions, command, targets, a table per group, growth."""
    parts = [f"## {title}", conditions_line(document), f"```sh\n{document.command}\n```"]
    if document.verdicts:
        parts += ["### Targets", _table(TARGET_COLUMNS, map(_target_row, document.verdicts))]
    for group in dict.fromkeys(record.group for record in document.records):
        parts += _group(group, [one for one in document.records if one.group == group], document.baseline)
    if document.growth:
        rows = [(one.label, one.over, f"{one.exponent:.2f}", f"{one.r_squared:.3f}") for one in document.growth]
        parts += ["### Growth", _table(GROWTH_COLUMNS, rows)]
        parts.append("Time grows as size to the power of the exponent: 1 is growth in proportion.")
    return "\n\n".join(parts) + "\n"


def conditions_line(document: Document) -> str:
    """Machine, versions, date, commit and settings in one sentence each."""
    found = document.conditions
    gpus = f"; {', '.join(found['gpus'])}" if found["gpus"] else "; no GPU"
    versions = [f"{name} {found[name]}" for name in SHOWN_VERSIONS if found.get(name)]
    memory = f", {found['memory_gib']} GiB" if found.get("memory_gib") else ""
    return (
        f"Machine: {found['cpu']}, {found['cores']} cores ({found.get('cpu_capability', '')}){memory}{gpus}. "
        f"Measured on: {found['device']}, {found['threads']} threads; malloc: {found['malloc']}. "
        f"Versions: Python {found['python']}, {', '.join(versions)}. "
        f"Commit: {found['commit'] or 'unknown'}. Date: {found['date']}."
    )


def _group(title: str, records: Sequence[Record], label: str) -> Iterator[str]:
    """Heading, table and note of a group."""
    baseline = _baseline(records, label)
    has_parts = any(record.part for record in records)
    rows = []
    for record in records:
        cells = [record.candidate.label, str(record.batch), "x".join(map(str, record.size)), *_figures(record)]
        cells.append(_ratio(record, records, baseline))
        rows.append([cells[0], record.part, *cells[1:]] if has_parts else cells)
    yield f"### {title}"
    yield _table((COLUMNS[0], "part", *COLUMNS[1:]) if has_parts else COLUMNS, rows)
    note = f"Ratio: how many times less than {baseline.label}, median over rounds." if baseline else ""
    if notes := dict.fromkeys(record.note for record in records if record.note):
        note += f" Notes: {'; '.join(notes)}."
    if note:
        yield note.strip()


def _baseline(records: Sequence[Record], label: str) -> Candidate | None:
    """What the ratios of a group are taken against.

    Args:
        records: of the group.
        label: of a candidate; where it is empty or not in the group, the first that is not ours, else the first.
    """
    measured = [record.candidate for record in records if record.rounds]
    named = [one for one in measured if one.label == label]
    foreign = [one for one in measured if one.origin != "ours" or one.model.startswith("hrnet")]
    return next(iter([*named, *foreign, *measured]), None)


def _figures(record: Record) -> list[str]:
    if record.failure:
        return [f"failed: {record.failure}", "", "", ""]
    low, median, high = record.quartiles
    per_second = record.images_per_second
    return [
        record.shown(median),
        f"{record.shown(low)} to {record.shown(high)}",
        "" if per_second is None else f"{per_second:.3g}",
        "" if record.first is None else seconds(record.first),
    ]


def _ratio(record: Record, records: Sequence[Record], baseline: Candidate | None) -> str:
    """Against the baseline's record of the same batch, size and part."""
    wanted = (baseline, record.batch, record.size, record.part)
    for other in records if record.rounds else ():
        if (other.candidate, other.batch, other.size, other.part) == wanted and other.rounds:
            return f"{paired_ratio(other.rounds, record.rounds)[1]:.2f}"
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


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def figures_file(results: Path, name: str) -> Path:
    """Where the figures behind a section lie: a JSON file in the folder ``results`` beside the Markdown file."""
    return results.parent / "results" / f"{re.sub('[^a-z0-9]+', '-', name.lower()).strip('-')}.json"


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
    first, last = f"<!-- results of {name} -->", f"<!-- end of {name} -->"
    before = path.read_text(encoding="utf-8") if path.exists() else "# Results\n"
    section = f"{first}\n{text.strip()}\n{last}"
    head, found, rest = before.partition(first)
    if found:
        _, ended, tail = rest.partition(last)
        if not ended:
            raise ValueError(f"{path}: the section {name!r} has no end; add the line {last}")
        after = head + section + tail
    else:
        after = f"{before.rstrip()}\n\n{section}\n"
    write_file(path, lambda part: part.write_text(after, encoding="utf-8"))
