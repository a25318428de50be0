"""Fit the entries of a file to the state dict of a model, without touching the model."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import torch
from torch import Tensor

from hrformer.checkpoints.formats import OUTPUT_LAYERS, Arranged, window_of
from hrformer.checkpoints.pickles import CheckpointError
from hrformer.checkpoints.recognise import Recognised
from hrformer.checkpoints.weight_files import WeightFile
from hrformer.models.attention import resize_bias_table
from hrformer.models.blocks import BN_EPS
from hrformer.models.model import VisionModel
from hrformer.models.trunk import HighResolutionTrunk
from hrformer.timm_backbones import TimmClassifier
from hrformer.wording import listed

_TABLE = ".relative_position_bias_table"


@dataclass(kw_only=True, slots=True)
class Match:
    """Result; see ``LoadReport`` for the names.

    Attributes:
        values: our name -> tensor to copy into the model.
        lacking: our names that the task needs and the file lacks.
        wrong: our name -> shapes in words, where file and model differ.
        extra: entries with a known name that the model has no place for.
    """

    values: dict[str, Tensor] = field(default_factory=dict)
    used: list[str] = field(default_factory=list)
    converted: dict[str, str] = field(default_factory=dict)
    ignored: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    fresh: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    lacking: list[str] = field(default_factory=list)
    wrong: dict[str, str] = field(default_factory=dict)
    extra: list[str] = field(default_factory=list)

    def start_fresh(self, layer: str) -> None:
        """Note a layer once."""
        if layer not in self.fresh:
            self.fresh.append(layer)


def match(
    model: VisionModel, file: WeightFile, arranged: Arranged, found: Recognised, *, position_bias: bool, strict: bool
) -> Match:
    """Decide for every name of model and file what becomes of it.

    Args:
        model: only read.
        file: the weights.
        arranged: its entries under our names.
        found: what the file is.
        position_bias: whether the model will add the bias; if not, tables may be missing.
        strict: raise where the task's needs are not met; otherwise such layers stay fresh.

    Raises:
        CheckpointError: listing both sides.
    """
    result = Match(ignored=file.skipped | arranged.ignored)
    state = model.state_dict()
    has_head = model.head is None or model.task == found.task
    outputs = _output_layers(model)
    for name, own in state.items():
        if name.startswith("head.") and not has_head:
            result.start_fresh("head")
        else:
            _fit(result, name, own, file, arranged, outputs, position_bias)
    if found.absolute_norms:
        for name in result.values:
            if name.endswith(".weight") and f"{name.removesuffix('weight')}running_mean" in state:
                result.values[name] = result.values[name].abs() + BN_EPS
    for name, keys in arranged.sources.items():
        if name not in state:
            reason = _reason_to_ignore(model, found, name, has_head)
            if reason:
                result.ignored |= dict.fromkeys(keys, reason)
            else:
                result.extra += keys
    if strict and (result.lacking or result.wrong or result.extra):
        raise CheckpointError(_mismatch(model, file, found, result))
    for name in [*result.lacking, *result.wrong]:
        result.start_fresh(name.rpartition(".")[0])
    if not any(name.startswith("backbone.") for name in result.values):
        raise CheckpointError(_mismatch(model, file, found, result))
    return result


def _fit(
    result: Match,
    name: str,
    own: Tensor,
    file: WeightFile,
    arranged: Arranged,
    outputs: tuple[str, ...],
    position_bias: bool,
) -> None:
    """Place one name of the model."""
    shape = arranged.shape(file.tensors, name)
    if shape is None and _bias_left_out(arranged, name):
        result.values[name] = torch.zeros_like(own)
        result.missing.append(name)
        return
    if shape is None:
        # Files of PyTorch 0.4 have no batch counters.
        needed = not name.endswith(".num_batches_tracked") and (position_bias or not name.endswith(_TABLE))
        (result.lacking if needed else result.missing).append(name)
        return
    keys, layer = arranged.sources[name], name.rpartition(".")[0]
    if shape == tuple(own.shape):
        result.values[name] = arranged.value(file.tensors, name)
        for key in keys:
            if key in arranged.renamed:
                result.converted[key] = name
            else:
                result.used.append(key)
    elif name.endswith(_TABLE) and shape[1:] == tuple(own.shape[1:]):
        old, new = window_of(file.tensors[keys[0]]), window_of(own)
        result.values[name] = resize_bias_table(file.tensors[keys[0]], new)
        result.converted[keys[0]] = name
        note = f"bias tables resized from window {old} to {new}"
        if note not in result.notes:
            result.notes.append(note)
    elif layer in outputs and shape[1:] == tuple(own.shape[1:]):
        result.start_fresh(layer)
        result.ignored |= dict.fromkeys(keys, f"{shape[0]} classes or keypoints, the model has {own.shape[0]}")
    else:
        result.wrong[name] = f"{shape} in the file, {tuple(own.shape)} in the model"


def _bias_left_out(arranged: Arranged, name: str) -> bool:
    """Whether mmsegmentation has no such bias: those before a BN, which are 0 then."""
    layer = name.removesuffix(".0.bias")
    weight = arranged.sources.get(f"{layer}.0.weight", [""])[0]
    return layer != name and "decode_head." in weight and f"{layer}.1.running_mean" in arranged.sources


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


def _mismatch(model: VisionModel, file: WeightFile, found: Recognised, result: Match) -> str:
    task = f"for {model.task}" if model.task else "as a bare backbone"
    what = f"{found.format}" + (f": {found.shape}" if found.shape else "")
    lines = [f"{file.label} ({what}) does not fit {model.info.name} {task}"]
    if result.lacking:
        lines.append(f"  {len(result.lacking)} in the model, not in the file: {listed(result.lacking, 8)}")
    if result.extra:
        lines.append(f"  {len(result.extra)} in the file, not in the model: {listed(result.extra, 8)}")
    if result.wrong:
        shapes = [f"{name} {words}" for name, words in result.wrong.items()]
        lines.append(f"  {len(shapes)} of another shape: {listed(shapes, 4)}")
    if found.model and found.model != model.info.name.partition("_window")[0]:
        lines.append(f"  the file is a {found.model}")
    aux = found.options.get("aux", "openseg")
    if found.task == model.task == "segmentation" and aux != model.info.options.get("aux", "openseg"):
        lines.append(f"  create the model with aux={aux!r}")
    return "\n".join(lines)
