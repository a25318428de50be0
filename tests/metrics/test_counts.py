"""The one-pass bootstrap against the one that keeps every picture's counts."""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
import pytest

from hrformer.metrics.counts import PoissonBootstrap, percentile_interval, quotient


def share(sums: np.ndarray) -> np.ndarray:
    return quotient(sums[:, 0], sums[:, 1])


def people(count: int = 800, seed: int = 1) -> np.ndarray:
    """(N, 2) right and counted joints of pictures, some of them without any."""
    rng = np.random.default_rng(seed)
    counted = rng.integers(0, 15, count)
    return np.stack([rng.binomial(counted, rng.beta(4, 2, count)), counted], axis=1)


def bootstrap_interval(statistic: Callable[[np.ndarray], float], count: int, samples: int) -> tuple[float, float]:
    """The bootstrap as textbooks have it; ``statistic`` gets (count,) how often each picture was drawn."""
    rng = np.random.default_rng(0)
    drawn = (np.bincount(rng.integers(0, count, count), minlength=count) for _ in range(samples))
    return percentile_interval([statistic(weights) for weights in drawn])


def test_agrees_with_the_bootstrap_of_pictures() -> None:
    counts = people()
    ours = PoissonBootstrap(2, samples=4000)
    ours.update(counts, range(len(counts)))
    low, high = ours.interval(share)
    expected = bootstrap_interval(lambda w: (w @ counts[:, 0]) / (w @ counts[:, 1]), len(counts), samples=4000)
    width = expected[1] - expected[0]
    # Both have the sampling error of quantiles of 4000 values, about 3 % of the width.
    assert [low, high] == pytest.approx(expected, abs=0.06 * width)


def test_agrees_for_mean_iou() -> None:
    rng = np.random.default_rng(3)
    labelled = rng.integers(0, 200, (300, 4))
    both = rng.binomial(labelled, [0.9, 0.5, 0.7, 0.2])
    predicted = both + rng.integers(0, 60, both.shape)
    ours = PoissonBootstrap(12, samples=3000)
    ours.update(np.concatenate([both, predicted, labelled], axis=1), range(300))

    def mean_iou(sums: np.ndarray) -> np.ndarray:
        inside, found, true = np.split(sums, 3, axis=1)
        return (inside / (found + true - inside)).mean(axis=1)

    def of_weights(weights: np.ndarray) -> float:
        return float(mean_iou(np.concatenate([weights @ both, weights @ predicted, weights @ labelled])[None])[0])

    expected = bootstrap_interval(of_weights, 300, samples=3000)
    assert ours.interval(mean_iou) == pytest.approx(expected, abs=0.06 * (expected[1] - expected[0]))


def test_neither_order_nor_sharding_changes_a_sum() -> None:
    counts = people(60)
    whole = PoissonBootstrap(2, samples=50, seed=5)
    whole.update(counts, range(60))
    parts = [PoissonBootstrap(2, samples=50, seed=5) for _ in range(3)]
    for number in reversed(range(60)):
        parts[number % 3].update(counts[[number]], [number])
    for other in parts[1:]:
        parts[0].merge(other.state())
    assert np.array_equal(parts[0].state()["sums"], whole.state()["sums"])
    assert parts[0].interval(share) == whole.interval(share)
    other_seed = PoissonBootstrap(2, samples=50, seed=6)
    other_seed.update(counts, range(60))
    assert not np.array_equal(other_seed.state()["sums"], whole.state()["sums"])


def test_items_of_one_picture_are_drawn_together() -> None:
    apart, together = PoissonBootstrap(1, samples=200), PoissonBootstrap(1, samples=200)
    apart.update(np.ones((8, 1), int), [1, 2, 3, 4, 5, 6, 7, 8])
    together.update(np.ones((8, 1), int), [9] * 8)
    assert set(together.state()["sums"][:, 0] % 8) == {0}
    assert together.state()["sums"].std() > 1.5 * apart.state()["sums"].std()


def test_weights_are_poisson() -> None:
    bootstrap = PoissonBootstrap(1, samples=4000)
    bootstrap.update([[1]], [123])
    drawn = bootstrap.state()["sums"][:, 0]
    assert drawn.mean() == pytest.approx(1, abs=0.05)
    assert drawn.var() == pytest.approx(1, abs=0.1)
    assert (drawn == 0).mean() == pytest.approx(np.exp(-1), abs=0.03)


def test_memory_does_not_grow_with_the_set() -> None:
    bootstrap = PoissonBootstrap(3, samples=20)
    counts = np.ones((500, 3), int)
    bootstrap.update(counts, range(500))
    before = sys.getallocatedblocks()
    for low in range(500, 20_000, 500):
        bootstrap.update(counts, range(low, low + 500))
    assert sys.getallocatedblocks() - before < 1000  # objects
    assert bootstrap.state()["items"].tolist() == [20_000]
    assert bootstrap.state()["sums"].shape == (20, 3)


def test_an_interval_holds_95_percent_of_the_scores_there_are() -> None:
    assert percentile_interval([*range(101), np.nan]) == pytest.approx((2.5, 97.5))
    right = np.random.default_rng(1).random(900) < 0.8
    low, high = bootstrap_interval(lambda drawn: drawn @ right / 900, 900, samples=1000)
    error = 1.96 * np.sqrt(right.mean() * (1 - right.mean()) / 900)
    assert [low, high] == pytest.approx([right.mean() - error, right.mean() + error], abs=0.004)


def test_errors() -> None:
    bootstrap = PoissonBootstrap(2, samples=10)
    with pytest.raises(ValueError, match="no item was counted"):
        bootstrap.interval(share)
    with pytest.raises(ValueError, match=r"counts must be \(1, 2\), got \(1, 3\)"):
        bootstrap.update([[1, 2, 3]], [0])
    bootstrap.update(np.zeros((0, 2)), [])
    bootstrap.update([[0, 0]], [0])
    with pytest.raises(ValueError, match="NaN for every sample"):
        bootstrap.interval(share)
    with pytest.raises(ValueError, match="same settings"):
        bootstrap.merge(PoissonBootstrap(2, samples=11).state())
