"""The three published learning-rate schedules, each a pure function of the update's number.

``update`` counts optimiser steps from 0 and the value is the rate that this step uses. One function call gives the
rate of a run at any point, hence a resumed run needs no scheduler state.
"""

from __future__ import annotations

import math
from collections.abc import Sequence


def cosine_rate(
    update: int,
    *,
    peak: float,
    total_updates: int,
    warmup_updates: int,
    warmup_start: float,
    floor: float,
) -> float:
    """ImageNet: linear warm-up, then a cosine that does not restart its clock, as in timm 0.3.2.

    At the end of a warm-up of 20 from 300 epochs the rate drops to a cosine that is already 20 epochs old. The
    official loop sets the rate after each update, so update t runs at the schedule's value for t - 1 and update
    0 at ``warmup_start``.

    Args:
        update: number of the optimiser step, from 0.
        peak: rate at the end of the warm-up; 1e-3 at the published total batch of 1024.
        total_updates: length of the cosine, warm-up included; 300 epochs.
        warmup_updates: length of the warm-up; 20 epochs. May be 0.
        warmup_start: rate of the first update; 1e-6 at batch 1024.
        floor: rate at the end and after it; 1e-5 at batch 1024.

    Raises:
        ValueError: a number is out of range.
    """
    _check(update, peak, warmup_updates)
    if warmup_updates >= total_updates:
        raise ValueError(f"total_updates ({total_updates}) must exceed warmup_updates ({warmup_updates})")
    clock = max(update - 1, 0)
    if clock < warmup_updates:
        return warmup_start + clock * (peak - warmup_start) / warmup_updates
    if clock >= total_updates:
        return floor
    return floor + 0.5 * (peak - floor) * (1 + math.cos(math.pi * clock / total_updates))


def step_rate(
    update: int,
    *,
    peak: float,
    milestones: Sequence[int],
    gamma: float = 0.1,
    warmup_updates: int = 500,
    warmup_ratio: float = 1e-3,
) -> float:
    """COCO pose (MSRA): times ``gamma`` at each milestone, with a linear warm-up of the first updates.

    The official repository's form: update i of the warm-up runs at ``ratio + (1 - ratio) i / warmup_updates``
    times the rate. mmpose 1.x divides by ``warmup_updates - 1``, so reaches the peak one update earlier.

    Args:
        update: number of the optimiser step, from 0.
        peak: 5e-4 in the published runs.
        milestones: rising numbers of the updates from which a lower rate holds; epochs 170 and 200 of 210 times
            the updates per epoch.
        gamma: factor at each milestone.
        warmup_updates: length of the warm-up. May be 0.
        warmup_ratio: share of the rate that the first update uses.

    Raises:
        ValueError: a number is out of range or the milestones do not rise.
    """
    _check(update, peak, warmup_updates)
    if list(milestones) != sorted(set(milestones)):
        raise ValueError(f"milestones must rise, got {tuple(milestones)}")
    rate = peak * gamma ** sum(update >= milestone for milestone in milestones)
    return rate * _warmup_share(update, warmup_updates, warmup_ratio)


def poly_rate(
    update: int,
    *,
    peak: float,
    total_updates: int,
    power: float = 0.9,
    warmup_updates: int = 1500,
    warmup_ratio: float = 1e-6,
) -> float:
    """Segmentation: linear warm-up, then ``peak (1 - share done after the warm-up)^power``.

    Args:
        update: number of the optimiser step, from 0.
        peak: 1e-4 in the published runs.
        total_updates: length of the run, warm-up included; the rate is 0 from there on.
        power: 0.9 in the published runs.
        warmup_updates: length of the warm-up. May be 0.
        warmup_ratio: share of the peak that the first update uses.

    Raises:
        ValueError: a number is out of range.
    """
    _check(update, peak, warmup_updates)
    if warmup_updates >= total_updates:
        raise ValueError(f"total_updates ({total_updates}) must exceed warmup_updates ({warmup_updates})")
    if update < warmup_updates:
        return peak * _warmup_share(update, warmup_updates, warmup_ratio)
    done = (update - warmup_updates) / (total_updates - warmup_updates)
    return peak * max(1 - done, 0.0) ** power


def _warmup_share(update: int, warmup_updates: int, ratio: float) -> float:
    """Rises linearly from ``ratio`` at update 0 to 1 at ``warmup_updates``."""
    if update >= warmup_updates:
        return 1.0
    return ratio + (1 - ratio) * update / warmup_updates


def _check(update: int, peak: float, warmup_updates: int) -> None:
    if update < 0:
        raise ValueError(f"update must not be negative, got {update}")
    if not 0 < peak < math.inf:
        raise ValueError(f"peak must be a rate above 0, got {peak}")
    if warmup_updates < 0:
        raise ValueError(f"warmup_updates must not be negative, got {warmup_updates}")
