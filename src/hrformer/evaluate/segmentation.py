"""Mean IoU of a segmentation model, at the pictures' own sizes and by one confusion matrix over the set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hrformer.data.loader import Batch, Transform
from hrformer.data.sets import IGNORE, SegmentationSet
from hrformer.data.transforms.segmentation import TestSegmentation
from hrformer.evaluate.inference import Network, Precision
from hrformer.evaluate.protocols import SegmentationProtocol
from hrformer.evaluate.scores import NO_INTERVALS, Mergeable, Resampling, Scores
from hrformer.geometry.tiles import best_classes, fuse_scales, fuse_windows, pad_to_multiple
from hrformer.metrics.resampling import PoissonBootstrap, quotient
from hrformer.metrics.segmentation import SegmentationScores, confusion_matrix, intersection_over_union
from hrformer.models.model import VisionModel


class Segmenter(Network):
    """Pictures to a class per pixel.

    Args:
        model: segments.
        protocol: how it is tested.
        device: see ``Network``.
        precision: see ``Network``.
    """

    task = "segmentation"

    def __init__(
        self,
        model: VisionModel,
        protocol: SegmentationProtocol,
        device: str | torch.device | None = None,
        precision: Precision = "fp32",
    ) -> None:
        super().__init__(model, device, precision)
        self.protocol = protocol

    def transform(self) -> Transform:
        """Resize as the protocol says; the mask keeps its size."""
        protocol, spec = self.protocol, self.model.info.input_spec
        short_side = min(spec.size) if protocol.short_side == 0 else protocol.short_side
        return TestSegmentation(spec, short_side=short_side, size=protocol.size)

    def predict(self, batch: Batch) -> Sequence[Tensor]:
        """(H, W) int32 class ids of each picture at its original size, on the device."""
        images = batch["image"]
        groups = [images] if isinstance(images, Tensor) else [image[None] for image in images]
        logits = [row for group in groups for row in self.logits(group)]
        sizes = [(int(width), int(height)) for height, width in batch["original"]]
        return [best_classes(row, size) for row, size in zip(logits, sizes, strict=True)]

    def logits(self, images: Tensor) -> Tensor:
        """(B, 3, h, w) uint8 RGB at network size -> (B, C, h, w) logits."""
        protocol = self.protocol
        x = pad_to_multiple(self.network_input(images), protocol.pad_multiple)
        if protocol.window is None:
            fused = self._fused(x)
        else:
            fused = fuse_windows(self._fused, x, protocol.window, protocol.steps)
        return fused[:, :, : images.shape[2], : images.shape[3]]

    def _fused(self, x: Tensor) -> Tensor:
        return fuse_scales(self.run, x, self.protocol.scales, self.protocol.flip)


class SegmentationSetScores(Scores):
    """One confusion matrix, and the intervals of its scores.

    Args:
        source: the set; only its classes are used.
        resampling: of the intervals.
    """

    task = "segmentation"
    main = "mean_iou"

    def __init__(self, source: SegmentationSet, resampling: Resampling = NO_INTERVALS) -> None:
        self._matrix = SegmentationScores(len(source.classes), class_names=source.classes, ignore_index=IGNORE)
        self.resampling = resampling
        self.parts: dict[str, Mergeable] = {"matrix": self._matrix}
        self._bootstrap: PoissonBootstrap | None = None
        if resampling.samples:
            width = 3 * len(source.classes)
            self._bootstrap = PoissonBootstrap(width, samples=resampling.samples, seed=resampling.seed)
            self.parts["bootstrap"] = self._bootstrap

    def update(self, batch: Mapping[str, Any], predictions: Sequence[Any]) -> list[float | None]:
        """Count (H, W) class ids against "mask".

        The score of a picture is its own mean IoU, over the classes in its mask and its prediction.
        """
        scores: list[float | None] = []
        for index, predicted, mask in zip(batch["index"], predictions, batch["mask"], strict=True):
            matrix = confusion_matrix(predicted, mask, len(self._matrix.class_names), IGNORE)
            self._matrix.merge({"matrix": matrix})
            if self._bootstrap is not None:
                counts = np.concatenate([np.diag(matrix), matrix.sum(axis=0), matrix.sum(axis=1)])
                self._bootstrap.update(counts[None], [int(index)])
            scores.append(float(np.nanmean(intersection_over_union(matrix))) if matrix.any() else None)
        return scores

    def compute(self) -> dict[str, Any]:
        """See :meth:`hrformer.metrics.segmentation.SegmentationScores.compute`."""
        return self._matrix.compute()

    def intervals(self) -> dict[str, tuple[float, float]]:
        """Of mean IoU, pixel accuracy and mean accuracy."""
        if self._bootstrap is None:
            return {}
        statistics = {"mean_iou": _mean_iou, "pixel_accuracy": _pixel_accuracy, "mean_accuracy": _mean_accuracy}
        return {
            key: self._bootstrap.interval(statistic, confidence=self.resampling.confidence)
            for key, statistic in statistics.items()
        }

    def shown(self, prediction: Any) -> NDArray[np.unsignedinteger]:
        """The mask, as small as its ids allow."""
        mask = prediction.cpu().numpy() if isinstance(prediction, Tensor) else np.asarray(prediction)
        return mask.astype(np.uint8 if len(self._matrix.class_names) <= 256 else np.uint16)


def _mean_iou(sums: NDArray[np.int64]) -> NDArray[np.float64]:
    both, predicted, labelled = np.split(sums, 3, axis=1)
    return _row_means(quotient(both, predicted + labelled - both))


def _mean_accuracy(sums: NDArray[np.int64]) -> NDArray[np.float64]:
    both, _, labelled = np.split(sums, 3, axis=1)
    return _row_means(quotient(both, labelled))


def _pixel_accuracy(sums: NDArray[np.int64]) -> NDArray[np.float64]:
    both, _, labelled = np.split(sums, 3, axis=1)
    return quotient(both.sum(axis=1), labelled.sum(axis=1))


def _row_means(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean of each row over what is not NaN; NaN where nothing is left."""
    known = ~np.isnan(values)
    return quotient(np.where(known, values, 0).sum(axis=1), known.sum(axis=1))
