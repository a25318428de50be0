"""What a run leaves open, fitted to the number of its pictures, to its start weights and to the machine.

Few pictures give small batches, and more passes over them; the passes become fewer as the set grows, since a larger
set needs fewer to see as much. The tables were measured, see the recipes in ``recipes.finetune``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast

from hrformer.models.model import Task
from hrformer.train.config import AUTO, AnyRun, PoseRun, RunConfig, SegmentationRun
from hrformer.train.config_file import from_dict, task_of, to_dict
from hrformer.train.config_rules import OPEN_AUGMENT
from hrformer.train.start_weights import Start, find_start
from hrformer.wording import counted

Run = TypeVar("Run", bound=AnyRun)


@dataclass(frozen=True, kw_only=True, slots=True)
class Effort:
    """How much a task trains.

    Attributes:
        batch: largest batch, for sets of many items.
        few: largest batch for sets of less than ``MANY`` items.
        items: training items that the run sees, with ``REFERENCE`` items in the set.
        growth: the items seen grow as the set's size to this power.
        lr: peak rate.
    """

    batch: int
    few: int
    items: int
    growth: float
    lr: float


REFERENCE, MANY = 16, 100
"""Items in the set for which ``Effort.items`` holds, and from which on batches are large."""

PROCESSOR: dict[Task, Effort] = {
    "classification": Effort(batch=32, few=16, items=4800, growth=0.6, lr=1e-3),
    "pose": Effort(batch=16, few=8, items=2400, growth=0.6, lr=1e-3),
    "segmentation": Effort(batch=8, few=4, items=480, growth=0.6, lr=5e-4),
}
"""Of the small networks in the package, on a few cores."""

GPU: dict[Task, Effort] = {
    "classification": Effort(batch=32, few=16, items=9600, growth=0.6, lr=3e-4),
    "pose": Effort(batch=32, few=16, items=9600, growth=0.6, lr=2e-4),
    "segmentation": Effort(batch=8, few=8, items=4000, growth=0.6, lr=2e-4),
}
"""Of the published networks."""

LEARNT, BRIEF = 0.06, 0.4
"""Factors on the rate and on the items seen where the start weights know all classes or joints: more of either makes
them forget, see the recipes."""

DROP_PATH = 0.1
"""Of the published networks."""

VALIDATIONS = 10
"""How often a fitted run is validated, unless that would cost much beside the training."""

VALIDATION_COST, VALIDATION_SHARE = 0.7, 0.3
"""Of a validated item beside a trained one, and how much of the training the validations may cost."""


def fitted(
    config: Run, train_items: int, val_items: int, *, gpu: bool, processes: int = 1, names: tuple[str, ...] = ()
) -> Run:
    """A run with everything filled in that it leaves open.

    Args:
        config: of the run; returned as it is unless its ``fit`` is set.
        train_items: pictures, or people, in the training set, 1 or more.
        val_items: in the validation set.
        gpu: whether it runs on one.
        processes: how many share a batch.
        names: classes or joints of the set.

    Returns:
        The run with ``fit`` off. What was set stays.

    Raises:
        ValueError: see :func:`hrformer.train.start_weights.find_start`.
        DownloadError: likewise.
    """
    if not config.fit:
        return config
    task: Any = task_of(config)
    start = find_start(config.model, task, gpu=gpu)
    config = _sized(config, start, gpu=gpu)
    # What the start weights can do already is soon lost at the rate that a fresh layer needs.
    learnt = bool(names) and set(names) <= set(start.names)
    effort = (GPU if gpu else PROCESSOR)[task]
    batch = config.batch.total or _batch(effort, train_items, processes)
    schedule = config.schedule
    if not (schedule.epochs or schedule.updates):
        seen = effort.items * (train_items / REFERENCE) ** effort.growth * (BRIEF if learnt else 1)
        schedule = replace(schedule, updates=max(_rounded(seen / batch), 1))
    updates = schedule.updates or max(round(schedule.epochs * (train_items // batch)), 1)
    every = config.validate_updates
    if not (config.validate_epochs or every):
        affordable = updates * batch * VALIDATION_SHARE / (max(val_items, 1) * VALIDATION_COST)
        every = max(-(-updates // max(min(VALIDATIONS, round(affordable)), 1)), 1)
    return replace(
        config,
        fit=False,
        batch=replace(config.batch, total=batch),
        schedule=schedule,
        optim=replace(config.optim, lr=config.optim.lr or effort.lr * (LEARNT if learnt else 1)),
        validate_updates=every,
        augment=_augmented(config.augment, updates * batch / train_items),
    )


def as_before(config: Run, saved: AnyRun) -> Run:
    """A run that is taken up again, with what it leaves open as it was at its start.

    Args:
        config: as asked for now.
        saved: as the run's folder holds it.
    """
    values, before = to_dict(config), to_dict(saved)
    open_values: tuple[Any, ...] = (0, None, "", AUTO, [0, 0], -1)
    for names in _OPEN:
        if all(_at(values, name) in open_values for name in names):
            for name in names:
                _put(values, name, _at(before, name))
    if not (config.schedule.epochs or config.schedule.updates):
        _put(values, "schedule.warmup_share", saved.schedule.warmup_share)
    if not saved.model.init:
        # Fresh norms were trained whatever was asked for.
        _put(values, "model.frozen", _at(before, "model.frozen"))
    return cast(Run, from_dict(values | {"fit": False}))


# Fields that a run may leave open; several in a row are open together.
_OPEN: tuple[tuple[str, ...], ...] = (
    *((f"model.{name}",) for name in ("name", "init", "drop_path_rate")),
    tuple(f"model.{name}" for name in ("head_planes", "head_width")),
    tuple(f"model.{name}" for name in ("head", "ocr_channels", "ocr_key_channels", "aux")),
    *(("optim.lr",), ("batch.total",)),
    tuple(f"schedule.{name}" for name in ("epochs", "updates", "warmup_epochs", "warmup_updates")),
    ("validate_epochs", "validate_updates"),
    *((f"augment.{name}",) for name in OPEN_AUGMENT),
    ("evaluation.short_side",),
)


def _at(values: Any, name: str) -> Any:
    for part in name.split("."):
        values = values.get(part)
    return values


def _put(values: dict[str, Any], name: str, value: Any) -> None:
    *sections, field = name.split(".")
    for part in sections:
        values = values[part]
    if field in values:
        values[field] = value


def with_sizes(config: Run, *, gpu: bool) -> Run:
    """A run with its start weights and the sizes that follow from them; the rest stays open.

    Raises:
        ValueError: see :func:`hrformer.train.start_weights.find_start`.
        DownloadError: likewise.
    """
    return _sized(config, find_start(config.model, cast(Task, task_of(config)), gpu=gpu), gpu=gpu)


def _sized(config: Run, start: Start, *, gpu: bool) -> Run:
    model, augment = start.model, _sizes(config.augment, start.size)
    if model.drop_path_rate is None and gpu and model.name.startswith("hrformer"):
        # The small networks of a processor are rather too small than too large for their sets.
        model = replace(model, drop_path_rate=DROP_PATH)
    if isinstance(config, SegmentationRun) and config.evaluation.short_side == 0:
        config = replace(config, evaluation=replace(config.evaluation, short_side=augment.short_side))
    if not model.init:
        # Fresh norms have no statistics yet that would be worth keeping.
        model = replace(model, frozen=tuple(part for part in model.frozen if part != "norms"))
    return replace(config, model=model, augment=augment)


def _batch(effort: Effort, train_items: int, processes: int) -> int:
    """Largest batch that the set fills and the processes share evenly."""
    most = min(effort.batch if train_items >= MANY else effort.few, train_items)
    return max(most // processes, 1) * processes


def _rounded(updates: float) -> int:
    """Two digits are enough."""
    step = 10 ** max(len(str(int(updates))) - 2, 0)
    return int(round(updates / step) * step)


def _sizes(augment: Any, size: tuple[int, int]) -> Any:
    """The augmentation with crops of this (height, width), where it leaves them open."""
    if augment.size == (0, 0):
        augment = replace(augment, size=size)
    if getattr(augment, "sigma", None) == 0:
        augment = replace(augment, sigma=_sigma(augment.size))
    if getattr(augment, "short_side", None) == 0:
        augment = replace(augment, short_side=min(augment.size))
    return augment


def _augmented(augment: Any, passes: float) -> Any:
    """The augmentation with its open ranges filled in: the more often an item is seen, the more it has to change."""
    strength = max(min(passes / FULL_STRENGTH, 1.0), 0.5)
    if getattr(augment, "rotation", None) == -1:
        augment = replace(augment, rotation=round(40 * strength, 1))
    if getattr(augment, "area", None) == (0, 0):
        augment = replace(augment, area=(round(1 - 0.7 * strength, 2), 1.0))
    if getattr(augment, "scale", None) == (0, 0):
        augment = replace(augment, scale=(round(1 / (1 + strength), 2), round(1 + strength, 2)))
    return augment


def _sigma(size: tuple[int, int]) -> float:
    """Spread of the targets in cells: the published 2 at 256 and 3 at 384 pixels, and the bundled weights' at 128."""
    return round(max(size[0] / 128, min(size[0] / 72, 2.0)), 2)


FULL_STRENGTH = 100
"""Passes over the set from which on pictures are changed as much as in the published runs."""


def fit_text(config: AnyRun, train_items: int, seconds: float | None = None) -> str:
    """One line about a run that was fitted.

    Args:
        config: as fitted.
        train_items: pictures, or people, in the training set.
        seconds: how long the run is expected to take here; None where that is not known.
    """
    items = counted(train_items, *_kind(config))
    height, width = config.augment.size
    schedule = config.schedule
    length = counted(schedule.updates, "update") if schedule.updates else f"{schedule.epochs:g} epochs"
    time = "" if seconds is None else f", about {_minutes(seconds)} here"
    start = f", from {config.model.init}" if config.model.init else ", from fresh weights"
    return (
        f"fitted to {items}: batch {config.batch.total}, {length}, rate {config.optim.lr:g}, crops "
        f"{height} x {width}{_range_text(config)}{start}{time}"
    )


def _range_text(config: AnyRun) -> str:
    """How much the pictures are changed."""
    if isinstance(config, PoseRun):
        # Elsewhere it is the standard deviation of a draw that is cut off at twice that.
        reach = config.augment.rotation * (1 if config.augment.style == "mmpose" else 2)
        return f" turned by up to {reach:g} degrees"
    if isinstance(config, SegmentationRun):
        return f" scaled by {config.augment.scale[0]:g} to {config.augment.scale[1]:g}"
    return f" of {config.augment.area[0]:.0%} to {config.augment.area[1]:.0%} of a picture"


def _minutes(seconds: float) -> str:
    if seconds < 90:
        return f"{max(round(seconds / 10), 1) * 10} seconds"
    return f"{round(seconds / 60)} minutes"


def val_text(config: RunConfig, val_items: int) -> str:
    """A warning where the validation set is too small to tell runs apart; empty where it is not.

    Args:
        config: of the run.
        val_items: pictures, or people, in the validation set, 1 or more.
    """
    if val_items >= FEW:
        return ""
    one = _kind(config)[0]
    weight = f"one {one} is about {100 / val_items:.0f} points of" if val_items > 1 else "this one decides"
    return (
        f"warning: val has {counted(val_items, *_kind(config))}: {weight} the score, so small differences mean "
        f"nothing; {FEW} or more tell better"
    )


def _kind(config: RunConfig) -> tuple[str, str]:
    """What an item of the run's sets is called, one and many."""
    return ("person", "people") if isinstance(config, PoseRun) else ("picture", "pictures")


FEW = 20
"""Items of a validation set below which its score is coarse."""
