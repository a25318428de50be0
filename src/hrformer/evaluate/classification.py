"""Top-1 and top-5 accuracy of a classifier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hrformer.data.loader import Batch, Transform
from hrformer.data.sets import ClassificationSet
from hrformer.data.transforms.classification import TestClassification
from hrformer.evaluate.inference import Network, Precision
from hrformer.evaluate.protocols import ClassificationProtocol
from hrformer.evaluate.scores import NO_INTERVALS, Mergeable, Resampling, Scores
from hrformer.geometry.flips import flip_image
from hrformer.metrics.accuracy import Accuracy, rank_of_label
from hrformer.metrics.resampling import PoissonBootstrap, quotient
from hrformer.models.model import VisionModel


class Classifier(Network):
    """Pictures to logits.

    Args:
        model: classifies.
        protocol: how it is tested.
        device: see ``Network``.
        precision: see ``Network``.
    """

    task = "classification"

    def __init__(
        self,
        model: VisionModel,
        protocol: ClassificationProtocol,
        device: str | torch.device | None = None,
        precision: Precision = "fp32",
    ) -> None:
        super().__init__(model, device, precision)
        self.protocol = protocol

    def transform(self) -> Transform:
        """Resize and centre crop."""
        return TestClassification(self.model.info.input_spec)

    def predict(self, batch: Batch) -> Sequence[Tensor]:
        """Logits (C,) of each picture, averaged with the mirror image's where asked for."""
        x = self.network_input(batch["image"])
        logits = self.run(x)
        if self.protocol.flip:
            logits = (logits + self.run(flip_image(x))) / 2
        return list(logits)


class ClassificationScores(Scores):
    """Accuracy, and its intervals.

    Args:
        source: the set; only its classes are used.
        resampling: of the intervals.
        ks: the k of top-k; None: 1, and 5 where there are more than five classes.
    """

    task = "classification"

    def __init__(
        self, source: ClassificationSet, resampling: Resampling = NO_INTERVALS, ks: tuple[int, ...] | None = None
    ) -> None:
        count = len(source.classes)
        ks = ks or ((1, 5) if count > 5 else (1,))
        self.main = f"top{ks[0]}"
        self.resampling = resampling
        self._accuracy = Accuracy(count, ks=ks, class_names=source.classes)
        self.parts: dict[str, Mergeable] = {"accuracy": self._accuracy}
        self._bootstrap: PoissonBootstrap | None = None
        if resampling.samples:
            self._bootstrap = PoissonBootstrap(len(ks) + 1, samples=resampling.samples, seed=resampling.seed)
            self.parts["bootstrap"] = self._bootstrap

    def update(self, batch: Mapping[str, Any], predictions: Sequence[Tensor]) -> list[float | None]:
        """Count logits (C,) against "label"; the score of a picture is the probability of its class."""
        logits, labels = torch.stack(list(predictions)), torch.as_tensor(batch["label"])
        self._accuracy.update(logits, labels)
        labels = labels.to(logits.device).long()
        if self._bootstrap is not None:
            ranks = rank_of_label(logits, labels).cpu().numpy()
            counts = np.stack([*(ranks < k for k in self._accuracy.ks), np.ones(len(ranks), bool)], axis=1)
            self._bootstrap.update(counts, [int(index) for index in batch["index"]])
        chances: list[float | None] = logits.softmax(dim=1).gather(1, labels[:, None]).squeeze(1).tolist()
        return chances

    def compute(self) -> dict[str, Any]:
        """See :meth:`hrformer.metrics.accuracy.Accuracy.compute`."""
        return self._accuracy.compute()

    def intervals(self) -> dict[str, tuple[float, float]]:
        """Of every top-k."""
        if self._bootstrap is None:
            return {}
        confidence = self.resampling.confidence
        return {
            f"top{k}": self._bootstrap.interval(partial(_share, i), confidence=confidence)
            for i, k in enumerate(self._accuracy.ks)
        }

    def shown(self, prediction: Tensor) -> int:
        """The best class."""
        return int(prediction.argmax())


def _share(column: int, sums: NDArray[np.int64]) -> NDArray[np.float64]:
    return quotient(sums[:, column], sums[:, -1])
