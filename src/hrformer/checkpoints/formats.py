"""Names of weights in other code bases, translated to ours and back.

One set of rules covers all layouts, since they never contradict each other: the HRFormer repository (three tasks),
mmpose 0.x and 1.x, HRNet's three repositories, openseg, mmsegmentation, timm's HRNet, and our own names. Facts from the
state dicts of those code bases; see ``hrformer.checkpoints.recognise`` for what a layout implies beyond names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from hrformer.checkpoints.pickles import CheckpointError
from hrformer.models.attention import relative_position_index

_WRAPPER = re.compile(r"(?:module\.|_orig_mod\.|model\.)+")
_TRUNK = re.compile(r"(?:backbone\.)?((?:conv[12]|bn[12]|layer1|transition[123]|stage[234])\..+)")
_PARTS = {"q": 0, "k": 1, "v": 2}

# Within the trunk, in this order.
_TRUNK_NAMES = (
    (re.compile(r"\.fuse_layers\."), ".fuse.paths."),
    (re.compile(r"\.attn\.attn\."), ".attn."),
    (re.compile(r"\.attn\.out_proj\."), ".attn.proj."),
    (re.compile(r"(\.branches\.\d+\.\d+)\.mlp\."), r"\1.ffn."),
)

# Convolution, [BN, ReLU], convolution, [BN, ReLU]: others nest BN and ReLU, ours counts them.
_FLAT_INDEX = {"0": "0", "1": "1", "2": "3", "3": "4"}
_ATTENTION = {"f_pixel": "pixel", "f_object": "object", "f_down": "value", "f_up": "up"}

_HEADS = (
    (re.compile(r"(?:keypoint_head|head)\.(final_layer\.(?:weight|bias))"), r"head.\1"),
    (re.compile(r"(?:head\.)?((?:incre_modules|downsamp_modules|final_layer|classifier)\..+)"), r"head.\1"),
    (re.compile(r"(head\.(?:aux|pixel|attention|merge)\..+)"), r"\1"),
    (re.compile(r"conv3x3(?:_ocr)?\.([01])(?:\.0)?\.(\w+)"), r"head.pixel.\1.\2"),
    (re.compile(r"aux_head\.([01])(?:\.0)?\.(\w+)"), r"head.aux.\1.\2"),
    (re.compile(r"aux_head\.[23]\.(\w+)"), r"head.aux.3.\1"),
    (re.compile(r"ocr_distri_head\.conv_bn_dropout\.([01])(?:\.0)?\.(\w+)"), r"head.merge.\1.\2"),
    (re.compile(r"cls_head\.(weight|bias)"), r"head.classifier.\1"),
    (re.compile(r"(?:head\.)?(last_layer\.[013]\..+)"), r"head.\1"),
)
_OCR_ATTENTION = re.compile(r"ocr_distri_head\.object_context_block\.(f_\w+)\.([0-3])(?:\.0)?\.(\w+)")

# mmsegmentation nests convolution and BN in modules of their own: "0.conv", "0.bn", "1.conv", "1.bn" are 0, 1, 3, 4.
_NESTED = re.compile(r"(?:\.([01]))?\.(conv|bn)(?=\.\w+$)")
_MMSEG = {
    "convs": "last_layer",
    "conv_seg": "last_layer.3",
    "0.convs": "aux",
    "0.conv_seg": "aux.3",
    "1.bottleneck": "pixel",
    "1.conv_seg": "classifier",
    "1.object_context_block.query_project": "attention.pixel",
    "1.object_context_block.key_project": "attention.object",
    "1.object_context_block.value_project": "attention.value",
    "1.object_context_block.out_project": "attention.up",
    "1.object_context_block.bottleneck": "merge",
}
_MMSEG_HEAD = re.compile(r"decode_head\.(" + "|".join(map(re.escape, _MMSEG)) + r")\.((?:[0134]\.)?\w+)")

NO_OCR_HEAD = "head of openseg's segmentation without OCR, for which there is no head here"
"""Reason to ignore; the file is recognised by it too."""

_IGNORED = (
    (re.compile(r".*\.relative_position_index"), "index buffer, computed from the window size"),
    (re.compile(r"loss\..+|criterion\..+"), "part of the training loss"),
    (re.compile(r"data_preprocessor\..+"), "pixel statistics, which the input specification holds"),
    (re.compile(r"auxiliary_head\..+"), "a head that mmsegmentation uses in training only"),
    (re.compile(r".*\btotal_(ops|params)"), "left there by a profiler"),
    (re.compile(r"cls_head\.\d+\..+"), NO_OCR_HEAD),
)

OUTPUT_LAYERS = ("head.classifier", "head.final_layer", "head.aux.3", "head.last_layer.3")
"""Layers whose outputs are the classes or keypoints."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Arranged:
    """Every entry of a state dict assigned to one of our names, or to a reason why not.

    Attributes:
        sources: our name -> the entries it is made of, in order; query, key and value make up one.
        renamed: entries whose name differs by more than a prefix, or that are joined with others.
        ignored: entry -> reason.
        unexpected: entries with a name that no layout has.
    """

    sources: dict[str, list[str]] = field(default_factory=dict)
    renamed: set[str] = field(default_factory=set)
    ignored: dict[str, str] = field(default_factory=dict)
    unexpected: list[str] = field(default_factory=list)

    def shape(self, tensors: Mapping[str, Tensor], name: str) -> tuple[int, ...] | None:
        """Shape that our ``name`` gets from the file, or None where the file lacks it."""
        if name not in self.sources:
            return None
        shapes = [tensors[key].shape for key in self.sources[name]]
        return (sum(shape[0] for shape in shapes), *shapes[0][1:]) if shapes[0] else ()

    def value(self, tensors: Mapping[str, Tensor], name: str) -> Tensor:
        """Tensor for our ``name``."""
        keys = self.sources[name]
        return tensors[keys[0]] if len(keys) == 1 else torch.cat([tensors[key] for key in keys])


def translate(key: str) -> tuple[str, int | None] | str | None:
    """Our name for an entry of any known layout.

    Returns:
        (name, part): part 0, 1, 2 for query, key, value of a packed product, else None. Or a reason to ignore the
        entry. Or None: no layout has such a name.
    """
    key = _WRAPPER.sub("", key, count=1) if _WRAPPER.match(key) else key
    for pattern, reason in _IGNORED:
        if pattern.fullmatch(key):
            return reason
    if match := _TRUNK.fullmatch(key):
        name = f"backbone.{match[1]}"
        for pattern, replacement in _TRUNK_NAMES:
            name = pattern.sub(replacement, name)
        if split := re.fullmatch(r"(.+\.attn)\.([qkv])_proj\.(\w+)", name):
            return f"{split[1]}.qkv.{split[3]}", _PARTS[split[2]]
        return name, None
    if match := _OCR_ATTENTION.fullmatch(key):
        if match[1] in _ATTENTION:
            return f"head.attention.{_ATTENTION[match[1]]}.{_FLAT_INDEX[match[2]]}.{match[3]}", None
        return None
    if key.startswith("decode_head."):
        plain = _NESTED.sub(lambda m: f".{3 * int(m[1] or 0) + (m[2] == 'bn')}", key)
        match = _MMSEG_HEAD.fullmatch(plain)
        # Under its own name a layer that our heads lack counts as one too many.
        known = match and not (match[1].endswith("convs") and match[2].startswith(("3", "4")))
        return (f"head.{_MMSEG[match[1]]}.{match[2]}" if match and known else f"head.{key}"), None
    for pattern, replacement in _HEADS:
        if match := pattern.fullmatch(key):
            return match.expand(replacement), None
    return None


def arrange(keys: Iterable[str]) -> Arranged:
    """Assign entries of a published or own state dict to our names.

    Raises:
        CheckpointError: one of query, key and value is there without the others.
    """
    arranged = Arranged()
    parts: dict[str, dict[int, str]] = {}
    for key in keys:
        place = translate(key)
        if place is None:
            arranged.unexpected.append(key)
        elif isinstance(place, str):
            arranged.ignored[key] = place
        elif place[1] is not None:
            parts.setdefault(place[0], {})[place[1]] = key
            arranged.renamed.add(key)
        elif place[0] in arranged.sources:
            arranged.ignored[key] = f"second entry for {place[0]}, after {arranged.sources[place[0]][0]}"
        else:
            arranged.sources[place[0]] = [key]
            if not place[0].endswith(_WRAPPER.sub("", key, count=1)):
                arranged.renamed.add(key)
    for name, found in parts.items():
        if sorted(found) != [0, 1, 2]:
            raise CheckpointError(f"{name} needs query, key and value projections; the file has only {found.values()}")
        arranged.sources[name] = [found[part] for part in range(3)]
    return arranged


def arrange_timm(keys: Iterable[str], names: Iterable[str]) -> Arranged:
    """Assign entries of a timm state dict to the names of a wrapped timm model, which only add a prefix."""
    arranged = Arranged()
    known = set(names)
    for key in keys:
        name = key if key in known else f"backbone.net.{key}"
        if name in known:
            arranged.sources[name] = [key]
        else:
            arranged.unexpected.append(key)
    return arranged


def mmpose_names(state: Mapping[str, Tensor], *, position_bias: bool, whole: bool) -> dict[str, Tensor]:
    """Our state dict under mmpose 1.x names, index buffers included.

    Args:
        state: of a pose model, or of a bare backbone.
        position_bias: False leaves the bias tables out, as mmpose's ``with_rpe=False`` expects; with the tables in
            the file mmpose would add the bias.
        whole: backbone and head; otherwise the backbone's names without their prefix, as mmpose wants pretrained ones.
    """
    result: dict[str, Tensor] = {}
    for name, value in state.items():
        key = name if whole else name.removeprefix("backbone.")
        key = re.sub(r"(\.branches\.\d+\.\d+)\.attn\.", r"\1.attn.attn.", key.replace(".fuse.paths.", ".fuse_layers."))
        if key.endswith(".relative_position_bias_table"):
            if not position_bias:
                continue
            window = window_of(value)
            index = relative_position_index(window).view(window * window, -1)
            result[key.removesuffix("_bias_table") + "_index"] = index
        result[key] = value
    return result


def window_of(table: Tensor) -> int:
    """Window side K of a bias table with (2K-1)^2 rows.

    Raises:
        CheckpointError: the rows are not the square of an odd number.
    """
    side = round(table.shape[0] ** 0.5)
    if table.ndim != 2 or side * side != table.shape[0] or side % 2 == 0:
        raise CheckpointError(f"a bias table has (2K-1)^2 rows and a column per head, got {tuple(table.shape)}")
    return (side + 1) // 2
