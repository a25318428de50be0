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

SMOOTHING_SECONDS = 30.0
"""Time constant of the smoothed rate."""

PLAIN_SECONDS = 30.0
"""Seconds between two plain lines at least."""

Counter = Callable[[int, int], object]
"""Called with how many items are done and how many there are."""

_LABELS = {
    "mean_iou": "mean IoU",
    "pixel_accuracy": "pixel accuracy",
    "mean_accuracy": "mean accuracy",
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
    if name.startswith("pck"):
        return name.upper()
    return _LABELS.get(name, name.replace("_", " "))


def number_text(name: str, value: float) -> str:
    """A value as it is printed: learning rates with a power of ten, the rest with four digits."""
    return f"{value:.1e}".replace("e-0", "e-") if name == "lr" and value else f"{value:.4g}"


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

    A device works on behind the program's back, so single updates say little; their average is right.

    Args:
        samples: left to do.
    """

    def __init__(self, samples: int) -> None:
        self._left = samples
        # The first update waits for workers and caches, and for compilation, so it counts for nothing.
        self._mark: float | None = None
        self._start = 0.0
        self._busy = 0.0
        self._recent_samples = self._recent_seconds = 0.0
        self._window_samples = self._window_seconds = 0.0

    def tick(self, samples: int) -> None:
        """So many samples were done since the last call."""
        now = monotonic()
        self._left = max(self._left - samples, 0)
        if self._mark is None:
            self._start = self._mark = now
            return
        seconds, self._mark = now - self._mark, now
        fading = math.exp(-seconds / SMOOTHING_SECONDS)
        self._recent_samples = self._recent_samples * fading + samples
        self._recent_seconds = self._recent_seconds * fading + seconds
        self._window_samples += samples
        self._window_seconds += seconds
        self._busy += seconds

    def skip(self) -> None:
        """The time since the last :meth:`tick` was spent on something else."""
        if self._mark is not None:
            self._mark = monotonic()

    def window(self) -> float:
        """Average rate since the last call of this; NaN where nothing was done."""
        rate = self._window_samples / self._window_seconds if self._window_seconds > 0 else math.nan
        self._window_samples = self._window_seconds = 0.0
        return rate

    @property
    def rate(self) -> float:
        """Smoothed samples per second; NaN before the first tick."""
        return self._recent_samples / self._recent_seconds if self._recent_seconds > 0 else math.nan

    @property
    def seconds_left(self) -> float:
        """At this rate, with as large a share of other work, such as validation, as there was so far; NaN at first."""
        if not self._busy > 0:
            return math.nan
        return self._left / self.rate * (monotonic() - self._start) / self._busy


class Display:
    """A bar on a terminal, and a plain line now and then elsewhere; on standard error.

    Args:
        total_updates: length of the run.
        first_update: updates done before.
        quiet: show nothing.
    """

    def __init__(self, total_updates: int, first_update: int, quiet: bool) -> None:
        self.total_updates = total_updates
        self._done = first_update
        self._console = Console(stderr=True, quiet=quiet)
        self._progress: Progress | None = None
        self._bar: TaskID | None = None

    def start(self) -> None:
        """Begin to show the bar, where there is a terminal."""
        if not self._console.is_terminal or self._console.quiet:
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=12),
            TaskProgressColumn(),
            MofNCompleteColumn(),
            _Status(table_column=Column(no_wrap=False)),
        )
        self._progress = Progress(*columns, console=self._console, refresh_per_second=4)
        self._bar = self._progress.add_task("training", total=self.total_updates, completed=self._done, status="")
        self._progress.start()

    def stop(self) -> None:
        """Leave the bar as it is."""
        if self._progress:
            self._progress.stop()
            self._progress = None

    def say(self, text: str) -> None:
        """Print a line as it is, above the bar."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    @property
    def has_bar(self) -> bool:
        """Whether a bar shows how far the run is."""
        return self._progress is not None

    def advance(self, speed: Speed, status: str) -> None:
        """One more update is done."""
        self._done += 1
        if self._progress and self._bar is not None:
            self._progress.update(self._bar, completed=self._done, status=f"{speed_text(speed)}  {status}".rstrip())

    @contextmanager
    def aside(self, title: str) -> Iterator[Counter]:
        """A second bar, for work beside the training; yields what is to be called with (done, total)."""
        if not self._progress:
            yield lambda done, total: None
            return
        progress, start = self._progress, monotonic()
        bar = progress.add_task(title, total=None, completed=0, status="", visible=False)

        def count(done: int, total: int) -> None:
            rate = done / max(monotonic() - start, 1e-9)
            status = f"{rate:.1f} images/s, {duration_text((total - done) / rate if rate else math.nan)} left"
            progress.update(bar, completed=done, total=total, status=status, visible=True)

        try:
            yield count
        finally:
            progress.remove_task(bar)


@contextmanager
def bars(after: float = 0.0) -> Iterator[Callable[[str, int, int], object]]:
    """A bar on standard error for each thing that is done.

    Args:
        after: seconds before the bars are shown; what is quicker leaves no trace.

    Yields:
        To be called with what is being done, how much of it is done, and how much there is.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn())
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
        return Text(str(task.fields["status"]), no_wrap=True, overflow="ellipsis")


def speed_text(speed: Speed) -> str:
    """Rate and time left."""
    rate = f"{speed.rate:.1f}" if math.isfinite(speed.rate) else "–"
    return f"{rate} images/s, {duration_text(speed.seconds_left)} left"


def values_text(values: Mapping[str, float]) -> str:
    """Names and values, one after the other."""
    return "  ".join(f"{'lr' if name == 'lr' else label_of(name)} {number_text(name, v)}" for name, v in values.items())
