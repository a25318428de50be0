"""What the metrics share: counts that can be merged, and confidence intervals of quotients of counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

State = dict[str, NDArray[Any]]
"""What a metric has seen, as named arrays: easy to pickle, save and send."""

Statistic = Callable[[NDArray[np.int64]], NDArray[np.float64]]
"""From the sums (R, W) of R samples to R scores; NaN where a sample has none."""

CONFIDENCE = 0.95
"""Share of the samples inside an interval."""


class CountMetric:
    """Keeps named int64 counts of fixed ``shapes``, so that memory does not grow with the samples seen."""

    def __init__(self, **shapes: tuple[int, ...]) -> None:
        self._counts = {name: np.zeros(shape, dtype=np.int64) for name, shape in shapes.items()}

    def reset(self) -> None:
        """Forget everything seen."""
        for counts in self._counts.values():
            counts.fill(0)

    def state(self) -> State:
        """A copy of the counts; states of several processes may also simply be summed."""
        return {name: counts.copy() for name, counts in self._counts.items()}

    def merge(self, state: State) -> None:
        """Add the counts of another metric; ValueError if it counts something else."""
        own, other = ({k: np.shape(v) for k, v in counts.items()} for counts in (self._counts, state))
        if own != other:
            raise ValueError(f"cannot merge counts {other} into {own}; both metrics need the same settings")
        for name, counts in self._counts.items():
            counts += np.asarray(state[name], dtype=np.int64)


class PoissonBootstrap(CountMetric):
    """Weighted sums of counts for R samples of the set: one pass, and memory that does not grow with the set.

    A bootstrap draws a set anew from its pictures. In a large set the times that each picture is drawn are nearly
    independent and Poisson distributed with mean 1 (Hanley and MacGibbon, *Creating non-parametric bootstrap samples
    using Poisson frequencies*, 2006). The weights of an item follow from ``seed`` and its number alone, hence neither
    order nor sharing among processes changes a result.

    Args:
        width: W, how many counts an item has.
        samples: R.
        seed: of the weights; one seed gives one interval.
    """

    def __init__(self, width: int, *, samples: int = 1000, seed: int = 0) -> None:
        if width < 1 or samples < 1:
            raise ValueError(f"width and samples must be at least 1, got {width} and {samples}")
        super().__init__(sums=(samples, width), items=(1,))
        self.seed = seed

    def update(self, counts: ArrayLike, numbers: Sequence[int]) -> None:
        """Add some items.

        Args:
            counts: (N, W) integers; 2^53 or more of one count in one call would be rounded.
            numbers: (N,) number of each item, or of what it is drawn with: people of one picture share its number.
        """
        sums = self._counts["sums"]
        values = np.asarray(counts)
        if values.shape != (len(numbers), sums.shape[1]):
            raise ValueError(f"counts must be ({len(numbers)}, {sums.shape[1]}), got {values.shape}")
        if not len(values):
            return
        weights = np.stack([self._weights(number) for number in numbers], axis=1)
        # Floating point for the speed of its product; whole numbers of this size are exact.
        sums += (weights.astype(np.float64) @ values.astype(np.float64)).astype(np.int64)
        self._counts["items"] += len(values)

    def _weights(self, number: int) -> NDArray[np.int64]:
        """(R,) how often the item is drawn in each sample."""
        # Philox takes any key as it is: a stream of its own for every (seed, number).
        key = np.array([self.seed, number], dtype=np.int64).view(np.uint64)
        return np.random.Generator(np.random.Philox(key=key)).poisson(1.0, len(self._counts["sums"]))

    def interval(self, statistic: Statistic) -> tuple[float, float]:
        """Lower and upper end for one score; ValueError if no item was seen or no sample has a score."""
        if not self._counts["items"][0]:
            raise ValueError("no item was counted")
        return percentile_interval(statistic(self._counts["sums"].copy()))


def percentile_interval(values: ArrayLike) -> tuple[float, float]:
    """The range that holds ``CONFIDENCE`` of the samples' scores (R,), those without one (NaN) left out."""
    scores = np.asarray(values, dtype=np.float64)
    scores = scores[~np.isnan(scores)]
    if not len(scores):
        raise ValueError("the statistic is NaN for every sample")
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(scores, [tail, 1 - tail])
    return float(low), float(high)


def quotient(part: NDArray[Any], whole: NDArray[Any]) -> NDArray[np.float64]:
    """``part / whole`` element by element, NaN where there is nothing to divide by."""
    return np.divide(part, whole, out=np.full(np.shape(part), np.nan), where=np.asarray(whole) != 0)


def ratio(part: int | np.integer, whole: int | np.integer) -> float | None:
    """``part / whole``, or None where there is nothing to divide by."""
    return float(part / whole) if whole else None


def names_for(names: tuple[str, ...], count: int, kind: str) -> tuple[str, ...]:
    """``names``, or numbers from 0 where there are none; ValueError if there are some, but not ``count``."""
    if names and len(names) != count:
        raise ValueError(f"there are {count} {kind}, but {len(names)} names for them")
    return tuple(names) or tuple(str(number) for number in range(count))
