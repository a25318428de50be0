"""What the files of a run directory say about it, for the summary page. Files may be missing, or still be growing."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

from hrformer.train.journal import read_events

Event = Mapping[str, Any]
Point = tuple[float, float]

OTHER_VALUES = ("lr", "grad_norm", "images_per_second")
"""Values of a line that are no losses."""

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
        """Events of one kind; of several for one update the last. Starts and ends are all kept."""
        found = [event for event in self.events if event["event"] == kind]
        return list({event["update"]: event for event in found}.values()) if kind in ("train", "validation") else found

    @property
    def state(self) -> str:
        """One of ``STATES``."""
        last = self.events[-1] if self.events else {}
        state = str(last.get("state", "")) if last.get("event") == "end" else "running"
        return state if state in STATES else "finished"

    @property
    def start(self) -> Event:
        """The last beginning; empty if none is noted."""
        return next(iter(reversed(self.of("start"))), {})

    @property
    def update(self) -> int:
        """Updates done."""
        return max((int(event["update"]) for event in self.events), default=0)

    @property
    def epoch(self) -> float:
        """How often the training set was passed."""
        return max((number(event["epoch"]) for event in self.events), default=0.0)

    @property
    def total(self) -> int:
        """Length of the run in updates; what is done where that is not known."""
        return int(self.start.get("updates", 0)) or self.update

    @property
    def resumes(self) -> list[int]:
        """Updates after which the run was taken up again."""
        return [int(event["update"]) for event in self.of("start") if event.get("resumed")]

    @property
    def seconds(self) -> float:
        """Time spent between beginnings and what follows them; of what was cut off and done again, nothing."""
        total, begun, last = 0.0, None, None
        for event in self.events:
            when = _time(event)
            if when is None:
                continue
            if event["event"] == "start":
                total += last - begun if begun is not None and last is not None else 0.0
                begun = when
            last = when
        return total + (last - begun if begun is not None and last is not None else 0.0)

    @property
    def rate(self) -> float:
        """Median of the training rate in images per second; NaN where none is noted."""
        rates = [y for _, y in self.values("images_per_second") if math.isfinite(y)]
        return median(rates) if rates else math.nan

    @property
    def best(self) -> Event:
        """The validation with the highest main score, the first of equals; empty where there is none."""
        scored = [event for event in self.of("validation") if math.isfinite(number(event.get("value")))]
        return max(scored, key=lambda event: number(event["value"]), default={})

    @property
    def last(self) -> Event:
        """The last validation; empty where there is none."""
        return next(iter(reversed(self.of("validation"))), {})

    @property
    def losses(self) -> list[str]:
        """Names of the losses, "loss" first."""
        names = {name: None for event in self.of("train") for name in event if name not in OTHER_VALUES}
        own = [name for name in names if name not in ("event", "update", "epoch", "time", "loss")]
        return [*(["loss"] if "loss" in names else []), *own]

    def values(self, name: str) -> list[Point]:
        """(update, value) of the lines that have it."""
        return [(int(event["update"]), number(event[name])) for event in self.of("train") if name in event]

    def scores(self, name: str) -> list[Point]:
        """(update, value) of the validations that have this score; COCO's -1 becomes NaN."""
        found = [(int(e["update"]), e["scores"].get(name)) for e in self.of("validation") if "scores" in e]
        return [(update, y if (y := number(value)) >= 0 else math.nan) for update, value in found if value is not None]

    def score_names(self) -> list[str]:
        """Scores that are shares, the main one first."""
        last = self.last
        names = [name for name, value in last.get("scores", {}).items() if isinstance(value, float)]
        main = str(last.get("main", ""))
        return sorted(names, key=lambda name: name != main)


def read_record(out: Path) -> RunRecord:
    """Read a run directory as it is now."""
    return RunRecord(
        events=read_events(out), config=_read_json(out / "config.json"), versions=_read_json(out / "versions.json")
    )


def number(value: Any) -> float:
    """A number of the log; what is none is NaN."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _time(event: Event) -> float | None:
    """Seconds since 1970, or None for what is no date."""
    try:
        return datetime.fromisoformat(str(event.get("time"))).timestamp()
    except ValueError:
        return None
