"""What the files of a run directory say about it, for the summary page. Files may be missing, or still be growing."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from hrformer.train.journal import read_events

Event = Mapping[str, Any]
Point = tuple[float, float]

NO_LOSSES = frozenset({"event", "update", "epoch", "time", "lr", "grad_norm", "images_per_second"})
"""Values of a training line that are no losses."""

STATES = {
    "finished": "finished",
    "interrupted": "interrupted",
    "failed": "failed",
    "running": "running, or killed without a word",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRecord:
    """A run as far as it is written down.

    Attributes:
        events: of ``metrics.jsonl``, in order.
        config: ``config.json``; empty where there is none.
        versions: ``versions.json``; empty where there is none.
    """

    events: Sequence[Event]
    config: Mapping[str, Any]
    versions: Mapping[str, Any]

    def of(self, kind: str) -> list[Event]:
        """Events of one kind; of several for one update the last. Starts are all kept."""
        found = [event for event in self.events if event["event"] == kind]
        return found if kind == "start" else list({event["update"]: event for event in found}.values())

    @property
    def state(self) -> str:
        """One of ``STATES``."""
        last = self.events[-1] if self.events else {}
        state = str(last.get("state", "")) if last.get("event") == "end" else "running"
        return state if state in STATES else "finished"

    @property
    def start(self) -> Event:
        """The last beginning; empty if none is noted."""
        return (self.of("start") or [{}])[-1]

    @property
    def update(self) -> int:
        """Updates done."""
        return max((event["update"] for event in self.events), default=0)

    @property
    def epoch(self) -> float:
        """How often the training set was passed."""
        return max((event["epoch"] for event in self.events), default=0.0)

    @property
    def total(self) -> int:
        """Length of the run in updates; what is done where that is not known."""
        return int(self.start.get("updates", 0)) or self.update

    @property
    def resumes(self) -> list[int]:
        """Updates after which the run was taken up again."""
        return [event["update"] for event in self.of("start") if event.get("resumed")]

    @property
    def seconds(self) -> float:
        """Time spent between beginnings and what follows them; of what was cut off and done again, nothing."""
        begins = [number for number, event in enumerate(self.events) if event["event"] == "start"]
        times = [datetime.fromisoformat(event["time"]).timestamp() for event in self.events]
        return sum(times[end - 1] - times[begin] for begin, end in pairwise([*begins, len(times)]))

    @property
    def best(self) -> Event:
        """The validation with the highest main score, the first of equals; empty where there is none."""
        scored = [event for event in self.of("validation") if math.isfinite(event["value"])]
        return max(scored, key=lambda event: event["value"], default={})

    @property
    def last(self) -> Event:
        """The last validation; empty where there is none."""
        return (self.of("validation") or [{}])[-1]

    @property
    def losses(self) -> list[str]:
        """Names of the losses, "loss" first."""
        names = dict.fromkeys(name for event in self.of("train") for name in event if name not in NO_LOSSES)
        return sorted(names, key=lambda name: name != "loss")

    def values(self, name: str) -> list[Point]:
        """(update, value) of the training lines that have it."""
        return [(event["update"], event[name]) for event in self.of("train") if name in event]

    @property
    def score_names(self) -> list[str]:
        """Scores that are shares, the main one first."""
        names = [name for name, value in self.last.get("scores", {}).items() if isinstance(value, float)]
        return sorted(names, key=lambda name: name != self.last["main"])

    def scores(self, name: str) -> list[Point]:
        """(update, value) of the validations that have this score; COCO's -1 becomes NaN."""
        found = [(event["update"], event["scores"].get(name)) for event in self.of("validation")]
        return [(update, value if value >= 0 else math.nan) for update, value in found if value is not None]


def read_record(out: Path) -> RunRecord:
    """Read a run directory as it is now."""
    config, versions = (_read_json(out / name) for name in ("config.json", "versions.json"))
    return RunRecord(events=read_events(out), config=config, versions=versions)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
