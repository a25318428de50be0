"""Scoring a model on a data set: one loop for all tasks, alone or shared among processes."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from hrformer.data.set_types import ClassificationSet, ImageSet, PoseSet, SegmentationSet
from hrformer.evaluate.inference import (
    ALONE,
    Classifier,
    Network,
    PoseNetwork,
    Precision,
    Processes,
    Progress,
    Segmenter,
    items_to_take,
    predictions_of,
    require_same_names,
)
from hrformer.evaluate.protocols import (
    ClassificationProtocol,
    Evaluation,
    Example,
    PoseProtocol,
    Protocol,
    SegmentationProtocol,
)
from hrformer.evaluate.scores import (
    NO_INTERVALS,
    ClassificationScores,
    PoseScores,
    Scores,
    SegmentationSetScores,
)
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
        hrformer.data.set_types.DataError: an item cannot be read; the message names it.
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


def network_for(
    model: VisionModel,
    source: ImageSet,
    protocol: Protocol,
    device: str | torch.device | None = None,
    precision: Precision = "fp32",
) -> Network:
    """The model with its test protocol; ValueError if model, set and protocol do not fit together."""
    info = model.info
    if isinstance(protocol, PoseProtocol) and isinstance(source, PoseSet):
        pose = PoseNetwork(model, protocol, device, precision, skeleton=source.skeleton)
        known = info.skeleton.keypoints if info.skeleton else ()
        require_same_names("joints", known, info.num_classes, source.skeleton.keypoints, source.name)
        return pose
    network: Network
    if isinstance(protocol, ClassificationProtocol) and isinstance(source, ClassificationSet):
        network = Classifier(model, protocol, device, precision)
    elif isinstance(protocol, SegmentationProtocol) and isinstance(source, SegmentationSet):
        network = Segmenter(model, protocol, device, precision)
    else:
        raise ValueError(f"{source.name} is a set for {source.task}; {type(protocol).__name__} is not its protocol")
    require_same_names("classes", info.class_names, info.num_classes, source.classes, source.name)
    return network


def scores_for(source: ImageSet, protocol: Protocol, num_items: int, bootstrap: int = NO_INTERVALS) -> Scores:
    """The scores of a protocol; ValueError if set and protocol do not fit together, or the set has no labels."""
    if isinstance(source, PoseSet) and isinstance(protocol, PoseProtocol):
        return PoseScores(source, protocol, num_items=num_items, bootstrap=bootstrap)
    if isinstance(source, SegmentationSet):
        if not source.labelled:
            raise ValueError(f"{source.name} has no labels to compare with; export its predictions instead")
        return SegmentationSetScores(source, bootstrap)
    if isinstance(source, ClassificationSet):
        return ClassificationScores(source, bootstrap)
    raise ValueError(f"{source.name} is a set for {source.task}; {type(protocol).__name__} is not its protocol")


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
        """Count a batch; see :meth:`Scores.update`."""
        scores = self.scores.update(batch, predictions)
        for index, score, prediction in zip(batch["index"], scores, predictions, strict=True):
            self.items += 1
            if score is not None and self.num_worst:
                self._offer(int(index), 0.0 if math.isnan(score) else score, prediction)

    def _offer(self, index: int, score: float, prediction: Any) -> None:
        """Keep an item if it is among the worst; only then its prediction is brought into its shown form."""
        full = len(self._worst) == self.num_worst
        if full and (score, index) > (self._worst[-1].score, self._worst[-1].index):
            return
        shown = self.scores.shown(prediction)
        self._worst.append(Example(index=index, file=self.source.file(index), score=score, prediction=shown))
        self._worst = _lowest(self._worst, self.num_worst)

    def finish(self, processes: Processes = ALONE) -> Evaluation:
        """Scores over everything that any process has counted; the same on all of them."""
        own = {name: part.state() for name, part in self.scores.parts.items()}
        gathered = processes.gather((own, self._worst, self.items, time.perf_counter() - self._start))
        for name, part in self.scores.parts.items():
            part.reset()
            for states, _, _, _ in gathered:
                part.merge(states[name])
        return Evaluation(
            task=self.scores.task,
            main=self.scores.main,
            scores=self.scores.compute(),
            intervals=self.scores.intervals(),
            worst=tuple(_lowest([example for _, part, _, _ in gathered for example in part], self.num_worst)),
            items=sum(items for _, _, items, _ in gathered),
            seconds=max(spent for _, _, _, spent in gathered),
        )


def _lowest(examples: list[Example], count: int) -> list[Example]:
    return sorted(examples, key=lambda example: (example.score, example.index))[:count]
