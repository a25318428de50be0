"""Medians, ratios and exponents of numbers whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest

from hrformer.benchmark.statistics import fit_power_law, paired_ratio, summarise


def test_summary_of_known_numbers() -> None:
    found = summarise([5, 1, 4, 2, 3])
    assert (found.low, found.p25, found.median, found.p75, found.count) == (1, 2, 3, 4, 5)


def test_summary_interpolates_between_values() -> None:
    assert summarise([1, 2]).median == 1.5
    assert summarise([1, 2]).p25 == 1.25


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], [float("inf")]])
def test_summary_refuses_what_has_no_median(values: list[float]) -> None:
    with pytest.raises(ValueError, match="one or more finite values"):
        summarise(values)


def test_paired_ratio_does_not_see_a_machine_that_slows_down() -> None:
    slow = [1.0, 1.0, 3.0, 9.0, 27.0]
    rounds_a, rounds_b = [[6 * s, 6 * s, 60 * s] for s in slow], [[2 * s] for s in slow]
    found = paired_ratio(rounds_a, rounds_b)
    assert (found.median, found.p25, found.p75) == pytest.approx((3, 3, 3))


def test_paired_ratio_needs_the_same_rounds() -> None:
    with pytest.raises(ValueError, match="equally many rounds, got 1 and 2"):
        paired_ratio([[1.0]], [[1.0], [1.0]])


@pytest.mark.parametrize("exponent", [0.5, 1.0, 2.0])
def test_power_law_is_found(exponent: float) -> None:
    sizes = [1, 2, 4, 8]
    found = fit_power_law(sizes, [0.003 * size**exponent for size in sizes])
    assert found.exponent == pytest.approx(exponent)
    assert found.factor == pytest.approx(0.003)
    assert found.r_squared == pytest.approx(1)


def test_noise_lowers_the_explained_share() -> None:
    noisy = np.array([1.0, 2.0, 4.0, 8.0]) * np.array([1.0, 1.6, 0.6, 1.2])
    assert 0.7 < fit_power_law([1, 2, 4, 8], noisy.tolist()).r_squared < 0.99


def test_constant_costs_do_not_grow() -> None:
    found = fit_power_law([1, 2, 4], [3.0, 3.0, 3.0])
    assert (found.exponent, found.r_squared) == pytest.approx((0, 1), abs=1e-9)


@pytest.mark.parametrize(("sizes", "costs"), [([1, 1], [1.0, 2.0]), ([1, 2], [0.0, 1.0]), ([1, 2], [1.0])])
def test_power_law_needs_two_sizes_and_positive_costs(sizes: list[float], costs: list[float]) -> None:
    with pytest.raises(ValueError, match="two or more sizes"):
        fit_power_law(sizes, costs)
