"""Choose every setting of a loaded model: by the caller's word, the file's, or the model's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from hrformer.checkpoints.origins import DECODING, SETTINGS, Setting
from hrformer.checkpoints.recognise import Recognised
from hrformer.geometry.input_spec import InputSpec
from hrformer.models.attention import WindowAttention
from hrformer.models.fusion import UPSAMPLE_MODES
from hrformer.models.model import ModelInfo, VisionModel
from hrformer.models.trunk import HighResolutionTrunk

_SPEC = {"channel_order": "channel_order", "interpolation": "interpolation", "crop_ratio": "crop_ratio"} | {
    "input_size": "size"
}


@dataclass(kw_only=True, slots=True)
class Decision:
    """Values to set, and where each comes from; see ``LoadReport`` for the last three."""

    values: dict[str, Any] = field(default_factory=dict)
    implied: dict[str, Any] = field(default_factory=dict)
    assumed: dict[str, str] = field(default_factory=dict)
    given: dict[str, Any] = field(default_factory=dict)


def current_settings(model: VisionModel) -> dict[str, Any]:
    """Upsampling and position bias as they are in one of our trunks; empty for timm's models."""
    if not isinstance(model.backbone, HighResolutionTrunk):
        return {}
    current: dict[str, Any] = {"upsample": model.backbone.high_resolution_modules()[0].fuse.upsample}
    if attention := next((m for m in model.backbone.modules() if isinstance(m, WindowAttention)), None):
        current["position_bias"] = attention.position_bias
    return current


def decide(model: VisionModel, found: Recognised, given: Mapping[str, Any]) -> Decision:
    """Take each setting from the caller, the file, or the model itself.

    A file for another task, or a backbone without a head, is a start for training; its origin's habits are not the
    model's, except that absent bias tables cannot be used.

    Raises:
        ValueError: the caller sets what the model does not have.
    """
    decision = Decision(given=dict(given))
    same_use = model.task is None or model.task == found.task
    current = current_settings(model)
    wanted = {*SETTINGS, "dataset", "skeleton"} - {"position_bias", "upsample"} | set(current)
    wanted -= {"skeleton", *DECODING} if model.task != "pose" else {"crop_ratio"}
    if unusable := sorted(set(given) - wanted):
        raise ValueError(f"{', '.join(unusable)} cannot be set on {model.info.name} with task {model.task}")
    settings = dict(found.settings) if same_use else {}
    if found.family == "hrformer" and not found.has_tables:
        settings["position_bias"] = Setting(value=False)
    for name in sorted(wanted):
        if name in given:
            decision.values[name] = given[name]
        elif setting := settings.get(name):
            _take(decision, name, setting)
        elif name in current:
            decision.values[name] = current[name]
            decision.assumed[name] = f"{current[name]}, as the model has it: {_why_kept(found, same_use)}"
    return decision


def _take(decision: Decision, name: str, setting: Setting) -> None:
    decision.values[name] = setting.value
    if setting.assumption:
        decision.assumed[name] = f"{setting.value}: {setting.assumption}"
    elif name != "skeleton":
        decision.implied[name] = setting.value


def _why_kept(found: Recognised, same_use: bool) -> str:
    if same_use:
        return "the file does not say"
    return f"the file is {'for ' + found.task if found.task else 'a backbone without a head'}"


def new_info(model: VisionModel, label: str, found: Recognised, decision: Decision, fresh: list[str]) -> ModelInfo:
    """``model.info`` after loading.

    Args:
        model: only read.
        label: the file's name.
        found: what the file is.
        decision: the settings.
        fresh: layers that stay fresh; with any, the file's classes are not the model's.

    Raises:
        ValueError: a setting is out of range.
    """
    values, old = decision.values, model.info
    if (mode := values.get("upsample", UPSAMPLE_MODES[0])) not in UPSAMPLE_MODES:
        raise ValueError(f"upsample must be one of {', '.join(UPSAMPLE_MODES)}, got {mode!r}")
    spec = old.input_spec
    if found.info is not None and model.task in (None, found.task):
        spec = found.info.input_spec
    arguments = {f.name: getattr(spec, f.name) for f in fields(InputSpec)}
    arguments |= {_SPEC[name]: value for name, value in values.items() if name in _SPEC}
    arguments["size"] = tuple(arguments["size"])
    options = {name: values[name] for name in ("position_bias", "upsample") if name in values}
    changes: dict[str, Any] = {
        "input_spec": InputSpec(**arguments),
        "source": label,
        "options": old.options | options,
        "shift_heatmap": values["decoder"] != "udp" if "decoder" in values else old.shift_heatmap,
    } | {name: values[name] for name in DECODING if name in values}
    if model.task == found.task and not fresh:
        changes |= _meaning(old, found, values)
    if "skeleton" in decision.given:
        changes["skeleton"] = decision.given["skeleton"]
    return replace(old, **changes)


def _meaning(old: ModelInfo, found: Recognised, values: Mapping[str, Any]) -> dict[str, Any]:
    """What classes or keypoints stand for; only where the head comes from the file."""
    if found.info is not None:
        names = ("class_names", "skeleton", "palette", "dataset", "source")
        return {name: getattr(found.info, name) for name in names if getattr(found.info, name)}
    changes: dict[str, Any] = {"dataset": values["dataset"]} if "dataset" in values else {}
    skeleton = values.get("skeleton")
    if skeleton is not None and old.task == "pose" and skeleton.num_keypoints == old.num_classes:
        changes["skeleton"] = skeleton
    return changes
