"""Settings of a loaded model: what the file implies or leaves to assume, the caller's word, or the model's own.

Weights of one shape mean different functions: whether the position bias is added, how fusion units upsample, which
channel comes first. Each code base has its own habits (``formats.HABITS``), a few files record them, and published
files are known by their sha256.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hrformer.checkpoints.formats import DATASETS, HABITS, MMSEG_CROPS, NO_OCR_HEAD, recorded_settings
from hrformer.checkpoints.recognise import Recognised
from hrformer.checkpoints.registry import WeightEntry
from hrformer.geometry.input_spec import InputSpec
from hrformer.models.attention import WindowAttention
from hrformer.models.fusion import UPSAMPLE_MODES
from hrformer.models.model import ModelInfo, VisionModel
from hrformer.models.trunk import HighResolutionTrunk
from hrformer.timm_backbones import TimmClassifier
from hrformer.zoo import INPUT_SPECS

_DECODING = ("decoder", "blur_kernel", "shift_heatmap")  # of pose models; fields of ``ModelInfo``


def file_settings(found: Recognised) -> tuple[dict[str, Any], dict[str, str]]:
    """What a file implies beyond names and shapes.

    Returns:
        Values of position_bias, upsample, channel_order, input_size, interpolation, crop_ratio, decoder, blur_kernel,
        shift_heatmap, dataset and skeleton, as far as they are known; and by name why some are only assumed.
    """
    if found.info is not None:
        return _own_settings(found.info), {}
    settings, assumed = _layout_settings(found)
    sure = recorded_settings(found.file.extras) if found.family != "timm" else {}
    sure |= _published_settings(found.published) if found.published else {}
    return settings | sure, {name: reason for name, reason in assumed.items() if name not in sure}


def _layout_settings(found: Recognised) -> tuple[dict[str, Any], dict[str, str]]:
    """What the layout implies, and by name why some of it is only assumed."""
    if found.format == "hrformer" or found.family == "timm":
        return {}, {}
    settings, assumed = dict(HABITS.get((found.format, found.family), {})), {}
    if found.format == "mmpose-0.x":
        assumed["decoder"] = "mmpose 1.x reads these files too, and decodes so"
    elif found.format == "hrnet-segmentation-plain":
        # Their configurations: corners aligned for ADE20K and COCO-Stuff, not for the other sets.
        settings["upsample"] = "bilinear_aligned" if found.num_outputs in (150, 171) else "bilinear_to_size"
        assumed["upsample"] = "as the repository's runs without OCR on data with this many classes; "
        assumed["upsample"] += "the file does not say"
    elif not settings:
        # A file without a head cannot tell its task; a last fusion with one row is at least a pose model's.
        pose = found.single_output
        why = "a backbone alone does not tell its task; "
        why += "one output branch means pose" if pose else "four output branches suggest classification or segmentation"
        settings["upsample"] = "bilinear" if found.family == "hrformer" and pose else "nearest"
        assumed["upsample"] = why
        if found.family == "hrformer":
            settings["position_bias"] = not (pose and found.format.startswith("official"))
            assumed["position_bias"] = why
    if found.family == "hrformer" and not found.has_tables:
        settings["position_bias"] = False
        assumed.pop("position_bias", None)
    elif found.family == "hrformer" and found.format in ("mmpose-0.x", "mmpose-1.x"):
        settings["position_bias"] = True
        assumed["position_bias"] = "the file has bias tables; mmpose's files of 2022-02-26 need it off"
    if found.task is not None:
        settings["input_size"] = INPUT_SPECS[found.task].size
        assumed["input_size"] = "the published size; the file does not say"
    if found.task == "segmentation" and found.num_outputs in DATASETS:
        settings["dataset"], settings["input_size"] = DATASETS[found.num_outputs]
        assumed["dataset"] = f"its {found.num_outputs} classes"
        assumed["input_size"] = f"the crop for {found.num_outputs} classes; the file does not say"
    if found.format == "mmsegmentation":
        settings["input_size"] = MMSEG_CROPS.get(found.num_outputs, (512, 512))
        assumed["input_size"] = "as mmsegmentation's runs; the file does not say"
    return settings, assumed


def _spec_settings(spec: InputSpec) -> dict[str, Any]:
    return {"input_size": spec.size, "interpolation": spec.interpolation, "crop_ratio": spec.crop_ratio}


def _published_settings(entry: WeightEntry) -> dict[str, Any]:
    """What the registry knows of a published file."""
    settings: dict[str, Any] = {"dataset": entry.dataset, "channel_order": entry.input_spec.channel_order}
    # The backbones are ImageNet's.
    settings |= {"upsample": "nearest"} if entry.task is None else _spec_settings(entry.input_spec)
    if entry.task == "pose":
        settings["decoder"] = entry.decoder
    if entry.position_bias is not None:
        settings["position_bias"] = entry.position_bias
    return settings


def _own_settings(info: ModelInfo) -> dict[str, Any]:
    """What the header of our own files says."""
    settings = {"channel_order": info.input_spec.channel_order, **_spec_settings(info.input_spec)}
    settings |= {name: info.options[name] for name in ("position_bias", "upsample") if name in info.options}
    if info.task == "pose":
        settings |= {name: getattr(info, name) for name in _DECODING}
    return settings


def file_notes(found: Recognised) -> list[str]:
    """What the user should know of a file."""
    notes = []
    if NO_OCR_HEAD in found.ignored.values():
        notes.append("the file's segmentation head (openseg without OCR) has no counterpart here; the backbone is read")
    plain = found.info is None and found.published is None and "decoder" not in recorded_settings(found.file.extras)
    if found.format in ("mmpose-0.x", "mmpose-1.x") and plain:
        notes.append("decoding is the plain one; mmpose's DARK and UDP weights look the same without a configuration")
    if found.absolute_norms:
        notes.append("batch norms without counters are taken for InPlaceABN's of PyTorch 0.4: weight = |weight| + 1e-5")
    return notes


def current_settings(model: VisionModel) -> dict[str, Any]:
    """Upsampling and position bias as they are in one of our trunks; empty for timm's models."""
    if not isinstance(model.backbone, HighResolutionTrunk):
        return {}
    current: dict[str, Any] = {"upsample": model.backbone.high_resolution_modules()[0].fuse.upsample}
    if attention := next((m for m in model.backbone.modules() if isinstance(m, WindowAttention)), None):
        current["position_bias"] = attention.position_bias
    return current


def choose_settings(
    model: VisionModel, found: Recognised, given: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any], dict[str, str]]:
    """Take each setting from the caller, the file, or the model itself.

    A file for another task, or a backbone without a head, is a start for training; its origin's habits are not the
    model's, except that absent bias tables cannot be used.

    Returns:
        The values; those of them that the file implies; setting -> value and reason, for those only assumed.

    Raises:
        ValueError: the caller sets what the model does not have, or another upsampling than there is.
    """
    current = current_settings(model)
    wanted = {"channel_order", "input_size", "interpolation", "dataset"} | set(current)
    wanted |= {"skeleton", *_DECODING} if model.task == "pose" else {"crop_ratio"}
    if unusable := sorted(set(given) - wanted):
        raise ValueError(f"{', '.join(unusable)} cannot be set on {model.info.name} with task {model.task}")
    same_use = model.task in (None, found.task)
    known, reasons = file_settings(found) if same_use else ({}, {})
    if same_use and not known and isinstance(model.backbone, TimmClassifier):
        known, reasons = {"input_size": model.info.input_spec.size}, {"input_size": "timm's files do not say"}
    if found.family == "hrformer" and not found.has_tables:
        known["position_bias"] = False
    other_use = f"the file is {f'for {found.task}' if found.task else 'a backbone without a head'}"
    values: dict[str, Any] = {}
    implied: dict[str, Any] = {}
    assumed: dict[str, str] = {}
    for name in sorted(wanted):
        if name in given:
            values[name] = given[name]
        elif name in known:
            values[name] = known[name]
            if name in reasons:
                assumed[name] = f"{known[name]}: {reasons[name]}"
            elif name != "skeleton":
                implied[name] = known[name]
        elif name in current:
            values[name] = current[name]
            why = "the file does not say" if same_use else other_use
            assumed[name] = f"{current[name]}, as the model has it: {why}"
    if (mode := values.get("upsample", UPSAMPLE_MODES[0])) not in UPSAMPLE_MODES:
        raise ValueError(f"upsample must be one of {', '.join(UPSAMPLE_MODES)}, got {mode!r}")
    return values, implied, assumed


def new_info(
    model: VisionModel, found: Recognised, values: Mapping[str, Any], skeleton: Any, *, fresh_layers: bool
) -> ModelInfo:
    """``model.info`` after loading.

    Args:
        model: only read.
        found: the file.
        values: the settings.
        skeleton: the caller's, or None.
        fresh_layers: whether any layer stays fresh; then the file's classes or keypoints are not the model's.

    Raises:
        ValueError: a setting is out of range.
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
    } | {name: values[name] for name in _DECODING if name in values}
    if model.task == found.task and not fresh_layers:
        changes |= _meaning(model, found, values)
    if skeleton is not None:
        changes["skeleton"] = skeleton
    return replace(old, **changes)


def _meaning(model: VisionModel, found: Recognised, values: Mapping[str, Any]) -> dict[str, Any]:
    """What classes or keypoints stand for; only where the head comes from the file."""
    if found.info is not None:
        names = ("class_names", "skeleton", "palette", "dataset", "source")
        return {name: value for name in names if (value := getattr(found.info, name))}
    changes = {name: values[name] for name in ("dataset", "skeleton") if name in values}
    if "skeleton" in changes and changes["skeleton"].num_keypoints != model.info.num_classes:
        del changes["skeleton"]
    return changes
