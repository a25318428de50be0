"""What a run leaves open, fitted to the number of its pictures, to its start weights and to the machine.

Few pictures give small batches, and more passes over them; the passes become fewer as the set grows, since a larger
set needs fewer to see as much. The tables were measured, see the recipes in ``recipes.finetune``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any, TypeVar, cast

from hrformer.models.model import Task
from hrformer.train.config import AUTO, OPEN_AUGMENT, AnyRun, PoseRun, RunConfig, SegmentationRun, with_fields
from hrformer.train.config_file import task_of
from hrformer.train.start_weights import Start, find_start
from hrformer.wording import counted

Config = TypeVar("Config", bound=AnyRun)


@dataclass(frozen=True, kw_only=True, slots=True)
class Effort:
    """How much a task trains."""

    batch: int  # largest batch, for sets of many items
    few: int  # largest batch for sets of less than ``MANY`` items
    items: int  # training items that the run sees, with ``REFERENCE`` items in the set
    lr: float  # peak rate
    # factor on it where the start weights know all classes or joints: more makes them forget, see the recipes
    learnt: float = 0.06


REFERENCE, MANY = 16, 100
"""Items in the set for which ``Effort.items`` holds, and from which on batches are large."""

GROWTH = 0.6
"""The items seen grow as the set's size to this power."""

PROCESSOR: dict[Task, Effort] = {
    "classification": Effort(batch=32, few=16, items=4800, lr=1e-3),
    "pose": Effort(batch=16, few=8, items=2400, lr=4e-4, learnt=0.15),
    "segmentation": Effort(batch=8, few=4, items=480, lr=5e-4),
}
"""Of the small networks in the package, on a few cores."""

GPU: dict[Task, Effort] = {
    "classification": Effort(batch=32, few=16, items=9600, lr=3e-4),
    "pose": Effort(batch=32, few=16, items=9600, lr=2e-4),
    "segmentation": Effort(batch=8, few=8, items=4000, lr=2e-4),
}
"""Of the published networks."""

BRIEF = 0.4
"""Factor on the items seen where the start weights know all classes or joints."""

DROP_PATH = 0.1
"""Of the published networks; the small ones of a processor are rather too small than too large for their sets."""

VALIDATIONS = 10
"""How often a fitted run is validated, unless that would cost much beside the training."""

VALIDATION_COST, VALIDATION_SHARE = 0.7, 0.3
"""Of a validated item beside a trained one, and how much of the training the validations may cost."""

FULL_STRENGTH = 100
"""Passes over the set from which on pictures are changed as much as in the published runs."""

FEW_TO_VALIDATE = 20
"""Items of a validation set below which its score is coarse."""

# Fields that a run may leave open; several in a row are open together.
_OPEN: tuple[tuple[str, ...], ...] = (
    *((f"model.{name}",) for name in ("name", "init", "drop_path_rate")),
    ("model.head_planes", "model.head_width"),
    ("model.head", "model.ocr_channels", "model.ocr_key_channels", "model.aux"),
    *(("optim.lr",), ("batch.total",)),
    ("schedule.epochs", "schedule.updates", "schedule.warmup_epochs", "schedule.warmup_updates"),
    ("validate_epochs", "validate_updates"),
    *((f"augment.{name}",) for name in OPEN_AUGMENT),
    ("evaluation.short_side",),
)
_OPEN_VALUES: tuple[object, ...] = (0, None, "", AUTO, *OPEN_AUGMENT.values())


def fitted(
    config: Config, train_items: int, val_items: int, *, gpu: bool, processes: int = 1, names: tuple[str, ...] = ()
) -> Config:
    """A run with everything filled in that it leaves open, if its ``fit`` is set; what was set stays.

    Args:
        config: of the run.
        train_items: pictures, or people, in the training set, 1 or more.
        val_items: in the validation set.
        gpu: whether it runs on one.
        processes: how many share a batch.
        names: classes or joints of the set.

    Raises:
        ValueError, DownloadError: see :func:`hrformer.train.start_weights.find_start`.
    """
    if not config.fit:
        return config
    task = cast(Task, task_of(config))
    start = find_start(config.model, task, gpu=gpu)
    config = with_sizes(config, gpu=gpu, start=start)
    # What the start weights can do already is soon lost at the rate that a fresh layer needs.
    learnt = bool(names) and set(names) <= set(start.names)
    effort = (GPU if gpu else PROCESSOR)[task]
    # The largest batch that the set fills and the processes share evenly.
    most = min(effort.batch if train_items >= MANY else effort.few, train_items)
    batch = config.batch.total or max(most // processes, 1) * processes
    epochs, updates, every = config.schedule.epochs, config.schedule.updates, config.validate_updates
    if epochs:
        length = max(round(epochs * (train_items // batch)), 1)
    else:
        seen = effort.items * (train_items / REFERENCE) ** GROWTH * (BRIEF if learnt else 1)
        updates = length = updates or max(_rounded(seen / batch), 1)
    if not (config.validate_epochs or every):
        affordable = length * batch * VALIDATION_SHARE / (max(val_items, 1) * VALIDATION_COST)
        every = max(-(-length // max(min(VALIDATIONS, round(affordable)), 1)), 1)
    changes = {
        "fit": False,
        "batch.total": batch,
        "schedule.updates": updates,
        "optim.lr": config.optim.lr or effort.lr * (effort.learnt if learnt else 1),
        "validate_updates": every,
    }
    # The more often an item is seen, the more it has to change.
    strength = max(min(length * batch / train_items / FULL_STRENGTH, 1.0), 0.5)
    ranges = {
        "rotation": round(40 * strength, 1),
        "area": (round(1 - 0.7 * strength, 2), 1.0),
        "scale": (round(1 / (1 + strength), 2), round(1 + strength, 2)),
    }
    is_open = {name: getattr(config.augment, name, None) == OPEN_AUGMENT[name] for name in ranges}
    return with_fields(config, changes | {f"augment.{name}": ranges[name] for name in ranges if is_open[name]})


def with_sizes(config: Config, *, gpu: bool, start: Start | None = None) -> Config:
    """A run with its start weights and the sizes that follow from them; the rest stays open.

    Raises:
        ValueError, DownloadError: see :func:`hrformer.train.start_weights.find_start`.
    """
    start = start or find_start(config.model, cast(Task, task_of(config)), gpu=gpu)
    model = start.model
    if model.drop_path_rate is None and gpu and model.name.startswith("hrformer"):
        model = replace(model, drop_path_rate=DROP_PATH)
    if not model.init:
        # Fresh norms have no statistics yet that would be worth keeping.
        model = replace(model, frozen=tuple(part for part in model.frozen if part != "norms"))
    size = start.size if config.augment.size == (0, 0) else config.augment.size
    changes: dict[str, Any] = {"model": model, "augment.size": size}
    if isinstance(config, PoseRun) and config.augment.sigma == 0:
        # In cells: the published 2 at 256 and 3 at 384 pixels, about the bundled weights' 1.9 at 160.
        changes["augment.sigma"] = round(max(size[0] / 128, min(size[0] / 72, 2.0)), 2)
    if isinstance(config, SegmentationRun):
        short_side = min(size) if config.augment.short_side == 0 else config.augment.short_side
        tested = short_side if config.evaluation.short_side == 0 else config.evaluation.short_side
        changes |= {"augment.short_side": short_side, "evaluation.short_side": tested}
    return with_fields(config, changes)


def as_before(config: Config, saved: AnyRun) -> Config:
    """A run that is taken up again, with what it leaves open as it was at its start, which its folder tells.

    Raises:
        ValueError: the folder is of a run of another task.
    """
    if type(config) is not type(saved):
        raise ValueError(f"the folder holds a run for {task_of(saved)}, this one is for {task_of(config)}")
    changes: dict[str, Any] = {"fit": False}
    for names in _OPEN:
        here = [name for name in names if _has(config, name)]
        if all(attrgetter(name)(config) in _OPEN_VALUES for name in here):
            changes |= {name: attrgetter(name)(saved) for name in here}
    if not (config.schedule.epochs or config.schedule.updates):
        changes["schedule.warmup_share"] = saved.schedule.warmup_share
    if not saved.model.init:
        # Fresh norms were trained whatever was asked for.
        changes["model.frozen"] = saved.model.frozen
    return with_fields(config, changes)


def _has(config: AnyRun, name: str) -> bool:
    section, _, field = name.rpartition(".")
    return hasattr(attrgetter(section)(config) if section else config, field)


def _rounded(updates: float) -> int:
    """Two digits are enough."""
    step = 10 ** max(len(str(int(updates))) - 2, 0)
    return int(round(updates / step) * step)


def fit_text(config: AnyRun, train_items: int, seconds: float | None = None) -> str:
    """One line about a run that was fitted to so many items, and takes so many seconds here where that is known."""
    schedule, (height, width) = config.schedule, config.augment.size
    length = counted(schedule.updates, "update") if schedule.updates else f"{schedule.epochs:g} epochs"
    if isinstance(config, PoseRun):
        # Elsewhere it is the standard deviation of a draw that is cut off at twice that.
        reach = config.augment.rotation * (1 if config.augment.style == "mmpose" else 2)
        change = f"turned by up to {reach:g} degrees"
    elif isinstance(config, SegmentationRun):
        change = f"scaled by {config.augment.scale[0]:g} to {config.augment.scale[1]:g}"
    else:
        change = f"of {config.augment.area[0]:.0%} to {config.augment.area[1]:.0%} of a picture"
    time = ""
    if seconds is not None:
        rounded = f"{max(round(seconds / 10), 1) * 10} seconds" if seconds < 90 else f"{round(seconds / 60)} minutes"
        time = f", about {rounded} here"
    start = config.model.init or "fresh weights"
    return (
        f"fitted to {counted(train_items, *_items(config))}: batch {config.batch.total}, {length}, "
        f"rate {config.optim.lr:g}, crops {height} x {width} {change}, from {start}{time}"
    )


def val_text(config: RunConfig, val_items: int) -> str:
    """A warning where the validation set is too small to tell runs apart; empty where it is not."""
    if val_items >= FEW_TO_VALIDATE:
        return ""
    one = _items(config)[0]
    weight = f"one {one} is about {100 / val_items:.0f} points of" if val_items > 1 else "this one decides"
    return (
        f"warning: val has {counted(val_items, *_items(config))}: {weight} the score, so small differences mean "
        f"nothing; {FEW_TO_VALIDATE} or more tell better"
    )


def _items(config: RunConfig) -> tuple[str, str]:
    """What an item of the run's sets is called, one and many."""
    return ("person", "people") if isinstance(config, PoseRun) else ("picture", "pictures")
