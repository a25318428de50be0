"""What a training run is: one frozen dataclass per task. A recipe returns one; ``config.json`` of a run holds it."""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from hrformer.data.sources import ClassificationSource, PoseSource, SegmentationSource
from hrformer.data.transforms.settings import ClassificationAugment, PoseAugment, SegmentationAugment
from hrformer.evaluate.protocols import ClassificationProtocol, PoseProtocol, SegmentationProtocol
from hrformer.losses import AUXILIARY_WEIGHT, HardPixels
from hrformer.models.fusion import UpsampleMode

FREEZABLE = ("stem", "stage1", "stage2", "stage3", "stage4", "backbone", "norms")
"""What ``model.frozen`` may name."""

RESETTABLE = ("head", "stem", "stage1", "stage2", "stage3", "stage4")
"""What ``model.fresh`` may name."""


AUTO = "auto"
"""``model.init`` of a run whose start weights follow from its task and machine."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """The network and where its weights come from. ``None`` means ``create_model``'s default.

    Attributes:
        name: variant or timm name; empty, in a run that is fitted, takes that of the start weights.
        init: weights to start from: file, or name in the registry; empty for fresh ones; "auto", in a run that is
            fitted, for those of ``train.start_weights``. A file of the same task and classes is taken whole, of
            another task or with a head of other sizes its backbone; of other classes all but the last layer.
        fresh: parts that start fresh although ``init`` has them: "head", "stem", "stage1" to "stage4" (with the
            transition before).
        frozen: parts that are not trained: "stem", "stage1" to "stage4" (with the transition before), "backbone".
            Their batch norms keep their statistics. "norms" only keeps the statistics of all batch norms that
            start with some, which few pictures would spoil; their factors are trained.
        drop_path_rate: at the full depth.
        window_size: side of the attention windows in cells.
        position_bias: whether the relative position bias takes part.
        upsample: of the fusion units.
        head_planes: classification head.
        head_width: classification head.
        drop_rate: classification head.
        head: segmentation: "ocr" or "fcn".
        ocr_channels: segmentation.
        ocr_key_channels: segmentation.
        aux: segmentation: "openseg", "wide" or "hrnet".
        dropout: segmentation.
    """

    name: str = "hrformer_small"
    init: str = ""
    fresh: tuple[str, ...] = ()
    frozen: tuple[str, ...] = ()
    drop_path_rate: float | None = None
    window_size: int | None = None
    position_bias: bool | None = None
    upsample: UpsampleMode | None = None
    head_planes: int | None = None
    head_width: int | None = None
    drop_rate: float | None = None
    head: Literal["ocr", "fcn"] | None = None
    ocr_channels: int | None = None
    ocr_key_channels: int | None = None
    aux: Literal["openseg", "wide", "hrnet"] | None = None
    dropout: float | None = None

    def __post_init__(self) -> None:
        _require(self.name or self.init, "model.name must name a variant or a timm model; `hrformer models` lists ours")
        _require_parts("model.frozen", self.frozen, FREEZABLE)
        _require_parts("model.fresh", self.fresh, RESETTABLE)
        for name in ("drop_path_rate", "drop_rate", "dropout"):
            rate = getattr(self, name)
            _require(rate is None or 0 <= rate < 1, f"model.{name} must lie in [0, 1), got {rate}")
        for name in ("window_size", "head_planes", "head_width", "ocr_channels", "ocr_key_channels"):
            count = getattr(self, name)
            _require(count is None or count >= 1, f"model.{name} must be at least 1, got {count}")


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimConfig:
    """Optimiser and rates.

    Attributes:
        name: optimiser.
        lr: peak rate at the recipe's batch, see ``lr_batch``; 0 in a run that is fitted.
        lr_batch: total batch that ``lr`` is for: the rate is lr x batch.total / lr_batch. 0 takes ``lr`` as it is.
        weight_decay: on the weights that are not exempt.
        exempt: whose rule says what is not decayed: "classification" (one-dimensional parameters and biases; bias
            tables are decayed), "pose" (bias tables only), "segmentation" (biases, norms, bias tables), "none".
        betas: of Adam and AdamW.
        eps: of Adam and AdamW.
        momentum: of SGD.
        nesterov: whether SGD looks ahead by its momentum.
        head_factor: factor on the rate of everything outside the backbone; 1 for none.
        clip_norm: largest norm of the whole gradient; 0 for no clipping.
        layer_decay: factor on the rate of each stage towards the input, for fine-tuning; 1 for none.
    """

    name: Literal["adamw", "adam", "sgd"] = "adamw"
    lr: float = 1e-3
    lr_batch: int = 0
    weight_decay: float = 0.05
    exempt: Literal["classification", "pose", "segmentation", "none"] = "classification"
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    momentum: float = 0.9
    nesterov: bool = True
    head_factor: float = 1.0
    clip_norm: float = 0.0
    layer_decay: float = 1.0

    def __post_init__(self) -> None:
        _require(0 <= self.lr < math.inf, f"optim.lr must be a rate above 0, got {self.lr}")
        _require(self.lr_batch >= 0, f"optim.lr_batch must not be negative, got {self.lr_batch}; 0 takes lr as it is")
        for name in ("weight_decay", "clip_norm"):
            value = getattr(self, name)
            _require(0 <= value < math.inf, f"optim.{name} must not be negative, got {value}")
        _require(all(0 <= b < 1 for b in self.betas), f"optim.betas must lie in [0, 1), got {self.betas}")
        _require(0 <= self.momentum < 1, f"optim.momentum must lie in [0, 1), got {self.momentum}")
        _require(self.momentum > 0 or not self.nesterov, "optim.nesterov needs a momentum above 0")
        _require(self.eps > 0, f"optim.eps must be above 0, got {self.eps}")
        _require(self.head_factor > 0, f"optim.head_factor must be above 0, got {self.head_factor}")
        _require(0 < self.layer_decay <= 1, f"optim.layer_decay must lie in (0, 1], got {self.layer_decay}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ScheduleConfig:
    """Length of the run and how the rate changes.

    Attributes:
        kind: of schedule.
        epochs: length in passes over the training set; give this or ``updates``, neither in a run that is fitted.
        updates: length in optimiser steps.
        warmup_epochs: linear warm-up; give this or ``warmup_updates``.
        warmup_updates: linear warm-up.
        warmup_share: linear warm-up as a share of the whole run, where it is given neither way.
        warmup_ratio: share of the peak at the first update.
        floor_ratio: cosine: share of the peak at the end.
        milestones: step: epochs after which the rate drops.
        gamma: step: factor at each milestone.
        power: poly.
    """

    kind: Literal["cosine", "step", "poly"] = "cosine"
    epochs: float = 0.0
    updates: int = 0
    warmup_epochs: float = 0.0
    warmup_updates: int = 0
    warmup_share: float = 0.0
    warmup_ratio: float = 1e-3
    floor_ratio: float = 0.01
    milestones: tuple[float, ...] = ()
    gamma: float = 0.1
    power: float = 0.9

    def __post_init__(self) -> None:
        for name in ("epochs", "updates", "warmup_epochs", "warmup_updates"):
            value = getattr(self, name)
            _require(0 <= value < math.inf, f"schedule.{name} must not be negative, got {value}")
        for name in ("warmup_ratio", "floor_ratio"):
            value = getattr(self, name)
            _require(0 <= value <= 1, f"schedule.{name} must lie in [0, 1], got {value}")
        _require(0 <= self.warmup_share < 1, f"schedule.warmup_share must lie in [0, 1), got {self.warmup_share}")
        _require(0 < self.gamma <= 1, f"schedule.gamma must lie in (0, 1], got {self.gamma}")
        _require(self.power > 0, f"schedule.power must be above 0, got {self.power}")
        rising = list(self.milestones) == sorted(set(self.milestones)) and all(m > 0 for m in self.milestones)
        _require(rising, f"schedule.milestones must be rising numbers of epochs, got {self.milestones}")


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchConfig:
    """How many samples one update sees, and how they are worked off.

    Attributes:
        total: samples per update over all processes; the rates belong to it. 0 in a run that is fitted.
        per_device: samples that one process holds at once; the rest is accumulated. 0 finds the largest number that
            fits into the GPU's memory; on the CPU everything at once.
    """

    total: int = 32
    per_device: int = 0

    def __post_init__(self) -> None:
        _require(self.total >= 0, f"batch.total must be at least 1, got {self.total}")
        _require(self.per_device >= 0, f"batch.per_device must not be negative, got {self.per_device}; 0 finds it out")


@dataclass(frozen=True, kw_only=True, slots=True)
class RuntimeConfig:
    """How the machine is used; nothing here changes what is computed beyond rounding.

    Attributes:
        precision: of forward and loss.
        sync_bn: share batch-norm statistics between processes.
        compile: ``torch.compile``.
        channels_last: memory layout.
        gradient_checkpointing: recompute each module in the backward pass instead of storing it.
        workers: loader processes per process; None: one per core, less one.
        threads: torch threads per process; 0 leaves torch's choice.
        cache_gb: decoded pictures to keep in memory at most, if all fit; 0 for none.
        cpu: run on the CPU even where there is a GPU.
    """

    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    sync_bn: bool = True
    compile: bool = False
    channels_last: bool = True
    gradient_checkpointing: bool = False
    workers: int | None = None
    threads: int = 0
    cache_gb: float = 2.0
    cpu: bool = False

    def __post_init__(self) -> None:
        for name in ("workers", "threads", "cache_gb"):
            value = getattr(self, name)
            _require(value is None or value >= 0, f"runtime.{name} must not be negative, got {value}")


@dataclass(frozen=True, kw_only=True, slots=True)
class SaveConfig:
    """Which checkpoints are written and kept.

    Attributes:
        every_updates: write ``last`` that often; 0: at every validation.
        every_minutes: also write ``last`` when so much time went by; 0 for no.
        keep_every: keep a copy each so many validations; 0 for none.
    """

    every_updates: int = 0
    every_minutes: float = 10.0
    keep_every: int = 0

    def __post_init__(self) -> None:
        for name in ("every_updates", "every_minutes", "keep_every"):
            value = getattr(self, name)
            _require(value >= 0, f"save.{name} must not be negative, got {value}; 0 switches it off")


@dataclass(frozen=True, kw_only=True, slots=True)
class LogConfig:
    """What is told where.

    Attributes:
        every_updates: between two lines of the log.
        trackers: of accelerate: "tensorboard", "wandb", "mlflow" and others.
        pictures: validation pictures and worst examples in ``summary.html``.
    """

    every_updates: int = 20
    trackers: tuple[str, ...] = ("tensorboard",)
    pictures: int = 12

    def __post_init__(self) -> None:
        _require(self.every_updates >= 1, f"log.every_updates must be at least 1, got {self.every_updates}")
        _require(self.pictures >= 0, f"log.pictures must not be negative, got {self.pictures}")


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """What all tasks share.

    Attributes:
        recipe: name of the recipe that made it.
        seed: of weights, order and augmentation.
        validate_epochs: epochs between two validations; give this or ``validate_updates``, neither in a run that is
            fitted. The end is always validated.
        validate_updates: updates between two validations.
        ema_decay: of the moving average of the weights, which is then what is validated and kept; 0 for none. The decay
            rises to it, as 1 - (1 + update)^(-2/3) (timm), so that short runs are averaged over their own end.
        validate_start: whether a run that begins from weights is scored before its first update.
        early_stopping: end the run after so many validations without a better score; 0 for never.
        fit: whether what is not set yet is fitted to the data, the start weights and the machine when training starts
            (``train.fitting``): ``model.name``, ``model.init`` "auto", ``optim.lr``, the schedule's length,
            ``batch.total``, when to validate, and the sizes in ``augment``. The run's own files hold what was found.
    """

    recipe: str = ""
    seed: int = 0
    model: ModelConfig = field(default_factory=ModelConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    batch: BatchConfig = field(default_factory=BatchConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    save: SaveConfig = field(default_factory=SaveConfig)
    log: LogConfig = field(default_factory=LogConfig)
    validate_epochs: float = 1.0
    validate_updates: int = 0
    ema_decay: float = 0.0
    validate_start: bool = False
    early_stopping: int = 0
    fit: bool = False

    def __post_init__(self) -> None:
        for name in ("seed", "validate_epochs", "validate_updates", "early_stopping"):
            value = getattr(self, name)
            _require(0 <= value < math.inf, f"{name} must not be negative, got {value}")
        _require(0 <= self.ema_decay < 1, f"ema_decay must lie in [0, 1), got {self.ema_decay}; 0 for no average")


ClassWeights = tuple[float, ...]
"""One weight a class, in the order of the classes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassificationLoss:
    """Loss of the classifier.

    Attributes:
        class_weights: "none"; "auto" or "balanced" (square root of the median frequency over each class's, counted in
            the training pictures, clipped to 0.4..3, then scaled to a mean of 1 over these pictures); or one number a
            class, in the order of the classes.
    """

    class_weights: Literal["none", "auto", "balanced"] | ClassWeights = "none"

    def __post_init__(self) -> None:
        _require_weights(self.class_weights)


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassificationRun(RunConfig):
    """Training a classifier."""

    data: ClassificationSource = field(default_factory=ClassificationSource)
    augment: ClassificationAugment = field(default_factory=ClassificationAugment)
    loss: ClassificationLoss = field(default_factory=ClassificationLoss)
    evaluation: ClassificationProtocol = field(default_factory=ClassificationProtocol)


@dataclass(frozen=True, kw_only=True, slots=True)
class PoseRun(RunConfig):
    """Training a top-down pose model."""

    data: PoseSource = field(default_factory=PoseSource)
    augment: PoseAugment = field(default_factory=PoseAugment)
    evaluation: PoseProtocol = field(default_factory=PoseProtocol)


@dataclass(frozen=True, kw_only=True, slots=True)
class SegmentationLoss:
    """Loss of the main and the auxiliary output.

    Attributes:
        ohem: train the main output on hard pixels only.
        hard: which ones.
        class_weights: "none"; "cityscapes" (the published 19); "auto" or "balanced" (square root of the median
            frequency over each class's, counted in the training masks, clipped to 0.4..3); or one number a class, in
            the order of the classes.
        auxiliary: weight of the auxiliary output.
    """

    ohem: bool = False
    hard: HardPixels = field(default_factory=HardPixels)
    class_weights: Literal["none", "cityscapes", "auto", "balanced"] | ClassWeights = "none"
    auxiliary: float = AUXILIARY_WEIGHT

    def __post_init__(self) -> None:
        _require_weights(self.class_weights)
        _require(self.auxiliary >= 0, f"loss.auxiliary must not be negative, got {self.auxiliary}")


@dataclass(frozen=True, kw_only=True, slots=True)
class SegmentationRun(RunConfig):
    """Training a segmentation model."""

    data: SegmentationSource = field(default_factory=SegmentationSource)
    augment: SegmentationAugment = field(default_factory=SegmentationAugment)
    loss: SegmentationLoss = field(default_factory=SegmentationLoss)
    evaluation: SegmentationProtocol = field(default_factory=SegmentationProtocol)


AnyRun = ClassificationRun | PoseRun | SegmentationRun

DATA_ROOT = Path()
"""``data.root`` of a recipe that has not been told where its data lies."""


def _require_parts(field_name: str, parts: tuple[str, ...], known: tuple[str, ...]) -> None:
    for part in parts:
        close = difflib.get_close_matches(part, known, 1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        _require(part in known, f"{field_name} must be among {', '.join(known)}, got {part!r}{hint}")


def _require_weights(weights: str | ClassWeights) -> None:
    if not isinstance(weights, str):
        right = all(0 <= weight < math.inf for weight in weights) and any(weights)
        _require(right, f"loss.class_weights must be numbers of 0 or more, not all 0, got {weights}")


def _require(fulfilled: object, text: str) -> None:
    if not fulfilled:
        raise ValueError(text)
