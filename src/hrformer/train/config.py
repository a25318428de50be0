"""What a training run is: one frozen dataclass per task. A recipe returns one; ``config.json`` of a run holds it.

The comment at a field is its help on the command line. Each dataclass checks the ranges of its fields when it is made,
:func:`check` what several fields say together, and what only training reads of the augmentation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal, TypeVar

from hrformer.data.source_config import ClassificationSource, PoseSource, SegmentationSource
from hrformer.data.transforms.settings import ClassificationAugment, PoseAugment, SegmentationAugment
from hrformer.evaluate.protocols import ClassificationProtocol, PoseProtocol, SegmentationProtocol
from hrformer.losses import AUXILIARY_WEIGHT, HardPixels
from hrformer.models.fusion import UpsampleMode
from hrformer.train.ranges import (
    AT_LEAST_1,
    BELOW_1,
    FACTOR,
    FINITE,
    NOT_NEGATIVE,
    POSITIVE,
    RISING,
    SHARE,
    Range,
    nearest,
    require,
)

DATA_ROOT = Path()  # ``data.root`` of a recipe that has not been told where its data lies
AUTO = "auto"  # ``model.init`` of a run whose start weights follow from its task and machine
FREEZABLE = ("stem", "stage1", "stage2", "stage3", "stage4", "backbone", "norms")  # what ``model.frozen`` may name
RESETTABLE = ("head", "stem", "stage1", "stage2", "stage3", "stage4")  # what ``model.fresh`` may name
_NO_MODEL = "model.name must name a variant or a timm model; `hrformer models` lists ours"


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """The network and where its weights come from. ``None`` means ``create_model``'s default."""

    # Variant or timm name; empty, in a run that is fitted, takes that of the start weights.
    name: str = "hrformer_small"
    # Weights to start from: file, name or hf://OWNER/REPO; empty for fresh ones; "auto", in a run that is fitted, for
    # those of ``train.start_weights``. A file of the same task and classes is taken whole, of another task or with a
    # head of other sizes its backbone; of other classes all but the last layer.
    init: str = ""
    # Parts that start fresh although ``init`` has them: "head", "stem", "stage1" to "stage4" (with the transition
    # before).
    fresh: tuple[str, ...] = ()
    # Parts that are not trained: "stem", "stage1" to "stage4" (with the transition before), "backbone". Their batch
    # norms keep their statistics. "norms" only keeps the statistics of all batch norms that start with some, which few
    # pictures would spoil; their factors are trained.
    frozen: tuple[str, ...] = ()
    drop_path_rate: float | None = None  # at the full depth
    window_size: int | None = None  # side of the attention windows in cells
    position_bias: bool | None = None  # whether the relative position bias takes part
    upsample: UpsampleMode | None = None  # of the fusion units
    ffn_kernel: int | None = None  # side of the feed-forward network's depthwise convolution, 3; 1 for none
    head_planes: int | None = None  # classification head
    head_width: int | None = None  # classification head
    drop_rate: float | None = None  # classification head
    head: Literal["ocr", "fcn"] | None = None  # segmentation
    ocr_channels: int | None = None  # segmentation
    ocr_key_channels: int | None = None  # segmentation
    aux: Literal["openseg", "wide", "hrnet"] | None = None  # segmentation
    dropout: float | None = None  # segmentation

    def __post_init__(self) -> None:
        if not (self.name or self.init):
            raise ValueError(_NO_MODEL)
        for name, parts, known in (("frozen", self.frozen, FREEZABLE), ("fresh", self.fresh, RESETTABLE)):
            if unknown := [part for part in parts if part not in known]:
                wanted, first = ", ".join(known), unknown[0]
                raise ValueError(f"model.{name} must be among {wanted}, got {first!r}{nearest(first, known)}")
        sizes = ("window_size", "ffn_kernel", "head_planes", "head_width", "ocr_channels", "ocr_key_channels")
        require("model.", self, **dict.fromkeys(sizes, AT_LEAST_1))
        require("model.", self, drop_path_rate=BELOW_1, drop_rate=BELOW_1, dropout=BELOW_1)


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimConfig:
    """Optimiser and rates."""

    name: Literal["adamw", "adam", "sgd"] = "adamw"  # optimiser
    lr: float = 1e-3  # peak rate at the recipe's batch, see ``lr_batch``; 0 in a run that is fitted
    # Total batch that ``lr`` is for: the rate is lr x batch.total / lr_batch. 0 takes ``lr`` as it is.
    lr_batch: int = 0
    weight_decay: float = 0.05  # on the weights that are not exempt
    # Whose rule says what is not decayed: "classification" (one-dimensional parameters and biases; bias tables are
    # decayed), "pose" (bias tables only), "segmentation" (biases, norms, bias tables), "none".
    exempt: Literal["classification", "pose", "segmentation", "none"] = "classification"
    betas: tuple[float, float] = (0.9, 0.999)  # of Adam and AdamW
    eps: float = 1e-8  # of Adam and AdamW
    momentum: float = 0.9  # of SGD
    nesterov: bool = True  # whether SGD looks ahead by its momentum
    head_factor: float = 1.0  # factor on the rate of everything outside the backbone; 1 for none
    clip_norm: float = 0.0  # largest norm of the whole gradient; 0 for no clipping
    layer_decay: float = 1.0  # factor on the rate of each stage towards the input, for fine-tuning; 1 for none

    def __post_init__(self) -> None:
        require("optim.", self, lr=(FINITE[0], "must be a rate above 0"), weight_decay=FINITE, clip_norm=FINITE)
        require("optim.", self, lr_batch=NOT_NEGATIVE, momentum=BELOW_1, eps=POSITIVE)
        betas: Range = (lambda betas: all(0 <= beta < 1 for beta in betas), BELOW_1[1])
        require("optim.", self, betas=betas, head_factor=POSITIVE, layer_decay=FACTOR)
        if self.nesterov and not self.momentum:
            raise ValueError("optim.nesterov needs a momentum above 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class ScheduleConfig:
    """Length of the run and how the rate changes."""

    kind: Literal["cosine", "step", "poly"] = "cosine"  # of schedule
    # Length in passes over the training set; give this or ``updates``, neither in a run that is fitted.
    epochs: float = 0.0
    updates: int = 0  # length in optimiser steps
    warmup_epochs: float = 0.0  # linear warm-up; give this or ``warmup_updates``
    warmup_updates: int = 0  # linear warm-up
    warmup_share: float = 0.0  # linear warm-up as a share of the whole run, where it is given neither way
    warmup_ratio: float = 1e-3  # share of the peak at the first update
    floor_ratio: float = 0.01  # cosine: share of the peak at the end
    milestones: tuple[float, ...] = ()  # step: epochs after which the rate drops
    gamma: float = 0.1  # step: factor at each milestone
    power: float = 0.9  # poly

    def __post_init__(self) -> None:
        require("schedule.", self, epochs=FINITE, updates=FINITE, warmup_epochs=FINITE, warmup_updates=FINITE)
        require("schedule.", self, warmup_share=BELOW_1, warmup_ratio=SHARE, floor_ratio=SHARE)
        require("schedule.", self, gamma=FACTOR, power=POSITIVE, milestones=RISING)


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchConfig:
    """How many samples one update sees, and how they are worked off."""

    total: int = 32  # samples per update over all processes; the rates belong to it. 0 in a run that is fitted
    # Samples that one process holds at once; the rest is accumulated. 0 finds the largest number that fits into the
    # GPU's memory; on the CPU everything at once.
    per_device: int = 0

    def __post_init__(self) -> None:
        require("batch.", self, total=(NOT_NEGATIVE[0], AT_LEAST_1[1]), per_device=NOT_NEGATIVE)


@dataclass(frozen=True, kw_only=True, slots=True)
class RuntimeConfig:
    """How the machine is used; nothing here changes what is computed beyond rounding."""

    precision: Literal["fp32", "bf16", "fp16"] = "fp32"  # of forward and loss
    sync_bn: bool = True  # share batch-norm statistics between processes
    compile: bool = False  # ``torch.compile``
    channels_last: bool = True  # memory layout
    gradient_checkpointing: bool = False  # recompute each module in the backward pass instead of storing it
    workers: int | None = None  # loader processes per process; None: one per core, less one
    threads: int = 0  # torch threads per process; 0 leaves torch's choice
    cache_gb: float = 2.0  # decoded pictures to keep in memory at most, if all fit; 0 for none
    cpu: bool = False  # run on the CPU even where there is a GPU

    def __post_init__(self) -> None:
        require("runtime.", self, workers=NOT_NEGATIVE, threads=NOT_NEGATIVE, cache_gb=NOT_NEGATIVE)


@dataclass(frozen=True, kw_only=True, slots=True)
class SaveConfig:
    """Which checkpoints are written and kept."""

    every_updates: int = 0  # write ``last`` that often; 0: at every validation
    every_minutes: float = 10.0  # also write ``last`` when so much time went by; 0 for no
    keep_every: int = 0  # keep a copy each so many validations; 0 for none

    def __post_init__(self) -> None:
        require("save.", self, every_updates=NOT_NEGATIVE, every_minutes=NOT_NEGATIVE, keep_every=NOT_NEGATIVE)


@dataclass(frozen=True, kw_only=True, slots=True)
class LogConfig:
    """What is told where."""

    every_updates: int = 20  # between two lines of the log
    trackers: tuple[str, ...] = ("tensorboard",)  # of accelerate: "tensorboard", "wandb", "mlflow" and others
    pictures: int = 12  # validation pictures and worst examples in ``summary.html``

    def __post_init__(self) -> None:
        require("log.", self, every_updates=AT_LEAST_1, pictures=NOT_NEGATIVE)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """What all tasks share."""

    recipe: str = ""  # name of the recipe that made it
    seed: int = 0  # of weights, order and augmentation
    model: ModelConfig = field(default_factory=ModelConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    batch: BatchConfig = field(default_factory=BatchConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    save: SaveConfig = field(default_factory=SaveConfig)
    log: LogConfig = field(default_factory=LogConfig)
    # Epochs between two validations; give this or ``validate_updates``, neither in a run that is fitted. The end is
    # always validated.
    validate_epochs: float = 1.0
    validate_updates: int = 0  # updates between two validations
    # Of the moving average of the weights, which is then what is validated and kept; 0 for none. The decay rises to it,
    # as 1 - (1 + update)^(-2/3) (timm), so that short runs are averaged over their own end.
    ema_decay: float = 0.0
    validate_start: bool = False  # whether a run that begins from weights is scored before its first update
    early_stopping: int = 0  # end the run after so many validations without a better score; 0 for never
    # Whether what is not set yet is fitted to the data, the start weights and the machine when training starts
    # (``train.fitting``): ``model.name``, ``model.init`` "auto", ``optim.lr``, the schedule's length, ``batch.total``,
    # when to validate, and the sizes in ``augment``. The run's own files hold what was found.
    fit: bool = False

    def __post_init__(self) -> None:
        require("", self, seed=FINITE, validate_epochs=FINITE, validate_updates=FINITE, early_stopping=FINITE)
        require("", self, ema_decay=(BELOW_1[0], f"{BELOW_1[1]}, 0 for no average"))


ClassWeights = tuple[float, ...]
"""One weight a class, in the order of the classes."""

_WEIGHTS: Range = (
    lambda weights: isinstance(weights, str) or (all(0 <= one < math.inf for one in weights) and any(weights)),
    "must be numbers of 0 or more, not all 0",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassificationLoss:
    """Loss of the classifier."""

    # "none"; "auto" or "balanced" (square root of the median frequency over each class's, counted in the training
    # pictures, clipped to 0.4..3, then scaled to a mean of 1 over these pictures); or one number a class, in the order
    # of the classes.
    class_weights: Literal["none", "auto", "balanced"] | ClassWeights = "none"

    def __post_init__(self) -> None:
        require("loss.", self, class_weights=_WEIGHTS)


@dataclass(frozen=True, kw_only=True, slots=True)
class Distillation:
    """Learning from a teacher's answers besides the labels (DeiT, Touvron et al., ICML 2021, section 4)."""

    teacher: str = ""  # classifier of the same classes: weight file, or name in the registry; empty for none
    weight: float = 0.5  # share of the loss; the labels have the rest
    temperature: float = 1.0  # divides the logits of both before they are compared; not of ``hard``
    hard: bool = False  # learn only the teacher's first class, as DeiT does at its best, and not its probabilities
    # Ask the teacher once, about the whole training pictures, not about each crop: quick, but only without mixing.
    whole: bool = False

    def __post_init__(self) -> None:
        require("distill.", self, weight=SHARE, temperature=POSITIVE)


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassificationRun(RunConfig):
    """Training a classifier."""

    data: ClassificationSource = field(default_factory=ClassificationSource)
    augment: ClassificationAugment = field(default_factory=ClassificationAugment)
    loss: ClassificationLoss = field(default_factory=ClassificationLoss)
    distill: Distillation = field(default_factory=Distillation)
    evaluation: ClassificationProtocol = field(default_factory=ClassificationProtocol)


@dataclass(frozen=True, kw_only=True, slots=True)
class PoseRun(RunConfig):
    """Training a top-down pose model."""

    data: PoseSource = field(default_factory=PoseSource)
    augment: PoseAugment = field(default_factory=PoseAugment)
    evaluation: PoseProtocol = field(default_factory=PoseProtocol)


@dataclass(frozen=True, kw_only=True, slots=True)
class SegmentationLoss:
    """Loss of the main and the auxiliary output."""

    ohem: bool = False  # train the main output on hard pixels only
    hard: HardPixels = field(default_factory=HardPixels)  # which ones
    # "none"; "cityscapes" (the published 19); "auto" or "balanced" (square root of the median frequency over each
    # class's, counted in the training masks, clipped to 0.4..3); or one number a class, in the order of the classes.
    class_weights: Literal["none", "cityscapes", "auto", "balanced"] | ClassWeights = "none"
    auxiliary: float = AUXILIARY_WEIGHT  # weight of the auxiliary output

    def __post_init__(self) -> None:
        require("loss.", self, class_weights=_WEIGHTS, auxiliary=NOT_NEGATIVE)


@dataclass(frozen=True, kw_only=True, slots=True)
class SegmentationRun(RunConfig):
    """Training a segmentation model."""

    data: SegmentationSource = field(default_factory=SegmentationSource)
    augment: SegmentationAugment = field(default_factory=SegmentationAugment)
    loss: SegmentationLoss = field(default_factory=SegmentationLoss)
    evaluation: SegmentationProtocol = field(default_factory=SegmentationProtocol)


AnyRun = ClassificationRun | PoseRun | SegmentationRun
SomeRun = TypeVar("SomeRun", bound=RunConfig)


def with_fields(config: SomeRun, changes: Mapping[str, Any]) -> SomeRun:
    """The run with other values by dotted name, such as ``{"optim.lr": 1e-4}``; TypeError for an unknown one."""
    sections: dict[str, dict[str, Any]] = {"": {}}
    for name, value in changes.items():
        section, _, last = name.rpartition(".")
        sections.setdefault(section, {})[last] = value
    own = sections.pop("")
    changed = {section: replace(getattr(config, section), **values) for section, values in sections.items()}
    return replace(config, **own, **changed)


_PAIR: Range = (lambda pair: 0 < pair[0] <= pair[1], "must be (smallest, largest), both above 0")
# A name means the same in all three augmentations, but for "scale".
_AUGMENT: dict[str, Range] = {
    "size": (lambda size: min(size) >= 1, "must be (height, width) in positive pixels"),
    "area": (lambda area: 0 < area[0] <= area[1] <= 1, "must be (smallest, largest) share of the picture, at most 1"),
    **dict.fromkeys(("ratio", "aspect", "scale"), _PAIR),
    **dict.fromkeys(("flip", "erasing", "mix_probability", "switch_probability", "label_smoothing"), SHARE),
    **dict.fromkeys(("shift_probability", "half_body", "portrait", "rotation_probability", "soften", "grey"), SHARE),
    **dict.fromkeys(
        ("padding", "mixup", "cutmix", "shift", "rotation", "half_body_joints", "brightness"), NOT_NEGATIVE
    ),
    **dict.fromkeys(("sigma", "short_side"), POSITIVE),
    "contrast": BELOW_1,
}

OPEN_AUGMENT: dict[str, object] = {
    **dict.fromkeys(("size", "area", "scale"), (0, 0)),
    **dict.fromkeys(("sigma", "short_side"), 0),
    "rotation": -1,
}
"""Fields of the augmentations that a run may leave open if it is fitted to its data, and what says so."""

ALTERNATIVES = (
    ("schedule.epochs", "schedule.updates"),
    ("validate_epochs", "validate_updates"),
    ("schedule.warmup_epochs", "schedule.warmup_updates"),
)
"""Pairs of fields that say the same in two units; at most one of a pair may be above 0."""


def check(config: AnyRun, *, trained: bool = True) -> None:
    """Raise a ValueError for a run that cannot be what was meant, naming the field, what it is and what would be right.

    Without ``trained`` its data is only read or scored, so that schedule, batch and precision do not matter.
    """
    _check_augment(config.augment, fit=config.fit)
    if not trained:
        return
    for first, second in ALTERNATIVES:
        one, other = attrgetter(first, second)(config)
        may_be_open = config.fit or first == "schedule.warmup_epochs"
        if (one > 0 and other > 0) or (one == other == 0 and not may_be_open):
            wanted = "not both; set the other to 0" if one > 0 else "one of them above 0"
            raise ValueError(f"give {first} or {second}, {wanted}: {first} is {one:g} and {second} is {other:g}")
    if not config.fit:
        _check_nothing_is_open(config)
    schedule, batch = config.schedule, config.batch
    for unit in ("epochs", "updates"):
        length, warmup = getattr(schedule, unit), getattr(schedule, f"warmup_{unit}")
        if 0 < length <= warmup:
            raise ValueError(f"schedule.warmup_{unit} ({warmup:g}) must be below schedule.{unit} ({length:g})")
    if isinstance(config, ClassificationRun) and config.distill.teacher:
        mixed = config.augment.mixup or config.augment.cutmix
        if config.distill.whole and mixed:
            raise ValueError("distill.whole: the teacher sees no mixed pictures; set augment.mixup and cutmix to 0")
    if batch.per_device > batch.total > 0:
        raise ValueError(f"batch.per_device ({batch.per_device}) must not exceed batch.total ({batch.total})")
    if config.runtime.cpu and config.runtime.precision == "fp16":
        raise ValueError("runtime.precision: 'fp16' needs a GPU; with --runtime.cpu take 'fp32' or 'bf16'")


def _check_nothing_is_open(config: AnyRun) -> None:
    """Only a run that is fitted to its data may leave these open."""
    if not config.model.name:
        raise ValueError(_NO_MODEL)
    if config.model.init == AUTO:
        raise ValueError(f"model.init: {AUTO!r} needs fit; name the weights to start from, or leave it empty")
    if config.optim.lr == 0:
        raise ValueError(f"optim.lr must be a rate above 0, got {config.optim.lr}")
    if config.batch.total == 0:
        raise ValueError("batch.total must be at least 1, got 0")


def _check_augment(augment: ClassificationAugment | PoseAugment | SegmentationAugment, *, fit: bool) -> None:
    ranges = _AUGMENT | ({"scale": BELOW_1} if isinstance(augment, PoseAugment) else {})
    is_open = {name for name, value in OPEN_AUGMENT.items() if fit and getattr(augment, name, None) == value}
    known = {name: allowed for name, allowed in ranges.items() if hasattr(augment, name) and name not in is_open}
    require("augment.", augment, **known)
    if isinstance(augment, PoseAugment) and any(side % 4 for side in augment.size):
        raise ValueError(f"augment.size must be multiples of 4, the step of the heatmaps, got {augment.size}")
