"""Header of this package's own weight files: what a model is and what its outputs mean, as text beside the tensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from hrformer.checkpoints.pickles import CheckpointError
from hrformer.geometry.input_spec import InputSpec
from hrformer.geometry.skeletons import Skeleton
from hrformer.models.model import ModelInfo

FORMAT = "hrformer"
_VERSION = "1"
# What the header holds under "info".
_INFO = tuple(one.name for one in fields(ModelInfo) if one.name not in ("name", "task", "num_classes", "options"))


def header_of(info: ModelInfo, options: Mapping[str, Any]) -> dict[str, str]:
    """Header of a file; all values are text.

    Args:
        info: of the model.
        options: ``create_model`` options that rebuild it.
    """
    counts = {"num_keypoints" if info.task == "pose" else "num_classes": info.num_classes} if info.task else {}
    values = {name: getattr(info, name) for name in _INFO}
    return {
        "format": FORMAT,
        "format_version": _VERSION,
        "model": info.name,
        "task": info.task or "",
        "options": json.dumps(dict(options) | counts),
        "info": json.dumps(values, default=lambda value: value.to_dict()),
    }


def read_header(header: Mapping[str, Any], label: str) -> ModelInfo:
    """What :func:`header_of` wrote.

    Args:
        header: of a safetensors file, or the copy of it that our mmpose files carry.
        label: the file's name, for messages.

    Raises:
        CheckpointError: the header is incomplete or of a later version.
    """
    version = header.get("format_version")
    if version != _VERSION:
        raise CheckpointError(f"{label} has format version {version!r}, this package reads {_VERSION!r}")
    try:
        options = json.loads(header["options"])
        stored = json.loads(header["info"])
        values = {name: stored[name] for name in _INFO if stored.get(name) is not None}
        values |= {
            "input_spec": InputSpec.from_dict(stored["input_spec"]),
            "class_names": tuple(stored.get("class_names") or ()),
            "palette": tuple((int(r), int(g), int(b)) for r, g, b in stored.get("palette") or ()),
        }
        if "skeleton" in values:
            values["skeleton"] = Skeleton.from_dict(values["skeleton"])
        count = max(options.pop(name, 0) for name in ("num_classes", "num_keypoints"))
        task = header["task"] or None
        return ModelInfo(name=header["model"], task=task, num_classes=count, options=options, **values)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"the header of {label} is incomplete: {error!r}") from error
