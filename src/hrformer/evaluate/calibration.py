"""Making a classifier's probabilities mean what they say (Guo et al., *On Calibration of Modern Neural Networks*)."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from hrformer.data.set_types import ClassificationSet
from hrformer.evaluate.inference import Progress, network_for, predictions_of
from hrformer.evaluate.protocols import ClassificationProtocol
from hrformer.models.model import VisionModel


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The number to divide logits (N, C) by for the lowest cross-entropy with labels (N,).

    One number for all classes leaves their order as it is (Guo et al., ICML 2017, section 4.2). ValueError if N is 0.
    """
    if not len(logits):
        raise ValueError("no picture to fit a temperature to")
    values, log = logits.double(), torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([log], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(values / log.exp(), labels)
        value.backward()
        return value

    optimizer.step(loss)
    # Beyond these ends the set is not one to learn a temperature from: all right, or all wrong.
    return float(log.detach().exp().clamp(0.05, 20))


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
