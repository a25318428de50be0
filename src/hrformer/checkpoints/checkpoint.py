"""Load, save and convert weights.

A file is recognised by its content: see ``recognise`` for the layouts and what they imply, ``formats`` for names.
Everything is checked before the first tensor is copied, so a failed load leaves the model as it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file

from hrformer.checkpoints.formats import mmpose_names
from hrformer.checkpoints.matching import LoadReport, choose_settings, current_settings, match, new_info
from hrformer.checkpoints.pickles import CheckpointError
from hrformer.checkpoints.recognise import Recognised, file_notes, recognise
from hrformer.checkpoints.registry import WeightEntry
from hrformer.checkpoints.weight_files import FORMAT, header_of, own_info, read_weights, stored_tensor
from hrformer.files import sha256_of, write_file
from hrformer.geometry.heatmaps import Decoder
from hrformer.geometry.input_spec import ChannelOrder
from hrformer.geometry.skeleton_inference import read_skeleton
from hrformer.models.fusion import UpsampleMode
from hrformer.models.model import Task, VisionModel
from hrformer.models.trunk import HighResolutionTrunk
from hrformer.zoo import VARIANTS, create_model

Source = str | Path | Mapping[str, Any]
LOAD_SETTINGS = ("position_bias", "upsample", "channel_order", "input_size", "decoder", "skeleton")


def load_checkpoint(
    model: VisionModel,
    source: Source,
    *,
    position_bias: bool | None = None,
    upsample: UpsampleMode | None = None,
    channel_order: ChannelOrder | None = None,
    input_size: tuple[int, int] | None = None,
    decoder: Decoder | None = None,
    published: WeightEntry | None = None,
    strict: bool = True,
) -> LoadReport:
    """Load weights of any known layout into a model, in place; nothing changes if it raises.

    A file for the model's own task also sets what it implies: position bias, fusion upsampling, ``model.info``. A
    file for another task, or a backbone alone, is a start for training: the head stays fresh and the model keeps its
    own settings. Other windows and numbers of classes are allowed; the report says what was resized or stays fresh.

    Args:
        model: as ``create_model`` made it.
        source: file, or state dict.
        position_bias: add the relative position bias; None lets the file decide, as for the others.
        upsample: of the fusion units.
        channel_order: of the input tensor.
        input_size: (height, width) in pixels.
        decoder: of the heatmaps, see ``HeatmapCodec``.
        published: the registry's entry that the file was downloaded for.
        strict: False lets layers that do not fit start fresh instead of raising.

    Raises:
        FileNotFoundError: no such file.
        CheckpointError: a ``ValueError``: unreadable, not recognised, or anything the task needs is missing.
        ValueError: an option is out of range.
    """
    values = (position_bias, upsample, channel_order, input_size, decoder)
    given = {name: value for name, value in zip(LOAD_SETTINGS, values, strict=False) if value is not None}
    return _load(model, recognise(read_weights(source), published, model), given, strict)


def load_model(
    source: Source,
    *,
    name: str | None = None,
    published: WeightEntry | None = None,
    strict: bool = True,
    **overrides: Any,
) -> tuple[VisionModel, LoadReport]:
    """Build the model that a file implies and load it.

    Args:
        source: file, or state dict.
        name: variant or timm name; needed for timm models other than HRNet unless ``published`` tells.
        published: the registry's entry that the file was downloaded for.
        strict: False lets layers that the file lacks or that do not fit start fresh, as for training.
        **overrides: settings of ``load_checkpoint``, ``skeleton`` (see ``read_skeleton``), ``task``, and
            options of ``create_model``.

    Returns:
        The model in eval mode, and the report. Errors are those of ``load_checkpoint``.
    """
    file = read_weights(source)
    given = {key: overrides.pop(key) for key in LOAD_SETTINGS if overrides.get(key) is not None}
    overrides = {key: value for key, value in overrides.items() if value is not None or key == "task"}
    name = name or (published.model if published and published.model not in VARIANTS else None)
    if name is not None and name not in VARIANTS and own_info(file) is None:
        defaults: dict[str, Any] = {"task": "classification"}
        if published and published.num_classes:
            defaults["num_classes"] = published.num_classes
        model = create_model(name, **(defaults | overrides))
        found = recognise(file, published, model)
    else:
        found = recognise(file, published)
        model = _build(found, name, overrides)
        if found.family == "timm":  # now that the model's names are known
            found = recognise(file, published, model)
    if "skeleton" in given and model.task == "pose":
        given["skeleton"] = read_skeleton(given["skeleton"], model.info.num_classes)
    report = _load(model, found, given, strict)
    if strict and report.fresh:
        raise CheckpointError(
            f"{report.source} ({report.format}) has no weights for {', '.join(report.fresh)} of a model for "
            f"{model.task} with {model.info.num_classes} outputs; they would be random. Give the file's own task and "
            "number of outputs, or strict=False to train the model from there"
        )
    return model.eval(), report


def _build(found: Recognised, name: str | None, overrides: dict[str, Any]) -> VisionModel:
    """A fresh model as the file implies, unless the caller says otherwise."""
    name = name or found.model
    if not name:
        raise CheckpointError(f"{found.file.label} holds {found.network}, which is none of {', '.join(VARIANTS)}")
    options = dict(found.options)
    task: Task | None = overrides.pop("task", found.task)
    if task != found.task:
        options = {
            key: options[key] for key in ("in_chans", "window_size", "mlp_ratio", "ffn_kernel") if key in options
        }
    elif task is not None:
        options["num_keypoints" if task == "pose" else "num_classes"] = found.num_outputs
    if task is None and found.single_output:
        raise CheckpointError(
            f"{found.file.label} holds the backbone of a pose model, with one output, and no head; give task='pose' "
            "and strict=False for a model with a fresh head"
        )
    return create_model(name, task, **(options | overrides))


@torch.no_grad()
def _load(model: VisionModel, found: Recognised, given: dict[str, Any], strict: bool) -> LoadReport:
    """Change the model once everything is checked."""
    values, implied, assumed = choose_settings(model, found, given)
    fit = match(model, found, position_bias=values.get("position_bias", False), strict=strict)
    info = new_info(model, found, values, given.get("skeleton"), fresh_layers=bool(fit.fresh))
    state = model.state_dict()
    for name, tensor in fit.values.items():
        state[name].copy_(tensor)
    if isinstance(model.backbone, HighResolutionTrunk):
        model.set_upsample(values["upsample"])
        if "position_bias" in values:
            model.backbone.set_position_bias(values["position_bias"])
    model.info = info
    return LoadReport(
        source=found.file.label,
        format=found.format,
        used=tuple(fit.used),
        converted=fit.converted,
        ignored=fit.ignored,
        missing=tuple(fit.missing),
        unexpected=(*found.unexpected, *(key for keys in fit.extra.values() for key in keys)),
        fresh=tuple(fit.fresh),
        implied=implied,
        assumed=assumed,
        given={name: getattr(value, "name", value) for name, value in given.items()},
        notes=(*file_notes(found), *fit.notes),
    )


def save_checkpoint(
    model: VisionModel,
    path: str | Path,
    *,
    half: bool = False,
    source: str = "",
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write a model as safetensors, with all that ``load_model`` needs in the header.

    Args:
        model: any ``VisionModel``.
        path: ends in ".safetensors", else ValueError; replaced only once the new file is complete, and returned.
        half: store 16-bit floats, except where a value would overflow.
        source: where the weights come from; replaces ``model.info.source`` if given.
        metadata: further header entries, such as ``score`` or ``licence``.
    """
    path = Path(path).expanduser()
    if path.suffix != ".safetensors":
        raise ValueError(f"the file name must end in .safetensors, got {path.name}")
    info = replace(model.info, source=source) if source else model.info
    tensors = {name: stored_tensor(value, half) for name, value in model.state_dict().items()}
    header = dict(metadata or {}) | header_of(info, model.info.options | current_settings(model))
    write_file(path, lambda part: save_file(tensors, part, metadata=header))
    return path


def convert_checkpoint(
    source: str | Path,
    destination: str | Path,
    *,
    to: Literal["hrformer", "mmpose"] = "hrformer",
    half: bool = False,
    **overrides: Any,
) -> LoadReport:
    """Convert a file of any known layout to our safetensors, or to mmpose 1.x; the report of loading it.

    Args:
        source: the file.
        destination: ".safetensors" for ours, ".pth" for mmpose.
        to: target layout. mmpose takes pose models and bare backbones. Without position bias the tables are left
            out, as mmpose's ``with_rpe=False`` has none.
        half: see ``save_checkpoint``; ours only.
        **overrides: see ``load_model``.

    Raises:
        FileNotFoundError, ValueError: see ``load_model``; the target cannot hold the model; layers would be random.
    """
    if to not in ("hrformer", "mmpose"):
        raise ValueError(f"to must be 'hrformer' or 'mmpose', got {to!r}")
    destination, suffixes = Path(destination).expanduser(), (".safetensors",) if to == "hrformer" else (".pth", ".pt")
    if destination.suffix not in suffixes:
        raise ValueError(f"{to} files end in {' or '.join(suffixes)}, got {destination.name}")
    model, report = load_model(source, **overrides)
    if report.fresh:
        raise CheckpointError(f"converting {report.source} would store random values in {', '.join(report.fresh)}")
    digest = sha256_of(Path(source).expanduser())
    if to == "hrformer":
        save_checkpoint(model, destination, half=half, metadata={"sha256": digest})
        return report
    if model.task not in ("pose", None) or not isinstance(model.backbone, HighResolutionTrunk):
        raise ValueError(f"mmpose has no model for {model.info.name} with task {model.task}; only pose and backbones")
    options = model.info.options | current_settings(model)
    bias = bool(options.get("position_bias"))
    names = mmpose_names(model.state_dict(), position_bias=bias, whole=model.task is not None)
    tensors = {name: stored_tensor(value, half=False) for name, value in names.items()}
    content = {"state_dict": tensors, "meta": {FORMAT: header_of(model.info, options) | {"sha256": digest}}}
    write_file(destination, lambda part: torch.save(content, part))
    return report
