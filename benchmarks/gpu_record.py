"""What ``gpu.py`` leaves behind, whatever happens next: a JSON file of each stage, and the page ``gpu.md``.

A stage's file is written whole after every case, the page after every stage. Standard library only.
"""

from __future__ import annotations

import json
import os
import time
import traceback
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

OK, FAILED, SKIPPED = "ok", "failed", "skipped"
LONG = 20
"""Seconds that the next case may need at most, for all that is known; the longest so far, where that was less."""
WRONG_USE = 2
"""Exit status of a stage for what the user has to change; no later stage could do better."""
UNUSABLE = 70
"""Exit status of a stage whose process cannot go on, though later ones may: its device answers no more."""


Case = tuple[str, Callable[[], Mapping[str, Any]]]
"""A name, and what finds the facts; a fact "wrong" says what fails it, "rows" is a table, "note" a sentence."""
Cases = Mapping[str, Mapping[str, Any]]
"""What a stage's file says of each case, by name."""


def stage_json(options: Namespace) -> Path:
    """Where the stage that ``options`` names keeps its cases."""
    path: Path = options.out / "stages" / f"{options.stage}.json"
    return path


class Skip(Exception):
    """Raised by a case that has no business here; the message says why."""


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a file that is whole or not there."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content, indent=1, default=str) + "\n", encoding="utf-8")
    os.replace(part, path)


def read_json(path: Path) -> dict[str, Any]:
    """What a stage has written so far; empty before its first word."""
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content


class Record:
    """The cases of one stage, by name: state, seconds, facts, and why not.

    A process that starts after another one died finds what that one had measured, and its last case marked as failed.

    Args:
        path: of the JSON file.
        is_alive: asked after a failure whether the device still answers.
        seconds: that the stage has; a case that would hardly end in time is skipped.
    """

    def __init__(self, path: Path, is_alive: Callable[[], bool], seconds: float) -> None:
        self._path, self._is_alive = path, is_alive
        self._end, self._longest = time.monotonic() + seconds, 0.0
        self.cases: dict[str, dict[str, Any]] = read_json(path).get("cases", {})

    def known(self, name: str) -> bool:
        """Whether a case was tried before."""
        return name in self.cases

    def died(self, name: str) -> bool:
        """Whether a case took its process with it."""
        return bool(self.cases.get(name, {}).get("died"))

    def run_all(self, cases: Iterable[Case]) -> int:
        """Run cases in turn; the exit status of their process."""
        for name, case in cases:
            print(f"-- {name}", flush=True)
            self.run(name, case)
        return 0

    def run(self, name: str, case: Callable[[], Mapping[str, Any]]) -> None:
        """Run a case unless it was tried before; its errors are results."""
        if self.known(name):
            return
        entry: dict[str, Any] = {"state": FAILED, "facts": {}, "why": "did not come to an end"}
        self.cases[name] = entry
        self._write(running=name)
        began = time.monotonic()
        try:
            if began + self._longest > self._end:
                raise Skip("no time left")
            facts = case()
            self.note(name, **facts)
            wrong = facts.get("wrong")
            entry |= {"state": FAILED if wrong else OK, "why": wrong or ""}
        except Skip as reason:
            entry |= {"state": SKIPPED, "why": str(reason)}
        except Exception as error:
            # Whatever other people's code or a kernel raises; the log has the whole of it.
            traceback.print_exc()
            entry |= {"state": FAILED, "why": f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"}
        entry["seconds"] = round(time.monotonic() - began, 2)
        self._longest = min(max(self._longest, entry["seconds"]), LONG)
        alive = entry["state"] != FAILED or self._is_alive()
        entry["died"] = not alive
        self._write()
        if not alive:
            print("the device answers no more: this process ends", flush=True)
            os._exit(UNUSABLE)

    def left(self) -> float:
        """Seconds until the stage has to end."""
        return self._end - time.monotonic()

    def note(self, name: str, **facts: Any) -> None:
        """Keep facts of a case that still runs."""
        self.cases[name]["facts"] |= facts
        self._write(running=name)

    def _write(self, running: str = "") -> None:
        write_json(self._path, {"cases": self.cases, "running": running})


def mark_dead(path: Path, why: str) -> str:
    """Note that a stage's process ended in the middle of a case, and return that case's name; empty for none."""
    content = read_json(path)
    name = str(content.get("running", ""))
    if name:
        content["cases"][name] |= {"state": FAILED, "why": why, "died": True}
        write_json(path, content | {"running": ""})
    return name


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
