"""Turns, and medians, ratios and exponents of numbers whose answers are known."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch

import timing
from conditions import Settings
from timing import fit_power_law, paired_ratio, quartiles, time_call, time_turn

CPU = torch.device("cpu")


def test_a_turn_lasts_as_long_as_asked() -> None:
    seconds = time_turn(lambda: time.sleep(0.002), CPU, Settings(seconds=0.02, warmup=0))
    assert min(seconds) >= 0.002
    assert len(seconds) > 1
    begin = time.perf_counter()
    assert len(time_turn(lambda: time.sleep(0.001), CPU, Settings(seconds=0, warmup=0.05))) == 1
    assert time.perf_counter() - begin >= 0.05


def test_a_turn_ends_after_so_many_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "MOST_CALLS", 5)
    assert len(time_turn(lambda: None, CPU, Settings(seconds=9, warmup=0))) == 5


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_time_covers_the_kernels() -> None:
    x = torch.randn(4096, 4096, device="cuda")
    device = torch.device("cuda")
    for _ in range(2):
        one, many = time_call(lambda: x @ x, device), time_call(lambda: [x @ x for _ in range(20)], device)
    assert many > 5 * one > 0


def test_quartiles_of_known_numbers() -> None:
    assert quartiles([5, 1, 4, 2, 3]) == (2, 3, 4)
    assert quartiles([1, 2]) == (1.25, 1.5, 1.75)


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], [float("inf")]])
def test_what_has_no_median_is_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="one or more finite values"):
        quartiles(values)


def test_paired_ratio_does_not_see_a_machine_that_slows_down() -> None:
    slow = [1.0, 1.0, 3.0, 9.0, 27.0]
    assert paired_ratio([[6 * s, 6 * s, 60 * s] for s in slow], [[2 * s] for s in slow]) == pytest.approx((3, 3, 3))
    with pytest.raises(ValueError, match="shorter"):
        paired_ratio([[1.0], [1.0]], [[1.0]])


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 2.0])
def test_power_law_is_found(exponent: float) -> None:
    found = fit_power_law([1, 2, 4, 8], [0.003 * size**exponent for size in (1, 2, 4, 8)])
    assert found == pytest.approx((exponent, 1), abs=1e-9)


def test_noise_lowers_the_explained_share() -> None:
    noisy = np.array([1.0, 2.0, 4.0, 8.0]) * np.array([1.0, 1.6, 0.6, 1.2])
    assert 0.7 < fit_power_law([1, 2, 4, 8], noisy.tolist())[1] < 0.99
