"""What must hold between the fields of a run, and within those that only training reads."""

from __future__ import annotations

from operator import attrgetter

from hrformer.data.transforms.settings import ClassificationAugment, PoseAugment, SegmentationAugment
from hrformer.train.config import AUTO, BELOW_1, NOT_NEGATIVE, POSITIVE, SHARE, AnyRun, Range, require

_PAIR: Range = (lambda pair: 0 < pair[0] <= pair[1], "must be (smallest, largest), both above 0")
# A name means the same in all three augmentations, but for "scale".
_AUGMENT: dict[str, Range] = {
    "size": (lambda size: min(size) >= 1, "must be (height, width) in positive pixels"),
    "area": (lambda area: 0 < area[0] <= area[1] <= 1, "must be (smallest, largest) share of the picture, at most 1"),
    **dict.fromkeys(("ratio", "aspect", "scale"), _PAIR),
    **dict.fromkeys(("flip", "erasing", "mix_probability", "switch_probability", "label_smoothing"), SHARE),
    **dict.fromkeys(("shift_probability", "half_body", "rotation_probability"), SHARE),
    **dict.fromkeys(
        ("padding", "mixup", "cutmix", "shift", "rotation", "half_body_joints", "brightness"), NOT_NEGATIVE
    ),
    **dict.fromkeys(("sigma", "short_side"), POSITIVE),
    "contrast": BELOW_1,
}

OPEN_AUGMENT: dict[str, object] = {
    "size": (0, 0),
    "sigma": 0,
    "short_side": 0,
    "area": (0, 0),
    "scale": (0, 0),
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
    for first, second in ALTERNATIVES:
        one, other = attrgetter(first, second)(config)
        may_be_open = config.fit or first == "schedule.warmup_epochs"
        if (one > 0 and other > 0) or (one == other == 0 and not may_be_open):
            wanted = "not both; set the other to 0" if one > 0 else "one of them above 0"
            raise ValueError(f"give {first} or {second}, {wanted}: {first} is {one:g} and {second} is {other:g}")
    if not config.fit:
        _require_set(config)
    schedule, batch = config.schedule, config.batch
    for unit in ("epochs", "updates"):
        length, warmup = getattr(schedule, unit), getattr(schedule, f"warmup_{unit}")
        if 0 < length <= warmup:
            raise ValueError(f"schedule.warmup_{unit} ({warmup:g}) must be below schedule.{unit} ({length:g})")
    if batch.per_device > batch.total > 0:
        raise ValueError(f"batch.per_device ({batch.per_device}) must not exceed batch.total ({batch.total})")
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


def _check_augment(augment: ClassificationAugment | PoseAugment | SegmentationAugment, *, fit: bool) -> None:
    ranges = {name: allowed for name, allowed in _AUGMENT.items() if hasattr(augment, name)}
    if isinstance(augment, PoseAugment):
        ranges |= {"scale": BELOW_1}
    if fit:
        ranges = {name: allowed for name, allowed in ranges.items() if getattr(augment, name) != OPEN_AUGMENT.get(name)}
    require("augment.", augment, **ranges)
    if isinstance(augment, PoseAugment) and any(side % 4 for side in augment.size):
        raise ValueError(f"augment.size must be multiples of 4, the step of the heatmaps, got {augment.size}")
