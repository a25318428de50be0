"""What some files record about themselves: configurations beside the weights, and our own headers."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from hrformer.checkpoints.pickles import CheckpointError
from hrformer.checkpoints.weight_files import WeightFile
from hrformer.geometry.input_spec import InputSpec
from hrformer.geometry.skeletons import Skeleton, skeleton_for
from hrformer.models.model import TASKS, ModelInfo

FORMAT = "hrformer"
FORMAT_VERSION = "1"
COUNTS = ("num_classes", "num_keypoints")


def facts_of(file: WeightFile) -> dict[str, Any]:
    """Settings written down in the configuration beside the weights, by the names of ``recognise.SETTINGS``.

    Known are the text that mmpose and the official pose code store under ``meta``, the configuration object of the
    official classification code, and the dictionary of the official segmentation code.
    """
    facts: dict[str, Any] = {}
    text = _dig(file.extras, "meta", "cfg") or _dig(file.extras, "meta", "config")
    if isinstance(text, str):
        facts |= _config_text(text)
    side = _dig(file.extras, "config", "DATA", "IMG_SIZE")
    if isinstance(side, int) and side > 0:
        facts["input_size"] = (side, side)
    config = file.extras.get("config_dict")
    order = _dig(config, "data", "input_mode")
    if order in ("RGB", "BGR"):
        facts["channel_order"] = order
    crop = _dig(config, "train", "data_transformer", "input_size")
    if _is_size(crop):
        facts["input_size"] = (crop[1], crop[0])
    name = _dig(config, "dataset")
    if isinstance(name, str) and name:
        facts["dataset"] = name
    meta = _dig(file.extras, "meta", "dataset_meta")
    if isinstance(meta, Mapping):
        facts |= _dataset_meta(meta)
    return facts


def _dig(value: Any, *names: str) -> Any:
    for name in names:
        if not isinstance(value, Mapping):
            return None
        value = value.get(name)
    return value


def _is_size(value: Any) -> bool:
    return isinstance(value, Sequence) and len(value) == 2 and all(isinstance(v, int) and v > 0 for v in value)


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


def info_to_dict(info: ModelInfo) -> dict[str, Any]:
    """What a header holds under ``info``."""
    return {
        "class_names": list(info.class_names),
        "skeleton": None if info.skeleton is None else info.skeleton.to_dict(),
        "input_spec": info.input_spec.to_dict(),
        "decoder": info.decoder,
        "blur_kernel": info.blur_kernel,
        "shift_heatmap": info.shift_heatmap,
        "dataset": info.dataset,
        "source": info.source,
        "palette": [list(colour) for colour in info.palette],
    }


def header_of(info: ModelInfo, options: Mapping[str, Any]) -> dict[str, str]:
    """Header of our files; all values are text.

    Args:
        info: of the model.
        options: ``create_model`` options that rebuild it.
    """
    counts = {"num_keypoints" if info.task == "pose" else "num_classes": info.num_classes} if info.task else {}
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "model": info.name,
        "task": info.task or "",
        "options": json.dumps(dict(options) | counts),
        "info": json.dumps(info_to_dict(info)),
    }


def own_info(file: WeightFile) -> ModelInfo | None:
    """What our own header says, or the copy of it that our mmpose files carry; None for other files.

    Raises:
        CheckpointError: the header is incomplete or of a later version.
    """
    header: Any = file.metadata if file.metadata.get("format") == FORMAT else _dig(file.extras, "meta", FORMAT)
    if not isinstance(header, Mapping):
        return None
    version = header.get("format_version")
    if version != FORMAT_VERSION:
        raise CheckpointError(f"{file.label} has format version {version!r}, this package reads {FORMAT_VERSION!r}")
    try:
        options = json.loads(header["options"])
        values = json.loads(header["info"])
        task = header["task"] or None
        if task is not None and task not in TASKS:
            raise ValueError(f"task must be one of {', '.join(TASKS)}, got {task!r}")
        counts = [options.pop(name, 0) for name in COUNTS]
        return ModelInfo(
            name=header["model"],
            task=task,
            num_classes=max(counts),
            class_names=tuple(values.get("class_names") or ()),
            skeleton=Skeleton.from_dict(values["skeleton"]) if values.get("skeleton") else None,
            input_spec=InputSpec.from_dict(values["input_spec"]),
            decoder=values.get("decoder", "official"),
            blur_kernel=values.get("blur_kernel", 11),
            shift_heatmap=values.get("shift_heatmap", True),
            dataset=values.get("dataset", ""),
            source=values.get("source", ""),
            palette=tuple((int(r), int(g), int(b)) for r, g, b in values.get("palette") or ()),
            options=options,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"the header of {file.label} is incomplete: {error!r}") from error
