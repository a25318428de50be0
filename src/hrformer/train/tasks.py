"""What differs between the three tasks in training: the data, the model's shape, the batch and the loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import fields, replace
from functools import cached_property
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hrformer.checkpoints.matching import LoadReport
from hrformer.data.classification_sets import open_classification
from hrformer.data.loader import Batch, Transform
from hrformer.data.pose_sets import open_pose
from hrformer.data.preprocess import normalise_planes
from hrformer.data.segmentation_sets import open_segmentation
from hrformer.data.set_types import IGNORE, ClassificationSet, ImageSet, PoseSet, SegmentationSet
from hrformer.data.transforms.classification import BatchMixer, TrainClassification
from hrformer.data.transforms.pose import TrainPose
from hrformer.data.transforms.segmentation import TrainSegmentation
from hrformer.data.views import replaced, without
from hrformer.geometry.input_spec import InputSpec
from hrformer.losses import (
    classification_cross_entropy,
    heatmap_mse,
    ohem_cross_entropy,
    pixel_cross_entropy,
    pixel_total,
    segmentation_losses,
)
from hrformer.models.model import VisionModel
from hrformer.train.config import AnyRun, ClassificationRun, ModelConfig, PoseRun, SegmentationRun
from hrformer.train.initial import load_first_weights
from hrformer.zoo import create_model

CITYSCAPES_WEIGHTS = (
    *(0.8373, 0.9180, 0.8660, 1.0345, 1.0166, 0.9969, 0.9754, 1.0489, 0.8786, 1.0023),
    *(0.9539, 0.9843, 1.1116, 0.9037, 1.0865, 1.0955, 1.0865, 1.1529, 1.0507),
)
"""Class weights of the published Cityscapes runs (openseg.pytorch and HRFormer repositories)."""

_NOT_OPTIONS = ("name", "init", "fresh", "frozen")

Run = TypeVar("Run", ClassificationRun, PoseRun, SegmentationRun)


class TrainingTask(ABC, Generic[Run]):
    """Data and loss of one run.

    Args:
        config: of the run.

    Raises:
        DataError: a part of the data set is not as it should be.
    """

    train_set: ImageSet
    val_set: ImageSet
    replaced_items: int = 0
    """Items of the training set in whose place another one stands, since they cannot be read."""

    def __init__(self, config: Run) -> None:
        self.config: Run = config

    def leave_out(self, broken: Mapping[str, Collection[int]]) -> None:
        """Do without pictures that cannot be read: numbers of pictures by part, "train" and "val"."""
        train, lost = self.train_set, broken["train"]
        self.replaced_items = sum(train.picture(index) in lost for index in range(len(train))) if lost else 0
        self.train_set = replaced(train, lost)
        self.val_set = without(self.val_set, broken["val"])

    def weights_text(self) -> str:
        """Weights of the classes in the loss, in words; empty where none are set."""
        weights = getattr(self, "weights", None)
        if weights is None:
            return ""
        pairs = zip(self.train_set.classes, weights.tolist(), strict=True)  # type: ignore[attr-defined]
        return "class weights: " + ", ".join(f"{name} {weight:.2f}" for name, weight in pairs)

    def adopt(self, config: Run) -> None:
        """Go on with this configuration, which differs in model, sizes and rates but not in the data."""
        self.config = config

    @abstractmethod
    def make_model(self) -> VisionModel:
        """Fresh model for the data, with names and input size in its ``info``."""

    @abstractmethod
    def transform(self) -> Transform:
        """Augmentation of one item."""

    @abstractmethod
    def losses(self, output: Any, batch: Batch, shares: Mapping[str, float] | None = None) -> dict[str, Tensor]:
        """Named scalars; "loss" is what is minimised.

        Args:
            output: of the model.
            batch: as :meth:`prepare` returned it.
            shares: where the batch is a part of an update's and :meth:`totals` has counts, the factor of each.
        """

    def totals(self, output: Any, batch: Batch) -> dict[str, float]:
        """What the losses of a batch on the CPU divide by, by name; empty where that is the same for all batches.

        Args:
            output: of the model for a batch of this size; only its shape matters.
            batch: as the loader gave it.
        """
        return {}

    def prepare(self, batch: Batch, spec: InputSpec) -> Batch:
        """On the device: pictures normalised, and whatever is mixed per batch."""
        return batch | {"image": normalise_planes(batch["image"], spec)}

    def build(self) -> tuple[VisionModel, LoadReport | None]:
        """The model to train, with its first weights.

        Returns:
            The model, and what was loaded into it; None for fresh weights.

        Raises:
            ValueError: a setting does not fit the model, or the weights do not.
        """
        model, report = self.make_model(), None
        if self.config.model.init:
            info = model.info
            report = load_first_weights(model, self.config.model)
            # The new run decides about classes and pixels, the file only about what the trunk does with them.
            model.info = replace(info, source=f"trained from {report.source}")
        return model, report


class ClassificationTask(TrainingTask[ClassificationRun]):
    """Pictures with one class each."""

    def __init__(self, config: ClassificationRun) -> None:
        super().__init__(config)
        self.train_set: ClassificationSet = open_classification(config.data, "train")
        self.val_set: ClassificationSet = open_classification(config.data, "val")
        require_same_names("classes", self.train_set.classes, self.val_set.classes)
        self.mixer = BatchMixer(config.augment, len(self.train_set.classes))
        require_weights(config.loss.class_weights, self.train_set)

    @cached_property
    def weights(self) -> Tensor | None:
        """(C,) of the classes in the loss; counted when first asked for, after broken pictures were left out."""
        weights = picture_weights(self.config.loss.class_weights, self.train_set)
        return None if weights is None else torch.tensor(weights, dtype=torch.float32)

    def adopt(self, config: ClassificationRun) -> None:
        """Go on with this configuration, which mixes pictures in its own way."""
        super().adopt(config)
        self.mixer = BatchMixer(config.augment, len(self.train_set.classes))

    def make_model(self) -> VisionModel:
        """Classifier of the data's classes."""
        names, augment = self.train_set.classes, self.config.augment
        name, options = self.config.model.name, model_options(self.config.model)
        model = create_model(name, "classification", num_classes=len(names), **options)
        # Small pictures are enlarged whole in training, so nothing is cut off in the test either.
        ratio = 1.0 if augment.crop == "padded" else model.info.input_spec.crop_ratio
        spec = replace(model.info.input_spec, size=augment.size, interpolation=augment.interpolation, crop_ratio=ratio)
        model.info = replace(model.info, class_names=names, dataset=self.train_set.name, input_spec=spec)
        return model

    def transform(self) -> Transform:
        """Crop, flip, RandAugment."""
        return TrainClassification(self.config.augment)

    def prepare(self, batch: Batch, spec: InputSpec) -> Batch:
        """Normalise, erase, mix."""
        batch = super().prepare(batch, spec)
        images, targets = self.mixer(batch["image"], batch["label"])
        return batch | {"image": images, "target": targets}

    def losses(self, output: Tensor, batch: Batch, shares: Mapping[str, float] | None = None) -> dict[str, Tensor]:
        """Cross-entropy, with smoothing where the mixing did not smooth already."""
        hard = batch["target"].ndim == 1
        smoothing = self.config.augment.label_smoothing if hard else 0.0
        weights = None if self.weights is None else self.weights.to(output.device)
        return {"loss": classification_cross_entropy(output, batch["target"], smoothing, weights)}


class PoseTask(TrainingTask[PoseRun]):
    """People in boxes."""

    def __init__(self, config: PoseRun) -> None:
        super().__init__(config)
        self.train_set: PoseSet = open_pose(config.data, "train")
        test = config.evaluation
        self.val_set: PoseSet = open_pose(
            config.data, "val", detections=test.detections, box_threshold=test.box_threshold
        )
        require_same_names("joints", self.train_set.skeleton.keypoints, self.val_set.skeleton.keypoints)

    def make_model(self) -> VisionModel:
        """Pose model of the data's joints."""
        skeleton = self.train_set.skeleton
        name, options = self.config.model.name, model_options(self.config.model)
        model = create_model(name, "pose", num_keypoints=skeleton.num_keypoints, **options)
        spec = replace(model.info.input_spec, size=self.config.augment.size)
        codec = self.config.augment.codec()
        model.info = replace(
            model.info,
            skeleton=skeleton,
            dataset=self.train_set.name,
            input_spec=spec,
            decoder=codec.decoder,
            blur_kernel=codec.blur_kernel,
            shift_heatmap=codec.decoder != "udp",
        )
        return model

    def transform(self) -> Transform:
        """Turn, scale, flip, cut out; joints become heatmaps."""
        augment = self.config.augment
        return TrainPose(augment, self.train_set.skeleton, augment.codec())

    def losses(self, output: Tensor, batch: Batch, shares: Mapping[str, float] | None = None) -> dict[str, Tensor]:
        """Mean squared error of the heatmaps."""
        return {"loss": heatmap_mse(output, batch["targets"], batch["weights"])}


class SegmentationTask(TrainingTask[SegmentationRun]):
    """A class per pixel."""

    def __init__(self, config: SegmentationRun) -> None:
        super().__init__(config)
        self.train_set: SegmentationSet = open_segmentation(config.data, "train")
        self.val_set: SegmentationSet = open_segmentation(config.data, "val")
        require_same_names("classes", self.train_set.classes, self.val_set.classes)
        require_weights(config.loss.class_weights, self.train_set)

    @cached_property
    def weights(self) -> Tensor | None:
        """(C,) of the classes in the loss; counted when first asked for, after broken masks were left out."""
        weights = class_weights(self.config.loss.class_weights, self.train_set)
        return None if weights is None else torch.tensor(weights, dtype=torch.float32)

    def make_model(self) -> VisionModel:
        """Segmentation model of the data's classes."""
        data, config = self.train_set, self.config
        model = create_model(
            config.model.name, "segmentation", num_classes=len(data.classes), **model_options(config.model)
        )
        spec = replace(model.info.input_spec, size=config.augment.size)
        model.info = replace(
            model.info, class_names=data.classes, palette=data.palette, dataset=data.name, input_spec=spec
        )
        return model

    def transform(self) -> Transform:
        """Resize, cut out, mirror, brighten."""
        return TrainSegmentation(self.config.augment, ignore=IGNORE)

    def prepare(self, batch: Batch, spec: InputSpec) -> Batch:
        """Normalise; where a crop reaches beyond its picture, 0 after normalisation."""
        batch = super().prepare(batch, spec)
        return batch | {"image": zero_outside(batch["image"], batch["extent"])}

    def totals(self, output: Any, batch: Batch) -> dict[str, float]:
        """Pixels that count in each output, or their class weights. OHEM's parts weigh as many as they choose from."""
        weights, ohem = self.weights, self.config.loss.ohem
        auxiliary, main = (None, output) if isinstance(output, Tensor) else output
        totals = {"main": pixel_total(batch["mask"], main, None if ohem else weights, IGNORE)}
        if auxiliary is not None:
            totals["auxiliary"] = pixel_total(batch["mask"], auxiliary, weights, IGNORE)
        return totals

    def losses(self, output: Any, batch: Batch, shares: Mapping[str, float] | None = None) -> dict[str, Tensor]:
        """Cross-entropy or OHEM of the main output, plus the auxiliary one where there is one."""
        loss, labels = self.config.loss, batch["mask"]
        weights = None if self.weights is None else self.weights.to(labels.device)
        if isinstance(output, Tensor):
            if loss.ohem:
                value = ohem_cross_entropy(output, labels, loss.hard, weights, IGNORE)
            else:
                value = pixel_cross_entropy(output, labels, weights, IGNORE)
            return {"loss": value if shares is None else value * shares["main"]}
        auxiliary, main = output
        return segmentation_losses(
            auxiliary,
            main,
            labels,
            hard=loss.hard if loss.ohem else None,
            class_weights=weights,
            auxiliary_weight=loss.auxiliary,
            ignore_index=IGNORE,
            shares=shares,
        )


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


def require_weights(rule: str | tuple[float, ...], data: ClassificationSet | SegmentationSet) -> None:
    """Raise a ValueError unless there are as many class weights as classes."""
    count = len(data.classes)
    if rule == "cityscapes" and count != len(CITYSCAPES_WEIGHTS):
        raise ValueError(f"loss.class_weights: Cityscapes has 19 classes, {data.name} has {count}; use 'auto'")
    if not isinstance(rule, str) and len(rule) != count:
        names = ", ".join(data.classes[:30]) + (", ..." if count > 30 else "")
        raise ValueError(
            f"loss.class_weights: {data.name} has {count} classes, so give {count} numbers in their order ({names}), "
            f"or auto; got {len(rule)}"
        )


def class_weights(rule: str | tuple[float, ...], data: SegmentationSet) -> tuple[float, ...] | None:
    """Weights of the classes in the loss; see ``SegmentationLoss.class_weights``.

    Raises:
        ValueError: there are not as many weights as classes.
    """
    require_weights(rule, data)
    if not isinstance(rule, str):
        return rule
    if rule in ("none", "cityscapes"):
        return CITYSCAPES_WEIGHTS if rule == "cityscapes" else None
    count = len(data.classes)
    pixels = np.zeros(256, dtype=np.int64)
    for index in range(len(data)):
        pixels += np.bincount(data.mask(index).ravel(), minlength=256)
    weights, _ = _tempered(pixels[:count])
    return tuple(float(weight) for weight in weights)


def picture_weights(rule: str | tuple[float, ...], data: ClassificationSet) -> tuple[float, ...] | None:
    """Weights of a classifier's classes in the loss; see ``ClassificationLoss.class_weights``.

    Raises:
        ValueError: there are not as many weights as classes.
    """
    require_weights(rule, data)
    if not isinstance(rule, str):
        return rule
    if rule == "none":
        return None
    labels = [data.label(index) for index in range(len(data))]
    weights, share = _tempered(np.bincount(labels, minlength=len(data.classes)))
    return tuple(float(weight) for weight in weights / (weights * share).sum())


def _tempered(counts: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weights (C,) from counts (C,), and the classes' shares."""
    share = counts / max(counts.sum(), 1)
    present = share[share > 0]
    # The square root tempers the median-frequency weights of Eigen and Fergus (ICCV 2015), which let rare classes
    # bleed over their neighbours.
    return np.sqrt(np.median(present) / share.clip(1e-6)).clip(0.4, 3.0), share


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
