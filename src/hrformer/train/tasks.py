"""What differs between the three tasks in training: the data, the model's shape, the batch and the loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from hrformer.checkpoints.matching import LoadReport
from hrformer.data.classification_sets import open_classification
from hrformer.data.loader import Batch, Transform
from hrformer.data.pose_sets import open_pose
from hrformer.data.preprocess import normalise_planes
from hrformer.data.segmentation_sets import open_segmentation
from hrformer.data.set_types import ClassificationSet, ImageSet, PoseSet, SegmentationSet, names_of
from hrformer.data.source_config import Split
from hrformer.data.transforms.classification import BatchMixer, TrainClassification
from hrformer.data.transforms.pose import TrainPose
from hrformer.data.transforms.segmentation import TrainSegmentation
from hrformer.data.views import replaced, without
from hrformer.geometry.input_spec import InputSpec
from hrformer.losses import (
    classification_cross_entropy,
    distillation_loss,
    heatmap_mse,
    ohem_cross_entropy,
    pixel_cross_entropy,
    pixel_total,
    segmentation_losses,
)
from hrformer.models.model import Task, VisionModel
from hrformer.train.config import AnyRun, ClassificationRun, ModelConfig, PoseRun, SegmentationRun
from hrformer.train.config_file import task_of
from hrformer.train.start_weights import load_start_weights
from hrformer.train.teacher import Teacher
from hrformer.zoo import create_model

CITYSCAPES_WEIGHTS = (
    *(0.8373, 0.9180, 0.8660, 1.0345, 1.0166, 0.9969, 0.9754, 1.0489, 0.8786, 1.0023),
    *(0.9539, 0.9843, 1.1116, 0.9037, 1.0865, 1.0955, 1.0865, 1.1529, 1.0507),
)
"""Class weights of the published Cityscapes runs (openseg.pytorch and HRFormer repositories)."""

_NOT_OPTIONS = ("name", "init", "fresh", "frozen")

Config = TypeVar("Config", ClassificationRun, PoseRun, SegmentationRun)


class TrainingTask(ABC, Generic[Config]):
    """Data and loss of one run.

    Raises:
        DataError: a part of the data set is not as it should be.
        ValueError: the parts differ in classes or joints, or there are not as many class weights as classes.
    """

    train_set: ImageSet
    val_set: ImageSet
    replaced_items: int = 0
    """Items of the training set in whose place another one stands, since they cannot be read."""

    def __init__(self, config: Config) -> None:
        self.config: Config = config
        self.train_set, self.val_set = self.open_part("train"), self.open_part("val")
        kind = "joints" if isinstance(config, PoseRun) else "classes"
        require_same_names(kind, names_of(self.train_set), names_of(self.val_set))
        if not isinstance(config, PoseRun):
            require_weights(config.loss.class_weights, self.train_set.name, names_of(self.train_set))

    @abstractmethod
    def open_part(self, split: Split) -> ImageSet:
        """One part of the run's data."""

    def leave_out(self, broken: Mapping[str, Collection[int]]) -> None:
        """Do without pictures that cannot be read: numbers of pictures by part, "train" and "val"."""
        train, lost = self.train_set, broken["train"]
        self.replaced_items = sum(train.picture(index) in lost for index in range(len(train))) if lost else 0
        self.train_set = replaced(train, lost)
        self.val_set = without(self.val_set, broken["val"])

    def meet_teacher(self, out: Path, device: torch.device, workers: int) -> None:
        """Bring whom the run learns from, if anybody; ``out`` is the run folder. Errors are those of ``Teacher``."""

    @cached_property
    def weights(self) -> Tensor | None:
        """(C,) of the classes in the loss; counted when first asked for, after broken files were left out."""
        return (
            None if isinstance(self.config, PoseRun) else class_weights(self.config.loss.class_weights, self.train_set)
        )

    def weights_text(self) -> str:
        """Weights of the classes in the loss, in words; empty where none are set."""
        if self.weights is None:
            return ""
        pairs = zip(names_of(self.train_set), self.weights.tolist(), strict=True)
        return "class weights: " + ", ".join(f"{name} {weight:.2f}" for name, weight in pairs)

    def build(self) -> tuple[VisionModel, LoadReport | None]:
        """The model to train, with the data's names and input size in its ``info``; and what was loaded into it.

        Raises:
            ValueError: a setting does not fit the model, or the weights do not.
        """
        settings, task = self.config.model, cast(Task, task_of(self.config))
        outputs: dict[str, Any] = {"num_keypoints" if task == "pose" else "num_classes": len(names_of(self.train_set))}
        model = create_model(settings.name, task, **outputs, **model_options(settings))
        augment = self.config.augment
        spec = replace(model.info.input_spec, size=augment.size, interpolation=augment.interpolation)
        model.info = replace(model.info, dataset=self.train_set.name, input_spec=spec)
        model.info = info = replace(model.info, **self.facts(spec))
        if not settings.init:
            return model, None
        report = load_start_weights(model, settings)
        # The new run decides about classes and pixels, the file only about what the trunk does with them.
        model.info = replace(info, source=f"trained from {report.source}")
        return model, report

    @abstractmethod
    def facts(self, spec: InputSpec) -> dict[str, Any]:
        """Fields of the model's ``info`` that only this task sets."""

    @abstractmethod
    def transform(self) -> Transform:
        """Augmentation of one item."""

    def prepare(self, batch: Batch, spec: InputSpec) -> Batch:
        """On the device: pictures normalised, and whatever is mixed per batch."""
        return batch | {"image": normalise_planes(batch["image"], spec)}

    @abstractmethod
    def losses(self, output: Any, batch: Batch, shares: Mapping[str, float] | None = None) -> dict[str, Tensor]:
        """Named scalars from the model's output for a batch of :meth:`prepare`; "loss" is what is minimised.

        Where the batch is a part of an update's and :meth:`totals` has counts, ``shares`` holds the factor of each.
        """

    def totals(self, output: Any, batch: Batch) -> dict[str, float]:
        """What the losses of a batch from the loader divide by, by name; empty where all batches divide by the same.

        Of the output, which may be that of another batch, only the shape matters.
        """
        return {}


class ClassificationTask(TrainingTask[ClassificationRun]):
    """Pictures with one class each."""

    train_set: ClassificationSet
    teacher: Teacher | None = None

    def meet_teacher(self, out: Path, device: torch.device, workers: int) -> None:
        if self.config.distill.teacher:
            self.teacher = Teacher(self.config.distill, self.train_set, out, device, workers)

    def open_part(self, split: Split) -> ClassificationSet:
        return open_classification(self.config.data, split)

    @cached_property
    def mixer(self) -> BatchMixer:
        """Mixes the pictures of a batch; made when first asked for, after the run was fitted."""
        return BatchMixer(self.config.augment, len(self.train_set.classes))

    def facts(self, spec: InputSpec) -> dict[str, Any]:
        """Names, and how a test picture is resized."""
        augment = self.config.augment
        # Small pictures are enlarged whole in training, so nothing is cut off in the test either.
        ratio = 1.0 if augment.crop == "padded" else spec.crop_ratio
        return {"class_names": self.train_set.classes, "input_spec": replace(spec, crop_ratio=ratio)}

    def transform(self) -> Transform:
        """Crop, flip, RandAugment."""
        return TrainClassification(self.config.augment)

    def prepare(self, batch: Batch, spec: InputSpec) -> Batch:
        """Normalise, erase, mix; ask the teacher."""
        batch = super().prepare(batch, spec)
        images, targets = self.mixer(batch["image"], batch["label"])
        batch |= {"image": images, "target": targets}
        return batch if self.teacher is None else batch | {"teacher": self.teacher.logits(batch, spec)}

    def losses(self, output: Tensor, batch: Batch, shares: Mapping[str, float] | None = None) -> dict[str, Tensor]:
        """Cross-entropy, with smoothing where the mixing did not smooth already; the teacher's share of it."""
        smoothing = self.config.augment.label_smoothing if batch["target"].ndim == 1 else 0.0
        weights = None if self.weights is None else self.weights.to(output.device)
        loss = classification_cross_entropy(output, batch["target"], smoothing, weights)
        if "teacher" not in batch:
            return {"loss": loss}
        distill = self.config.distill
        taught = distillation_loss(output, batch["teacher"], distill.temperature, hard=distill.hard)
        return {"loss": (1 - distill.weight) * loss + distill.weight * taught, "labels": loss, "distillation": taught}


class PoseTask(TrainingTask[PoseRun]):
    """People in boxes."""

    train_set: PoseSet

    def open_part(self, split: Split) -> PoseSet:
        if split == "train":
            return open_pose(self.config.data, split)
        boxes, threshold = self.config.evaluation.detections, self.config.evaluation.box_threshold
        return open_pose(self.config.data, split, detections=boxes, box_threshold=threshold)

    def facts(self, spec: InputSpec) -> dict[str, Any]:
        """Joints, and how heatmaps are read."""
        codec = self.config.augment.codec()
        decoding = {"decoder": codec.decoder, "blur_kernel": codec.blur_kernel}
        return {"skeleton": self.train_set.skeleton, "shift_heatmap": codec.decoder != "udp", **decoding}

    def transform(self) -> Transform:
        """Turn, scale, flip, cut out; joints become heatmaps."""
        return TrainPose(self.config.augment, self.train_set.skeleton)

    def losses(self, output: Tensor, batch: Batch, shares: Mapping[str, float] | None = None) -> dict[str, Tensor]:
        """Mean squared error of the heatmaps."""
        return {"loss": heatmap_mse(output, batch["targets"], batch["weights"])}


class SegmentationTask(TrainingTask[SegmentationRun]):
    """A class per pixel."""

    train_set: SegmentationSet

    def open_part(self, split: Split) -> SegmentationSet:
        return open_segmentation(self.config.data, split)

    def facts(self, spec: InputSpec) -> dict[str, Any]:
        return {"class_names": self.train_set.classes, "palette": self.train_set.palette}

    def transform(self) -> Transform:
        """Resize, cut out, mirror, brighten."""
        return TrainSegmentation(self.config.augment)

    def prepare(self, batch: Batch, spec: InputSpec) -> Batch:
        """Normalise; where a crop reaches beyond its picture, 0 after normalisation."""
        batch = super().prepare(batch, spec)
        return batch | {"image": zero_outside(batch["image"], batch["extent"])}

    def totals(self, output: Any, batch: Batch) -> dict[str, float]:
        """Pixels that count in each output, or their class weights. OHEM's parts weigh as many as they choose from."""
        auxiliary, main = (None, output) if isinstance(output, Tensor) else output
        weights = None if self.config.loss.ohem else self.weights
        totals = {"main": pixel_total(batch["mask"], main, weights)}
        if auxiliary is not None:
            totals["auxiliary"] = pixel_total(batch["mask"], auxiliary, self.weights)
        return totals

    def losses(self, output: Any, batch: Batch, shares: Mapping[str, float] | None = None) -> dict[str, Tensor]:
        """Cross-entropy or OHEM of the main output, plus the auxiliary one where there is one."""
        loss, labels = self.config.loss, batch["mask"]
        weights = None if self.weights is None else self.weights.to(labels.device)
        if isinstance(output, Tensor):
            if loss.ohem:
                value = ohem_cross_entropy(output, labels, loss.hard, weights)
            else:
                value = pixel_cross_entropy(output, labels, weights)
            return {"loss": value if shares is None else value * shares["main"]}
        auxiliary, main = output
        hard = loss.hard if loss.ohem else None
        options: dict[str, Any] = {"auxiliary_weight": loss.auxiliary, "shares": shares}
        return segmentation_losses(auxiliary, main, labels, hard=hard, class_weights=weights, **options)


def task_for(config: AnyRun) -> TrainingTask[Any]:
    """Open the data of a run.

    Raises:
        DataError: it is not as it should be.
    """
    if isinstance(config, ClassificationRun):
        return ClassificationTask(config)
    return PoseTask(config) if isinstance(config, PoseRun) else SegmentationTask(config)


def model_options(config: ModelConfig) -> dict[str, Any]:
    """``create_model`` options that are set."""
    names = [field.name for field in fields(config) if field.name not in _NOT_OPTIONS]
    return {name: value for name in names if (value := getattr(config, name)) is not None}


def require_weights(rule: str | tuple[float, ...], data: str, classes: tuple[str, ...]) -> None:
    """Raise a ValueError unless there are as many class weights as classes in the data set of this name."""
    count = len(classes)
    if rule == "cityscapes" and count != len(CITYSCAPES_WEIGHTS):
        raise ValueError(f"loss.class_weights: Cityscapes has 19 classes, {data} has {count}; use 'auto'")
    if not isinstance(rule, str) and len(rule) != count:
        names = ", ".join(classes[:30]) + (", ..." if count > 30 else "")
        raise ValueError(
            f"loss.class_weights: {data} has {count} classes, so give {count} numbers in their order ({names}), "
            f"or auto; got {len(rule)}"
        )


def class_weights(rule: str | tuple[float, ...], data: ImageSet) -> Tensor | None:
    """(C,) weights of the classes in the loss, counted where the rule says so; see ``class_weights`` in the config."""
    if rule == "none":
        return None
    if rule == "cityscapes" or not isinstance(rule, str):
        return torch.tensor(CITYSCAPES_WEIGHTS if rule == "cityscapes" else rule, dtype=torch.float32)
    count = len(names_of(data))
    if isinstance(data, ClassificationSet):
        counts = np.bincount([data.label(index) for index in range(len(data))], minlength=count)
    else:
        assert isinstance(data, SegmentationSet)
        counts = np.zeros(256, dtype=np.int64)
        for index in range(len(data)):
            counts += np.bincount(data.mask(index).ravel(), minlength=256)
        counts = counts[:count]
    share = counts / max(counts.sum(), 1)
    # The square root tempers the median-frequency weights of Eigen and Fergus (ICCV 2015), which let rare classes
    # bleed over their neighbours.
    weights = np.sqrt(np.median(share[share > 0]) / share.clip(1e-6)).clip(0.4, 3.0)
    if isinstance(data, ClassificationSet):
        weights = weights / (weights * share).sum()
    return torch.tensor(weights, dtype=torch.float32)


def zero_outside(x: Tensor, extent: Tensor) -> Tensor:
    """Zero what lies outside the real picture.

    Args:
        x: (B, 3, H, W) normalised.
        extent: (B, 4) y0, x0, y1, x1 of the picture in the crop, ends not included.
    """
    row, column = torch.arange(x.shape[2], device=x.device), torch.arange(x.shape[3], device=x.device)
    inside_y = (row >= extent[:, :1]) & (row < extent[:, 2:3])
    inside_x = (column >= extent[:, 1:2]) & (column < extent[:, 3:4])
    return x * (inside_y[:, None, :, None] & inside_x[:, None, None, :])


def require_same_names(kind: str, train: tuple[str, ...], val: tuple[str, ...]) -> None:
    """Raise a ValueError unless classes or joints of both parts of a set are the same, in the same order."""
    if train != val:
        different = next((f"{a!r} and {b!r}" for a, b in zip(train, val, strict=False) if a != b), "their numbers")
        raise ValueError(
            f"training and validation set must have the same {kind} in the same order; {len(train)} and {len(val)} "
            f"of them differ in {different}"
        )
