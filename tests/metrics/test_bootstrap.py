"""Intervals by resampling."""

from __future__ import annotations

import numpy as np
import pytest

from hrformer.metrics.bootstrap import bootstrap_interval


def test_agrees_with_the_normal_approximation() -> None:
    right = np.random.default_rng(1).random(900) < 0.8
    low, high = bootstrap_interval(lambda drawn: drawn @ right / 900, 900)
    error = 1.96 * np.sqrt(right.mean() * (1 - right.mean()) / 900)
    assert [low, high] == pytest.approx([right.mean() - error, right.mean() + error], abs=0.004)


def test_every_sample_has_the_size_of_the_set() -> None:
    assert bootstrap_interval(lambda drawn: float(drawn.sum()), 50, samples=20) == (50.0, 50.0)


def test_samples_without_a_score_are_left_out() -> None:
    low, high = bootstrap_interval(lambda drawn: 3.0 if drawn[0] else np.nan, 4, samples=50)
    assert (low, high) == (3.0, 3.0)
    with pytest.raises(ValueError, match="every sample"):
        bootstrap_interval(lambda drawn: np.nan, 4, samples=5)


@pytest.mark.parametrize("values", [{"num_images": 1}, {"samples": 0}, {"confidence": 1.0}])
def test_numbers_out_of_range_are_named(values: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        bootstrap_interval(lambda drawn: 0.0, **{"num_images": 10, **values})
