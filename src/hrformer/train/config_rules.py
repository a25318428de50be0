"""What must hold between the fields of a run, and within those that only training reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hrformer.data.transforms.settings import ClassificationAugment, PoseAugment, SegmentationAugment
from hrformer.train.config import AUTO, AnyRun

# Fields of the augmentations by what they may be; a name means the same in all three.
_SHARES = (
    *("flip", "erasing", "mix_probability", "switch_probability", "label_smoothing"),
    *("shift_probability", "half_body", "rotation_probability"),
)
_NOT_NEGATIVE = ("padding", "mixup", "cutmix", "shift", "rotation", "half_body_joints", "brightness")
_RULES: tuple[tuple[tuple[str, ...], Callable[[Any], bool], str], ...] = (
    (("size",), lambda value: min(value) >= 1, "(height, width) in positive pixels"),
    (("area", "ratio", "aspect"), lambda value: 0 < value[0] <= value[1], "(smallest, largest), both above 0"),
    (_SHARES, lambda value: 0 <= value <= 1, "in [0, 1]"),
    (_NOT_NEGATIVE, lambda value: value >= 0, "0 or more"),
    (("contrast",), lambda value: 0 <= value < 1, "in [0, 1)"),
    (("sigma", "short_side"), lambda value: value is None or value > 0, "above 0"),
)

OPEN_AUGMENT: dict[str, tuple[object, ...]] = {
    "size": ((0, 0),),
    "sigma": (0,),
    "short_side": (0,),
    "area": ((0, 0),),
    "scale": ((0, 0),),
    "rotation": (-1,),
}
"""Fields of the augmentations that a run may leave open if it is fitted to its data, and what says so."""

ALTERNATIVES = (
    ("schedule.epochs", "schedule.updates"),
    ("schedule.warmup_epochs", "schedule.warmup_updates"),
    ("validate_epochs", "validate_updates"),
)
"""Pairs of fields that say the same in two units; at most one of a pair may be above 0."""


def check(config: AnyRun, *, trained: bool = True) -> None:
    """Refuse a run that cannot be what was meant.

    What a single field may be is checked when its dataclass is made; only what several fields say together, and the
    ranges of the augmentation, are checked here.

    Args:
        config: the run.
        trained: False where only its data is read or scored, so that schedule, batch and precision do not matter.

    Raises:
        ValueError: naming the field, what it is and what would be right.
    """
    _check_augment(config.augment, fit=config.fit)
    if not trained:
        return
    schedule = config.schedule
    _require_one("schedule.epochs", schedule.epochs, "schedule.updates", schedule.updates, fit=config.fit)
    _require_one("validate_epochs", config.validate_epochs, "validate_updates", config.validate_updates, fit=config.fit)
    if not config.fit:
        _require_set(config)
    if schedule.warmup_epochs > 0 and schedule.warmup_updates > 0:
        raise ValueError("give schedule.warmup_epochs or schedule.warmup_updates, not both; set the other to 0")
    if 0 < schedule.epochs <= schedule.warmup_epochs:
        raise ValueError(
            f"schedule.warmup_epochs ({schedule.warmup_epochs:g}) must be below schedule.epochs ({schedule.epochs:g})"
        )
    if 0 < schedule.updates <= schedule.warmup_updates:
        raise ValueError(
            f"schedule.warmup_updates ({schedule.warmup_updates}) must be below schedule.updates ({schedule.updates})"
        )
    if config.batch.per_device > config.batch.total > 0:
        raise ValueError(
            f"batch.per_device ({config.batch.per_device}) must not exceed batch.total ({config.batch.total})"
        )
    if config.runtime.cpu and config.runtime.precision == "fp16":
        raise ValueError("runtime.precision: 'fp16' needs a GPU; with --runtime.cpu take 'fp32' or 'bf16'")


def _require_set(config: AnyRun) -> None:
    """Refuse what only a run that is fitted to its data may leave open."""
    if not config.model.name:
        raise ValueError("model.name must name a variant or a timm model; `hrformer models` lists ours")
    if config.model.init == AUTO:
        raise ValueError(f"model.init: {AUTO!r} needs fit; name the weights to start from, or leave it empty")
    if config.optim.lr == 0:
        raise ValueError(f"optim.lr must be a rate above 0, got {config.optim.lr}")
    if config.batch.total == 0:
        raise ValueError("batch.total must be at least 1, got 0")


def _require_one(first: str, first_value: float, second: str, second_value: float, *, fit: bool) -> None:
    if (first_value > 0) == (second_value > 0) and not (fit and first_value == 0):
        got = f"{first} is {first_value:g} and {second} is {second_value:g}"
        raise ValueError(f"give {first} or {second}, one of them above 0 and the other 0; {got}")


def _check_augment(augment: ClassificationAugment | PoseAugment | SegmentationAugment, *, fit: bool) -> None:
    for names, allowed, text in _RULES:
        for name in set(names) & set(augment.__slots__):
            value = getattr(augment, name)
            open_yet = fit and name in OPEN_AUGMENT and value in OPEN_AUGMENT[name]
            if not (open_yet or allowed(value)):
                raise ValueError(f"augment.{name} must be {text}, got {value}")
    if isinstance(augment, ClassificationAugment) and augment.area[1] > 1:
        raise ValueError(f"augment.area is a share of the picture, at most 1, got {augment.area}")
    if isinstance(augment, SegmentationAugment):
        scale_open = fit and augment.scale in OPEN_AUGMENT["scale"]
        if not (scale_open or 0 < augment.scale[0] <= augment.scale[1]):
            raise ValueError(f"augment.scale must be (smallest, largest), both above 0, got {augment.scale}")
    if isinstance(augment, PoseAugment):
        if not 0 <= augment.scale < 1:
            raise ValueError(f"augment.scale must be in [0, 1), got {augment.scale}")
        if any(side % 4 for side in augment.size):
            raise ValueError(f"augment.size must be multiples of 4, the step of the heatmaps, got {augment.size}")
