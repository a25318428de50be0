"""Tell from names and shapes which code a weight file comes from, and which model and task it is.

See ``hrformer.checkpoints.settings`` for what that implies beyond names and shapes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from hrformer.checkpoints.formats import Family, layout_of, our_name, reason_to_ignore, renamed, window_of
from hrformer.checkpoints.header import FORMAT, read_header
from hrformer.checkpoints.pickles import CheckpointError
from hrformer.checkpoints.registry import WeightEntry, list_weights
from hrformer.checkpoints.weight_files import WeightFile
from hrformer.files import sha256_of
from hrformer.models.hrformer import HRFormerConfig
from hrformer.models.model import ModelInfo, Task, VisionModel
from hrformer.timm_backbones import TimmBackbone, TimmClassifier
from hrformer.zoo import VARIANTS

TABLE = ".relative_position_bias_table"
"""How the names of the position bias end."""

_FIRST_BLOCK = "backbone.stage2.0.branches.0.0"


@dataclass(frozen=True, kw_only=True, slots=True)
class Recognised:
    """A weight file with every entry assigned to one of our names, or to a reason why not, and what it is.

    Attributes:
        file: the weights.
        sources: our name -> the entries it is made of, in order; query, key and value make up one.
        renamed: entries whose name differs by more than a prefix, or that are joined with others.
        ignored: entry -> reason.
        unexpected: entries with a name that no layout has.
        format: layout, such as "official-pose" or "mmpose-1.x"; "hrformer" for our own.
        family: kind of network; "timm" where the names are not ours to know.
        task: of the head in the file; None without a head that fits one of ours.
        model: named variant; empty where none has these widths and modules.
        num_outputs: classes or keypoints.
        options: further ``create_model`` options that the shapes tell.
        info: of our own files: what travels with the weights.
        published: the registry's entry for the file, if it has one.
        network: widths and modules in words.
    """

    file: WeightFile
    sources: dict[str, list[str]] = field(default_factory=dict)
    renamed: set[str] = field(default_factory=set)
    ignored: dict[str, str] = field(default_factory=dict)
    unexpected: list[str] = field(default_factory=list)
    format: str = "timm"
    family: Family = "timm"
    task: Task | None = None
    model: str = ""
    num_outputs: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    info: ModelInfo | None = None
    published: WeightEntry | None = None
    network: str = ""

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Shape that our ``name`` gets from the file, or None where the file lacks it."""
        if name not in self.sources:
            return None
        shapes = [self.file.tensors[key].shape for key in self.sources[name]]
        return (sum(shape[0] for shape in shapes), *shapes[0][1:]) if shapes[0] else ()

    def value(self, name: str) -> Tensor:
        """Tensor for our ``name``."""
        parts = [self.file.tensors[key] for key in self.sources[name]]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    @property
    def has_tables(self) -> bool:
        """Whether any bias table is there."""
        return any(name.endswith(TABLE) for name in self.sources)

    @property
    def single_output(self) -> bool:
        """Whether stage 4 ends in a fusion unit with one row, as in pose models; False without a stage 4."""
        pattern = re.compile(r"backbone\.stage4\.(\d+)\.fuse\.paths\.(\d)")
        rows = [(int(found[1]), int(found[2])) for name in self.sources if (found := pattern.match(name))]
        last = max((module for module, _ in rows), default=-1)
        return {row for module, row in rows if module == last} == {0}

    @property
    def absolute_norms(self) -> bool:
        """Whether batch norms use |weight| + eps: InPlaceABN's under PyTorch 0.4, which keep no batch counters.

        HRNet-Semantic-Segmentation and openseg used them.
        """
        counted = any(name.endswith(".num_batches_tracked") for name in self.sources)
        return self.format in ("hrnet-segmentation", "hrnet-segmentation-plain", "openseg") and not counted


def recognise(file: WeightFile, published: WeightEntry | None = None, model: VisionModel | None = None) -> Recognised:
    """Assign the entries of a file to our names, and name its layout, model and task.

    Args:
        file: the weights.
        published: the registry's entry for this file where the caller knows it; else found by sha256.
        model: which the file is meant for; matters for wrapped timm models, whose names decide.

    Raises:
        CheckpointError: neither an HRFormer nor an HRNet, or query, key and value are incomplete.
    """
    info = own_info(file)
    if model is not None and isinstance(model.backbone, TimmBackbone | TimmClassifier):
        found = _arrange_timm(file, model)
        if info is None:
            own = any(key.startswith("backbone.net.") for key in file.tensors)
            has_head = isinstance(model.backbone, TimmClassifier) or any(n.startswith("head.") for n in found.sources)
            task = model.task if has_head else None
            return replace(found, format="hrformer" if own else "timm", task=task, published=published)
    else:
        found = arrange(file)
    found = replace(found, family=_family(found))
    task, count = _task(found)
    layout = layout_of(file.tensors, found.sources, found.family, task)
    variant, network = _variant(found)
    found = replace(found, format=layout, task=task, num_outputs=count, model=variant, network=network)
    if info is None:
        return replace(found, options=_options(found), published=published or _published_entry(found))
    return replace(
        found,
        family=found.family if info.name in VARIANTS else "timm",
        task=info.task,
        model=info.name,
        num_outputs=info.num_classes,
        options=dict(info.options),
        info=info,
    )


def own_info(file: WeightFile) -> ModelInfo | None:
    """What our own header says, or the copy of it that our mmpose files carry; None for other files.

    Raises:
        CheckpointError: the header is incomplete or of a later version.
    """
    if file.metadata.get("format") == FORMAT:
        return read_header(file.metadata, file.label)
    meta = file.extras.get("meta")
    header = meta.get(FORMAT) if isinstance(meta, Mapping) else None
    return read_header(header, file.label) if isinstance(header, Mapping) else None


def arrange(file: WeightFile) -> Recognised:
    """Assign the entries of a published or own state dict to our names.

    Raises:
        CheckpointError: one of query, key and value is there without the others.
    """
    found = Recognised(file=file)
    parts: dict[str, dict[str, str]] = {}
    for key in file.tensors:
        name = our_name(key)
        if reason := reason_to_ignore(key):
            found.ignored[key] = reason
        elif name is None:
            found.unexpected.append(key)
        elif split := re.fullmatch(r"(.+\.attn)\.([qkv])_proj\.(\w+)", name):
            parts.setdefault(f"{split[1]}.qkv.{split[3]}", {})[split[2]] = key
            found.renamed.add(key)
        elif name in found.sources:
            found.ignored[key] = f"second entry for {name}, after {found.sources[name][0]}"
        else:
            found.sources[name] = [key]
            if renamed(key, name):
                found.renamed.add(key)
    for name, keys in parts.items():
        if set(keys) != set("qkv"):
            raise CheckpointError(f"{name} needs query, key and value projections; the file has only {keys.values()}")
        found.sources[name] = [keys[part] for part in "qkv"]
    return found


def _arrange_timm(file: WeightFile, model: VisionModel) -> Recognised:
    """Assign the entries of a timm state dict to the names of a wrapped timm model, which only add a prefix."""
    found = Recognised(file=file)
    known = model.state_dict().keys()
    for key in file.tensors:
        name = key if key in known else f"backbone.net.{key}"
        if name in known:
            found.sources[name] = [key]
        else:
            found.unexpected.append(key)
    return found


def _family(found: Recognised) -> Family:
    if f"{_FIRST_BLOCK}.attn.qkv.weight" in found.sources:
        return "hrformer"
    if f"{_FIRST_BLOCK}.conv1.weight" in found.sources:
        return "hrnet"
    tensors = found.file.tensors
    if any(name.startswith("backbone.net.") for name in tensors):
        return "timm"
    raise CheckpointError(
        f"{found.file.label} is not recognised as an HRFormer or HRNet: no stage2.0.branches.0.0 with attention or "
        f"convolutions among its {len(tensors)} entries ({', '.join(list(tensors)[:6])}, ...). For other timm models "
        "create the model first and load the file into it"
    )


def _task(found: Recognised) -> tuple[Task | None, int]:
    """Task of the head, and its classes or keypoints."""
    marks: tuple[tuple[Task, str, str], ...] = (
        ("segmentation", "head.pixel.0.weight", "head.classifier.weight"),
        ("segmentation", "head.last_layer.0.weight", "head.last_layer.3.weight"),
        ("classification", "head.final_layer.0.weight", "head.classifier.weight"),
        ("pose", "head.final_layer.weight", "head.final_layer.weight"),
    )
    for task, mark, output in marks:
        if mark in found.sources:
            return task, (found.shape(output) or (0,))[0]
    return None, 0


def _variant(found: Recognised) -> tuple[str, str]:
    """Name of the variant with the file's widths and modules, or "", and these in words."""
    if found.family == "timm":
        return "", "a wrapped timm model"
    firsts = ("transition1.0.0", "transition1.1.0.0", "transition2.2.0.0", "transition3.3.0.0")
    widths = tuple((found.shape(f"backbone.{name}.weight") or (0,))[0] for name in firsts)
    modules = tuple(
        len({name.split(".")[2] for name in found.sources if name.startswith(f"backbone.stage{stage}.")})
        for stage in (2, 3, 4)
    )
    words = f"{found.family} with {', '.join(map(str, widths))} channels, {', '.join(map(str, modules))} modules"
    for name, variant in VARIANTS.items():
        config = variant()
        same = isinstance(config, HRFormerConfig) == (found.family == "hrformer")
        if same and config.trunk.channels == widths and config.trunk.num_modules == modules:
            return name, words
    return "", words


def _options(found: Recognised) -> dict[str, Any]:
    """``create_model`` options that shapes tell, left out where they are the defaults."""
    options: dict[str, Any] = {}

    def width(name: str, axis: int = 0) -> int:
        shape = found.shape(f"{name}.weight") or ()
        return shape[axis] if axis < len(shape) else 0

    def take(option: str, value: float, default: float) -> None:
        if value and value != default:
            options[option] = value

    take("in_chans", width("backbone.conv1", axis=1), 3)
    table = next((name for name in found.sources if name.endswith(TABLE)), None)
    if table is not None:
        options["window_size"] = window_of(found.value(table))
    if found.family == "hrformer" and (channels := width(f"{_FIRST_BLOCK}.norm1")):
        take("mlp_ratio", width(f"{_FIRST_BLOCK}.ffn.fc1") / channels, 4)
    if found.task == "classification":
        take("head_planes", width("head.incre_modules.0.0.conv1"), 32)
        take("head_width", width("head.final_layer.0"), 2048)
    if found.task == "segmentation" and "head.last_layer.0.weight" in found.sources:
        options["head"] = "fcn"
    elif found.task == "segmentation":
        pixel = width("head.pixel.0")
        take("ocr_channels", pixel, 512)
        take("ocr_key_channels", width("head.attention.value.0"), 256)
        if "head.attention.pixel.0.bias" not in found.sources:
            options["aux"] = "hrnet"
        elif width("head.aux.0") == width("head.aux.0", axis=1) not in (0, pixel):
            options["aux"] = "wide"
    return options


def _published_entry(found: Recognised) -> WeightEntry | None:
    """The registry's entry with the file's sha256; our own files say everything themselves."""
    if found.file.path is None or found.format == "hrformer":
        return None
    digest = sha256_of(found.file.path)
    return next((e for e in list_weights() if e.sha256_prefix and digest.startswith(e.sha256_prefix)), None)
