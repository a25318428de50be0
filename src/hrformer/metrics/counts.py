"""Scores that are quotients of counts over a whole set: accuracy, PCK and IoU; and confidence intervals of them."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from hrformer.geometry.skeletons import Skeleton

State = dict[str, NDArray[Any]]  # what a metric has seen, as named arrays: easy to pickle, save and send
Statistic = Callable[[NDArray[np.int64]], NDArray[np.float64]]
"""From the sums (R, W) of R samples to R scores; NaN where a sample has none."""

CONFIDENCE = 0.95  # share of the samples inside an interval
IGNORE_INDEX = 255  # label of pixels that count nowhere
TORSO = ("left_shoulder", "right_hip")  # the joints whose distance is the torso


class CountMetric:
    """Keeps named int64 counts of fixed ``shapes``, so that memory does not grow with the samples seen."""

    def __init__(self, **shapes: tuple[int, ...]) -> None:
        self._counts = {name: np.zeros(shape, dtype=np.int64) for name, shape in shapes.items()}

    def reset(self) -> None:
        """Forget everything seen."""
        for counts in self._counts.values():
            counts.fill(0)

    def state(self) -> State:
        """A copy of the counts; states of several processes may also simply be summed."""
        return {name: counts.copy() for name, counts in self._counts.items()}

    def merge(self, state: State) -> None:
        """Add the counts of another metric; ValueError if it counts something else."""
        own, other = ({k: np.shape(v) for k, v in counts.items()} for counts in (self._counts, state))
        if own != other:
            raise ValueError(f"cannot merge counts {other} into {own}; both metrics need the same settings")
        for name, counts in self._counts.items():
            counts += np.asarray(state[name], dtype=np.int64)


class Accuracy(CountMetric):
    """Share of pictures whose class is among the k best, for every k of ``ks``, over all and per class.

    Among equal logits the lower class number is the better one, as in argmax. A row with a NaN is wrong.
    """

    def __init__(self, class_names: tuple[str, ...], ks: tuple[int, ...] = (1, 5)) -> None:
        super().__init__(right=(len(ks), len(class_names)), total=(len(class_names),))
        self.class_names, self.ks = class_names, ks

    def update(self, logits: Tensor, labels: Tensor) -> NDArray[np.int64]:
        """Count logits (B, C) and labels (B,) in 0..C - 1, on any device; ValueError if they do not fit.

        Returns:
            (B,) how many classes are better than the true one; C for rows with a NaN.
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
        logits, column = logits.detach(), labels.to(logits.device).long()[:, None]
        own = logits.gather(1, column)
        better = (logits > own) | ((logits == own) & (torch.arange(num_classes, device=logits.device) < column))
        ranks: NDArray[np.int64] = better.sum(1).where(~logits.isnan().any(1), num_classes).cpu().numpy()
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

        def scores(right: NDArray[np.int64], total: np.int64) -> dict[str, Any]:
            return {f"top{k}": ratio(count, total) for k, count in zip(self.ks, right, strict=True)}

        table = [
            {"name": name, "images": int(total[c]), **scores(right[:, c], total[c])}
            for c, name in enumerate(self.class_names)
        ]
        return {**scores(right.sum(axis=1), total.sum()), "images": int(total.sum()), "per_class": table}


class Reliability(CountMetric):
    """Whether what is said with a confidence is right that often, in ten bins of confidence (Guo et al., ICML 2017)."""

    def __init__(self, bins: int = 10) -> None:
        super().__init__(right=(bins,), count=(bins,), confidence=(bins,))

    def update(self, confidence: ArrayLike, right: ArrayLike) -> None:
        """Count (N,) confidences, clipped to 0..1, of things that were right or not (N,); NaN counts as 0."""
        said = np.nan_to_num(np.asarray(confidence, dtype=np.float64)).clip(0, 1)
        bins = len(self._counts["count"])
        place = np.minimum((said * bins).astype(np.int64), bins - 1)
        # Millionths, so that counts stay whole and merge in any order.
        for name, values in (("right", right), ("count", np.ones(len(said))), ("confidence", (said * 1e6).round())):
            self._counts[name] += np.bincount(place, np.asarray(values, dtype=np.float64), bins).astype(np.int64)

    def compute(self) -> dict[str, Any]:
        """Shares in 0..1; ValueError if nothing was counted.

        Returns:
            "calibration_error", the mean difference of mean confidence and share of right ones in a bin, weighted by
            what is in it; and "reliability": for each bin that holds something its mean "confidence", the share that
            was "right", and their "count".
        """
        right, count, said = (self._counts[name] for name in ("right", "count", "confidence"))
        if not count.sum():
            raise ValueError("nothing was counted")
        share, mean = quotient(right, count), quotient(said / 1e6, count)
        error = float(np.nansum(np.abs(share - mean) * count) / count.sum())
        rows = [
            {"confidence": float(mean[i]), "right": float(share[i]), "count": int(count[i])}
            for i in np.flatnonzero(count)
        ]
        return {"calibration_error": error, "reliability": rows}


def reference_joints(skeleton: Skeleton, norm: Sequence[str] = ()) -> tuple[int, int] | None:
    """Numbers of the two joints that PCK is measured against; None for the longer side of the box.

    ``norm`` holds two names, nothing for the torso, or "box"; ValueError where it names no two joints of the skeleton.
    """
    names = skeleton.keypoints
    if tuple(norm) == ("box",):
        return None
    if not norm and (missing := [name for name in TORSO if name not in names]):
        raise ValueError(
            f"PCK is measured against the torso, but {skeleton.name} has no {' and no '.join(missing)}. Measure it "
            "against the box, --evaluation.pck-norm box, or against the distance of two joints, such as "
            f"--evaluation.pck-norm {' '.join(names[:2])}; the joints are {', '.join(names)}"
        )
    norm = norm or TORSO
    for name in norm:
        if name not in names:
            close = difflib.get_close_matches(name, names, 1)
            hint = f"; did you mean {close[0]}" if close else ""
            raise ValueError(
                f"evaluation.pck_norm: {skeleton.name} has no joint {name!r}{hint}. Its joints are {', '.join(names)}; "
                "'box' alone takes the box"
            )
    if len(norm) != 2 or norm[0] == norm[1]:
        raise ValueError(f"evaluation.pck_norm must be 'box' or two different joints, got {' '.join(norm)}")
    return names.index(norm[0]), names.index(norm[1])


class Pck(CountMetric):
    """Percentage of correct keypoints (PCK) over all counted joints of all people, and per joint.

    ``torso`` are the numbers of the two reference joints, see :func:`reference_joints`, or None for lengths that come
    with the people; ``alpha`` is the allowed distance as a share of the reference.
    """

    def __init__(self, joint_names: tuple[str, ...], *, torso: tuple[int, int] | None, alpha: float = 0.2) -> None:
        super().__init__(right=(len(joint_names),), counted=(len(joint_names),), people=(2,))
        self.joint_names, self.torso, self.alpha = joint_names, torso, alpha

    def update(self, predicted: ArrayLike, labelled: ArrayLike, lengths: ArrayLike | None = None) -> NDArray[np.int64]:
        """Count some people: a joint within ``alpha`` x reference length of its label is right, exactly so much, too.

        Args:
            predicted: (N, K, 2|3), (x, y) in picture pixels; a third value is not used. What is not finite is wrong.
            labelled: (N, K, 3), (x, y, v) in picture pixels, v > 0 where labelled. Labelled joints count of people
                with both reference joints labelled, or a length above 0.
            lengths: (N,) in picture pixels where there are no reference joints, such as the longer sides of the boxes
                (mmpose's ``norm_item`` "bbox").

        Returns:
            (N, 2) right and counted joints of each.
        """
        return self.add(*self.judge(predicted, labelled, lengths))

    def add(self, right: NDArray[np.bool_], counted: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Count people as :meth:`judge` judged them; returns what :meth:`update` does."""
        self._counts["right"] += right.sum(axis=0)
        self._counts["counted"] += counted.sum(axis=0)
        self._counts["people"] += (counted.any(axis=1).sum(), len(counted))
        return np.stack([right.sum(axis=1), counted.sum(axis=1)], axis=1)

    def judge(
        self, predicted: ArrayLike, labelled: ArrayLike, lengths: ArrayLike | None = None
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Which joints are right, and which count (N, K), as :meth:`update` takes them, without counting them."""
        points, truth = np.asarray(predicted, dtype=np.float64), np.asarray(labelled, dtype=np.float64)
        if points.ndim != 3 or points.shape[2] not in (2, 3) or truth.shape != (*points.shape[:2], 3):
            raise ValueError(f"joints must be (N, K, 2|3) and labels (N, K, 3), got {points.shape} and {truth.shape}")
        if points.shape[1] != len(self.joint_names):
            raise ValueError(f"people must have {len(self.joint_names)} joints, got {points.shape[1]}")
        known = truth[..., 2] > 0
        if self.torso is None:
            length = np.asarray(lengths, dtype=np.float64)
            if length.shape != points.shape[:1]:
                raise ValueError(f"lengths must be ({len(points)},), one for each of the people, got {length.shape}")
            counted = known & (length > 0)[:, None]
        else:
            counted = known & known[:, self.torso].all(axis=1, keepdims=True)
            length = np.linalg.norm(truth[:, self.torso[0], :2] - truth[:, self.torso[1], :2], axis=1)
        distance = np.linalg.norm(points[..., :2] - truth[..., :2], axis=2)
        return counted & (distance <= self.alpha * length[:, None]), counted

    def compute(self) -> dict[str, Any]:
        """Shares in 0..1; ValueError if no joint was counted.

        Returns:
            "pck@<alpha>", "joints" (how many were counted), "people" (with both reference joints), "people_seen",
            and "per_joint": for each its "name", "joints" and "pck", None where it was never labelled.
        """
        right, counted, people = (self._counts[key] for key in ("right", "counted", "people"))
        if not counted.sum():
            needed = "a box" if self.torso is None else " and ".join(self.joint_names[joint] for joint in self.torso)
            raise ValueError(f"no joint was counted: none of {people[1]} people has {needed} labelled, and a joint")
        return {
            f"pck@{self.alpha:g}": ratio(right.sum(), counted.sum()),
            "joints": int(counted.sum()),
            "people": int(people[0]),
            "people_seen": int(people[1]),
            "per_joint": [
                {"name": name, "joints": int(counted[j]), "pck": ratio(right[j], counted[j])}
                for j, name in enumerate(self.joint_names)
            ],
        }


class SegmentationScores(CountMetric):
    """Mean intersection over union (IoU) and pixel accuracy by one confusion matrix over pictures of any sizes."""

    def __init__(self, class_names: tuple[str, ...]) -> None:
        super().__init__(matrix=(len(class_names), len(class_names)))
        self.class_names = class_names

    def update(
        self, predictions: Tensor | NDArray[np.integer], labels: Tensor | NDArray[np.integer]
    ) -> NDArray[np.int64]:
        """Count one picture or a batch, where the predictions lie; ValueError if they do not fit.

        Args:
            predictions: (..., H, W) integers in 0..C - 1, of any value where the label is ``IGNORE_INDEX``.
            labels: same shape, integers in 0..C - 1 or ``IGNORE_INDEX``.

        Returns:
            (C, C) how often each label was predicted as each class; rows are labels.
        """
        count, predicted = len(self.class_names), torch.as_tensor(predictions)
        true = torch.as_tensor(labels).to(predicted.device)
        if predicted.shape != true.shape:
            raise ValueError(f"predictions and labels must have one shape, got {predicted.shape} and {true.shape}")
        counted = true != IGNORE_INDEX
        predicted, true = predicted[counted], true[counted]
        for kind, classes in (("labels", true), ("predictions", predicted)):
            if classes.is_floating_point():
                raise ValueError(f"{kind} must be integers, got {classes.dtype}")
            if classes.numel() and not 0 <= (low := int(classes.min())) <= (high := int(classes.max())) < count:
                hint = f" or be {IGNORE_INDEX}" if kind == "labels" else ""
                raise ValueError(f"{kind} must lie in 0..{count - 1}{hint}, got {low}..{high}")
        cells = torch.bincount(true.long() * count + predicted.long(), minlength=count**2)
        matrix = cells.reshape(count, count).cpu().numpy()
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


def intersection_over_union(matrix: NDArray[np.integer]) -> NDArray[np.float64]:
    """IoU per class from a confusion matrix (C, C); NaN where a class is in no label and no prediction."""
    both = np.diag(matrix)
    return quotient(both, matrix.sum(axis=0) + matrix.sum(axis=1) - both)


class PoissonBootstrap(CountMetric):
    """Weighted sums of counts for R samples of the set: one pass, and memory that does not grow with the set.

    A bootstrap draws a set anew from its pictures. In a large set the times that each picture is drawn are nearly
    independent and Poisson distributed with mean 1 (Hanley and MacGibbon, *Creating non-parametric bootstrap samples
    using Poisson frequencies*, 2006). The weights of an item follow from ``seed`` and its number alone, hence neither
    order nor sharing among processes changes a result. ``width`` W is how many counts an item has.
    """

    def __init__(self, width: int, *, samples: int = 1000, seed: int = 0) -> None:
        super().__init__(sums=(samples, width), items=(1,))
        self.seed = seed

    def update(self, counts: ArrayLike, numbers: Sequence[int]) -> None:
        """Add ``counts`` (N, W) of some items; less than 2^53 of one count in one call.

        Each has a number, or that of what it is drawn with: people of one picture share its number.
        """
        sums, values = self._counts["sums"], np.asarray(counts)
        if values.shape != (len(numbers), sums.shape[1]):
            raise ValueError(f"counts must be ({len(numbers)}, {sums.shape[1]}), got {values.shape}")
        if not len(values):
            return
        weights = np.stack([self._weights(number) for number in numbers], axis=1)
        # Floating point for the speed of its product; whole numbers of this size are exact.
        sums += (weights.astype(np.float64) @ values.astype(np.float64)).astype(np.int64)
        self._counts["items"] += len(values)

    def _weights(self, number: int) -> NDArray[np.int64]:
        """(R,) how often the item is drawn in each sample."""
        # Philox takes any key as it is: a stream of its own for every (seed, number).
        key = np.array([self.seed, number], dtype=np.int64).view(np.uint64)
        return np.random.Generator(np.random.Philox(key=key)).poisson(1.0, len(self._counts["sums"]))

    def interval(self, statistic: Statistic) -> tuple[float, float]:
        """Lower and upper end for one score; ValueError if no item was seen or no sample has a score."""
        if not self._counts["items"][0]:
            raise ValueError("no item was counted")
        return percentile_interval(statistic(self._counts["sums"].copy()))


def percentile_interval(values: ArrayLike) -> tuple[float, float]:
    """The range that holds ``CONFIDENCE`` of the samples' scores (R,), those without one (NaN) left out."""
    scores = np.asarray(values, dtype=np.float64)
    if np.isnan(scores).all():
        raise ValueError("the statistic is NaN for every sample")
    tail = (1 - CONFIDENCE) / 2
    low, high = np.nanquantile(scores, [tail, 1 - tail])
    return float(low), float(high)


def quotient(part: NDArray[Any], whole: NDArray[Any]) -> NDArray[np.float64]:
    """``part / whole`` element by element, NaN where there is nothing to divide by."""
    return np.divide(part, whole, out=np.full(np.shape(part), np.nan), where=np.asarray(whole) != 0)


def ratio(part: int | np.integer, whole: int | np.integer) -> float | None:
    """``part / whole``, or None where there is nothing to divide by."""
    return float(part / whole) if whole else None
