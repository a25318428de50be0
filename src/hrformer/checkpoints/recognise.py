"""Tell from names and shapes which code a state dict comes from, and which model and task it is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from hrformer.checkpoints.file_facts import facts_of, own_info
from hrformer.checkpoints.formats import NO_OCR_HEAD, Arranged, arrange, arrange_timm, window_of
from hrformer.checkpoints.origins import (
    Family,
    Setting,
    has_tables,
    layout_settings,
    own_settings,
    published_entry,
    published_settings,
    single_output,
)
from hrformer.checkpoints.pickles import CheckpointError
from hrformer.checkpoints.registry import WeightEntry
from hrformer.checkpoints.weight_files import WeightFile
from hrformer.models.hrformer import HRFormerConfig
from hrformer.models.model import ModelInfo, Task, VisionModel
from hrformer.timm_backbones import TimmBackbone, TimmClassifier
from hrformer.zoo import VARIANTS


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
        has_tables: the file has bias tables.
        single_output: the last fusion unit makes the finest map only, as in pose models.
        absolute_norms: batch norms use |weight| + eps, as InPlaceABN did under PyTorch 0.4.
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
    has_tables: bool = False
    single_output: bool = False
    absolute_norms: bool = False
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
    info = own_info(file)
    if info is None:
        published = published or published_entry(file, layout)
    settings = layout_settings(arranged, layout, family, task, num_outputs)
    facts = facts_of(file)
    settings |= {name: Setting(value=value) for name, value in facts.items()}
    settings |= published_settings(published)
    options = _options(file, arranged, family, task)
    notes = _notes(arranged, layout, published, facts)
    if info is not None:
        settings = own_settings(info)
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
        notes=notes if info is None else (),
        has_tables=has_tables(arranged),
        single_output=single_output(arranged),
        absolute_norms=_absolute_norms(arranged, layout),
        shape=shape,
    )


def _notes(arranged: Arranged, layout: str, published: WeightEntry | None, facts: Mapping[str, Any]) -> tuple[str, ...]:
    notes = []
    if NO_OCR_HEAD in arranged.ignored.values():
        notes.append("the file's segmentation head (openseg without OCR) has no counterpart here; the backbone is read")
    if layout in ("mmpose-0.x", "mmpose-1.x") and published is None and "decoder" not in facts:
        notes.append("decoding is the plain one; mmpose's DARK and UDP weights look the same without a configuration")
    if _absolute_norms(arranged, layout):
        notes.append("batch norms without counters are taken for InPlaceABN's of PyTorch 0.4: weight = |weight| + 1e-5")
    return tuple(notes)


def _absolute_norms(arranged: Arranged, layout: str) -> bool:
    """HRNet-Semantic-Segmentation and openseg used InPlaceABN under PyTorch 0.4, which keeps no batch counters."""
    counted = any(name.endswith(".num_batches_tracked") for name in arranged.sources)
    return layout in ("hrnet-segmentation", "hrnet-segmentation-plain", "openseg") and not counted


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
        ("segmentation", "head.last_layer.0.weight", "head.last_layer.3.weight"),
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
    if task == "segmentation" and any(key.startswith("decode_head.") for key in keys):
        return "mmsegmentation"
    if family == "hrformer":
        official = any(".q_proj." in key for key in keys) or task in ("classification", "segmentation")
        if official or task is None:
            return f"{'official' if official else 'mmpose'}-{task or 'backbone'}"
    if task == "pose":
        if any(key.startswith("keypoint_head.") for key in keys):
            return "mmpose-0.x"
        return "mmpose-1.x" if any(key.startswith("head.") for key in keys) else "hrnet-pose"
    if task == "segmentation" and any(key.startswith("conv3x3.") for key in keys):
        return "openseg"
    if "head.last_layer.0.weight" in arranged.sources:
        return "hrnet-segmentation-plain"
    return f"hrnet-{task or 'backbone'}"


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
    if task == "segmentation" and "head.last_layer.0.weight" in arranged.sources:
        options["head"] = "fcn"
    elif task == "segmentation":
        pixel, key = shape("head.pixel.0.weight"), shape("head.attention.value.0.weight")
        options |= {"ocr_channels": pixel[0]} if pixel and pixel[0] != 512 else {}
        options |= {"ocr_key_channels": key[0]} if key and key[0] != 256 else {}
        aux = shape("head.aux.0.weight")
        if "head.attention.pixel.0.bias" not in arranged.sources:
            options["aux"] = "hrnet"
        elif aux and pixel and aux[0] == aux[1] != pixel[0]:
            options["aux"] = "wide"
    return options


def inspect(model: VisionModel, file: WeightFile, published: WeightEntry | None) -> tuple[Arranged, Recognised]:
    """Arrange and recognise a file that is meant for a model; for wrapped timm models the names decide.

    Raises:
        CheckpointError: see ``recognise``.
    """
    if not isinstance(model.backbone, (TimmBackbone, TimmClassifier)):
        arranged = arrange(file.tensors)
        return arranged, recognise(file, arranged, published)
    arranged = arrange_timm(file.tensors, model.state_dict())
    if own_info(file) is not None:
        return arranged, recognise(file, arranged, published)
    own = any(key.startswith("backbone.net.") for key in file.tensors)
    whole = isinstance(model.backbone, TimmClassifier)
    has_head = whole or any(name.startswith("head.") for name in arranged.sources)
    found = Recognised(format="hrformer" if own else "timm", family="timm", task=model.task if has_head else None)
    if published is not None:
        return arranged, replace(found, settings=published_settings(published))
    unknown = {"input_size": Setting(value=model.info.input_spec.size, assumption="timm's files do not say")}
    return arranged, replace(found, settings=unknown if whole else {})
