"""The weights that a run starts from: which they are, what follows from them, and how they get into the model.

A processor gets the small networks that come with the package, a GPU the published ones, which are downloaded.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from hrformer.checkpoints.checkpoint import load_checkpoint
from hrformer.checkpoints.download import DownloadError, resolve_weights
from hrformer.checkpoints.formats import OUTPUT_LAYERS
from hrformer.checkpoints.matching import LoadReport, MismatchError
from hrformer.checkpoints.pickles import CheckpointError
from hrformer.checkpoints.recognise import Recognised, recognise
from hrformer.checkpoints.registry import WeightEntry, find_weights, list_weights
from hrformer.checkpoints.weight_files import read_weights
from hrformer.geometry.skeletons import skeleton_for
from hrformer.models.model import ModelInfo, Task, VisionModel
from hrformer.models.trunk import HighResolutionTrunk
from hrformer.train.config import AUTO, ModelConfig
from hrformer.train.optim import TRUNK_PARTS
from hrformer.zoo import HEAD_OPTIONS, INPUT_SPECS

BUNDLED: dict[Task, str] = {
    "classification": "hrformer_tiny_things",
    "pose": "hrformer_tiny_people17",
    "segmentation": "hrformer_tiny_petspeople",
}
"""Start weights on a processor."""

PUBLISHED: dict[Task, str] = {
    "classification": "hrformer_small_imagenet",
    "pose": "hrformer_small_coco_256x192",
    "segmentation": "hrformer_small_imagenet",
}
"""Start weights on a GPU."""

# Crops of the segmentation runs that start from a classifier, which says nothing about them.
_SEGMENTATION_SIZE = (480, 480)
# Pose models fuse into the finest map only, so their files lack what other tasks need behind the last module.
_COARSE_OUTPUTS = re.compile(r"backbone\.stage4\.\d+\.fuse\.paths\.[123]\.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """What a run begins with."""

    model: ModelConfig  # with the name, start weights and options of the head filled in where they were open
    size: tuple[int, int]  # (height, width) of the crops that suit the weights
    names: tuple[str, ...] = ()  # classes or joints that they tell already; none where they have no head for the task


def find_start(model: ModelConfig, task: Task, *, gpu: bool) -> Start:
    """Fill in what the run leaves open about its network: ``init`` may be "auto" and ``name`` empty.

    Raises:
        ValueError: no start weights are known for the network, or the file does not say which network it is of.
        FileNotFoundError: no such weight file.
        DownloadError: the weights cannot be fetched; the message names those in the package.
    """
    size = find_weights(BUNDLED[task]).input_spec.size
    if gpu:
        size = _SEGMENTATION_SIZE if task == "segmentation" else INPUT_SPECS[task].size
    if model.init == AUTO:
        model = replace(model, init=_choose(model.name, task, gpu=gpu))
    if not model.init:
        return Start(model=model, size=size)
    path, entry = _find_file(model.init, task)
    file = read_weights(path)
    try:
        found = recognise(file, entry)
    except CheckpointError:
        # Not a network of ours: only the registry, or the user, can say which of timm's.
        found = Recognised(file=file)
    name = model.name or found.model or (entry.model if entry else "")
    if not name:
        shape = found.network or "not one of HRFormer or HRNet"
        raise ValueError(f"model.init: {model.init} is {shape}; say which network it is of, with --model.name")
    model = replace(model, name=name)
    if found.task != task:
        return Start(model=model, size=size)
    if spec := found.info.input_spec if found.info is not None else entry.input_spec if entry else None:
        size = spec.size
    if name != found.model:
        return Start(model=model, size=size)
    if all(getattr(model, option) is None for option in _head_sizes(task)):
        options: dict[str, Any] = {option: found.options.get(option) for option in _head_sizes(task)}
        model = replace(model, **options)
    names = () if "head" in model.fresh else output_names(found.info, task, found.num_outputs)
    return Start(model=model, size=size, names=names)


def _choose(name: str, task: Task, *, gpu: bool) -> str:
    """Weights to start from, for any network or for the named one."""
    first = (PUBLISHED if gpu else BUNDLED)[task]
    known = [entry for entry in list_weights() if entry.task in (task, None) and name in ("", entry.model)]
    if not known:
        raise ValueError(
            f"model.init: no start weights are known for {name}; give a file or a name with --model.init, or begin "
            "from fresh weights with --model.init ''"
        )
    return min(known, key=lambda entry: (entry.name != first, entry.task != task, entry.origin != "bundled")).name


def _find_file(name: str, task: Task) -> tuple[Path, WeightEntry | None]:
    """``resolve_weights``, whose error names the weights to take where there is no network."""
    try:
        return resolve_weights(name)
    except DownloadError as error:
        raise DownloadError(f"{error} To train without it: --model.init {BUNDLED[task]}") from error


def output_names(info: ModelInfo | None, task: Task | None, count: int = 0) -> tuple[str, ...]:
    """Classes or joints in the order of a network's outputs; empty where they are not known.

    The number of outputs tells the joints of published pose networks, whose files hold no ``info``.
    """
    if info is not None and (info.skeleton is not None or info.class_names):
        return info.skeleton.keypoints if info.skeleton is not None else info.class_names
    skeleton = skeleton_for(count) if task == "pose" else None
    return skeleton.keypoints if skeleton is not None else ()


def _head_sizes(task: Task | None) -> list[str]:
    """Options of the head that decide the shapes of its layers."""
    return [name for name in HEAD_OPTIONS[task] if name not in ("drop_rate", "dropout")]


def load_start_weights(model: VisionModel, config: ModelConfig) -> LoadReport:
    """Load ``config.init`` into a fresh model, in place.

    A head of other sizes than the file's, such as other widths, stays fresh as a whole; so do the parts named in
    ``config.fresh``. Where classes or joints differ, those of the file's names keep their rows of the last layers.
    Everything else must fit.

    Returns:
        What became of the file's entries; its notes say which options would have taken over the file's head.

    Raises:
        CheckpointError: the backbone does not fit; the message names the options that would help.
        ValueError: the model has no part that ``config.fresh`` names.
    """
    names = output_names(model.info, model.task)
    path, entry = _find_file(config.init, cast(Task, model.task))
    found = recognise(read_weights(path), entry, model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fresh = {part: _prefixes(model, part) for part in config.fresh}
    try:
        report = load_checkpoint(model, path, published=entry)
    except MismatchError as error:
        of_head = {name for name in error.misfits if name.startswith("head.")}
        if not all(_COARSE_OUTPUTS.match(name) for name in error.misfits - of_head):
            other = found.model and found.model != config.name
            hint = f"\n  give --model.name {found.model}, or other weights with --model.init" if other else ""
            raise CheckpointError(f"model.init: {error}{hint}") from error
        report = load_checkpoint(model, path, published=entry, strict=False)
        if of_head:
            fresh.setdefault("head", ("head.",))
            report = replace(report, notes=(*report.notes, _how_to_keep_the_head(found, config, model)))
    if "head" not in fresh:
        report = _take_named_rows(model, names, found, report, before)
    state = model.state_dict()
    prefixes = tuple(prefix for part in fresh.values() for prefix in part)
    with torch.no_grad():
        for name in state:
            if name.startswith(prefixes):
                state[name].copy_(before[name])
    return _without(report, found, fresh) if fresh else report


def _prefixes(model: VisionModel, part: str) -> tuple[str, ...]:
    """What the names of a part's parameters begin with."""
    if part == "head" and model.head is not None:
        return ("head.",)
    if part == "head" or not isinstance(model.backbone, HighResolutionTrunk):
        raise ValueError(f"model.fresh: {model.info.name} has no part {part!r} that could stay fresh by itself")
    return tuple(f"backbone.{name}." for name in TRUNK_PARTS[part])


def _how_to_keep_the_head(found: Recognised, config: ModelConfig, model: VisionModel) -> str:
    """The options of the file's head, where they differ from the model's."""
    options = {name: found.options.get(name) for name in _head_sizes(model.task)}
    other = [
        f"--model.{name.replace('_', '-')} {value}" for name, value in options.items() if value != getattr(config, name)
    ]
    return f"the head starts fresh, since the file's has other sizes; to start from it, give {' '.join(other)}"


@torch.no_grad()
def _take_named_rows(
    model: VisionModel, names: tuple[str, ...], found: Recognised, report: LoadReport, before: dict[str, Tensor]
) -> LoadReport:
    """Let the last layers of a loaded model keep the file's rows for classes or joints of the same name only.

    Returns:
        The report, with a note on what was taken.
    """
    theirs = output_names(found.info, found.task, found.num_outputs)
    if found.task != model.task or not names or not theirs or names == theirs:
        return report
    same = [(row, theirs.index(name)) for row, name in enumerate(names) if name in theirs]
    ours, others = [row for row, _ in same], [row for _, row in same]
    for name, own in model.state_dict().items():
        shape = found.shape(name)
        if name.rpartition(".")[0] in OUTPUT_LAYERS and shape == (len(theirs), *own.shape[1:]):
            # As many outputs of other names would have been taken for the file's.
            own.copy_(before[name])
            own[ours] = found.value(name)[others].to(own)
    kind = "joints" if model.task == "pose" else "classes"
    note = f"{len(same)} of the {len(names)} {kind} are known to the file by name and start from its weights"
    note += f"; the other {len(names) - len(same)} start fresh" if len(same) < len(names) else ""
    fresh = [layer for layer in report.fresh if layer not in OUTPUT_LAYERS]
    if not same:
        note = f"none of the {len(names)} {kind} is known to the file by name"
        layers = {name.rpartition(".")[0] for name in before}
        fresh += [layer for layer in OUTPUT_LAYERS if layer in layers]
    return replace(report, fresh=tuple(fresh), notes=(*report.notes, note))


def _without(report: LoadReport, found: Recognised, parts: dict[str, tuple[str, ...]]) -> LoadReport:
    """The report, with the entries of parts that stay fresh, given with their prefixes, among those left out."""
    prefixes = tuple(prefix for part in parts.values() for prefix in part)
    keys = {key for name, entries in found.sources.items() if name.startswith(prefixes) for key in entries}
    reason = f"of {' and '.join(parts)}, which {'starts' if len(parts) == 1 else 'start'} fresh"
    fresh = [layer for layer in report.fresh if not f"{layer}.".startswith(prefixes)]
    return replace(
        report,
        used=tuple(key for key in report.used if key not in keys),
        converted={key: name for key, name in report.converted.items() if key not in keys},
        unexpected=tuple(key for key in report.unexpected if key not in keys),
        ignored={**report.ignored, **dict.fromkeys(sorted(keys), reason)},
        fresh=(*parts, *fresh),
    )
