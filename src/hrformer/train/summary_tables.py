"""Tables of the summary page: scores, one row per class or joint, configuration, versions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from typing import Any

from hrformer.train.progress import label_of, share_text
from hrformer.train.summary_record import Event, RunRecord, number
from hrformer.train.trackers import flat

MOST_ROWS = 40
"""Longer tables are folded."""


def score_section(record: RunRecord) -> str:
    """All scores of the best and the last validation, and the best one's table per class or joint."""
    last, best = record.last, record.best
    if not last:
        return ""
    columns = (
        [("best", best), ("last", last)] if best and best["update"] != last["update"] else [("best and last", last)]
    )
    head = "".join(f"<th>{name},<br>update {event['update']}</th>" for name, event in columns)
    rows = "".join(
        f"<tr><td>{escape(label_of(name))}</td>"
        + "".join(f"<td>{_score(event, name)}</td>" for _, event in columns)
        + "</tr>"
        for name in record.score_names()
    )
    counts = ", ".join(
        f"{value} {label_of(name)}" for name, value in last.get("scores", {}).items() if isinstance(value, int)
    )
    below = f'<p class="quiet small">{escape(counts)}</p>'
    parts = [f'<div class="wide"><table><tr><th></th>{head}</tr>{rows}</table>{below}</div>']
    for key, title in (("per_class", "class"), ("per_joint", "joint")):
        if table := (best or last).get("scores", {}).get(key):
            parts.append(_item_table(title, table))
    return f'<section><h2>Scores</h2><div class="side">{"".join(parts)}</div></section>'


def _score(event: Event, name: str) -> str:
    value = event.get("scores", {}).get(name)
    interval = event.get("intervals", {}).get(name)
    ends = (
        f' <span class="quiet">({" to ".join(share_text(number(end)) for end in interval)})</span>' if interval else ""
    )
    return share_text(number(value)) + ends


def _item_table(title: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """Name, the first share with a bar, then the other columns."""
    columns = [name for name in rows[0] if name != "name"]
    shares = [c for c in columns if any(isinstance(row.get(c), float) for row in rows)]
    # A distance is no score: a long bar would look good.
    barred = next((c for c in shares if c != "distance"), None)
    order = [*([barred] if barred else []), *(c for c in columns if c != barred)]
    head = "".join(f"<th>{escape(label_of(c))}</th>" + ("<th></th>" if c == barred else "") for c in order)
    body = []
    for row in rows:
        cells = [f"<td>{escape(str(row.get('name')))}</td>"]
        for column in order:
            value = row.get(column)
            cells.append(f"<td>{_cell(value)}</td>")
            if column == barred:
                width = 100 * min(max(number(value), 0.0), 1.0) if math.isfinite(number(value)) else 0
                cells.append(f'<td class="bar"><i style="width: {width:.1f}%"></i></td>')
        body.append(f"<tr>{''.join(cells)}</tr>")
    table = f'<div class="wide"><table><tr><th>{title}</th>{head}</tr>{"".join(body)}</table></div>'
    if len(rows) <= MOST_ROWS:
        return table
    return f"<details><summary>{len(rows)} rows, one per {title}</summary>{table}</details>"


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return share_text(value)
    return "–" if value is None else escape(str(value))


def fact_section(record: RunRecord) -> str:
    """What the run was, its configuration and what it ran on, folded."""
    start = {name: value for name, value in record.start.items() if name not in ("event", "update", "time", "versions")}
    sittings = {
        date_text(event.get("time")): f"taken up again after update {event['update']}"
        if event.get("resumed")
        else "started"
        for event in record.of("start")
    }
    tables = [
        (
            "Run",
            {label_of(name): value for name, value in start.items() if name not in ("epoch", "resumed")} | sittings,
        ),
        ("Configuration", flat(record.config)),
        ("Versions and machine", record.versions or record.start.get("versions", {})),
    ]
    folded = "".join(
        f"<details><summary>{title}</summary>{_fact_table(rows)}</details>" for title, rows in tables if rows
    )
    made = f"Made {date_text(datetime.now(UTC).isoformat())} from the files of the run directory."
    return f'<footer><h2>How it was made</h2>{folded}<p class="quiet small">{made}</p></footer>'


def _fact_table(rows: Mapping[str, Any]) -> str:
    body = "".join(f"<tr><td>{escape(name)}</td><td>{escape(_fact(value))}</td></tr>" for name, value in rows.items())
    return f'<div class="wide"><table class="facts">{body}</table></div>'


def _fact(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(str(one) for one in value) or "none"
    return "none" if value is None or value == "" else str(value)


def date_text(text: Any) -> str:
    """A time of the log for people: day and minute, UTC."""
    try:
        return f"{datetime.fromisoformat(str(text)).astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    except ValueError:
        return str(text)
