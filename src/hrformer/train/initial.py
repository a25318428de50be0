"""First weights of a run: those of a file, as far as they fit, and fresh ones for what is to be learnt anew."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from hrformer.checkpoints.checkpoint import load_checkpoint
from hrformer.checkpoints.formats import OUTPUT_LAYERS
from hrformer.checkpoints.matching import LoadReport, MismatchError
from hrformer.checkpoints.pickles import CheckpointError
from hrformer.checkpoints.recognise import Recognised, recognise
from hrformer.checkpoints.registry import WeightEntry
from hrformer.checkpoints.weight_files import read_weights
from hrformer.models.model import Task, VisionModel
from hrformer.models.trunk import HighResolutionTrunk
from hrformer.train.config import ModelConfig
from hrformer.train.optim import TRUNK_PARTS
from hrformer.train.start_weights import first_weights_file, output_names
from hrformer.zoo import HEAD_OPTIONS

# Pose models fuse into the finest map only, so their files lack what other tasks need behind the last module.
_COARSE_OUTPUTS = re.compile(r"backbone\.stage4\.\d+\.fuse\.paths\.[123]\.")
# These change no shape.
_NO_SIZES = ("drop_rate", "dropout")


def load_first_weights(model: VisionModel, config: ModelConfig) -> LoadReport:
    """Load ``config.init`` into a fresh model.

    A head of other sizes than the file's, such as other widths, stays fresh as a whole; so do the parts named in
    ``config.fresh``. Where classes or joints differ, those of the file's names keep their rows of the last layers.
    Everything else must fit.

    Args:
        model: fresh; changed in place.
        config: what to load, and which parts to leave alone.

    Returns:
        What became of the file's entries; its notes say which options would have taken over the file's head.

    Raises:
        CheckpointError: the backbone does not fit; the message names the options that would help.
        ValueError: the model has no part that ``config.fresh`` names.
    """
    names = output_names(model.info, model.task)
    path, entry = first_weights_file(config.init, cast(Task, model.task))
    kept = {part: _copies(model, _prefixes(model, part)) for part in config.fresh}
    head = _copies(model, ("head.",))
    try:
        report = load_checkpoint(model, path, published=entry)
    except MismatchError as error:
        note = _require_backbone(model, path, entry, config, error)
        report = load_checkpoint(model, path, published=entry, strict=False)
        if note:
            kept.setdefault("head", head)
            report = replace(report, notes=(*report.notes, note))
    if "head" not in kept:
        report = _take_named_rows(model, names, path, entry, report, head)
    _put_back(model, kept.values())
    return _without(report, model, path, entry, kept) if kept else report


@torch.no_grad()
def _take_named_rows(
    model: VisionModel,
    names: tuple[str, ...],
    path: Path,
    entry: WeightEntry | None,
    report: LoadReport,
    first: dict[str, Tensor],
) -> LoadReport:
    """Let the last layers hold the file's rows for classes or joints of the same name only, if the names differ.

    Args:
        model: loaded.
        names: of its outputs.
        path: of the file.
        entry: of the registry, if it is known there.
        report: of the loading.
        first: values of the model's head before that.

    Returns:
        The report, with a note on what was taken.
    """
    found = recognise(read_weights(path), entry, model)
    theirs = output_names(found.info, found.task, found.num_outputs)
    if found.task != model.task or not names or not theirs or names == theirs:
        return report
    same = [(row, theirs.index(name)) for row, name in enumerate(names) if name in theirs]
    ours, others = [row for row, _ in same], [row for _, row in same]
    for name, own in model.state_dict().items():
        shape = found.shape(name)
        if name.rpartition(".")[0] in OUTPUT_LAYERS and shape == (len(theirs), *own.shape[1:]):
            # As many outputs of other names would have been taken for the file's.
            own.copy_(first[name])
            own[ours] = found.value(name)[others].to(own)
    kind = "joints" if model.task == "pose" else "classes"
    note = f"{len(same)} of the {len(names)} {kind} are known to the file by name and start from its weights"
    note += f"; the other {len(names) - len(same)} start fresh" if len(same) < len(names) else ""
    fresh = [layer for layer in report.fresh if layer not in OUTPUT_LAYERS]
    if not same:
        note = f"none of the {len(names)} {kind} is known to the file by name"
        layers = {name.rpartition(".")[0] for name in first}
        fresh += [layer for layer in OUTPUT_LAYERS if layer in layers]
    return replace(report, fresh=tuple(fresh), notes=(*report.notes, note))


def _prefixes(model: VisionModel, part: str) -> tuple[str, ...]:
    """What the names of a part's parameters begin with.

    Raises:
        ValueError: the model has no such part.
    """
    if part == "head" and model.head is not None:
        return ("head.",)
    if part == "head" or not isinstance(model.backbone, HighResolutionTrunk):
        raise ValueError(f"model.fresh: {model.info.name} has no part {part!r} that could stay fresh by itself")
    return tuple(f"backbone.{name}." for name in TRUNK_PARTS[part])


def _copies(model: VisionModel, prefixes: tuple[str, ...]) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items() if name.startswith(prefixes)}


@torch.no_grad()
def _put_back(model: VisionModel, parts: Iterable[dict[str, Tensor]]) -> None:
    state = model.state_dict()
    for values in parts:
        for name, value in values.items():
            state[name].copy_(value)


def _require_backbone(
    model: VisionModel, path: Path, entry: WeightEntry | None, config: ModelConfig, error: MismatchError
) -> str:
    """Raise unless only the head, or the coarse outputs that pose models lack, do not fit.

    Returns:
        How to take over the file's head; empty if the head is not what does not fit.

    Raises:
        CheckpointError: with the mismatch, and the option that would help where it is known.
    """
    found = recognise(read_weights(path), entry, model)
    misfits = error.misfits
    if any(not name.startswith("head.") and not _COARSE_OUTPUTS.match(name) for name in misfits):
        other = found.model and found.model != config.name
        hint = f"\n  give --model.name {found.model}, or other weights with --model.init" if other else ""
        raise CheckpointError(f"model.init: {error}{hint}") from error
    return _advice(found, config, model) if any(name.startswith("head.") for name in misfits) else ""


def _advice(found: Recognised, config: ModelConfig, model: VisionModel) -> str:
    """The options of the file's head, where they differ from the model's."""
    names = [name for name in HEAD_OPTIONS[model.task] if name not in _NO_SIZES]
    other = [
        f"--model.{name.replace('_', '-')} {found.options.get(name)}"
        for name in names
        if found.options.get(name) != getattr(config, name)
    ]
    return f"the head starts fresh, since the file's has other sizes; to start from it, give {' '.join(other)}"


def _without(
    report: LoadReport, model: VisionModel, path: Path, entry: WeightEntry | None, parts: Collection[str]
) -> LoadReport:
    """The report, with the entries of parts that stay fresh among those left out."""
    sources = recognise(read_weights(path), entry, model).sources
    prefixes = tuple(prefix for part in parts for prefix in _prefixes(model, part))
    keys = {key for name, found in sources.items() if name.startswith(prefixes) for key in found}
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
