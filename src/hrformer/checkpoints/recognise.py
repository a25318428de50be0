"""Tell from names and shapes which code a weight file comes from, which model and task it is, and what that implies.

Weights of one shape mean different functions: whether the position bias is added, how fusion units upsample, which
channel comes first. Each code base has its own habits (``formats.HABITS``), a few files record them, and published
files are known by their sha256.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from hrformer.checkpoints.formats import (
    DATASETS,
    HABITS,
    MMSEG_CROPS,
    NO_OCR_HEAD,
    Family,
    layout_of,
    our_name,
    reason_to_ignore,
    recorded_settings,
    renamed,
    window_of,
)
from hrformer.checkpoints.pickles import CheckpointError
from hrformer.checkpoints.registry import WeightEntry, list_weights
from hrformer.checkpoints.weight_files import FORMAT, WeightFile, own_info
from hrformer.files import sha256_of
from hrformer.geometry.input_spec import InputSpec
from hrformer.models.model import ModelInfo, Task, VisionModel
from hrformer.models.trunk import HRFormerConfig
from hrformer.timm_backbones import TimmBackbone, TimmClassifier
from hrformer.zoo import INPUT_SPECS, VARIANTS

TABLE = ".relative_position_bias_table"  # How the names of the position bias end

DECODING = ("decoder", "blur_kernel", "shift_heatmap")  # Settings of pose models; fields of ``ModelInfo``

_FIRST_BLOCK = "backbone.stage2.0.branches.0.0"

# Task of a head, a layer that only this head has, and its last layer.
_HEADS: tuple[tuple[Task, str, str], ...] = (
    ("segmentation", "head.pixel.0.weight", "head.classifier.weight"),
    ("segmentation", "head.last_layer.0.weight", "head.last_layer.3.weight"),
    ("classification", "head.final_layer.0.weight", "head.classifier.weight"),
    ("pose", "head.final_layer.weight", "head.final_layer.weight"),
)


@dataclass(kw_only=True, slots=True)
class Recognised:
    """A weight file with every entry assigned to one of our names, or to a reason why not, and what it is."""

    file: WeightFile  # the weights
    # our name -> the entries it is made of, in order; query, key and value make up one
    sources: dict[str, list[str]] = field(default_factory=dict)
    # entries whose name differs by more than a prefix, or that are joined with others
    renamed: set[str] = field(default_factory=set)
    ignored: dict[str, str] = field(default_factory=dict)  # entry -> reason
    unexpected: list[str] = field(default_factory=list)  # entries with a name that no layout has
    format: str = "timm"  # layout, such as "official-pose" or "mmpose-1.x"; "hrformer" for our own
    family: Family = "timm"  # kind of network; "timm" where the names are not ours to know
    task: Task | None = None  # of the head in the file; None without a head that fits one of ours
    model: str = ""  # named variant; empty where none has these widths and modules
    num_outputs: int = 0  # classes or keypoints
    options: dict[str, Any] = field(default_factory=dict)  # further ``create_model`` options that the shapes tell
    info: ModelInfo | None = None  # of our own files: what travels with the weights
    published: WeightEntry | None = None  # the registry's entry for the file, if it has one
    network: str = ""  # widths and modules in words

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Shape that our ``name`` gets from the file, or None where the file lacks it."""
        if name not in self.sources:
            return None
        shapes = [self.file.tensors[key].shape for key in self.sources[name]]
        return (sum(shape[0] for shape in shapes), *shapes[0][1:]) if shapes[0] else ()

    def width(self, layer: str, axis: int = 0) -> int:
        """Size of a layer's weight along one axis; 0 where there is none."""
        shape = self.shape(f"{layer}.weight") or ()
        return shape[axis] if axis < len(shape) else 0

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
        """Whether batch norms use |weight| + eps: InPlaceABN's under PyTorch 0.4, which keep no batch counters."""
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
            found.format, found.task = "hrformer" if own else "timm", model.task if has_head else None
            found.published = published
            return found
    else:
        found = arrange(file)
    found.family = _family(found)
    for task, mark, output in _HEADS:
        if mark in found.sources:
            found.task, found.num_outputs = task, (found.shape(output) or (0,))[0]
            break
    found.model, found.network = _variant(found)
    own = file.metadata.get("format") == FORMAT
    found.format = "hrformer" if own else layout_of(file.tensors, found.sources, found.family, found.task)
    if info is None:
        found.options, found.published = _options(found), published or _published_entry(found)
        return found
    found.family = found.family if info.name in VARIANTS else "timm"
    found.task, found.model, found.num_outputs = info.task, info.name, info.num_classes
    found.options, found.info = dict(info.options), info
    return found


def arrange(file: WeightFile) -> Recognised:
    """Assign the entries of a published or own state dict to our names; CheckpointError without all of q, k and v."""
    found = Recognised(file=file)
    if file.metadata.get("format") == FORMAT:
        found.sources = {name: [name] for name in file.tensors}
        return found
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
    known = model.state_dict().keys()
    names = {key: key if key in known else f"backbone.net.{key}" for key in file.tensors}
    sources = {name: [key] for key, name in names.items() if name in known}
    return Recognised(file=file, sources=sources, unexpected=[key for key in names if names[key] not in known])


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


def _variant(found: Recognised) -> tuple[str, str]:
    """Name of the variant with the file's widths and modules, or "", and these in words."""
    if found.family == "timm":
        return "", "a wrapped timm model"
    firsts = ("transition1.0.0", "transition1.1.0.0", "transition2.2.0.0", "transition3.3.0.0")
    widths = tuple(found.width(f"backbone.{name}") for name in firsts)
    stages = [name.split(".")[1:3] for name in found.sources if name.startswith("backbone.stage")]
    modules = tuple(len({module for stage, module in stages if stage == f"stage{number}"}) for number in (2, 3, 4))
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

    def take(option: str, value: float, default: float) -> None:
        if value and value != default:
            options[option] = value

    take("in_chans", found.width("backbone.conv1", axis=1), 3)
    table = next((name for name in found.sources if name.endswith(TABLE)), None)
    if table is not None:
        options["window_size"] = window_of(found.value(table))
    if found.family == "hrformer" and (channels := found.width(f"{_FIRST_BLOCK}.norm1")):
        take("mlp_ratio", found.width(f"{_FIRST_BLOCK}.ffn.fc1") / channels, 4)
    if found.task == "classification":
        take("head_planes", found.width("head.incre_modules.0.0.conv1"), 32)
        take("head_width", found.width("head.final_layer.0"), 2048)
    if found.task == "segmentation" and "head.last_layer.0.weight" in found.sources:
        options["head"] = "fcn"
    elif found.task == "segmentation":
        pixel = found.width("head.pixel.0")
        take("ocr_channels", pixel, 512)
        take("ocr_key_channels", found.width("head.attention.value.0"), 256)
        if "head.attention.pixel.0.bias" not in found.sources:
            options["aux"] = "hrnet"
        elif found.width("head.aux.0") == found.width("head.aux.0", axis=1) not in (0, pixel):
            options["aux"] = "wide"
    return options


def _published_entry(found: Recognised) -> WeightEntry | None:
    """The registry's entry with the file's sha256; our own files say everything themselves."""
    if found.file.path is None or found.format == "hrformer":
        return None
    digest = sha256_of(found.file.path)
    return next((e for e in list_weights() if e.sha256_prefix and digest.startswith(e.sha256_prefix)), None)


def file_settings(found: Recognised) -> tuple[dict[str, Any], dict[str, str]]:
    """What a file implies beyond names and shapes.

    Returns:
        Values of position_bias, upsample, channel_order, input_size, interpolation, crop_ratio, decoder, blur_kernel,
        shift_heatmap, dataset and skeleton, as far as they are known; and by name why some are only assumed.
    """
    if found.info is not None:
        info, spec = found.info, found.info.input_spec
        settings = {"channel_order": spec.channel_order, **_spec_settings(spec)}
        settings |= {name: info.options[name] for name in ("position_bias", "upsample") if name in info.options}
        return settings | {name: getattr(info, name) for name in DECODING if info.task == "pose"}, {}
    settings, assumed = _layout_settings(found)
    sure = recorded_settings(found.file.extras) if found.family != "timm" else {}
    if (entry := found.published) is not None:
        sure |= {"dataset": entry.dataset, "channel_order": entry.input_spec.channel_order}
        # The backbones are ImageNet's.
        sure |= {"upsample": "nearest"} if entry.task is None else _spec_settings(entry.input_spec)
        sure |= {"decoder": entry.decoder} if entry.task == "pose" else {}
        sure |= {"position_bias": entry.position_bias} if entry.position_bias is not None else {}
    return settings | sure, {name: reason for name, reason in assumed.items() if name not in sure}


def _spec_settings(spec: InputSpec) -> dict[str, Any]:
    return {"input_size": spec.size, "interpolation": spec.interpolation, "crop_ratio": spec.crop_ratio}


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
