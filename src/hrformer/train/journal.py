"""The log of a run: ``metrics.jsonl`` for programs, ``log.txt`` for people, a bar on the terminal, and trackers.

``metrics.jsonl`` holds one JSON object per line with "event" ("start", "train", "validation" or "end"), "update" (how
many are done), "epoch", "time" (UTC) and the event's own values. Numbers that are not finite stand there as the strings
"nan", "inf" and "-inf", which ``float`` takes. Trackers are accelerate's for TensorBoard, Weights & Biases and MLflow.
"""

from __future__ import annotations

import json
import math
import re
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Any

import numpy as np

from hrformer.evaluate.protocols import Evaluation
from hrformer.files import write_file
from hrformer.train.progress import Speed, duration_text, label_of, share_text, training_bars, values_text
from hrformer.train.record import EVENTS_FILE, cut_events, flat, read_events, read_json
from hrformer.train.run_folder import versions
from hrformer.train.summary import lacking
from hrformer.wording import counted

TEXT_FILE = "log.txt"
PLAIN_SECONDS = 30.0  # between two lines of text about the training at least
TRACKERS = ("tensorboard", "wandb", "mlflow")  # each called as accelerate, Python and pip call it
PROJECT = "hrformer"  # of the trackers
# Python's signs for what JSON lacks, and the strings that stand in the log.
_WORDS = {"NaN": "nan", "Infinity": "inf", "-Infinity": "-inf"}


class Journal:
    """Writes and shows what happens in a run. To be used as a context; only the main process does anything.

    Leaving the context on an error notes that as the end of the run.

    Args:
        out: run directory.
        total_updates: length of the run.
        batch: samples per update, over all processes.
        main: whether this is the main process.
        first_update: updates done before; what the log holds of later ones is cut off, since they come again.
        trackers: names of accelerate's trackers to send scalars to, through an ``accelerator`` made with them.
        config: of the run, in JSON types, for the trackers.
    """

    def __init__(
        self,
        out: Path,
        total_updates: int,
        batch: int,
        *,
        main: bool = True,
        first_update: int = 0,
        trackers: Sequence[str] = (),
        config: Mapping[str, Any],
        accelerator: Any | None = None,
    ) -> None:
        self.out, self.total_updates, self.batch = out, total_updates, batch
        self.main, self.first_update, self.config = main, first_update, config
        self._trackers = Trackers(accelerator, trackers if main else (), out)
        self._bars = training_bars(main)
        self._bar = self._bars.add_task("training", total=total_updates, completed=first_update, status="")
        self._speed = Speed((total_updates - first_update) * batch)
        self._place = (first_update, 0.0)
        self._status = self._score = ""
        self._best: float | None = None
        self._last_line = -math.inf
        self._ended = False

    def __enter__(self) -> Journal:
        if self.main:
            self.out.mkdir(parents=True, exist_ok=True)
            cut_events(self.out, self.first_update)
            for event in read_events(self.out):
                self._place = (event["update"], event["epoch"])
                if event["event"] == "validation" and event.get("best"):
                    self._best = event["value"]
            self._trackers.start(self.first_update, self.config)
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and not self._ended:
            stopped = isinstance(error, KeyboardInterrupt)
            text = f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(": ")
            # A full disk, for one, takes no last line either; the error itself is on its way to the user.
            with suppress(OSError):
                self.end(interrupted="interrupt" if stopped else "", error="" if stopped else text)
        if not self._bars.disable:
            self._bars.stop()
        self._trackers.finish()

    def start(self, **fields: Any) -> None:
        """Note the beginning, with facts about the run in JSON types and the versions it runs on."""
        if not self.main:
            return
        update, epoch = self.first_update, self._place[1]
        told = {"updates": self.total_updates, "batch": self.batch, "resumed": update > 0} | fields
        self._write("start", update, epoch, told | {"versions": versions()})
        verb = f"taken up again after update {update}" if update else "started"
        facts = ", ".join(f"{label_of(name)} {value}" for name, value in told.items() if name != "resumed")
        self.note(f"{verb}: {facts}")
        if lacking():
            self.note(lacking())

    def tick(self, update: int | None = None, epoch: float = 0.0) -> None:
        """One update is done; call it after each, it costs next to nothing.

        ``update`` is how many are done, for the end of the run (None keeps what the last line said), and ``epoch`` how
        often the training set was passed, with its fraction.
        """
        if update is not None:
            self._place = (update, epoch)
        self._speed.tick(self.batch)
        if not self._bars.disable:
            self._bars.update(self._bar, advance=1, status=f"{self._speed}  {self._status}".rstrip())

    def log(self, update: int, epoch: float, values: Mapping[str, float]) -> None:
        """Note values averaged since the last line. On screen and in ``log.txt`` there is a line every half minute.

        The values are "loss" and its parts by name, "lr", and "grad_norm" where it is known; "images_per_second" is
        added.
        """
        self._place = (update, epoch)
        told = dict(values) | {"images_per_second": round(self._speed.window(), 2)}
        self._write("train", update, epoch, told)
        self._trackers.log(update, "train", told)
        brief = {name: value for name, value in values.items() if name in ("loss", "lr")}
        self._status = f"{values_text(brief)}  {self._score}".rstrip()
        if monotonic() - self._last_line >= PLAIN_SECONDS or update == self.total_updates:
            self._last_line = monotonic()
            share = update / max(self.total_updates, 1)
            line = f"update {update}/{self.total_updates} ({share:.0%}, epoch {epoch:.2f})  {values_text(values)}  "
            self.note(f"{line}{self._speed}", shown=self._bars.disable)

    @contextmanager
    def aside(self, title: str) -> Iterator[Callable[[int, int], object]]:
        """Work that is no training, such as validation: it has a bar of its own and does not count in the rate.

        Yields:
            To be called with how many items are done and how many there are.
        """
        bar = self._bars.add_task(title, total=None, visible=False, status="")
        try:
            yield lambda done, total: self._bars.update(bar, completed=done, total=total, visible=True)
        finally:
            self._bars.remove_task(bar)
        self._speed.skip()

    def validation(self, update: int, epoch: float, evaluation: Evaluation, best: bool) -> None:
        """Note the scores, the ``best`` so far or not; the time since the last update does not count in the rate."""
        self._place = (update, epoch)
        told = {name: getattr(evaluation, name) for name in ("task", "main", "value")} | {"best": best}
        told |= {"items": evaluation.items, "seconds": round(evaluation.seconds, 3)}
        told |= {name: getattr(evaluation, name) for name in ("scores", "intervals", "confidence")}
        told["worst"] = [{"index": e.index, "file": e.file, "score": e.score} for e in evaluation.worst]
        self._write("validation", update, epoch, told)
        self._trackers.log(update, "validation", evaluation.scores)
        name, value = label_of(evaluation.main), share_text(evaluation.value)
        took = f"{counted(evaluation.items, 'item')} in {duration_text(evaluation.seconds)}"
        if update:
            self.note(f"validation after update {update}: {name} {value}, {self._verdict(value, best)}; {took}")
        else:
            self.note(f"{name} {value} before training{_constant_text(evaluation)}; {took}")
        if best:
            self._best = evaluation.value
        self._score = f"best {name} {share_text(self._best)}" if self._best is not None else ""
        self._speed.skip()

    def _verdict(self, value: str, best: bool) -> str:
        """A score beside the best one before."""
        before = "" if self._best is None else share_text(self._best)
        if not best:
            return f"the best is {before}" if before else "not the best"
        # The gain may be smaller than what is printed.
        than = "a little less" if before == value else before
        return "best so far" + (f" ({than} before)" if before else "")

    def note(self, text: str, *, shown: bool = True) -> None:
        """Say something in passing: on screen and in ``log.txt``."""
        if not self.main:
            return
        _append(self.out / TEXT_FILE, "\n".join(f"{_now()} {line}" for line in text.splitlines()))
        if shown:
            self._bars.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def end(self, *, interrupted: str = "", error: str = "", **fields: Any) -> None:
        """Note the end, what stopped the run before it or made it fail, and facts in JSON types."""
        self._ended = True
        state, reason = "interrupted" if interrupted else "failed" if error else "finished", interrupted or error
        reasons = {"interrupted" if interrupted else "error": reason} if reason else {}
        self._write("end", *self._place, {"state": state} | reasons | fields)
        self.note(f"{state} after update {self._place[0]}/{self.total_updates}" + (f": {reason}" if reason else ""))

    def _write(self, event: str, update: int, epoch: float, fields: Mapping[str, Any]) -> None:
        if not self.main:
            return
        line = {"event": event, "update": update, "epoch": round(epoch, 6), "time": _now(), **fields}
        # Twice, since numbers that JSON lacks become words on the way back only.
        plain = json.loads(json.dumps(line, default=_plain), parse_constant=_WORDS.get)
        _append(self.out / EVENTS_FILE, json.dumps(plain, ensure_ascii=False, allow_nan=False))


def _constant_text(evaluation: Evaluation) -> str:
    """What the main score would be if everything were taken for one class; empty where scores have no such floor."""
    key = {"mean_iou": "pixels", "top1": "images"}.get(evaluation.main, "")
    counts = {row["name"]: row[key] for row in evaluation.scores.get("per_class", ()) if row.get(key)}
    if not counts:
        return ""
    most = max(counts, key=lambda name: counts[name])
    # The intersection over union of all other classes is 0.
    floor = counts[most] / sum(counts.values()) / (len(counts) if key == "pixels" else 1)
    return f", {share_text(floor)} if everything were {most}"


def _append(path: Path, text: str) -> None:
    """Add a line, in one write and at once, so that a reader beside sees whole lines."""
    with path.open("a", encoding="utf-8") as file:
        file.write(f"{text}\n")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _plain(value: Any) -> Any:
    """What JSON cannot hold as one of its types: numbers of numpy, and paths."""
    return value.item() if isinstance(value, np.generic) else str(value)


def check_trackers(names: Sequence[str]) -> None:
    """Raise a ValueError for trackers that cannot be used; accelerate would leave them out without a word."""
    for name in names:
        if name not in TRACKERS:
            raise ValueError(f"unknown tracker {name!r}; there are {', '.join(TRACKERS)}")
        if find_spec(name) is None:
            raise ValueError(
                f"the tracker {name!r} needs a package that is not installed: pip install {name}. "
                "Without trackers, metrics.jsonl and summary.html are written all the same"
            )


class Trackers:
    """Sends scalars of the main process to accelerate's trackers of these names; a resumed run goes on in its place.

    Which runs of W&B and MLflow belong to a run directory stands in its ``trackers.json``.
    """

    def __init__(self, accelerator: Any, names: Sequence[str], out: Path) -> None:
        self._accelerator, self._names, self._file = accelerator, names, out / "trackers.json"

    def start(self, first_update: int, config: Mapping[str, Any]) -> None:
        """Open the records; above 0 updates done before, go on with the earlier ones."""
        if not self._names:
            return
        ids = read_json(self._file) if first_update else {}
        if "wandb" in self._names:
            ids.setdefault("wandb", uuid.uuid4().hex[:12])
        name = self._file.parent.name
        options: dict[str, dict[str, Any]] = {
            # TensorBoard hides what an interrupted run wrote from this step on.
            "tensorboard": {"purge_step": first_update + 1} if first_update else {},
            "wandb": {"dir": str(self._file.parent), "name": name, "id": ids.get("wandb"), "resume": "allow"},
            "mlflow": {"run_name": name, "run_id": ids.get("mlflow")},
        }
        self._accelerator.init_trackers(
            PROJECT,
            config=None if first_update else {name: _setting(value) for name, value in flat(config).items()},
            init_kwargs={name: options[name] for name in self._names},
        )
        if "mlflow" in self._names:
            ids["mlflow"] = self._accelerator.get_tracker("mlflow", unwrap=True).info.run_id
        if ids:
            text = json.dumps(ids, indent=2) + "\n"
            write_file(self._file, lambda part: part.write_text(text, encoding="utf-8"))

    def log(self, update: int, group: str, values: Mapping[str, Any]) -> None:
        """Send the finite numbers among the values as "group/name"."""
        numbers = {
            # MLflow takes these characters only; PCK's name has an @.
            f"{group}/{re.sub(r'[^A-Za-z0-9_. :/-]', '_', name)}": float(value)
            for name, value in values.items()
            if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        }
        if self._names and numbers:
            self._accelerator.log(numbers, step=update)

    def finish(self) -> None:
        """Close the records; the processes go on, which ``end_training`` would end as well."""
        if self._names:
            for tracker in self._accelerator.trackers:
                tracker.finish()
            self._accelerator.trackers = []


def _setting(value: Any) -> bool | int | float | str:
    """What every tracker takes as a setting."""
    if isinstance(value, list | tuple):
        return ", ".join(str(one) for one in value)
    return value if isinstance(value, bool | int | float) else "" if value is None else str(value)
