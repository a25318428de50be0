"""COCO's ten figures and PCK of a top-down pose model."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hrformer.data.loader import Batch, Transform
from hrformer.data.sets import Person, PoseSet
from hrformer.data.transforms.pose import TestPose
from hrformer.evaluate.inference import Network, Precision
from hrformer.evaluate.protocols import PoseProtocol
from hrformer.evaluate.scores import NO_INTERVALS, Mergeable, Resampling, Scores
from hrformer.geometry.flips import flip_image, merge_flipped
from hrformer.geometry.heatmaps import cells_to_image
from hrformer.geometry.oks import MASK_SHARE, oks, rescore
from hrformer.geometry.skeletons import Skeleton
from hrformer.metrics.bootstrap import bootstrap_interval
from hrformer.metrics.coco_keypoints import FIGURES, CocoKeypoints
from hrformer.metrics.pck import Pck, correct_keypoints, reference_joints
from hrformer.metrics.resampling import PoissonBootstrap, quotient
from hrformer.models.model import VisionModel

Annotations = str | Path | Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FoundPerson:
    """What the network says about one box.

    Attributes:
        joints: (K, 3) float32 (x, y, score) in picture pixels.
        area: of the padded box in square pixels.
    """

    joints: NDArray[np.float32]
    area: float


class PoseNetwork(Network):
    """Boxes to joints.

    Args:
        model: finds joints.
        skeleton: of the data; its pairs change places in the mirror image.
        protocol: how it is tested.
        device: see ``Network``.
        precision: see ``Network``.
    """

    task = "pose"

    def __init__(
        self,
        model: VisionModel,
        skeleton: Skeleton,
        protocol: PoseProtocol,
        device: str | torch.device | None = None,
        precision: Precision = "fp32",
    ) -> None:
        super().__init__(model, device, precision)
        self.skeleton, self.protocol = skeleton, protocol

    def transform(self) -> Transform:
        """Cut the person out."""
        return TestPose(self.model.info.input_spec, udp=self.model.info.decoder == "udp")

    def predict(self, batch: Batch) -> Sequence[FoundPerson]:
        """The joints of each person."""
        maps = self.heatmaps(batch["image"])
        codec = self.model.info.codec((int(maps.shape[2]), int(maps.shape[3])))
        cells, scores = (values.cpu().numpy() for values in codec.decode(maps))
        centers, sizes = (batch[key].numpy() for key in ("center", "size"))
        points = cells_to_image(cells, centers, sizes, codec.steps)
        joints = np.concatenate([points, scores[..., None]], axis=2)
        return [FoundPerson(joints=row, area=float(area)) for row, area in zip(joints, sizes.prod(axis=1), strict=True)]

    def heatmaps(self, crops: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 RGB crops -> (B, K, h, w), averaged with the mirror image's where asked for."""
        x = self.network_input(crops)
        plain = self.run(x)
        if not self.protocol.flip:
            return plain
        shift = self.protocol.shift and self.model.info.shift_heatmap
        return merge_flipped(plain, self.run(flip_image(x)), self.skeleton.flip_pairs, shift)


class PoseScores(Scores):
    """COCO's figures, PCK, or both, and their intervals.

    Args:
        source: the set.
        protocol: which scores, and by which rules.
        num_items: only the first so many items are evaluated; COCO's figures then see only their pictures.
        resampling: of the intervals, by pictures.

    Raises:
        ImportError: COCO's figures are asked for without faster-coco-eval.
        ValueError: the set lacks what a score needs.
    """

    task = "pose"

    def __init__(
        self, source: PoseSet, protocol: PoseProtocol, *, num_items: int, resampling: Resampling = NO_INTERVALS
    ) -> None:
        self.source, self.protocol, self.resampling = source, protocol, resampling
        self.parts: dict[str, Mergeable] = {}
        self._pck: Pck | None = None
        self._bootstrap: PoissonBootstrap | None = None
        self._coco: CocoKeypoints | None = None
        skeleton = source.skeleton
        self.main = "AP"
        if protocol.score in ("pck", "both"):
            self.main = f"pck@{protocol.alpha:g}"
            self.parts["pck"] = self._pck = Pck(
                skeleton.keypoints, torso=reference_joints(skeleton, protocol.pck_norm), alpha=protocol.alpha
            )
            require_reference(source, self._pck.torso)
            if resampling.samples:
                self._bootstrap = PoissonBootstrap(2, samples=resampling.samples, seed=resampling.seed)
                self.parts["bootstrap"] = self._bootstrap
        if protocol.score in ("coco", "both"):
            require_coco()
            taken = {source.person(index).image_id for index in range(num_items)} if num_items < len(source) else None
            self.parts["coco"] = self._coco = CocoKeypoints(
                labels_of(source),
                skeleton.sigmas,
                joint_names=skeleton.keypoints,
                image_ids=taken or image_ids_of(source),
                nms_threshold=protocol.nms_threshold,
            )
            labels = self._coco.annotations["annotations"]
            if not any(person["num_keypoints"] > 0 and not person["iscrowd"] for person in labels):
                people = f"none of its {len(labels)} labelled people"
                raise ValueError(f"AP is not defined on {source.name}: {people} has a labelled joint")

    def update(self, batch: Mapping[str, Any], predictions: Sequence[FoundPerson]) -> list[float | None]:
        """Count people; the score of one is its OKS over the labelled joints, None for a detected box."""
        numbers = [int(index) for index in batch["index"]]
        people = [self.source.person(index) for index in numbers]
        if self._coco is not None:
            self._coco.update(results_of(people, predictions, self.protocol.joint_threshold), order=numbers)
        if self._pck is not None:
            found = np.stack([prediction.joints for prediction in predictions])
            labelled = np.stack([person.keypoints for person in people])
            sides = [float(person.box[2:].max()) for person in people]
            self._pck.update(found, labelled, sides)
            if self._bootstrap is not None:
                right, counted = correct_keypoints(found, labelled, self._pck.torso, self._pck.alpha, sides)
                counts = np.stack([right.sum(axis=1), counted.sum(axis=1)], axis=1)
                self._bootstrap.update(counts, [self.source.picture(index) for index in numbers])
        return [
            own_similarity(found.joints, person, self.source.skeleton)
            for found, person in zip(predictions, people, strict=True)
        ]

    def compute(self) -> dict[str, Any]:
        """PCK's and COCO's scores; with both, one table per joint, and COCO's number of people as "coco_people"."""
        pck = self._pck.compute() if self._pck is not None else {}
        coco = self._coco.compute() if self._coco is not None else {}
        return joined(pck, coco)

    def intervals(self) -> dict[str, tuple[float, float]]:
        """Of PCK, and of COCO's figures over people of all sizes."""
        found: dict[str, tuple[float, float]] = {}
        if not self.resampling.samples:
            return found
        if self._bootstrap is not None:
            confidence = self.resampling.confidence
            found[self.main] = self._bootstrap.interval(
                lambda sums: quotient(sums[:, 0], sums[:, 1]), confidence=confidence
            )
        return found | (coco_intervals(self._coco, self.resampling) if self._coco is not None else {})

    def shown(self, prediction: FoundPerson) -> NDArray[np.float32]:
        """(K, 3) joints."""
        return prediction.joints


def results_of(
    people: Sequence[Person], predictions: Sequence[FoundPerson], joint_threshold: float
) -> list[dict[str, Any]]:
    """COCO's results, with the padded box's "area" for the suppression.

    Args:
        people: who was looked for.
        predictions: what was found, in the same order.
        joint_threshold: joints must score above it to count in a person's score.
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


def joined(pck: dict[str, Any], coco: dict[str, Any]) -> dict[str, Any]:
    """One dictionary of both metrics' scores; where a name means two things, PCK keeps it."""
    if not pck or not coco:
        return pck or coco
    table = [{**a, **b} for a, b in zip(pck["per_joint"], coco["per_joint"], strict=True)]
    return {**coco, **pck, "coco_people": coco["people"], "per_joint": table}


def coco_intervals(metric: CocoKeypoints, resampling: Resampling) -> dict[str, tuple[float, float]]:
    """Intervals of the figures over people of all sizes, by drawing pictures; empty for fewer than two pictures."""
    matches = metric.matches()
    if len(matches.image_ids) < 2 or not any(people.any() for people in matches.people.values()):
        return {}
    keys = FIGURES[:3] + FIGURES[5:8]
    drawn: list[dict[str, float]] = []

    def first(weights: NDArray[np.int64]) -> float:
        drawn.append(matches.figures(weights))
        return drawn[-1][keys[0]]

    # One seed draws the same pictures for every figure, so that each sample is worked out only once.
    make = partial(
        bootstrap_interval,
        num_images=len(matches.image_ids),
        samples=resampling.samples,
        confidence=resampling.confidence,
        seed=resampling.seed,
    )
    found = {keys[0]: make(first)}
    for key in keys[1:]:
        found[key] = make(partial(_next, iter([figures[key] for figures in drawn])))
    return found


def _next(values: Iterator[float], _: NDArray[np.int64]) -> float:
    return next(values)


def labels_of(source: PoseSet) -> Annotations:
    """What COCO's figures compare with: the people that training sees, crowds, and people without joints.

    Raises:
        ValueError: the set has no labels.
    """
    truth = source.truth()
    if truth is None:
        raise ValueError(f"{source.name} has no annotation file, which COCO's figures need")
    return truth


def image_ids_of(source: PoseSet) -> Collection[int] | None:
    """The pictures of the split, or None for all of the annotation file."""
    return source.image_ids


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
