"""What the scores of all tasks share, and the list of the worst items.

Scores take predictions from wherever they come, a network or a file, in any order.
"""

from __future__ import annotations

import heapq
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Protocol

from hrformer.data.sets import ImageSet
from hrformer.evaluate.processes import Processes
from hrformer.evaluate.protocols import Evaluation, Example
from hrformer.metrics.metric import State


@dataclass(frozen=True, kw_only=True, slots=True)
class Resampling:
    """How confidence intervals are made.

    Attributes:
        samples: sets that are drawn; 0 for no intervals.
        seed: of the drawing.
        confidence: share of the samples inside an interval.
    """

    samples: int = 0
    seed: int = 0
    confidence: float = 0.95

    def __post_init__(self) -> None:
        if self.samples < 0 or not 0 < self.confidence < 1:
            raise ValueError(
                f"bootstrap samples must not be negative and confidence lies inside (0, 1), got {self.samples} and "
                f"{self.confidence}"
            )


NO_INTERVALS = Resampling()
"""No resampling at all."""


class Mergeable(Protocol):
    """What a metric and its resampling have in common."""

    def reset(self) -> None: ...

    def state(self) -> State: ...

    def merge(self, state: State) -> None: ...


class Scores(ABC):
    """Scores of one task over a whole set.

    Attributes:
        task: "classification", "pose" or "segmentation".
        main: key of the score that decides.
        parts: everything that counts; a dictionary, so that all processes merge alike.
    """

    task: ClassVar[str]
    main: str
    parts: dict[str, Mergeable]

    @abstractmethod
    def update(self, batch: Mapping[str, Any], predictions: Sequence[Any]) -> list[float | None]:
        """Count a batch.

        Args:
            batch: "index" (B,) item numbers, and the labels where the task takes them from the batch.
            predictions: one per item, as the task's network gives them.

        Returns:
            Each item's own score in 0..1, or None where it has no label to be held against.
        """

    @abstractmethod
    def compute(self) -> dict[str, Any]:
        """Scores and tables in JSON types; raises ValueError if nothing was counted."""

    @abstractmethod
    def intervals(self) -> dict[str, tuple[float, float]]:
        """Confidence intervals by key of ``compute``; empty where none were asked for."""

    def shown(self, prediction: Any) -> Any:
        """A prediction in the form that ``Example`` holds."""
        return prediction


class Worst:
    """The items with the lowest scores; holds no more than ``limit`` of them.

    Args:
        limit: how many to keep.
    """

    def __init__(self, limit: int) -> None:
        if limit < 0:
            raise ValueError(f"the number of worst items must not be negative, got {limit}")
        self.limit = limit
        self._heap: list[tuple[float, int, Example]] = []

    def offer(self, index: int, score: float, make: Callable[[], Example]) -> None:
        """Keep an item if it is among the worst; of equal scores the lower number is the worse.

        Args:
            index: number of the item.
            score: in 0..1; NaN counts as 0.
            make: called only if the item is kept.
        """
        entry = (-score if score == score else 0.0, -index)
        if not self.limit or (len(self._heap) == self.limit and entry <= self._heap[0][:2]):
            return
        # Replacing the best of those kept, which stands in front.
        push = heapq.heappushpop if len(self._heap) == self.limit else heapq.heappush
        push(self._heap, (*entry, make()))

    def examples(self) -> list[Example]:
        """Worst first."""
        return [entry[2] for entry in sorted(self._heap, key=lambda entry: entry[:2], reverse=True)]


class Tally:
    """Counts predictions and finishes an evaluation, over all processes that took part.

    Args:
        scores: of the task.
        source: the set; names the pictures of the worst items.
        worst: how many of them to keep.
    """

    def __init__(self, scores: Scores, source: ImageSet, worst: int = 0) -> None:
        self.scores, self.source, self.worst = scores, source, Worst(worst)
        self.items = 0

    def update(self, batch: Mapping[str, Any], predictions: Sequence[Any]) -> None:
        """Count a batch; see :meth:`Scores.update`."""
        numbers = [int(index) for index in batch["index"]]
        for place, (index, score) in enumerate(zip(numbers, self.scores.update(batch, predictions), strict=True)):
            self.items += 1
            if score is not None:
                self.worst.offer(index, score, partial(self._example, index, score, predictions[place]))

    def _example(self, index: int, score: float, prediction: Any) -> Example:
        value = 0.0 if math.isnan(score) else score
        return Example(index=index, file=self.source.file(index), score=value, prediction=self.scores.shown(prediction))

    def finish(self, processes: Processes, seconds: float, confidence: float) -> Evaluation:
        """Scores over everything that any process has counted; the same on all of them."""
        own = {name: part.state() for name, part in self.scores.parts.items()}
        gathered = processes.gather((own, self.worst.examples(), self.items, seconds))
        examples = [example for _, part, _, _ in gathered for example in part]
        for name, part in self.scores.parts.items():
            part.reset()
            for states, _, _, _ in gathered:
                part.merge(states[name])
        return Evaluation(
            task=self.scores.task,
            main=self.scores.main,
            scores=self.scores.compute(),
            intervals=self.scores.intervals(),
            confidence=confidence,
            worst=tuple(sorted(examples, key=lambda example: (example.score, example.index))[: self.worst.limit]),
            items=sum(items for _, _, items, _ in gathered),
            seconds=max(spent for _, _, _, spent in gathered),
        )
