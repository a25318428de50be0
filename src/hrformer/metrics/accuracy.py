"""Top-k accuracy of classification."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hrformer.metrics.counts import CountMetric, names_for, ratio


class Accuracy(CountMetric):
    """Share of pictures whose class is among the k best, for every k of ``ks``, over all and per class.

    Among equal logits the lower class number is the better one, as in argmax. A row with a NaN is wrong.
    """

    def __init__(self, num_classes: int, *, ks: tuple[int, ...] = (1, 5), class_names: tuple[str, ...] = ()) -> None:
        if num_classes < 1 or not ks or min(ks) < 1:
            raise ValueError(f"num_classes and every k must be at least 1, got {num_classes} and {ks}")
        super().__init__(right=(len(ks), num_classes), total=(num_classes,))
        self.ks = ks
        self.class_names = names_for(class_names, num_classes, "classes")

    def update(self, logits: Tensor, labels: Tensor) -> NDArray[np.int64]:
        """Count logits (B, C) and labels (B,) in 0..C - 1, on any device; ValueError if they do not fit.

        Returns:
            (B,) how many classes are better than the true one, see :func:`rank_of_label`.
        """
        num_classes = len(self.class_names)
        if logits.ndim != 2 or logits.shape[1] != num_classes or labels.shape != logits.shape[:1]:
            raise ValueError(
                f"logits and labels must be (B, {num_classes}) and (B,), got {tuple(logits.shape)} and "
                f"{tuple(labels.shape)}"
            )
        true = labels.detach().cpu().numpy().astype(np.int64)
        if len(true) and not 0 <= true.min() <= true.max() < num_classes:
            raise ValueError(f"labels must lie in 0..{num_classes - 1}, got {true.min()}..{true.max()}")
        ranks: NDArray[np.int64] = rank_of_label(logits.detach(), labels.to(logits.device).long()).cpu().numpy()
        self._counts["total"] += np.bincount(true, minlength=num_classes)
        for row, k in zip(self._counts["right"], self.ks, strict=True):
            row += np.bincount(true[ranks < k], minlength=num_classes)
        return ranks

    def compute(self) -> dict[str, Any]:
        """Shares in 0..1; ValueError if no picture was seen.

        Returns:
            "top<k>" for every k, "images", and "per_class": for each class its "name", "images" and the same
            scores, None where the class never occurred.
        """
        right, total = self._counts["right"], self._counts["total"]
        if not total.sum():
            raise ValueError("no picture was counted")
        keys = [f"top{k}" for k in self.ks]
        table = [
            {"name": name, "images": int(total[c]), **{key: ratio(right[i, c], total[c]) for i, key in enumerate(keys)}}
            for c, name in enumerate(self.class_names)
        ]
        scores = {key: ratio(right[i].sum(), total.sum()) for i, key in enumerate(keys)}
        return {**scores, "images": int(total.sum()), "per_class": table}


def rank_of_label(logits: Tensor, labels: Tensor) -> Tensor:
    """How many classes are better than the true one: (B, C), (B,) -> (B,) int64; C for rows with a NaN."""
    own = logits.gather(1, labels[:, None])
    earlier = torch.arange(logits.shape[1], device=logits.device) < labels[:, None]
    better = (logits > own) | ((logits == own) & earlier)
    return better.sum(1).where(~logits.isnan().any(1), logits.shape[1])
