"""Other code bases: their names for our weights, what their networks expect, and what their files write down.

One set of rules covers all layouts, since they never contradict each other: the HRFormer repository (three tasks),
mmpose 0.x and 1.x, HRNet's three repositories, openseg, mmsegmentation, timm's HRNet, and our own names. Facts from the
state dicts of those code bases. A new layout needs its names here, a mark in ``layout_of`` and a line in ``HABITS``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Literal

from torch import Tensor

from hrformer.checkpoints.pickles import CheckpointError
from hrformer.geometry.skeletons import Skeleton, skeleton_for
from hrformer.models.attention import relative_position_index
from hrformer.models.model import Task

Family = Literal["hrformer", "hrnet", "timm"]

_WRAPPER = re.compile(r"^(?:module\.|_orig_mod\.|model\.)+")
_TRUNK = re.compile(r"(?:backbone\.)?((?:conv[12]|bn[12]|layer1|transition[123]|stage[234])\..+)")

# Within the trunk, in this order.
_TRUNK_NAMES = (
    (r"\.fuse_layers\.", ".fuse.paths."),
    (r"\.attn\.attn\.", ".attn."),
    (r"\.attn\.out_proj\.", ".attn.proj."),
    (r"(\.branches\.\d+\.\d+)\.mlp\.", r"\1.ffn."),
)

# Convolution, [BN, ReLU], convolution, [BN, ReLU]: others nest BN and ReLU, ours counts them.
_FLAT_INDEX = {"0": "0", "1": "1", "2": "3", "3": "4"}
_ATTENTION = {"f_pixel": "pixel", "f_object": "object", "f_down": "value", "f_up": "up"}

_HEADS: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = (
    (r"(?:keypoint_head|head)\.(final_layer\.(?:weight|bias))", r"head.\1"),
    (r"(?:head\.)?((?:incre_modules|downsamp_modules|final_layer|classifier)\..+)", r"head.\1"),
    (r"(head\.(?:aux|pixel|attention|merge)\..+)", r"\1"),
    (r"conv3x3(?:_ocr)?\.([01])(?:\.0)?\.(\w+)", r"head.pixel.\1.\2"),
    (r"aux_head\.([01])(?:\.0)?\.(\w+)", r"head.aux.\1.\2"),
    (r"aux_head\.[23]\.(\w+)", r"head.aux.3.\1"),
    (r"ocr_distri_head\.conv_bn_dropout\.([01])(?:\.0)?\.(\w+)", r"head.merge.\1.\2"),
    (
        r"ocr_distri_head\.object_context_block\.(f_pixel|f_object|f_down|f_up)\.([0-3])(?:\.0)?\.(\w+)",
        lambda match: f"head.attention.{_ATTENTION[match[1]]}.{_FLAT_INDEX[match[2]]}.{match[3]}",
    ),
    (r"cls_head\.(weight|bias)", r"head.classifier.\1"),
    (r"(?:head\.)?(last_layer\.[013]\..+)", r"head.\1"),
    (r"decode_head\..+", lambda match: f"head.{_mmseg_name(match[0])}"),
)

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
    (r".*\.relative_position_index", "index buffer, computed from the window size"),
    (r"loss\..+|criterion\..+", "part of the training loss"),
    (r"data_preprocessor\..+", "pixel statistics, which the input specification holds"),
    (r"auxiliary_head\..+", "a head that mmsegmentation uses in training only"),
    (r".*\btotal_(ops|params)", "left there by a profiler"),
    (r"cls_head\.\d+\..+", NO_OCR_HEAD),
)

OUTPUT_LAYERS = ("head.classifier", "head.final_layer", "head.aux.3", "head.last_layer.3")
"""Layers whose outputs are the classes or keypoints."""

_RGB: dict[str, Any] = {"channel_order": "RGB"}
_BGR: dict[str, Any] = {"channel_order": "BGR"}
_NEAREST: dict[str, Any] = {"upsample": "nearest"}
HABITS: Mapping[tuple[str, Family], Mapping[str, Any]] = {
    ("official-classification", "hrformer"): {**_RGB, **_NEAREST, "position_bias": True, "interpolation": "bicubic"},
    ("official-pose", "hrformer"): {**_RGB, "upsample": "bilinear", "position_bias": False, "decoder": "official"},
    # Pixels are BGR there, the statistics stay in RGB order.
    ("official-segmentation", "hrformer"): {**_BGR, **_NEAREST, "position_bias": True, "interpolation": "bicubic"},
    ("mmpose-0.x", "hrformer"): {**_RGB, "upsample": "bilinear", "decoder": "mmpose"},
    ("mmpose-1.x", "hrformer"): {**_RGB, "upsample": "bilinear", "decoder": "mmpose"},
    ("mmpose-0.x", "hrnet"): {**_RGB, **_NEAREST, "decoder": "mmpose"},
    ("mmpose-1.x", "hrnet"): {**_RGB, **_NEAREST, "decoder": "mmpose"},
    ("hrnet-classification", "hrnet"): {**_RGB, **_NEAREST, "interpolation": "bilinear"},
    ("hrnet-pose", "hrnet"): {**_RGB, **_NEAREST, "decoder": "official"},
    ("hrnet-segmentation", "hrnet"): {**_RGB, "upsample": "bilinear_aligned", "interpolation": "bilinear"},
    ("hrnet-segmentation-plain", "hrnet"): {**_RGB, "upsample": "bilinear_to_size", "interpolation": "bilinear"},
    ("mmsegmentation", "hrnet"): {**_RGB, "upsample": "bilinear", "interpolation": "bilinear"},
    ("openseg", "hrnet"): {**_BGR, "upsample": "bilinear_aligned", "interpolation": "bicubic"},
}
"""(layout, family) -> what a network of that code base expects beyond names and shapes, from reading that code."""

DATASETS = {
    19: ("Cityscapes", (512, 1024)),
    59: ("PASCAL-Context", (520, 520)),
    150: ("ADE20K", (520, 520)),
    171: ("COCO-Stuff-10K", (520, 520)),
}
"""Number of classes -> data set and training crop (height, width) of the published segmentation runs."""

MMSEG_CROPS = {19: (512, 1024), 59: (480, 480), 60: (480, 480)}  # The same of mmsegmentation's runs


def our_name(key: str) -> str | None:
    """Our name for an entry of any known layout, None for others; query, key and value keep ".q_proj." and so on."""
    key = _WRAPPER.sub("", key)
    if match := _TRUNK.fullmatch(key):
        name = f"backbone.{match[1]}"
        for pattern, replacement in _TRUNK_NAMES:
            name = re.sub(pattern, replacement, name)
        return name
    for rule, new in _HEADS:
        if match := re.fullmatch(rule, key):
            return new(match) if callable(new) else match.expand(new)
    return None


def _mmseg_name(key: str) -> str:
    plain = _NESTED.sub(lambda match: f".{3 * int(match[1] or 0) + (match[2] == 'bn')}", key)
    match = _MMSEG_HEAD.fullmatch(plain)
    # Under its own name a layer that our heads lack counts as one too many.
    known = match and not (match[1].endswith("convs") and match[2].startswith(("3", "4")))
    return f"{_MMSEG[match[1]]}.{match[2]}" if match and known else key


def renamed(key: str, name: str) -> bool:
    """Whether our name differs from the entry's by more than a prefix."""
    return not name.endswith(_WRAPPER.sub("", key))


def reason_to_ignore(key: str) -> str | None:
    """Why an entry is of no use here; None for entries that are."""
    key = _WRAPPER.sub("", key)
    return next((reason for pattern, reason in _IGNORED if re.fullmatch(pattern, key)), None)


def layout_of(keys: Iterable[str], names: Collection[str], family: Family, task: Task | None) -> str:
    """Which code base writes files of such ``keys``: it and the task, as "official-pose"; "hrformer" for our own."""
    keys = [_WRAPPER.sub("", key) for key in keys]
    starts = {key.partition(".")[0] for key in keys}
    if family == "timm" or any(".fuse.paths." in key for key in keys):
        return "hrformer"
    if task == "segmentation" and "decode_head" in starts:
        return "mmsegmentation"
    if family == "hrformer":
        official = any(".q_proj." in key for key in keys) or task in ("classification", "segmentation")
        if official or task is None:
            return f"{'official' if official else 'mmpose'}-{task or 'backbone'}"
    if task == "pose" and "keypoint_head" in starts:
        return "mmpose-0.x"
    if task == "pose":
        return "mmpose-1.x" if "head" in starts else "hrnet-pose"
    if task == "segmentation" and "conv3x3" in starts:
        return "openseg"
    if "head.last_layer.0.weight" in names:
        return "hrnet-segmentation-plain"
    return f"hrnet-{task or 'backbone'}"


def recorded_settings(extras: Mapping[str, Any]) -> dict[str, Any]:
    """Settings written down in the configuration beside the weights, by name.

    Known are the text that mmpose and the official pose code store under ``meta``, the configuration object of the
    official classification code, and the dictionary of the official segmentation code.
    """
    text = _dig(extras, "meta", "cfg") or _dig(extras, "meta", "config")
    facts = _config_text(text) if isinstance(text, str) else {}
    side = _dig(extras, "config", "DATA", "IMG_SIZE")
    if isinstance(side, int) and side > 0:
        facts["input_size"] = (side, side)
    config = extras.get("config_dict")
    order = _dig(config, "data", "input_mode")
    if order in ("RGB", "BGR"):
        facts["channel_order"] = order
    crop = _dig(config, "train", "data_transformer", "input_size")
    if isinstance(crop, Sequence) and len(crop) == 2 and all(isinstance(side, int) and side > 0 for side in crop):
        facts["input_size"] = (crop[1], crop[0])
    name = _dig(config, "dataset")
    if isinstance(name, str) and name:
        facts["dataset"] = name
    meta = _dig(extras, "meta", "dataset_meta")
    if isinstance(meta, Mapping):
        facts |= _dataset_meta(meta)
    return facts


def _dig(value: Any, *names: str) -> Any:
    for name in names:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _config_text(text: str) -> dict[str, Any]:
    """Crop size (mmpose: width, height; mmsegmentation: height, width), position bias and codec of a configuration."""
    facts: dict[str, Any] = {}
    size = re.search(r"\b(?:input_size|image_size)'?\s*[=:]\s*(?:np\.array\()?[\[(]\s*(\d+)\s*,\s*(\d+)", text)
    if size:
        facts["input_size"] = (int(size[2]), int(size[1]))
    if crop := re.search(r"\bcrop_size'?\s*[=:]\s*\(\s*(\d+)\s*,\s*(\d+)", text):
        facts["input_size"] = (int(crop[1]), int(crop[2]))
    if bias := re.search(r"\bwith_rpe'?\s*[=:]\s*(True|False)", text):
        facts["position_bias"] = bias[1] == "True"
    return facts | _codec(text)


def _codec(text: str) -> dict[str, Any]:
    """What mmpose decodes with; a codec that this package lacks comes by its name, which ``ModelInfo`` refuses."""

    def value(names: str, pattern: str) -> str | None:
        found = re.search(rf"\b(?:{names})['\"]?\s*[=:]\s*['\"]?(?:[\w.]*\.)?({pattern})\b", text)
        return found[1] if found else None

    facts: dict[str, Any] = {}
    codec = value("type", r"(?:UDP|Megvii)Heatmap|MSRAHeatmap")
    if lacking := value("target_type|heatmap_type", "CombinedTarget|combined") or value("post_process", "megvii"):
        facts["decoder"] = "CombinedTarget" if lacking == "combined" else lacking
    elif codec == "MegviiHeatmap":
        facts["decoder"] = codec
    elif codec == "UDPHeatmap" or (codec is None and value("use_udp", "True")):
        facts["decoder"] = "udp"
    elif value("unbiased|unbiased_decoding", "True") or value("post_process", "unbiased"):
        facts["decoder"] = "dark"
    if facts:
        facts["blur_kernel"] = int(value("blur_kernel_size|modulate_kernel", r"\d+") or 11)
    if shift := value("shift_heatmap", "True|False"):
        facts["shift_heatmap"] = shift == "True"
    return facts


def _dataset_meta(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Data set and joints from mmpose 1.x."""
    facts: dict[str, Any] = {}
    dataset = meta.get("dataset_name")
    if isinstance(dataset, str) and dataset:
        facts["dataset"] = dataset
    names = meta.get("keypoint_id2name")
    if isinstance(names, Mapping) and names:
        if dataset == "coco" and len(names) == 17:
            return facts | {"skeleton": skeleton_for(17)}
        try:
            flips = [int(i) for i in meta["flip_indices"]]
            facts["skeleton"] = Skeleton(
                name=str(dataset or "mmpose"),
                keypoints=tuple(str(names[i]) for i in sorted(names)),
                flip_pairs=tuple((i, j) for i, j in enumerate(flips) if i < j),
                edges=tuple((int(a), int(b)) for a, b in meta["skeleton_links"]),
                sigmas=tuple(float(s) for s in meta["sigmas"]),
                upper_body=tuple(int(i) for i in meta.get("upper_body_ids", ())),
            )
        except (KeyError, TypeError, ValueError):
            pass  # an incomplete description is no description
    return facts


def mmpose_names(state: Mapping[str, Tensor], *, position_bias: bool, whole: bool) -> dict[str, Tensor]:
    """State dict of a pose model, or of a bare backbone, under mmpose 1.x names, index buffers included.

    Args:
        state: ours.
        position_bias: False leaves the bias tables out, since mmpose would add the bias with them in the file.
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
    """Window side K of a bias table with (2K-1)^2 rows; CheckpointError if they are not the square of an odd number."""
    side = round(table.shape[0] ** 0.5)
    if table.ndim != 2 or side * side != table.shape[0] or side % 2 == 0:
        raise CheckpointError(f"a bias table has (2K-1)^2 rows and a column per head, got {tuple(table.shape)}")
    return (side + 1) // 2
