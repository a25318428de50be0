"""Medians, spread, paired ratios, and how a cost grows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """A sample in five numbers, in the unit of its values.

    Attributes:
        median: half of the values lie below.
        p25: a quarter lies below.
        p75: three quarters lie below.
        low: smallest.
        count: how many values there are.
    """

    median: float
    p25: float
    p75: float
    low: float
    count: int


@dataclass(frozen=True, kw_only=True, slots=True)
class PowerLaw:
    """``cost = factor * size ** exponent``, fitted.

    Attributes:
        exponent: 1 for a cost that grows in proportion.
        factor: cost at size 1.
        r_squared: share of the logarithms' variance that the law explains.
    """

    exponent: float
    factor: float
    r_squared: float


def summarise(values: ArrayLike) -> Summary:
    """Median and quartiles, interpolated between neighbours.

    Raises:
        ValueError: there is no value, or one that is not finite.
    """
    array = np.asarray(values, dtype=np.float64).ravel()
    if not array.size or not np.isfinite(array).all():
        raise ValueError(f"needs one or more finite values, got {array.tolist()}")
    low, p25, median, p75 = np.percentile(array, (0, 25, 50, 75))
    return Summary(median=float(median), p25=float(p25), p75=float(p75), low=float(low), count=array.size)


def paired_ratio(numerators: Sequence[Sequence[float]], denominators: Sequence[Sequence[float]]) -> Summary:
    """How many times larger one sample is than another that was taken in the same rounds.

    The medians of each round are compared with each other, so that a machine that was slow for a while, for both,
    leaves no trace.

    Args:
        numerators: values by round.
        denominators: values by round, as many rounds.

    Raises:
        ValueError: the numbers of rounds differ, or there is none.
    """
    if len(numerators) != len(denominators) or not numerators:
        raise ValueError(f"needs equally many rounds, got {len(numerators)} and {len(denominators)}")
    return summarise([np.median(a) / np.median(b) for a, b in zip(numerators, denominators, strict=True)])


def fit_power_law(sizes: Sequence[float], costs: Sequence[float]) -> PowerLaw:
    """Least squares on logarithms.

    Args:
        sizes: two or more different ones, above 0.
        costs: one for each, above 0.

    Raises:
        ValueError: too few sizes, or values that have no logarithm.
    """
    if len(sizes) != len(costs) or len(set(sizes)) < 2 or min(*sizes, *costs) <= 0:
        raise ValueError(f"needs costs above 0 at two or more sizes above 0, got {list(costs)} at {list(sizes)}")
    x, y = np.log(np.asarray(sizes, dtype=np.float64)), np.log(np.asarray(costs, dtype=np.float64))
    exponent, constant = np.polyfit(x, y, 1)
    rest, total = np.square(y - (exponent * x + constant)).sum(), np.square(y - y.mean()).sum()
    # Constant costs are explained completely.
    explained = 1.0 if total < 1e-24 else 1 - rest / total
    return PowerLaw(exponent=float(exponent), factor=float(np.exp(constant)), r_squared=float(explained))
