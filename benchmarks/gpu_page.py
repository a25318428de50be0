"""The page ``gpu.md``: what every stage of ``gpu.py`` found, and the end of the log of those that failed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

Cases = Mapping[str, Mapping[str, Any]]


def write_page(path: Path, content: Mapping[str, Any], titles: Mapping[str, str], cases: Mapping[str, Cases]) -> None:
    """Write the page whole.

    Args:
        path: of the page.
        content: "about" the run, and "stages": what is known of each.
        titles: of the stages.
        cases: by stage.
    """
    part = path.with_suffix(".part")
    part.write_text("\n".join(_lines(content, titles, cases)) + "\n", encoding="utf-8")
    part.replace(path)


def _lines(content: Mapping[str, Any], titles: Mapping[str, str], cases: Mapping[str, Cases]) -> Iterator[str]:
    yield "# What the device told"
    yield ""
    yield from (f"- {name}: {value}" for name, value in content["about"].items())
    yield ""
    yield from table([{"stage": titles[name], **_state(content["stages"].get(name))} for name in cases])
    for name, found in cases.items():
        said = content["stages"].get(name)
        if not found and not (said and said.get("tail")):
            continue
        yield f"## {titles[name]}"
        yield ""
        yield from _cases(found)
        if said and said.get("tail"):
            yield f"The log of `{name}` ends:"
            yield ""
            yield "```text"
            # A fence in a log would end this one.
            yield from (line.replace("```", "'''") for line in said["tail"])
            yield "```"
            yield ""


def _state(said: Mapping[str, Any] | None) -> dict[str, Any]:
    if said is None:
        return {"state": "not yet", "seconds": "", "why": ""}
    status = f" (exit status {said['status']})" if said.get("status") is not None else ""
    return {"state": said["state"], "seconds": said["seconds"], "why": f"{said['why']}{status}"}


def _cases(cases: Cases) -> Iterator[str]:
    """A table with a line for every case, and those tables that cases bring themselves."""
    plain = {
        name: {key: value for key, value in entry["facts"].items() if key not in ("rows", "wrong", "note")}
        for name, entry in cases.items()
    }
    yield from table(
        [
            {
                "case": name,
                "state": entry["state"],
                "seconds": entry.get("seconds", ""),
                **plain[name],
                "why": entry["why"],
            }
            for name, entry in cases.items()
        ]
    )
    for name, entry in cases.items():
        if entry["facts"].get("rows"):
            yield f"### {name}"
            yield ""
            yield from table(entry["facts"]["rows"])
        if entry["facts"].get("note"):
            yield str(entry["facts"]["note"])
            yield ""


def table(rows: list[dict[str, Any]]) -> Iterator[str]:
    """A table in Markdown with every column that some row has, without those that are empty in all of them."""
    columns = [
        name for name in dict.fromkeys(key for row in rows for key in row) if any(_cell(r.get(name)) for r in rows)
    ]
    if not columns:
        return
    yield f"| {' | '.join(columns)} |"
    yield f"| {' | '.join('---' for _ in columns)} |"
    for row in rows:
        yield f"| {' | '.join(_cell(row.get(name)) for name in columns)} |"
    yield ""


def _cell(value: Any) -> str:
    if value is None:
        return ""
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")
