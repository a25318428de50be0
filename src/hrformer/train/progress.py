"""What a run says of itself while it runs: how fast it is, how long it will take, how its scores are called."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from time import monotonic

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

SMOOTHING_SECONDS = 30.0  # time constant of the smoothed rate

_LABELS = {
    "mean_iou": "mean IoU",
    "frequency_weighted_iou": "frequency-weighted IoU",
    "top1": "top-1 accuracy",
    "top5": "top-5 accuracy",
    "iou": "IoU",
    "lr": "learning rate",
    "grad_norm": "gradient norm",
    "images_per_second": "images/s",
}


def label_of(name: str) -> str:
    """What to call a score or value in print: "pck@0.2" is "PCK@0.2"."""
    return name.upper() if name.startswith("pck") else _LABELS.get(name, name.replace("_", " "))


def number_text(name: str, value: float) -> str:
    """A value as it is printed: learning rates with a power of ten, the rest with four digits."""
    return f"{value:.1e}".replace("e-0", "e-") if name == "lr" and value else f"{value:.4g}"


def values_text(values: Mapping[str, float]) -> str:
    """Names and values, one after the other."""
    return "  ".join(f"{'lr' if name == 'lr' else label_of(name)} {number_text(name, v)}" for name, v in values.items())


def share_text(value: float) -> str:
    """A score in 0..1 as a percentage; COCO's -1 and what is not a number as "not defined"."""
    return f"{100 * value:.1f} %" if 0 <= value <= 1 else "not defined"


def score_text(name: str, value: float) -> str:
    """A score with its name, the one way in which all of them are written: "AP 10.3 %"."""
    return f"{label_of(name)} {share_text(value)}"


def duration_text(seconds: float) -> str:
    """Hours, minutes and seconds, such as "1:02:03"; a dash for what is not known."""
    return str(timedelta(seconds=round(seconds))) if math.isfinite(seconds) else "–"


class Speed:
    """Samples per second of the training alone, and the time that is left with everything beside it.

    A device works on behind the program's back, so single updates say little; their average is right. ``samples`` are
    left to do.
    """

    def __init__(self, samples: int) -> None:
        self._left = samples
        # The first update waits for workers and caches, and for compilation, so it counts for nothing.
        self._start = self._mark = math.nan
        self._busy = 0.0
        # (samples, seconds): fading away, and since the last line of the log.
        self._recent, self._window = (0.0, 0.0), (0.0, 0.0)

    def tick(self, samples: int) -> None:
        """So many samples were done since the last call."""
        self._left = max(self._left - samples, 0)
        now, before = monotonic(), self._mark
        self._mark = now
        if math.isnan(before):
            self._start = now
            return
        seconds = now - before
        fading = math.exp(-seconds / SMOOTHING_SECONDS)
        self._recent = (self._recent[0] * fading + samples, self._recent[1] * fading + seconds)
        self._window = (self._window[0] + samples, self._window[1] + seconds)
        self._busy += seconds

    def skip(self) -> None:
        """The time since the last :meth:`tick` was spent on something else."""
        if not math.isnan(self._mark):
            self._mark = monotonic()

    def window(self) -> float:
        """Average rate since the last call of this; NaN where nothing was done."""
        (samples, seconds), self._window = self._window, (0.0, 0.0)
        return samples / seconds if seconds > 0 else math.nan

    @property
    def rate(self) -> float:
        """Smoothed samples per second; NaN before the first tick."""
        samples, seconds = self._recent
        return samples / seconds if seconds > 0 else math.nan

    @property
    def seconds_left(self) -> float:
        """At this rate, with as large a share of other work, such as validation, as there was so far; NaN at first."""
        return self._left / self.rate * (monotonic() - self._start) / self._busy if self._busy > 0 else math.nan

    def __str__(self) -> str:
        rate = f"{self.rate:.1f}" if math.isfinite(self.rate) else "–"
        return f"{rate} images/s, {duration_text(self.seconds_left)} left"


def training_bars(main: bool) -> Progress:
    """Bars of the main process for a training and what is done beside it, on standard error if that is a terminal.

    Tasks have a field "status", the text behind their bar; while it is empty, rate and time left stand there.
    """
    console = Console(stderr=True, quiet=not main)
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=12), TaskProgressColumn(), MofNCompleteColumn())
    status = _Status(table_column=Column(no_wrap=False))
    return Progress(*columns, status, console=console, refresh_per_second=4, disable=not (main and console.is_terminal))


@contextmanager
def bars(after: float = 0.0) -> Iterator[Callable[[str, int, int], object]]:
    """A bar on standard error for each thing that is done; what takes fewer seconds than ``after`` leaves no trace.

    Yields:
        To be called with what is being done, how much of it is done, and how much there is.
    """
    left = (TextColumn("left:"), TimeRemainingColumn())
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate(), *left)
    shown, begin = Progress(*columns, console=Console(stderr=True)), monotonic()
    tasks: dict[str, TaskID] = {}

    def show(name: str, done: int, total: int) -> None:
        if name not in tasks:
            tasks[name] = shown.add_task(name, total=total)
        shown.update(tasks[name], completed=done, total=total)
        # Not before there is something to show, so that early errors stand alone.
        if not shown.live.is_started and monotonic() - begin >= after:
            shown.start()

    try:
        yield show
    finally:
        if shown.live.is_started:
            shown.stop()


class Rate(ProgressColumn):
    """Pictures per second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f}/s" if speed >= 1 else f"{1 / speed:.1f} s each")


class _Status(ProgressColumn):
    """Gives way on narrow terminals: of all columns it alone may shrink, and its line is cut instead of broken."""

    def render(self, task: Task) -> Text:
        text = task.fields["status"]
        if not text and task.speed:
            left = math.nan if task.time_remaining is None else task.time_remaining
            text = f"{task.speed:.1f} images/s, {duration_text(left)} left"
        return Text(text, no_wrap=True, overflow="ellipsis")
