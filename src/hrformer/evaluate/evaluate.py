"""Scoring a model on a data set: one loop for all tasks, alone or shared among processes."""

from __future__ import annotations

import time

import torch

from hrformer.data.sets import ClassificationSet, ImageSet, PoseSet, SegmentationSet
from hrformer.evaluate.classification import ClassificationScores, Classifier
from hrformer.evaluate.inference import Network, Precision, items_to_take, predictions_of, require_same_names
from hrformer.evaluate.pose import PoseNetwork, PoseScores
from hrformer.evaluate.processes import ALONE, Processes, Progress
from hrformer.evaluate.protocols import (
    ClassificationProtocol,
    Evaluation,
    PoseProtocol,
    Protocol,
    SegmentationProtocol,
)
from hrformer.evaluate.scores import Resampling, Scores, Tally
from hrformer.evaluate.segmentation import SegmentationSetScores, Segmenter
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
    seed: int = 0,
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
        progress: see :data:`hrformer.evaluate.processes.Progress`.
        bootstrap: samples for confidence intervals; 0 for none.
        seed: of the bootstrap.
        worst: how many of the worst items to keep.
        limit: only the first so many items.

    Raises:
        hrformer.data.sets.DataError: an item cannot be read; the message names it.
        ImportError: a score needs a package that is not installed.
        ValueError: model, set and protocol do not fit together, or the set has no labels.
    """
    start = time.perf_counter()
    num_items = items_to_take(source, limit)
    resampling = Resampling(samples=bootstrap, seed=seed)
    network = network_for(model, source, protocol, device, precision)
    tally = Tally(scores_for(source, protocol, num_items, resampling), source, worst)
    processes = processes or ALONE
    if progress is not None:
        progress(0, num_items)
    for batch, predictions in predictions_of(
        network,
        source,
        num_items=num_items,
        batch_size=protocol.batch_size,
        workers=workers,
        processes=processes,
    ):
        tally.update(batch, predictions)
        if progress is not None:
            progress(min(tally.items * processes.world_size, num_items), num_items)
    return tally.finish(processes, time.perf_counter() - start, resampling.confidence)


def network_for(
    model: VisionModel,
    source: ImageSet,
    protocol: Protocol,
    device: str | torch.device | None = None,
    precision: Precision = "fp32",
) -> Network:
    """The model with its test protocol.

    Raises:
        ValueError: model, set and protocol do not fit together.
    """
    info = model.info
    if isinstance(protocol, PoseProtocol) and isinstance(source, PoseSet):
        pose = PoseNetwork(model, source.skeleton, protocol, device, precision)
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


def scores_for(source: ImageSet, protocol: Protocol, num_items: int, resampling: Resampling) -> Scores:
    """The scores that a protocol asks for.

    Raises:
        ValueError: set and protocol do not fit together, or the set has no labels.
    """
    if isinstance(source, PoseSet) and isinstance(protocol, PoseProtocol):
        return PoseScores(source, protocol, num_items=num_items, resampling=resampling)
    if isinstance(source, SegmentationSet):
        if not source.labelled:
            raise ValueError(f"{source.name} has no labels to compare with; export its predictions instead")
        return SegmentationSetScores(source, resampling)
    if isinstance(source, ClassificationSet):
        return ClassificationScores(source, resampling)
    raise ValueError(f"{source.name} is a set for {source.task}; {type(protocol).__name__} is not its protocol")
