"""Calls timed in turn: every round asks each of them, so that none of them has the machine's good minutes to itself."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

Call = Callable[[], object]


@dataclass(frozen=True, kw_only=True, slots=True)
class TimingConfig:
    """How long to measure.

    Attributes:
        rounds: how often each call has its turn.
        seconds: of timed calls in one turn, at least; a call that takes longer is timed once per turn.
        warmup: seconds of calls before the timed ones, in every turn: caches, clocks and thread pools are then those
            of this call and not of its predecessor. At least one call.
        most_calls: limit of timed calls in one turn.
    """

    rounds: int = 10
    seconds: float = 0.3
    warmup: float = 0.1
    most_calls: int = 100

    def __post_init__(self) -> None:
        if self.rounds < 1 or self.most_calls < 1:
            raise ValueError(f"rounds and most_calls must be at least 1, got {self.rounds} and {self.most_calls}")
        if self.seconds < 0 or self.warmup < 0:
            raise ValueError(f"seconds and warmup must not be negative, got {self.seconds} and {self.warmup}")


def time_call(call: Call, device: torch.device) -> float:
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


def time_interleaved(
    calls: Sequence[Call],
    device: torch.device,
    config: TimingConfig,
    progress: Callable[[int], object] = lambda _: None,
) -> list[list[list[float]]]:
    """Time all calls, round by round.

    Args:
        calls: each has run once before, so that nothing is built or compiled any more.
        device: where they compute.
        config: how long.
        progress: called with the number of rounds done.

    Returns:
        By call, by round: seconds of every timed call.
    """
    samples: list[list[list[float]]] = [[] for _ in calls]
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        for number in range(config.rounds):
            order = range(len(calls))
            # Back and forth: nobody always comes after the same neighbour.
            for index in order if number % 2 == 0 else reversed(order):
                samples[index].append(_turn(calls[index], device, config))
            progress(number + 1)
    finally:
        if collecting:
            gc.enable()
    return samples


def _turn(call: Call, device: torch.device, config: TimingConfig) -> list[float]:
    spent = time_call(call, device)
    while spent < config.warmup:
        spent += time_call(call, device)
    times = [time_call(call, device)]
    while sum(times) < config.seconds and len(times) < config.most_calls:
        times.append(time_call(call, device))
    return times
