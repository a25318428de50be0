"""Which learning rate suits a run: the loss while the rate rises from update to update (Smith, "Cyclical Learning Rates
for Training Neural Networks", WACV 2017, section 3.3).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from hrformer.files import write_file
from hrformer.train.config import AnyRun, LogConfig, ScheduleConfig, check
from hrformer.train.control import StopSignals, mean_of, stop_signals
from hrformer.train.data_check import Progress
from hrformer.train.loop import Loop
from hrformer.train.machine import Machine
from hrformer.train.optim import set_rate, set_training

PICTURE = "learning_rate.png"

UPDATES = 100
LOWEST, HIGHEST = 1e-6, 1.0
"""Rates of the first and the last update."""

FEWEST = 10
"""Updates before the loss can be called a runaway."""

SMOOTHING, RUNAWAY = 0.9, 4.0
"""Share of the past in the smoothed loss, and how far above its lowest value that may rise: fast.ai's rule, with 0.9 in
place of 0.98, which is too slow for 100 updates (https://docs.fast.ai)."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RateSearch:
    """Outcome of a search."""

    rates: NDArray[np.float64]  # (N,) of the updates, rising
    losses: NDArray[np.float64]  # (N,) of these updates, each before its step
    smoothed: NDArray[np.float64]  # (N,) the same, smoothed
    lowest: float  # rate at which the smoothed loss is lowest
    steepest: float  # rate at which it falls fastest, over equal factors of the rate
    batch: int  # items per update
    chosen: float  # ``optim.lr`` of the run, fitted to its set if it was open
    unit: float = 1.0  # the rate is ``optim.lr`` times this; not 1 for recipes with ``optim.lr_batch``

    @property
    def suggested(self) -> float:
        """``optim.lr`` to train with: a tenth of the rate with the lowest loss, near which it runs away."""
        return float(f"{self.lowest / 10 / self.unit:.1g}")


def find_rate(
    config: AnyRun, *, updates: int = UPDATES, progress: Progress = lambda name, done, total: None
) -> RateSearch | None:
    """Raise the rate of a run from update to update, until the loss runs away.

    Everything else is the run's own: data, augmentation, start weights, batch, optimiser. Nothing is written.

    Args:
        config: the run.
        updates: how many steps there are between the lowest and the highest rate, 20 or more.
        progress: told how far it is.

    Returns:
        What was found; None if a signal ended the search.

    Raises:
        ValueError: as from ``hrformer.train.loop.train``; ``updates`` is too small; the loss fell at no rate; there are
            several processes.
        DataError: the data is not as it should be.
    """
    if updates < 2 * FEWEST:
        raise ValueError(f"a search needs at least {2 * FEWEST} updates, got {updates}")
    schedule, log = ScheduleConfig(updates=updates), LogConfig(trackers=(), pictures=0)
    config = replace(config, schedule=schedule, ema_decay=0.0, validate_start=False, log=log)
    check(config)
    # A run writes its configuration into its folder, and this one leaves none behind.
    with TemporaryDirectory() as folder, Machine(config.runtime, log, Path(folder)) as machine, stop_signals() as stop:
        if machine.world_size > 1:
            raise ValueError("a rate is searched in one process: leave torchrun out")
        return _search(Loop(config, Path(folder), machine, resume=False), stop, updates, progress)


def _search(run: Loop, stop: StopSignals, updates: int, progress: Progress) -> RateSearch | None:
    batches, losses, smoothed = run.batches(), list[float](), list[float]()
    rates = np.geomspace(LOWEST, HIGHEST, updates)
    set_training(run.model, run.frozen)
    for update, rate in enumerate(rates.tolist()):
        set_rate(run.optimizer, rate)
        run.one_update(batches)
        loss = mean_of(run.window.sums())["loss"]
        run.window.reset()
        if not math.isfinite(loss):
            break
        losses.append(loss)
        smoothed.append(_smoothed(losses))
        progress("rate", update + 1, updates)
        if stop.requested:
            return None
        if len(losses) > FEWEST and smoothed[-1] > RUNAWAY * min(smoothed):
            break
    rates = rates[: len(losses)]
    lowest, steepest = _places(rates, np.array(smoothed))
    optim, batch = run.config.optim, run.config.batch.total
    return RateSearch(
        rates=rates,
        losses=np.array(losses),
        smoothed=np.array(smoothed),
        lowest=float(rates[lowest]),
        steepest=float(rates[steepest]),
        batch=batch,
        chosen=optim.lr,
        unit=batch / optim.lr_batch if optim.lr_batch else 1.0,
    )


def _smoothed(losses: list[float]) -> float:
    """Exponential mean of all so far, corrected for its start."""
    weights = SMOOTHING ** np.arange(len(losses))[::-1]
    return float((weights * losses).sum() / weights.sum())


def _places(rates: NDArray[np.float64], smoothed: NDArray[np.float64]) -> tuple[int, int]:
    """Updates of the lowest smoothed loss, and of its steepest fall before that."""
    # The first losses stand alone, so that their mean says little.
    lowest = FEWEST // 2 + int(np.argmin(smoothed[FEWEST // 2 :])) if len(smoothed) > FEWEST // 2 else 0
    if lowest <= FEWEST // 2:
        raise ValueError(
            f"the loss fell at none of {len(rates)} rates from {LOWEST:g} on, so none can be suggested: the start "
            "weights may know all there is to learn, or look at the data with `hrformer inspect data`"
        )
    slopes = np.gradient(smoothed[: lowest + 1], np.log(rates[: lowest + 1]))
    return lowest, int(np.argmin(slopes))


def draw_search(search: RateSearch, file: Path) -> None:
    """Write a picture of loss over rate; raises an ImportError without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("the picture of a rate search needs matplotlib: pip install 'hrformer[train]'") from error
    figure = Figure(figsize=(7, 4.5), dpi=120, layout="constrained")
    axes = figure.add_subplot(xscale="log", xlabel="learning rate", ylabel="loss")
    axes.plot(search.rates, search.losses, color="#bbbbbb", linewidth=1, label="of each update")
    axes.plot(search.rates, search.smoothed, color="#1f5fbf", linewidth=2, label="smoothed")
    rate = search.suggested * search.unit
    axes.axvline(rate, color="#c23b22", label=f"suggested: {rate:.1g}, a tenth of the lowest's")
    axes.axvline(search.steepest, color="#c23b22", linestyle=":", label=f"steepest fall: {search.steepest:.1g}")
    top = float(search.smoothed[0])
    low, high = float(search.smoothed.min()), max(top, float(np.median(search.losses)))
    axes.set_ylim(low - 0.15 * (high - low), high + 0.6 * (high - low) + 1e-12)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    write_file(file, lambda part: figure.savefig(part, format="png"))
