"""Confidence intervals by resampling the pictures of a set."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray


def bootstrap_interval(
    statistic: Callable[[NDArray[np.int64]], float],
    num_images: int,
    *,
    samples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap: the score's range if the set had been drawn again from its own pictures.

    Args:
        statistic: gets (num_images,) how often each picture was drawn, and returns the score. For a quotient of
            per-picture counts: ``lambda w: (w @ right) / (w @ total)``; for COCO's figures see
            :meth:`hrformer.metrics.coco_matching.Matches.figures`. NaN where a sample has no score.
        num_images: pictures of the set, at least 2. What one picture holds, such as its people, stays together.
        samples: how often to draw a set of the same size, with replacement.
        confidence: share of the samples inside the interval.
        seed: of the drawing; one seed gives one interval.

    Returns:
        Lower and upper end.

    Raises:
        ValueError: a number is out of range, or no sample has a score.
    """
    if num_images < 2 or samples < 1 or not 0 < confidence < 1:
        raise ValueError(
            "num_images must be at least 2, samples at least 1 and confidence inside (0, 1), got "
            f"{num_images}, {samples} and {confidence}"
        )
    rng = np.random.default_rng(seed)
    values = np.empty(samples)
    for i in range(samples):
        drawn = np.bincount(rng.integers(0, num_images, num_images), minlength=num_images)
        values[i] = statistic(drawn)
    values = values[~np.isnan(values)]
    if not len(values):
        raise ValueError("the statistic is NaN for every sample")
    tail = (1 - confidence) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)
