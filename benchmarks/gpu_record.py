"""What a stage of ``gpu.py`` leaves behind: one JSON file, written whole after every case, whatever happens next."""

from __future__ import annotations

import json
import os
import time
import traceback
from argparse import Namespace
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

OK, FAILED, SKIPPED = "ok", "failed", "skipped"
LONG = 20
"""Seconds that the next case may need at most, for all that is known; the longest so far, where that was less."""
UNUSABLE = 70
"""Exit status of a stage whose process cannot go on, though later ones may: its device answers no more."""


Case = tuple[str, Callable[[], Mapping[str, Any]]]
"""A name, and what finds the facts; a fact "wrong" says what fails it, "rows" is a table, "note" a sentence."""


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
