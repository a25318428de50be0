"""The worst items, and memory over a long set."""

from __future__ import annotations

import random
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from hrformer.data.set_types import ClassificationSet
from hrformer.evaluate.inference import Processes
from hrformer.evaluate.scores import ClassificationScores, Scores, Tally


class Endless(ClassificationSet):
    """As many items as one likes, of ten classes."""

    name, classes = "endless", tuple("abcdefghij")

    def __len__(self) -> int:
        return 1 << 40

    def file(self, index: int) -> str:
        return f"{index}.jpg"

    def pixels(self, index: int) -> np.ndarray:
        return np.zeros((1, 1, 3), np.uint8)

    def label(self, index: int) -> int:
        return index % 10


class Given(Scores):
    """Every item's score is its prediction."""

    task = "classification"

    def __init__(self) -> None:
        super().__init__("top1", {}, 0, {}, 1)
        self.asked: list[float] = []

    def update(self, batch: Mapping[str, Any], predictions: Sequence[float]) -> list[float | None]:
        return list(predictions)

    def compute(self) -> dict[str, Any]:
        return {}

    def shown(self, prediction: float) -> float:
        self.asked.append(prediction)
        return prediction


def test_worst_items_in_any_order() -> None:
    scores = [0.5, 0.25, float("nan"), 0.25, 1.0, 0.0, 0.25, 0.75]
    for seed in range(5):
        order = list(range(len(scores)))
        random.Random(seed).shuffle(order)
        tally, none = Tally(Given(), Endless(), worst=4), Tally(Given(), Endless())
        for index in order:
            tally.update({"index": [index]}, [scores[index]])
            none.update({"index": [index]}, [scores[index]])
        assert [(one.index, one.score) for one in tally.finish().worst] == [(2, 0), (5, 0), (1, 0.25), (3, 0.25)]
        assert none.finish().worst == ()
    with pytest.raises(ValueError, match="negative"):
        Tally(Given(), Endless(), worst=-1)


def test_predictions_of_items_that_are_not_kept_are_not_made() -> None:
    given = Given()
    tally = Tally(given, Endless(), worst=1)
    # The second is not among the worst; of equal scores the first is kept.
    tally.update({"index": [0, 1, 2]}, [0.1, 0.2, 0.1])
    assert [one.index for one in tally.finish().worst] == [0]
    assert given.asked == [0.1]


def test_memory_stays_flat_over_100000_samples() -> None:
    source = Endless()
    scores = ClassificationScores(source, 10)
    tally = Tally(scores, source, worst=5)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2000, 10, generator=generator)
    kept = []

    def stream(low: int) -> None:
        numbers = list(range(low, low + 2000))
        tally.update({"index": numbers, "label": torch.tensor([i % 10 for i in numbers])}, list(logits))

    stream(0)
    for low in range(2000, 100_000, 2000):
        stream(low)
        kept.append(sys.getallocatedblocks())
    # Objects, over 90,000 samples: one kept per sample, whatever its size, would show.
    assert kept[-1] - kept[4] < 2000
    assert sum(array.nbytes for part in scores.parts.values() for array in part.state().values()) < 1000
    result = tally.finish()
    assert result.items == result.scores["images"] == 100_000
    assert result.value == pytest.approx(0.1, abs=0.02)
    assert len(result.worst) == 5
    low, high = result.intervals["top1"]
    assert low < result.value < high


def test_settings_out_of_range() -> None:
    with pytest.raises(ValueError, match="bootstrap samples"):
        ClassificationScores(Endless(), -1)
    with pytest.raises(ValueError, match="rank must lie in"):
        Processes(rank=2, world_size=2, gather=lambda value: [value])
