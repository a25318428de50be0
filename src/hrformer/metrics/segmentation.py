"""Mean intersection over union and pixel accuracy by one confusion matrix over the whole set."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hrformer.metrics.counts import CountMetric, names_for, quotient, ratio


def confusion_matrix(
    predictions: Tensor | NDArray[np.integer],
    labels: Tensor | NDArray[np.integer],
    num_classes: int,
    ignore_index: int = 255,
) -> NDArray[np.int64]:
    """How often each label was predicted as each class (C, C), rows are labels; counted where the predictions lie.

    Args:
        predictions: (..., H, W) integers in 0..C - 1, of any value where the label is ignored.
        labels: same shape, integers in 0..C - 1 or ``ignore_index``.

    Raises:
        ValueError: shapes differ, or a class is out of range or not an integer.
    """
    predicted = torch.as_tensor(predictions)
    true = torch.as_tensor(labels).to(predicted.device)
    if predicted.shape != true.shape:
        raise ValueError(f"predictions and labels must have one shape, got {predicted.shape} and {true.shape}")
    counted = true != ignore_index
    predicted, true = predicted[counted], true[counted]
    for kind, classes in (("labels", true), ("predictions", predicted)):
        if classes.is_floating_point():
            raise ValueError(f"{kind} must be integers, got {classes.dtype}")
        if classes.numel() and not 0 <= (low := int(classes.min())) <= (high := int(classes.max())) < num_classes:
            hint = f" or be {ignore_index}" if kind == "labels" else ""
            raise ValueError(f"{kind} must lie in 0..{num_classes - 1}{hint}, got {low}..{high}")
    cells = torch.bincount(true.long() * num_classes + predicted.long(), minlength=num_classes**2)
    return cells.reshape(num_classes, num_classes).cpu().numpy()


def intersection_over_union(matrix: NDArray[np.integer]) -> NDArray[np.float64]:
    """IoU per class from a confusion matrix (C, C); NaN where a class is in no label and no prediction."""
    both = np.diag(matrix)
    return quotient(both, matrix.sum(axis=0) + matrix.sum(axis=1) - both)


class SegmentationScores(CountMetric):
    """One confusion matrix over all pictures, of any sizes; pixels labelled ``ignore_index`` are left out."""

    def __init__(self, num_classes: int, *, class_names: tuple[str, ...] = (), ignore_index: int = 255) -> None:
        if num_classes < 1 or 0 <= ignore_index < num_classes:
            raise ValueError(f"ignore_index must not be one of the classes 0..{num_classes - 1}, got {ignore_index}")
        super().__init__(matrix=(num_classes, num_classes))
        self.class_names = names_for(class_names, num_classes, "classes")
        self.ignore_index = ignore_index

    @property
    def matrix(self) -> NDArray[np.int64]:
        """(C, C) pixels seen, rows are labels, columns predictions."""
        return self._counts["matrix"].copy()

    def update(
        self, predictions: Tensor | NDArray[np.integer], labels: Tensor | NDArray[np.integer]
    ) -> NDArray[np.int64]:
        """Count one picture or a batch; arguments, outcome and errors as in :func:`confusion_matrix`."""
        matrix = confusion_matrix(predictions, labels, len(self.class_names), self.ignore_index)
        self._counts["matrix"] += matrix
        return matrix

    def compute(self) -> dict[str, Any]:
        """Shares in 0..1; ValueError if no pixel was counted.

        Returns:
            "mean_iou" over the classes that occur in labels or predictions, "pixel_accuracy", "mean_accuracy"
            over the classes that occur in labels, "frequency_weighted_iou", "pixels", and "per_class": for each
            its "name", "pixels" (labelled), "iou" and "accuracy", None where the class does not occur.
        """
        matrix = self._counts["matrix"]
        labelled, right, total = matrix.sum(axis=1), np.diag(matrix), matrix.sum()
        if not total:
            raise ValueError("no pixel was counted: there was no picture, or every label is ignored")
        iou = intersection_over_union(matrix)
        occurs = labelled > 0
        table = []
        for name, pixels, both, share in zip(self.class_names, labelled, right, iou, strict=True):
            share = None if np.isnan(share) else float(share)
            table.append({"name": name, "pixels": int(pixels), "iou": share, "accuracy": ratio(both, pixels)})
        return {
            "mean_iou": float(np.nanmean(iou)),
            "pixel_accuracy": ratio(right.sum(), total),
            "mean_accuracy": float((right[occurs] / labelled[occurs]).mean()),
            "frequency_weighted_iou": float((labelled[occurs] * iou[occurs]).sum() / total),
            "pixels": int(total),
            "per_class": table,
        }
