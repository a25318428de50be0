"""What becomes of every name of a file, and of every setting of the model, without touching the model; the report."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from hrformer.checkpoints.formats import OUTPUT_LAYERS, window_of
from hrformer.checkpoints.pickles import CheckpointError
from hrformer.checkpoints.recognise import DECODING, TABLE, Recognised, file_settings
from hrformer.models.attention import WindowAttention, resize_bias_table
from hrformer.models.blocks import BN_EPS
from hrformer.models.fusion import UPSAMPLE_MODES
from hrformer.models.model import ModelInfo, VisionModel
from hrformer.models.trunk import HighResolutionTrunk
from hrformer.timm_backbones import TimmClassifier
from hrformer.wording import listed


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadReport:
    """Outcome of loading one file into one model."""

    source: str  # the file's name
    format: str  # layout it was recognised as
    used: tuple[str, ...] = ()  # entries taken over under the same name, wrapper prefixes aside
    # entry -> our name: renamed, joined (query, key, value) or resized (bias tables)
    converted: Mapping[str, str] = field(default_factory=dict)
    ignored: Mapping[str, str] = field(default_factory=dict)  # entry -> reason
    missing: tuple[str, ...] = ()  # our names that the file lacks and the task does not need
    unexpected: tuple[str, ...] = ()  # entries that belong nowhere
    fresh: tuple[str, ...] = ()  # layers that keep the values they had, because the file has none that fit
    implied: Mapping[str, Any] = field(default_factory=dict)  # settings that the file implies
    assumed: Mapping[str, str] = field(default_factory=dict)  # setting -> value and reason, where the file cannot tell
    given: Mapping[str, Any] = field(default_factory=dict)  # settings chosen by the caller
    notes: tuple[str, ...] = ()  # anything else worth knowing

    def __str__(self) -> str:
        lines = [
            f"{self.source}: {self.format}; entries used {len(self.used)}, converted {len(self.converted)}, "
            f"ignored {len(self.ignored)}, missing but not needed {len(self.missing)}, "
            f"unexpected {len(self.unexpected)}"
        ]
        lines += [f"  ignored, {count}: {reason}" for reason, count in Counter(self.ignored.values()).most_common()]
        if self.unexpected:
            lines.append(f"  unexpected: {listed(self.unexpected, 8)}")
        if self.fresh:
            lines.append(f"  fresh, not from the file: {listed(self.fresh, 8)}")
        for title, values in (("implied", self.implied), ("given", self.given)):
            if values:
                lines.append(f"  {title}: {', '.join(f'{name} {value}' for name, value in values.items())}")
        lines += [f"  assumed: {name} {text}" for name, text in self.assumed.items()]
        lines += [f"  note: {note}" for note in self.notes]
        return "\n".join(lines)


class MismatchError(CheckpointError):
    """A file does not fit the model; ``misfits`` are our names of what is missing, too much or of another shape."""

    def __init__(self, message: str, misfits: set[str]) -> None:
        super().__init__(message)
        self.misfits = misfits


@dataclass(kw_only=True, slots=True)
class Match:
    """What becomes of every name of model and file; see ``LoadReport`` for the fields of that name."""

    values: dict[str, Tensor] = field(default_factory=dict)  # by our names, to copy into the model
    used: list[str] = field(default_factory=list)
    converted: dict[str, str] = field(default_factory=dict)
    ignored: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    fresh: dict[str, None] = field(default_factory=dict)  # a set that keeps its order
    notes: dict[str, None] = field(default_factory=dict)
    lacking: list[str] = field(default_factory=list)  # our names that the task needs and the file lacks
    wrong: dict[str, str] = field(default_factory=dict)  # our name -> shapes in words, where file and model differ
    extra: dict[str, list[str]] = field(default_factory=dict)  # our name -> entries that the model has no place for


def match(model: VisionModel, found: Recognised, *, position_bias: bool, strict: bool) -> Match:
    """Decide for every name of model and file what becomes of it.

    Where the model will not add the ``position_bias``, tables may be missing. ``strict`` raises MismatchError where
    the task's needs are not met; otherwise such layers stay fresh.
    """
    result = Match(ignored=found.file.skipped | found.ignored)
    state = model.state_dict()
    has_head = model.head is None or model.task == found.task
    for name, own in state.items():
        if name.startswith("head.") and not has_head:
            result.fresh["head"] = None
        else:
            _place(result, name, own, found, _output_layers(model), position_bias)
    for name, keys in found.sources.items():
        if name not in state:
            if reason := _reason_to_ignore(model, found, name, has_head):
                result.ignored |= dict.fromkeys(keys, reason)
            else:
                result.extra[name] = keys
    if found.absolute_norms:
        for name in result.values:
            if name.endswith(".weight") and f"{name.removesuffix('weight')}running_mean" in state:
                result.values[name] = result.values[name].abs() + BN_EPS
    misfits = {*result.lacking, *result.wrong, *result.extra}
    if (strict and misfits) or not any(name.startswith("backbone.") for name in result.values):
        raise MismatchError(_mismatch(model, found, result), misfits)
    result.fresh |= dict.fromkeys(name.rpartition(".")[0] for name in (*result.lacking, *result.wrong))
    return result


def _place(
    result: Match, name: str, own: Tensor, found: Recognised, outputs: tuple[str, ...], position_bias: bool
) -> None:
    """Place one name of the model."""
    shape, layer = found.shape(name), name.rpartition(".")[0]
    if shape is None:
        zero = _bias_left_out(found, name)
        if zero:
            result.values[name] = torch.zeros_like(own)
        # Files of PyTorch 0.4 have no batch counters.
        optional = zero or name.endswith(".num_batches_tracked") or (name.endswith(TABLE) and not position_bias)
        (result.missing if optional else result.lacking).append(name)
        return
    keys = found.sources[name]
    if shape == tuple(own.shape):
        result.values[name] = found.value(name)
        result.used += [key for key in keys if key not in found.renamed]
        result.converted |= {key: name for key in keys if key in found.renamed}
    elif name.endswith(TABLE) and shape[1:] == tuple(own.shape[1:]):
        table, window = found.value(name), window_of(own)
        result.values[name] = resize_bias_table(table, window)
        result.converted[keys[0]] = name
        result.notes[f"bias tables resized from window {window_of(table)} to {window}"] = None
    elif layer in outputs and shape[1:] == tuple(own.shape[1:]):
        result.fresh[layer] = None
        result.ignored |= dict.fromkeys(keys, f"{shape[0]} classes or keypoints, the model has {own.shape[0]}")
    else:
        result.wrong[name] = f"{shape} in the file, {tuple(own.shape)} in the model"


def _bias_left_out(found: Recognised, name: str) -> bool:
    """Whether mmsegmentation has no such bias: those before a BN, which are 0 then."""
    layer = name.removesuffix(".0.bias")
    weight = found.sources.get(f"{layer}.0.weight", [""])[0]
    return layer != name and "decode_head." in weight and f"{layer}.1.running_mean" in found.sources


def _output_layers(model: VisionModel) -> tuple[str, ...]:
    if isinstance(model.backbone, TimmClassifier):
        names = getattr(model.backbone.net, "pretrained_cfg", {}).get("classifier") or ()
        return tuple(f"backbone.net.{name}" for name in ([names] if isinstance(names, str) else names))
    return OUTPUT_LAYERS


def _reason_to_ignore(model: VisionModel, found: Recognised, name: str, has_head: bool) -> str:
    if name.startswith("head."):
        if model.head is None:
            return "part of a head; the model is a bare backbone"
        return "" if has_head else f"part of a {found.task or 'different'} head; the model is for {model.task}"
    rows = re.fullmatch(r"backbone\.stage4\.(\d+)\.fuse\.paths\.[123]\..+", name)
    config = model.backbone.config if isinstance(model.backbone, HighResolutionTrunk) else None
    if rows and config and not config.multi_scale and int(rows[1]) == config.num_modules[-1] - 1:
        return "makes coarse outputs, which pose does not use"
    return ""


def _mismatch(model: VisionModel, found: Recognised, result: Match) -> str:
    task = f"for {model.task}" if model.task else "as a bare backbone"
    what = f"{found.format}" + (f": {found.network}" if found.network else "")
    lines = [f"{found.file.label} ({what}) does not fit {model.info.name} {task}"]
    if result.lacking:
        lines.append(f"  {len(result.lacking)} in the model, not in the file: {listed(result.lacking, 8)}")
    if extra := [key for keys in result.extra.values() for key in keys]:
        lines.append(f"  {len(extra)} in the file, not in the model: {listed(extra, 8)}")
    if result.wrong:
        shapes = [f"{name} {words}" for name, words in result.wrong.items()]
        lines.append(f"  {len(shapes)} of another shape: {listed(shapes, 4)}")
    if found.model and found.model != model.info.name.partition("_window")[0]:
        lines.append(f"  the file is a {found.model}")
    aux = found.options.get("aux", "openseg")
    if found.task == model.task == "segmentation" and aux != model.info.options.get("aux", "openseg"):
        lines.append(f"  create the model with aux={aux!r}")
    return "\n".join(lines)


def current_settings(model: VisionModel) -> dict[str, Any]:
    """Upsampling, and of HRFormers position bias and window, as they are in one of our trunks; empty for timm's."""
    if not isinstance(model.backbone, HighResolutionTrunk):
        return {}
    current: dict[str, Any] = {"upsample": model.backbone.high_resolution_modules()[0].fuse.upsample}
    if attention := next((m for m in model.backbone.modules() if isinstance(m, WindowAttention)), None):
        current |= {"position_bias": attention.position_bias, "window_size": attention.window}
    return current


def choose_settings(
    model: VisionModel, found: Recognised, given: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any], dict[str, str]]:
    """Take each setting from the caller, the file, or the model itself.

    A file for another task, or a backbone without a head, is a start for training; its origin's habits are not the
    model's, except that absent bias tables cannot be used.

    Returns:
        The values; those of them that the file implies; setting -> value and reason, for those only assumed.
    """
    current = current_settings(model)
    current.pop("window_size", None)
    wanted = {"channel_order", "input_size", "interpolation", "dataset"} | set(current)
    wanted |= {"skeleton", *DECODING} if model.task == "pose" else {"crop_ratio"}
    if unusable := sorted(set(given) - wanted):
        raise ValueError(f"{', '.join(unusable)} cannot be set on {model.info.name} with task {model.task}")
    same_use = model.task in (None, found.task)
    known, reasons = file_settings(found) if same_use else ({}, {})
    if same_use and not known and isinstance(model.backbone, TimmClassifier):
        known, reasons = {"input_size": model.info.input_spec.size}, {"input_size": "timm's files do not say"}
    if found.family == "hrformer" and not found.has_tables:
        known["position_bias"] = False
    other_use = f"the file is {f'for {found.task}' if found.task else 'a backbone without a head'}"
    implied: dict[str, Any] = {}
    assumed: dict[str, str] = {}
    for name in sorted(wanted - set(given)):
        if name in reasons:
            assumed[name] = f"{known[name]}: {reasons[name]}"
        elif name in known and name != "skeleton":
            implied[name] = known[name]
        elif name in current and name not in known:
            why = "the file does not say" if same_use else other_use
            assumed[name] = f"{current[name]}, as the model has it: {why}"
    values = {name: value for name, value in (current | known | dict(given)).items() if name in wanted}
    if (mode := values.get("upsample", UPSAMPLE_MODES[0])) not in UPSAMPLE_MODES:
        raise ValueError(f"upsample must be one of {', '.join(UPSAMPLE_MODES)}, got {mode!r}")
    return values, implied, assumed


def new_info(
    model: VisionModel, found: Recognised, values: Mapping[str, Any], skeleton: Any, *, fresh_layers: bool
) -> ModelInfo:
    """``model.info`` after loading; ValueError if a setting is out of range.

    ``skeleton`` is the caller's. With ``fresh_layers`` the file's classes or keypoints are not the model's.
    """
    old = model.info
    same_use = model.task in (None, found.task)
    spec = found.info.input_spec if found.info is not None and same_use else old.input_spec
    of_spec = {name: values[name] for name in ("channel_order", "interpolation", "crop_ratio") if name in values}
    changes: dict[str, Any] = {
        "input_spec": replace(spec, size=tuple(values.get("input_size", spec.size)), **of_spec),
        "source": found.file.label,
        "options": old.options | {name: values[name] for name in ("position_bias", "upsample") if name in values},
        "shift_heatmap": values["decoder"] != "udp" if "decoder" in values else old.shift_heatmap,
    } | {name: values[name] for name in DECODING if name in values}
    if model.task == found.task and not fresh_layers:
        if found.info is not None:
            names = ("class_names", "skeleton", "palette", "temperature", "dataset", "source")
            changes |= {name: value for name in names if (value := getattr(found.info, name))}
        else:
            changes |= {name: values[name] for name in ("dataset", "skeleton") if name in values}
            if "skeleton" in changes and changes["skeleton"].num_keypoints != old.num_classes:
                del changes["skeleton"]
    if skeleton is not None:
        changes["skeleton"] = skeleton
    return replace(old, **changes)
