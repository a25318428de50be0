"""Seconds of calls, and what many of them say: quartiles, paired ratios, and how a cost grows."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import torch

from conditions import Settings

MOST_CALLS = 100
"""Timed calls in one turn."""


def time_call(call: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call.

    On a GPU between two events in the stream, which is empty at the start: what the host takes to launch counts, as
    far as the GPU has to wait for it.
    """
    if device.type != "cuda":
        start = time.perf_counter()
        call()
        return time.perf_counter() - start
    torch.cuda.synchronize(device)
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    call()
    end.record()
    torch.cuda.synchronize(device)
    return begin.elapsed_time(end) / 1000


def time_turn(call: Callable[[], object], device: torch.device, settings: Settings) -> list[float]:
    """Seconds of every timed call of one turn, after those that warm up."""
    spent = time_call(call, device)
    while spent < settings.warmup:
        spent += time_call(call, device)
    times = [time_call(call, device)]
    while sum(times) < settings.seconds and len(times) < MOST_CALLS:
        times.append(time_call(call, device))
    return times


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median and upper quartile, interpolated between neighbours.

    Raises:
        ValueError: there is no value, or one that is not finite.
    """
    if not values or not np.isfinite(values).all():
        raise ValueError(f"needs one or more finite values, got {list(values)}")
    low, median, high = np.percentile(values, (25, 50, 75))
    return float(low), float(median), float(high)


def paired_ratio(
    numerators: Sequence[Sequence[float]], denominators: Sequence[Sequence[float]]
) -> tuple[float, float, float]:
    """Quartiles of how many times larger one sample is than another that was taken in the same rounds.

    The medians of each round are compared with each other, so that a machine that was slow for a while, for both,
    leaves no trace.

    Args:
        numerators: values by round.
        denominators: values by round, as many rounds.

    Raises:
        ValueError: the numbers of rounds differ, or there is none.
    """
    return quartiles([float(np.median(a) / np.median(b)) for a, b in zip(numerators, denominators, strict=True)])


def fit_power_law(sizes: Sequence[float], costs: Sequence[float]) -> tuple[float, float]:
    """Least squares on logarithms: ``cost = factor * size ** exponent``.

    Args:
        sizes: two or more different ones, above 0.
        costs: one for each, above 0.

    Returns:
        The exponent, 1 for a cost that grows in proportion, and the share of the logarithms' variance that the law
        explains.
    """
    x, y = np.log(np.asarray(sizes, dtype=np.float64)), np.log(np.asarray(costs, dtype=np.float64))
    exponent, constant = np.polyfit(x, y, 1)
    rest, total = np.square(y - (exponent * x + constant)).sum(), np.square(y - y.mean()).sum()
    # Constant costs are explained completely.
    return float(exponent), 1.0 if total < 1e-24 else float(1 - rest / total)
