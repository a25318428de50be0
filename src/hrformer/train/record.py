"""What the files of a run directory say about it. Files may be missing, or still be growing."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from hrformer.files import write_file

EVENTS_FILE = "metrics.jsonl"

Event = Mapping[str, Any]
Point = tuple[float, float]

_NO_LOSSES = frozenset({"event", "update", "epoch", "time", "lr", "grad_norm", "images_per_second"})


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRecord:
    """A run as far as it is written down: what stands in its files, each empty where there is none."""

    events: Sequence[Event]  # of ``metrics.jsonl``, in order
    starts: Sequence[Event]  # beginnings
    trained: Sequence[Event]  # about the training; of several for one update the last
    validations: Sequence[Event]  # the same
    config: Mapping[str, Any]  # ``config.json``
    versions: Mapping[str, Any]  # ``versions.json``

    @property
    def state(self) -> str:
        """ "finished", "interrupted", "failed", or "running", which may also have been killed without a word."""
        last = self.events[-1] if self.events else {}
        state = last.get("state", "") if last.get("event") == "end" else "running"
        return state if state in ("interrupted", "failed", "running") else "finished"

    @property
    def start(self) -> Event:
        return self.starts[-1] if self.starts else {}

    @property
    def resumes(self) -> list[int]:
        """Updates after which the run was taken up again."""
        return [event["update"] for event in self.starts if event.get("resumed")]

    @property
    def update(self) -> int:
        """Updates done."""
        return max((event["update"] for event in self.events), default=0)

    @property
    def seconds(self) -> float:
        """Time spent between beginnings and what follows them; of what was cut off and done again, nothing."""
        begins = [number for number, event in enumerate(self.events) if event["event"] == "start"]
        times = [datetime.fromisoformat(event["time"]).timestamp() for event in self.events]
        return sum(times[end - 1] - times[begin] for begin, end in pairwise([*begins, len(times)]))

    @property
    def best(self) -> Event:
        """The validation with the highest main score, the first of equals."""
        scored = [event for event in self.validations if math.isfinite(event["value"])]
        return max(scored, key=lambda event: event["value"], default={})

    @property
    def last(self) -> Event:
        return self.validations[-1] if self.validations else {}

    @property
    def losses(self) -> list[str]:
        """Names of the losses, "loss" first."""
        names = dict.fromkeys(name for event in self.trained for name in event if name not in _NO_LOSSES)
        return sorted(names, key=lambda name: name != "loss")

    @property
    def score_names(self) -> list[str]:
        """Scores that are shares, the main one first."""
        names = [name for name, value in self.last.get("scores", {}).items() if isinstance(value, float)]
        return sorted(names, key=lambda name: name != self.last["main"])

    def values(self, name: str) -> list[Point]:
        """(update, value) of the training lines that have it."""
        return [(event["update"], event[name]) for event in self.trained if name in event]

    def scores(self, name: str) -> list[Point]:
        """(update, value) of the validations that have this score; COCO's -1 becomes NaN."""
        found = [(event["update"], event["scores"].get(name)) for event in self.validations]
        return [(update, value if value >= 0 else math.nan) for update, value in found if value is not None]


def read_record(out: Path) -> RunRecord:
    """Read a run directory as it is now."""
    events = read_events(out)
    starts, trained, validations = ([e for e in events if e["event"] == k] for k in ("start", "train", "validation"))
    return RunRecord(
        events=events,
        starts=starts,
        trained=list({event["update"]: event for event in trained}.values()),
        validations=list({event["update"]: event for event in validations}.values()),
        config=read_json(out / "config.json"),
        versions=read_json(out / "versions.json"),
    )


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; empty where there is no such file, or it is not whole."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def read_events(out: Path) -> list[dict[str, Any]]:
    """The lines of ``metrics.jsonl`` that are whole, in their order and with numbers for "nan", "inf" and "-inf"."""
    return [_numbers(event) for _, event in _lines(out / EVENTS_FILE)]


def cut_events(out: Path, update: int) -> None:
    """Cut off what comes after so many updates, half-written lines too; at 0 updates everything goes."""
    path = out / EVENTS_FILE
    if not path.exists():
        return
    kept = "".join(f"{line}\n" for line, event in _lines(path) if update and event["update"] <= update)
    if kept.encode() != path.read_bytes():
        write_file(path, lambda part: part.write_bytes(kept.encode()))


def _lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Text and content of each whole line; a run that was killed may have left half of one."""
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    for line in text.split("\n"):
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and {"event", "update", "epoch", "time"} <= event.keys():
            yield line, event


def _numbers(value: Any) -> Any:
    """Values of the log with numbers in place of the strings that stand for them."""
    if isinstance(value, dict):
        return {name: _numbers(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_numbers(one) for one in value]
    return float(value) if value in ("nan", "inf", "-inf") else value


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted names."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return found
