"""Making a classifier's probabilities mean what they say (Guo et al., *On Calibration of Modern Neural Networks*)."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from hrformer.data.set_types import ClassificationSet
from hrformer.evaluate.inference import Progress, network_for, predictions_of
from hrformer.evaluate.protocols import ClassificationProtocol
from hrformer.models.model import VisionModel

_ENDS = (0.05, 20.0)
"""Least and largest temperature: beyond them a set is not one to learn from, all right or all wrong."""


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The number to divide logits (N, C) by for the lowest cross-entropy with labels (N,).

    One number for all classes leaves their order as it is (Guo et al., ICML 2017, section 4.2). ValueError if N is 0.
    """
    if not len(logits):
        raise ValueError("no picture to fit a temperature to")
    values, low, high = logits.double(), math.log(_ENDS[0]), math.log(_ENDS[1])

    def loss(log: float) -> float:
        return float(F.cross_entropy(values / math.exp(log), labels))

    # The loss is convex in 1 / T, so that it has one valley in log T: golden section search.
    ratio = (math.sqrt(5) - 1) / 2
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    at_left, at_right = loss(left), loss(right)
    while high - low > 1e-4:
        if at_left < at_right:
            high, right, at_right = right, left, at_left
            left = high - ratio * (high - low)
            at_left = loss(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + ratio * (high - low)
            at_right = loss(right)
    return math.exp((low + high) / 2)


def calibrate(
    model: VisionModel,
    source: ClassificationSet,
    protocol: ClassificationProtocol,
    *,
    device: str | torch.device | None = None,
    workers: int = 0,
    progress: Progress | None = None,
) -> float:
    """Fit ``model.info.temperature`` to a labelled set that the model was not trained on, and return it.

    Raises:
        ValueError: the model is no classifier of the set's classes.
    """
    model.info = replace(model.info, temperature=1.0)
    network, rows, labels = network_for(model, source, protocol, device), [], []
    for batch, logits in predictions_of(network, source, len(source), workers, progress=progress):
        rows += [row.cpu() for row in logits]
        labels.append(torch.as_tensor(batch["label"]).cpu())
    found = fit_temperature(torch.stack(rows), torch.cat(labels).long())
    model.info = replace(model.info, temperature=found)
    return found
