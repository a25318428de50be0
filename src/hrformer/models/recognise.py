"""Tell where a state dict comes from, which model it is, and what the names do not say but its origin implies.

Weights of one shape mean different functions: whether the position bias is added, how fusion units upsample, which
channel comes first. Each code base has its own habits (the table below, from reading that code), a few files record
them, and published files are known by their sha256. What none of these decides is assumed, and said to be.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from hrformer.models.file_facts import facts_of, own_info
from hrformer.models.formats import Arranged, window_of
from hrformer.models.hrformer import HRFormerConfig
from hrformer.models.model import ModelInfo, Task
from hrformer.models.pickles import CheckpointError
from hrformer.models.registry import WeightEntry, list_weights
from hrformer.models.weight_files import WeightFile
from hrformer.models.zoo import INPUT_SPECS, VARIANTS

Family = Literal["hrformer", "hrnet", "timm"]

SETTINGS = ("position_bias", "upsample", "channel_order", "input_size", "interpolation", "crop_ratio", "decoder")
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
    ("openseg", "hrnet"): {"upsample": "bilinear_aligned", "channel_order": "BGR", "interpolation": "bicubic"},
}

# Number of classes -> data set and training crop (height, width) of the published segmentation runs.
_DATASETS = {
    19: ("Cityscapes", (512, 1024)),
    59: ("PASCAL-Context", (520, 520)),
    150: ("ADE20K", (520, 520)),
    171: ("COCO-Stuff-10K", (520, 520)),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """A value that the file implies, or that is assumed for the reason given."""

    value: Any
    assumption: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recognised:
    """What a file is.

    Attributes:
        format: layout, such as "official-pose" or "mmpose-1.x"; "hrformer" for our own.
        family: kind of network; "timm" where the names are not ours to know.
        task: of the head in the file; None without a head that fits one of ours.
        model: named variant; empty where none has these widths and modules.
        num_outputs: classes or keypoints.
        options: further ``create_model`` options that the shapes tell.
        settings: by name, see ``SETTINGS``.
        info: of our own files: what travels with the weights.
        notes: what the user should know.
        shape: widths and modules in words.
    """

    format: str
    family: Family
    task: Task | None = None
    model: str = ""
    num_outputs: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Setting] = field(default_factory=dict)
    info: ModelInfo | None = None
    notes: tuple[str, ...] = ()
    shape: str = ""


def recognise(file: WeightFile, arranged: Arranged, published: WeightEntry | None = None) -> Recognised:
    """Name the layout, model and task of a file, and collect its settings.

    Args:
        file: the weights.
        arranged: its entries under our names.
        published: the registry's entry for this file where the caller knows it; else found by sha256.

    Raises:
        CheckpointError: neither an HRFormer nor an HRNet.
    """
    family = _family(file, arranged)
    task, num_outputs = _task(file, arranged)
    layout = _layout(file, arranged, family, task)
    model, shape = _variant(file, arranged, family)
    notes = []
    if any("without OCR" in reason for reason in arranged.ignored.values()):
        notes.append("the file's segmentation head (HRNetV2, without OCR) has no counterpart here; its backbone is read")
    info = own_info(file)
    published = published or _published(file, layout)
    settings = _settings(file, arranged, layout, family, task, num_outputs)
    settings |= {name: Setting(value=value) for name, value in facts_of(file).items()}
    settings |= _published_settings(published)
    options = _options(file, arranged, family, task)
    if info is not None:
        settings = _own_settings(info)
        task, num_outputs, model, options = info.task, info.num_classes, info.name, dict(info.options)
        family = "timm" if info.name not in VARIANTS else family
    return Recognised(
        format=layout,
        family=family,
        task=task,
        model=model,
        num_outputs=num_outputs,
        options=options,
        settings=settings,
        info=info,
        notes=tuple(notes),
        shape=shape,
    )


def _family(file: WeightFile, arranged: Arranged) -> Family:
    names = arranged.sources
    if any(re.fullmatch(r"backbone\.stage2\.0\.branches\.0\.0\.attn\.qkv\.weight", name) for name in names):
        return "hrformer"
    if "backbone.stage2.0.branches.0.0.conv1.weight" in names:
        return "hrnet"
    if any(name.startswith("backbone.net.") for name in file.tensors):
        return "timm"
    some = ", ".join(list(file.tensors)[:6])
    raise CheckpointError(
        f"{file.label} is not recognised as an HRFormer or HRNet: no stage2.0.branches.0.0 with attention or "
        f"convolutions among its {len(file.tensors)} entries ({some}, ...). For other timm models create the model "
        "first and load the file into it"
    )


def _task(file: WeightFile, arranged: Arranged) -> tuple[Task | None, int]:
    """Task of the head, and its classes or keypoints."""
    marks: tuple[tuple[Task, str, str], ...] = (
        ("segmentation", "head.pixel.0.weight", "head.classifier.weight"),
        ("classification", "head.final_layer.0.weight", "head.classifier.weight"),
        ("pose", "head.final_layer.weight", "head.final_layer.weight"),
    )
    for task, mark, output in marks:
        if mark in arranged.sources:
            shape = arranged.shape(file.tensors, output)
            return task, shape[0] if shape else 0
    return None, 0


def _layout(file: WeightFile, arranged: Arranged, family: Family, task: Task | None) -> str:
    keys = [re.sub(r"^(?:module\.|_orig_mod\.|model\.)+", "", key) for key in file.tensors]
    if family == "timm" or any(".fuse.paths." in key for key in keys):
        return "hrformer"
    if family == "hrformer":
        if any(".q_proj." in key for key in keys):
            return f"official-{task or 'backbone'}"
        if task != "pose":
            return f"mmpose-{task or 'backbone'}"
    if task == "pose":
        if any(key.startswith("keypoint_head.") for key in keys):
            return "mmpose-0.x"
        return "mmpose-1.x" if any(key.startswith("head.") for key in keys) else "hrnet-pose"
    if task == "segmentation" and any(key.startswith("conv3x3.") for key in keys):
        return "openseg"
    plain = any("without OCR" in reason for reason in arranged.ignored.values())
    return "hrnet-segmentation-plain" if plain else f"hrnet-{task or 'backbone'}"


def _variant(file: WeightFile, arranged: Arranged, family: Family) -> tuple[str, str]:
    """Name of the variant with the file's widths and modules, or "", and these in words."""
    if family == "timm":
        return "", "a wrapped timm model"
    firsts = ("transition1.0.0", "transition1.1.0.0", "transition2.2.0.0", "transition3.3.0.0")
    shapes = [arranged.shape(file.tensors, f"backbone.{name}.weight") for name in firsts]
    widths = tuple(shape[0] if shape else 0 for shape in shapes)
    modules = tuple(_count(arranged, rf"backbone\.stage{stage}\.(\d+)\..+") for stage in (2, 3, 4))
    words = f"{family} with {', '.join(map(str, widths))} channels, {', '.join(map(str, modules))} modules"
    for name, variant in VARIANTS.items():
        config = variant()
        same = isinstance(config, HRFormerConfig) == (family == "hrformer")
        if same and config.trunk.channels == widths and config.trunk.num_modules == modules:
            return name, words
    return "", words


def _count(arranged: Arranged, pattern: str) -> int:
    numbers = [int(match[1]) for name in arranged.sources if (match := re.fullmatch(pattern, name))]
    return max(numbers, default=-1) + 1


def _options(file: WeightFile, arranged: Arranged, family: Family, task: Task | None) -> dict[str, Any]:
    """``create_model`` options that shapes tell, left out where they are the defaults."""
    options: dict[str, Any] = {}

    def shape(name: str) -> tuple[int, ...]:
        return arranged.shape(file.tensors, name) or ()

    stem = shape("backbone.conv1.weight")
    if len(stem) == 4 and stem[1] != 3:
        options["in_chans"] = stem[1]
    tables = [name for name in arranged.sources if name.endswith(".relative_position_bias_table")]
    if tables:
        options["window_size"] = window_of(file.tensors[arranged.sources[tables[0]][0]])
    width, hidden = (shape(f"backbone.stage2.0.branches.0.0.{name}.weight") for name in ("norm1", "ffn.fc1"))
    if family == "hrformer" and width and hidden and hidden[0] != 4 * width[0]:
        options["mlp_ratio"] = hidden[0] / width[0]
    if task == "classification":
        planes, final = shape("head.incre_modules.0.0.conv1.weight"), shape("head.final_layer.0.weight")
        options |= {"head_planes": planes[0]} if planes and planes[0] != 32 else {}
        options |= {"head_width": final[0]} if final and final[0] != 2048 else {}
    if task == "segmentation":
        pixel, key = shape("head.pixel.0.weight"), shape("head.attention.value.0.weight")
        options |= {"ocr_channels": pixel[0]} if pixel and pixel[0] != 512 else {}
        options |= {"ocr_key_channels": key[0]} if key and key[0] != 256 else {}
        if "head.attention.pixel.0.bias" not in arranged.sources:
            options["aux"] = "hrnet"
    return options


def _settings(
    file: WeightFile, arranged: Arranged, layout: str, family: Family, task: Task | None, num_outputs: int
) -> dict[str, Setting]:
    """What the layout implies or leaves to assume."""
    if layout == "hrformer":
        return {}
    settings = {name: Setting(value=value) for name, value in _HABITS.get((layout, family), {}).items()}
    if layout == "mmpose-0.x":
        settings["decoder"] = Setting(value="mmpose", assumption="mmpose 1.x reads these files too, and decodes so")
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
        settings["input_size"] = Setting(value=size, assumption=why)
    return settings


def _bias_setting(arranged: Arranged, layout: str) -> dict[str, Setting]:
    if not any(name.endswith(".relative_position_bias_table") for name in arranged.sources):
        return {"position_bias": Setting(value=False)}
    if layout.startswith("mmpose") and layout != "mmpose-backbone":
        why = "the file has bias tables; mmpose's files of 2022-02-26 need it off"
        return {"position_bias": Setting(value=True, assumption=why)}
    return {}


def _backbone_settings(arranged: Arranged, layout: str, family: Family) -> dict[str, Setting]:
    """A file without a head cannot tell its task; a last fusion with one row is at least a pose model's."""
    if layout == "hrnet-segmentation-plain":
        why = "HRNet's segmentation without OCR resizes so; at sizes not divisible by 32 it differs slightly"
        return {"upsample": Setting(value="bilinear", assumption=why)}
    last = max((name for name in arranged.sources if re.match(r"backbone\.stage4\.\d+\.fuse", name)), default="")
    index = last.split(".")[2] if last else "0"
    pose = f"backbone.stage4.{index}.fuse.paths.1.0.0.0.weight" not in arranged.sources
    why = "a backbone alone does not tell its task; "
    why += "one output branch means pose" if pose else "four output branches suggest classification or segmentation"
    bilinear = family == "hrformer" and pose
    settings = {"upsample": Setting(value="bilinear" if bilinear else "nearest", assumption=why)}
    if family == "hrformer":
        bias = not (pose and layout.startswith("official"))
        settings["position_bias"] = Setting(value=bias, assumption=why)
    return settings


def _published(file: WeightFile, layout: str) -> WeightEntry | None:
    """The registry's entry with the file's sha256; our own files say everything themselves."""
    if file.path is None or layout == "hrformer":
        return None
    digest = file.sha256()
    return next((e for e in list_weights() if e.sha256_prefix and digest.startswith(e.sha256_prefix)), None)


def _published_settings(entry: WeightEntry | None) -> dict[str, Setting]:
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


def _own_settings(info: ModelInfo) -> dict[str, Setting]:
    spec = info.input_spec
    values: dict[str, Any] = {
        "channel_order": spec.channel_order,
        "input_size": spec.size,
        "interpolation": spec.interpolation,
        "crop_ratio": spec.crop_ratio,
    }
    values |= {name: info.options[name] for name in ("position_bias", "upsample") if name in info.options}
    if info.task == "pose":
        values["decoder"] = info.decoder
    return {name: Setting(value=value) for name, value in values.items()}
