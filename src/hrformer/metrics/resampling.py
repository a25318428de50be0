"""Confidence intervals of quotients of counts, in memory that does not grow with the set.

The bootstrap of :mod:`hrformer.metrics.bootstrap` draws a set anew from its pictures, so that it needs the counts of
every picture. In a large set the times that each picture is drawn are nearly independent and Poisson distributed
with mean 1: Hanley and MacGibbon, *Creating non-parametric bootstrap samples using Poisson frequencies*, Computer
Methods and Programs in Biomedicine 83, 2006; Chamandy, Muralidharan, Najmi and Naidu, *Estimating uncertainty for
massive data streams*, 2012. Then one pass with a weighted sum per sample is enough.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hrformer.metrics.metric import CountMetric

Statistic = Callable[[NDArray[np.int64]], NDArray[np.float64]]
"""From the sums (R, W) of R samples to R scores; NaN where a sample has none."""


class PoissonBootstrap(CountMetric):
    """Weighted sums of counts for R samples of the set; states of several processes may be summed.

    The weights of an item follow from ``seed`` and its number alone, hence neither order nor sharing among processes
    changes a result.

    Args:
        width: W, how many counts an item has.
        samples: R.
        seed: of the weights; one seed gives one interval.

    Raises:
        ValueError: a number is below 1.
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

        Raises:
            ValueError: shapes do not fit together.
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

    def interval(self, statistic: Statistic, *, confidence: float = 0.95) -> tuple[float, float]:
        """Percentile interval of one score.

        Args:
            statistic: see :data:`Statistic`.
            confidence: share of the samples inside the interval.

        Returns:
            Lower and upper end.

        Raises:
            ValueError: no item was seen, no sample has a score, or ``confidence`` is out of range.
        """
        if not 0 < confidence < 1:
            raise ValueError(f"confidence must lie inside (0, 1), got {confidence}")
        if not self._counts["items"][0]:
            raise ValueError("no item was counted")
        values = np.asarray(statistic(self._counts["sums"].copy()), dtype=np.float64)
        values = values[~np.isnan(values)]
        if not len(values):
            raise ValueError("the statistic is NaN for every sample")
        tail = (1 - confidence) / 2
        low, high = np.quantile(values, [tail, 1 - tail])
        return float(low), float(high)


def quotient(part: NDArray[Any], whole: NDArray[Any]) -> NDArray[np.float64]:
    """``part / whole`` element by element, NaN where there is nothing to divide by."""
    return np.divide(part, whole, out=np.full(np.shape(part), np.nan), where=np.asarray(whole) != 0)
