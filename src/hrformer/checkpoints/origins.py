"""What the origin of a file implies beyond names and shapes, and what can only be assumed.

Weights of one shape mean different functions: whether the position bias is added, how fusion units upsample, which
channel comes first. Each code base has its own habits (the table below, from reading that code), a few files record
them, and published files are known by their sha256.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from hrformer.checkpoints.formats import Arranged
from hrformer.checkpoints.registry import WeightEntry, list_weights
from hrformer.checkpoints.weight_files import WeightFile
from hrformer.models.model import ModelInfo, Task
from hrformer.zoo import INPUT_SPECS

Family = Literal["hrformer", "hrnet", "timm"]

DECODING = ("decoder", "blur_kernel", "shift_heatmap")
"""Pose only; fields of ``ModelInfo``."""

SETTINGS = ("position_bias", "upsample", "channel_order", "input_size", "interpolation", "crop_ratio", *DECODING)
"""What an origin may imply beyond names and shapes, besides ``dataset`` and ``skeleton``."""

_RGB: dict[str, Any] = {"channel_order": "RGB"}
_HABITS: Mapping[tuple[str, Family], Mapping[str, Any]] = {
    ("official-classification", "hrformer"): {
        **_RGB,
        "position_bias": True,
        "upsample": "nearest",
        "interpolation": "bicubic",
    },
    ("official-pose", "hrformer"): {
        **_RGB,
        "position_bias": False,
        "upsample": "bilinear",
        "decoder": "official",
    },
    # Pixels are BGR there, the statistics stay in RGB order.
    ("official-segmentation", "hrformer"): {
        "position_bias": True,
        "upsample": "nearest",
        "channel_order": "BGR",
        "interpolation": "bicubic",
    },
    ("mmpose-0.x", "hrformer"): {**_RGB, "upsample": "bilinear", "decoder": "mmpose"},
    ("mmpose-1.x", "hrformer"): {**_RGB, "upsample": "bilinear", "decoder": "mmpose"},
    ("mmpose-0.x", "hrnet"): {**_RGB, "upsample": "nearest", "decoder": "mmpose"},
    ("mmpose-1.x", "hrnet"): {**_RGB, "upsample": "nearest", "decoder": "mmpose"},
    ("hrnet-classification", "hrnet"): {**_RGB, "upsample": "nearest", "interpolation": "bilinear"},
    ("hrnet-pose", "hrnet"): {**_RGB, "upsample": "nearest", "decoder": "official"},
    ("hrnet-segmentation", "hrnet"): {**_RGB, "upsample": "bilinear_aligned", "interpolation": "bilinear"},
    ("hrnet-segmentation-plain", "hrnet"): {**_RGB, "upsample": "bilinear_to_size", "interpolation": "bilinear"},
    ("mmsegmentation", "hrnet"): {**_RGB, "upsample": "bilinear", "interpolation": "bilinear"},
    ("openseg", "hrnet"): {"upsample": "bilinear_aligned", "channel_order": "BGR", "interpolation": "bicubic"},
}

# Number of classes -> data set and training crop (height, width) of the published segmentation runs.
_DATASETS = {
    19: ("Cityscapes", (512, 1024)),
    59: ("PASCAL-Context", (520, 520)),
    150: ("ADE20K", (520, 520)),
    171: ("COCO-Stuff-10K", (520, 520)),
}
_MMSEG_CROPS = {19: (512, 1024), 59: (480, 480), 60: (480, 480)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """A value that the file implies, or that is assumed for the reason given."""

    value: Any
    assumption: str = ""


def has_tables(arranged: Arranged) -> bool:
    """Whether any bias table is there."""
    return any(name.endswith(".relative_position_bias_table") for name in arranged.sources)


def single_output(arranged: Arranged) -> bool:
    """Whether stage 4 ends in a fusion unit with one row; False without a stage 4."""
    rows = [
        match for name in arranged.sources if (match := re.match(r"backbone\.stage4\.(\d+)\.fuse\.paths\.(\d)", name))
    ]
    last = max((int(match[1]) for match in rows), default=-1)
    return {int(match[2]) for match in rows if int(match[1]) == last} == {0}


def layout_settings(
    arranged: Arranged, layout: str, family: Family, task: Task | None, num_outputs: int
) -> dict[str, Setting]:
    """What a layout implies or leaves to assume.

    Args:
        arranged: the file's entries under our names.
        layout: "official-pose" and so on, see ``recognise``.
        family: kind of network.
        task: of the head in the file.
        num_outputs: its classes or keypoints.
    """
    if layout == "hrformer":
        return {}
    settings = {name: Setting(value=value) for name, value in _HABITS.get((layout, family), {}).items()}
    if layout == "mmpose-0.x":
        settings["decoder"] = Setting(value="mmpose", assumption="mmpose 1.x reads these files too, and decodes so")
    if layout == "hrnet-segmentation-plain":
        # Their configurations: corners aligned for ADE20K and COCO-Stuff, not for the other sets.
        mode = "bilinear_aligned" if num_outputs in (150, 171) else "bilinear_to_size"
        why = "as the repository's runs without OCR on data with this many classes; the file does not say"
        settings["upsample"] = Setting(value=mode, assumption=why)
    if not settings:
        settings = _backbone_settings(arranged, layout, family)
    if family == "hrformer":
        settings |= _bias_setting(arranged, layout)
    if task is not None:
        size = INPUT_SPECS[task].size
        why = "the published size; the file does not say"
        if task == "segmentation" and num_outputs in _DATASETS:
            dataset, size = _DATASETS[num_outputs]
            why = f"the crop for {num_outputs} classes; the file does not say"
            settings["dataset"] = Setting(value=dataset, assumption=f"its {num_outputs} classes")
        if layout == "mmsegmentation":
            size, why = _MMSEG_CROPS.get(num_outputs, (512, 512)), "as mmsegmentation's runs; the file does not say"
        settings["input_size"] = Setting(value=size, assumption=why)
    return settings


def _bias_setting(arranged: Arranged, layout: str) -> dict[str, Setting]:
    if not has_tables(arranged):
        return {"position_bias": Setting(value=False)}
    if layout.startswith("mmpose") and layout != "mmpose-backbone":
        why = "the file has bias tables; mmpose's files of 2022-02-26 need it off"
        return {"position_bias": Setting(value=True, assumption=why)}
    return {}


def _backbone_settings(arranged: Arranged, layout: str, family: Family) -> dict[str, Setting]:
    """A file without a head cannot tell its task; a last fusion with one row is at least a pose model's."""
    pose = single_output(arranged)
    why = "a backbone alone does not tell its task; "
    why += "one output branch means pose" if pose else "four output branches suggest classification or segmentation"
    bilinear = family == "hrformer" and pose
    settings = {"upsample": Setting(value="bilinear" if bilinear else "nearest", assumption=why)}
    if family == "hrformer":
        bias = not (pose and layout.startswith("official"))
        settings["position_bias"] = Setting(value=bias, assumption=why)
    return settings


def published_entry(file: WeightFile, layout: str) -> WeightEntry | None:
    """The registry's entry with the file's sha256; our own files say everything themselves."""
    if file.path is None or layout == "hrformer":
        return None
    digest = file.sha256()
    return next((e for e in list_weights() if e.sha256_prefix and digest.startswith(e.sha256_prefix)), None)


def published_settings(entry: WeightEntry | None) -> dict[str, Setting]:
    """What the registry knows of a published file."""
    if entry is None:
        return {}
    spec = entry.input_spec
    values: dict[str, Any] = {"dataset": entry.dataset, "channel_order": spec.channel_order}
    if entry.task is None:
        values["upsample"] = "nearest"  # ImageNet backbones
    else:
        values |= {"input_size": spec.size, "interpolation": spec.interpolation, "crop_ratio": spec.crop_ratio}
    if entry.task == "pose":
        values["decoder"] = entry.decoder
    if entry.position_bias is not None:
        values["position_bias"] = entry.position_bias
    return {name: Setting(value=value) for name, value in values.items()}


def own_settings(info: ModelInfo) -> dict[str, Setting]:
    """What the header of our own files says."""
    spec = info.input_spec
    values: dict[str, Any] = {
        "channel_order": spec.channel_order,
        "input_size": spec.size,
        "interpolation": spec.interpolation,
        "crop_ratio": spec.crop_ratio,
    }
    values |= {name: info.options[name] for name in ("position_bias", "upsample") if name in info.options}
    if info.task == "pose":
        values |= {name: getattr(info, name) for name in DECODING}
    return {name: Setting(value=value) for name, value in values.items()}
