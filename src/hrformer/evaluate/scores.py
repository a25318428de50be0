"""Scores of the three tasks over a whole set, with their intervals.

They take predictions from wherever they come, a network or a file, in any order.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from hrformer.data.coco_labels import truth_of
from hrformer.data.set_types import ClassificationSet, ImageSet, Person, PoseSet, SegmentationSet
from hrformer.evaluate.inference import ALONE, Processes
from hrformer.evaluate.protocols import Evaluation, Example, FoundPerson, PoseProtocol, Protocol
from hrformer.geometry.oks import MASK_SHARE, oks, rescore
from hrformer.geometry.skeletons import Skeleton
from hrformer.geometry.tiles import smallest_ids
from hrformer.metrics.coco_keypoints import CocoKeypoints
from hrformer.metrics.counts import (
    Accuracy,
    Pck,
    PoissonBootstrap,
    Reliability,
    SegmentationScores,
    Statistic,
    intersection_over_union,
    quotient,
    reference_joints,
)


class Scores(ABC):
    """Scores of one task.

    Args:
        main: key of the score that decides.
        parts: everything that counts; a dictionary, so that all processes merge alike.
        bootstrap: samples for confidence intervals; 0 for none, here as in all scores below.
        statistics: scores that get an interval, each from the sums of ``width`` counts per item.
    """

    task: ClassVar[str]

    def __init__(
        self,
        main: str,
        parts: Mapping[str, Any],
        bootstrap: int,
        statistics: Mapping[str, Statistic],
        width: int,
    ) -> None:
        if bootstrap < 0:
            raise ValueError(f"bootstrap samples must not be negative, got {bootstrap}")
        self.main, self.samples, self.statistics = main, bootstrap, statistics
        self.parts = dict(parts)
        self._bootstrap: PoissonBootstrap | None = None
        if bootstrap and statistics:
            self.parts["bootstrap"] = self._bootstrap = PoissonBootstrap(width, samples=bootstrap)

    @abstractmethod
    def update(self, batch: Mapping[str, Any], predictions: Sequence[Any]) -> list[float | None]:
        """Count a batch: "index" (B,) item numbers, labels if the task takes them from it, and a prediction per item.

        Returns each item's own score in 0..1, or None where it has no label to be held against.
        """

    def compute(self) -> dict[str, Any]:
        """Scores and tables in JSON types; raises ValueError if nothing was counted."""
        found = [part.compute() for name, part in self.parts.items() if name not in ("bootstrap", "reliability")]
        said = self.parts.get("reliability")
        return joined(*found) | (said.compute() if said is not None else {})

    def intervals(self) -> dict[str, tuple[float, float]]:
        """Confidence intervals by key of ``compute``; empty where none were asked for."""
        if self._bootstrap is None:
            return {}
        return {key: self._bootstrap.interval(statistic) for key, statistic in self.statistics.items()}

    def shown(self, prediction: Any) -> Any:
        """A prediction in the form that ``Example`` holds."""
        return prediction

    def resample(self, counts: ArrayLike, numbers: Sequence[int]) -> None:
        """Take (N, width) counts into the intervals; items of one number are drawn together."""
        if self._bootstrap is not None:
            self._bootstrap.update(counts, numbers)


def share(sums: NDArray[np.int64], column: int = 0) -> NDArray[np.float64]:
    """One column of the sums over the last."""
    return quotient(sums[:, column], sums[:, -1])


class ClassificationScores(Scores):
    """Accuracy over a set's classes, with the k of top-k; None: 1, and 5 where there are more than five classes.

    ``ranks``: the logits only stand for an order of the classes, so that they say nothing about confidence.
    """

    task = "classification"

    def __init__(
        self, source: ClassificationSet, bootstrap: int = 0, ks: tuple[int, ...] | None = None, *, ranks: bool = False
    ) -> None:
        count = len(source.classes)
        ks = ks or ((1, 5) if count > 5 else (1,))
        self._accuracy, self._reliability = Accuracy(source.classes, ks), None if ranks else Reliability()
        statistics = {f"top{k}": partial(share, column=i) for i, k in enumerate(ks)}
        parts: dict[str, Any] = {"accuracy": self._accuracy}
        parts |= {} if self._reliability is None else {"reliability": self._reliability}
        super().__init__(f"top{ks[0]}", parts, bootstrap, statistics, len(ks) + 1)

    def update(self, batch: Mapping[str, Any], predictions: Sequence[Tensor]) -> list[float | None]:
        # Logits (C,) against "label"; the score of a picture is the probability of its class.
        logits, labels = torch.stack(list(predictions)), torch.as_tensor(batch["label"])
        ranks = self._accuracy.update(logits, labels)
        counts = np.stack([*(ranks < k for k in self._accuracy.ks), np.ones(len(ranks), bool)], axis=1)
        self.resample(counts, [int(index) for index in batch["index"]])
        labels = labels.to(logits.device).long()
        probabilities = logits.softmax(dim=1)
        if self._reliability is not None:
            self._reliability.update(probabilities.amax(dim=1).cpu().numpy(), ranks == 0)
        chances: list[float | None] = probabilities.gather(1, labels[:, None]).squeeze(1).tolist()
        return chances

    def shown(self, prediction: Tensor) -> int:
        return int(prediction.argmax())


class PoseScores(Scores):
    """COCO's figures, PCK, or both: then there is one table per joint, and COCO's number of people is "coco_people".

    Only the first ``num_items`` are evaluated; COCO's figures then see only their pictures. Intervals draw pictures.

    Raises:
        ImportError: COCO's figures are asked for without faster-coco-eval.
        ValueError: the set lacks what a score needs.
    """

    task = "pose"

    def __init__(self, source: PoseSet, protocol: PoseProtocol, *, num_items: int, bootstrap: int = 0) -> None:
        self.source, self.protocol = source, protocol
        self._pck: Pck | None = None
        self._coco: CocoKeypoints | None = None
        parts: dict[str, Any] = {}
        if protocol.score in ("pck", "both"):
            torso = reference_joints(source.skeleton, protocol.pck_norm)
            require_reference(source, torso)
            parts["pck"] = self._pck = Pck(source.skeleton.keypoints, torso=torso, alpha=protocol.alpha)
            parts["reliability"] = self._reliability = Reliability()
        if protocol.score in ("coco", "both"):
            require_coco()
            taken = {source.person(index).image_id for index in range(num_items)} if num_items < len(source) else None
            parts["coco"] = self._coco = CocoKeypoints(
                labels_of(source),
                source.skeleton.sigmas,
                joint_names=source.skeleton.keypoints,
                image_ids=taken or source.image_ids,
                nms_threshold=protocol.nms_threshold,
            )
            labels = self._coco.annotations["annotations"]
            if not any(person["num_keypoints"] > 0 and not person["iscrowd"] for person in labels):
                people = f"none of its {len(labels)} labelled people"
                raise ValueError(f"AP is not defined on {source.name}: {people} has a labelled joint")
        main = "AP" if self._pck is None else f"pck@{protocol.alpha:g}"
        super().__init__(main, parts, bootstrap, {} if self._pck is None else {main: share}, 2)

    def update(self, batch: Mapping[str, Any], predictions: Sequence[FoundPerson]) -> list[float | None]:
        # The score of a person is its OKS over the labelled joints, None for a detected box.
        numbers = [int(index) for index in batch["index"]]
        people = [self.source.person(index) for index in numbers]
        if self._coco is not None:
            self._coco.update(results_of(people, predictions, self.protocol.joint_threshold), numbers)
        if self._pck is not None:
            found = np.stack([prediction.joints for prediction in predictions])
            labelled = np.stack([person.keypoints for person in people])
            lengths = [float(person.box[2:].max()) for person in people]
            right, counted = self._pck.judge(found, labelled, lengths)
            counts = self._pck.add(right, counted)
            self._reliability.update(found[..., 2][counted], right[counted])
            self.resample(counts, [self.source.picture(index) for index in numbers])
        pairs = zip(predictions, people, strict=True)
        return [own_similarity(found.joints, person, self.source.skeleton) for found, person in pairs]

    def intervals(self) -> dict[str, tuple[float, float]]:
        found = super().intervals()
        if self._coco is not None and self.samples:
            found |= self._coco.evaluate().intervals(self.samples)
        return found

    def shown(self, prediction: FoundPerson) -> NDArray[np.float32]:
        return prediction.joints


def results_of(
    people: Sequence[Person], predictions: Sequence[FoundPerson], joint_threshold: float
) -> list[dict[str, Any]]:
    """COCO's results of people who were looked for and what was found, with the padded box's "area" for suppression.

    Joints must score above ``joint_threshold`` to count in a person's score.
    """
    return [
        {
            "image_id": person.image_id,
            "category_id": person.category_id,
            "keypoints": found.joints,
            "score": float(rescore(person.score, found.joints[:, 2], joint_threshold)),
            "area": found.area,
        }
        for person, found in zip(people, predictions, strict=True)
    ]


def own_similarity(joints: NDArray[np.floating], person: Person, skeleton: Skeleton) -> float | None:
    """OKS of (K, 3) joints to the labelled joints of a person, at the person's own area; None without labels."""
    known = person.keypoints[:, 2] > 0
    if not known.any():
        return None
    area = person.area or MASK_SHARE * float(person.box[2] * person.box[3])
    sigmas = np.asarray(skeleton.sigmas)[known]
    return float(oks(person.keypoints[known], joints[None, known], area, [area], sigmas)[0])


def joined(pck: dict[str, Any], coco: dict[str, Any] | None = None) -> dict[str, Any]:
    """One dictionary of both metrics' scores; where a name means two things, PCK keeps it. One metric's as they are."""
    if not pck or not coco:
        return pck or coco or {}
    table = [{**a, **b} for a, b in zip(pck["per_joint"], coco["per_joint"], strict=True)]
    return {**coco, **pck, "coco_people": coco["people"], "per_joint": table}


def labels_of(source: PoseSet) -> Mapping[str, Any]:
    """What COCO's figures compare with: the people that training sees, crowds, and people without joints."""
    truth = source.truth()
    if truth is None:
        raise ValueError(f"{source.name} has no annotation file, which COCO's figures need")
    return truth if isinstance(truth, Mapping) else truth_of(truth, source.skeleton.num_keypoints)


def require_reference(source: PoseSet, torso: tuple[int, int] | None) -> None:
    """Raise a ValueError unless PCK has something to count: somebody with both reference joints labelled."""
    if torso is None:
        return
    people = (source.person(index).keypoints[list(torso), 2] for index in range(len(source)))
    if not any((flags > 0).all() for flags in people):
        names = " and ".join(source.skeleton.keypoints[joint] for joint in torso)
        raise ValueError(
            f"{source.name}: PCK is measured against {names}, which nobody has both labelled; take other joints, or "
            "the box: --evaluation.pck-norm box"
        )


def require_coco() -> None:
    """COCO's figures must be at hand before a long evaluation, not only at its end; ImportError if not."""
    if find_spec("faster_coco_eval") is None:
        raise ImportError("COCO's figures need faster-coco-eval: pip install 'hrformer[train]'")


class SegmentationSetScores(Scores):
    """One confusion matrix over the set, of which only the classes are used."""

    task = "segmentation"

    def __init__(self, source: SegmentationSet, bootstrap: int = 0) -> None:
        self._matrix = SegmentationScores(source.classes)
        statistics = {"mean_iou": _mean_iou, "pixel_accuracy": _pixel_accuracy, "mean_accuracy": _mean_accuracy}
        super().__init__("mean_iou", {"matrix": self._matrix}, bootstrap, statistics, 3 * len(source.classes))

    def update(self, batch: Mapping[str, Any], predictions: Sequence[Any]) -> list[float | None]:
        # The score of a picture is its own mean IoU, over the classes in its mask and its prediction.
        scores: list[float | None] = []
        for index, predicted, mask in zip(batch["index"], predictions, batch["mask"], strict=True):
            matrix = self._matrix.update(predicted, mask)
            counts = np.concatenate([np.diag(matrix), matrix.sum(axis=0), matrix.sum(axis=1)])
            self.resample(counts[None], [int(index)])
            scores.append(float(np.nanmean(intersection_over_union(matrix))) if matrix.any() else None)
        return scores

    def shown(self, prediction: Any) -> NDArray[np.unsignedinteger]:
        return smallest_ids(torch.as_tensor(prediction), len(self._matrix.class_names))


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


def scores_for(source: ImageSet, protocol: Protocol, num_items: int, bootstrap: int = 0) -> Scores:
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
    """Counts predictions for a set and finishes an evaluation, over all processes that took part.

    So many of the ``worst`` items are kept; of equal scores the lower number is the worse.
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
