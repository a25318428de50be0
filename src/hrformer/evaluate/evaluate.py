"""Scoring a model on a data set: one loop for all tasks, alone or shared among processes."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from hrformer.data.sets import ImageSet
from hrformer.evaluate.inference import (
    ALONE,
    Precision,
    Processes,
    Progress,
    items_to_take,
    network_for,
    predictions_of,
)
from hrformer.evaluate.protocols import Evaluation, Example, Protocol
from hrformer.evaluate.scores import Scores, scores_for
from hrformer.models.model import VisionModel


def evaluate(
    model: VisionModel,
    source: ImageSet,
    protocol: Protocol,
    *,
    device: str | torch.device | None = None,
    workers: int = 0,
    precision: Precision = "fp32",
    processes: Processes | None = None,
    progress: Progress | None = None,
    bootstrap: int = 0,
    worst: int = 0,
    limit: int | None = None,
) -> Evaluation:
    """Score a model on a labelled set.

    Batch size, workers and processes change no score beyond the rounding of the network's outputs. The model comes
    back in the mode it was in, and the random generators as they were.

    Args:
        model: with a head for the set's task, and the set's classes or joints in the set's order.
        source: labelled items.
        protocol: of the set's task.
        device: where to run, also where the model stays; None: where it is.
        workers: processes that read pictures ahead.
        precision: of the forward pass.
        processes: share the items; every process returns the same evaluation. None: this one alone.
        progress: see :data:`hrformer.evaluate.inference.Progress`.
        bootstrap: samples for confidence intervals; 0 for none.
        worst: how many of the worst items to keep.
        limit: only the first so many items.

    Raises:
        hrformer.data.sets.DataError: an item cannot be read; the message names it.
        ImportError: a score needs a package that is not installed.
        ValueError: model, set and protocol do not fit together, or the set has no labels.
    """
    num_items, processes = items_to_take(source, limit), processes or ALONE
    network = network_for(model, source, protocol, device, precision)
    tally = Tally(scores_for(source, protocol, num_items, bootstrap), source, worst)
    for batch, predictions in predictions_of(
        network, source, num_items=num_items, workers=workers, processes=processes, progress=progress
    ):
        tally.update(batch, predictions)
    return tally.finish(processes)


class Tally:
    """Counts predictions and finishes an evaluation, over all processes that took part.

    Args:
        scores: of the task.
        source: the set; names the pictures of the worst items.
        worst: how many of the items with the lowest scores to keep; of equal scores the lower number is the worse.
    """

    def __init__(self, scores: Scores, source: ImageSet, worst: int = 0) -> None:
        if worst < 0:
            raise ValueError(f"the number of worst items must not be negative, got {worst}")
        self.scores, self.source, self.num_worst = scores, source, worst
        self.items, self._start = 0, time.perf_counter()
        self._worst: list[Example] = []

    def update(self, batch: Mapping[str, Any], predictions: Sequence[Any]) -> None:
        """Count a batch, see :meth:`Scores.update`."""
        scores = self.scores.update(batch, predictions)
        for index, score, prediction in zip(batch["index"], scores, predictions, strict=True):
            self.items += 1
            if score is not None and self.num_worst:
                self._offer(int(index), 0.0 if math.isnan(score) else score, prediction)

    def _offer(self, index: int, score: float, prediction: Any) -> None:
        """Keep an item if it is among the worst; only then its prediction is brought into its shown form."""
        if len(self._worst) == self.num_worst and (score, index) > _badness(self._worst[-1]):
            return
        shown = self.scores.shown(prediction)
        self._worst.append(Example(index=index, file=self.source.file(index), score=score, prediction=shown))
        self._worst = sorted(self._worst, key=_badness)[: self.num_worst]

    def finish(self, processes: Processes = ALONE) -> Evaluation:
        """Scores over everything that any process has counted; the same on all of them."""
        own = {name: part.state() for name, part in self.scores.parts.items()}
        gathered = processes.gather((own, self._worst, self.items, time.perf_counter() - self._start))
        for name, part in self.scores.parts.items():
            part.reset()
            for states, _, _, _ in gathered:
                part.merge(states[name])
        worst = [example for _, part, _, _ in gathered for example in part]
        return Evaluation(
            task=self.scores.task,
            main=self.scores.main,
            scores=self.scores.compute(),
            intervals=self.scores.intervals(),
            worst=tuple(sorted(worst, key=_badness)[: self.num_worst]),
            items=sum(items for _, _, items, _ in gathered),
            seconds=max(spent for _, _, _, spent in gathered),
        )


def _badness(example: Example) -> tuple[float, int]:
    return example.score, example.index
