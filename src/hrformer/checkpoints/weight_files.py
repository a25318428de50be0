"""Weight files on disk: opened by what their first bytes say, every value checked; and the header of our own files."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from hrformer.checkpoints.pickles import CheckpointError, load_pickle
from hrformer.geometry.input_spec import InputSpec
from hrformer.geometry.skeletons import Skeleton
from hrformer.models.model import ModelInfo
from hrformer.wording import listed

FORMAT = "hrformer"
_VERSION = "1"
# What the header of our own files holds under "info".
_INFO = tuple(one.name for one in fields(ModelInfo) if one.name not in ("name", "task", "num_classes", "options"))

WRAPPERS = ("state_dict", "model", "model_state_dict", "best_state_dict", "state_dict_ema", "model_ema", "checkpoint")
"""Names under which training code stores the weights, in order of preference."""

_LEARNT = ("weight", "bias", "running_mean", "running_var")


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightFile:
    """Tensors of one file and what else it says."""

    tensors: dict[str, Tensor]  # by the names in the file
    metadata: dict[str, str] = field(default_factory=dict)  # of a safetensors header
    extras: dict[str, Any] = field(default_factory=dict)  # what lay beside the weights, such as a configuration
    skipped: dict[str, str] = field(default_factory=dict)  # entries that are not tensors -> why they are left out
    path: Path | None = None  # None for a state dict given in memory

    @property
    def label(self) -> str:
        """The file's name without its folder, for messages and records."""
        return "state dict" if self.path is None else self.path.name


def read_weights(source: str | Path | Mapping[str, Any]) -> WeightFile:
    """Weights of a safetensors or ``torch.save`` file, or of a mapping that is, or wraps, a state dict.

    Raises:
        FileNotFoundError: no such file.
        CheckpointError: not a weight file, damaged, refused, without tensors, or with values that cannot be weights.
    """
    if isinstance(source, Mapping):
        file = _unwrap(source, None)
    else:
        path = Path(source).expanduser()
        if path.is_dir():
            raise CheckpointError(f"{path} is a folder; give the weight file in it")
        if not path.exists():
            raise FileNotFoundError(f"no weight file {path}")
        file = _read_safetensors(path) if _is_safetensors(path) else _unwrap(load_pickle(path), path)
    if faults := [words for item in file.tensors.items() if (words := _fault(*item))]:
        raise CheckpointError(f"{file.label} is damaged or its training diverged: {listed(faults, 4)}")
    return file


def _fault(name: str, value: Tensor) -> str:
    """How many values are not finite in 32 bits or are variances below 0, or another fault; empty where none is."""
    if value.is_meta or value.layout != torch.strided or value.is_quantized or value.is_complex():
        return f"{name} is not a plain tensor of real values ({value.dtype}, {value.layout}, on {value.device})"
    if not value.is_floating_point():
        return f"{name} is {value.dtype}, not floating point" if name.endswith(_LEARNT) else ""
    if value.numel() == 0:
        return ""
    value = value.float() if value.itemsize == 1 else value
    low, high = (end.float() for end in value.aminmax())  # NaN where any value is
    lowest = 0.0 if name.endswith("running_var") else -math.inf
    if bool((low >= lowest) & low.isfinite() & high.isfinite()):
        return ""
    bad = int((~value.float().isfinite() | (value < lowest)).sum())
    return f"{name} has {bad} of {value.numel()} values that are not finite{' or below 0' if lowest == 0 else ''}"


def _is_safetensors(path: Path) -> bool:
    """Tell safetensors, 8 bytes of length and a JSON object, from ``torch.save``; refuse what is neither."""
    with path.open("rb") as file:
        start = file.read(512)
    if not start:
        raise CheckpointError(f"{path} is empty")
    if start[8:9] == b"{" or (path.suffix == ".safetensors" and start[:2] not in (b"PK", b"\x80\x02")):
        return True
    if start[:2] == b"PK" or start[:1] == b"\x80":
        return False
    what = "of another kind"
    if start.startswith(b"version https://git-lfs"):
        what = "a Git LFS pointer; fetch the file itself with git lfs pull"
    elif start.lstrip().startswith(b"<"):
        what = "a web page; the download was answered with HTML or XML"
    raise CheckpointError(f"{path} is not a weight file but {what}; expected safetensors or a torch.save file")


def _read_safetensors(path: Path) -> WeightFile:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, not a mapping
            metadata: dict[str, str] = file.metadata() or {}
    except (SafetensorError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"{path} is a damaged safetensors file: {error}") from error
    if not tensors:
        raise CheckpointError(f"{path} holds no tensors")
    return WeightFile(tensors=tensors, metadata=metadata, path=path)


def _unwrap(content: Any, path: Path | None) -> WeightFile:
    """Follow wrappers down to the first mapping of names to tensors."""
    extras: dict[str, Any] = {}
    skipped: dict[str, str] = {}
    while wrapper := _wrapper_of(content):
        for name, value in content.items():
            if name != wrapper:
                extras[str(name)] = value
                other = f"other weights; those under {wrapper!r} are read"
                beside = "stored beside the weights; not weights of the network"
                skipped[str(name)] = other if _has_tensors(value) else beside
        content = content[wrapper]
    if not _has_tensors(content):
        found = f"entries {', '.join(map(str, list(content)[:8]))}" if isinstance(content, Mapping) else type(content)
        raise CheckpointError(
            f"{path or 'the state dict'} holds no state dict, only {found or 'nothing'}; expected names and tensors, "
            f"or these under one of {', '.join(WRAPPERS)}"
        )
    tensors = {str(name): value.detach() for name, value in content.items() if isinstance(value, Tensor)}
    skipped |= {str(name): "not a tensor" for name, value in content.items() if not isinstance(value, Tensor)}
    return WeightFile(tensors=tensors, extras=extras, skipped=skipped, path=path)


def _wrapper_of(content: Any) -> str | None:
    """The first of ``WRAPPERS`` under which a mapping holds tensors."""
    if not isinstance(content, Mapping):
        return None
    return next((name for name in WRAPPERS if _has_tensors(content.get(name))), None)


def _has_tensors(value: Any) -> bool:
    """Whether a mapping holds tensors, itself or inside a wrapper."""
    return isinstance(value, Mapping) and (
        any(isinstance(v, Tensor) for v in value.values()) or _wrapper_of(value) is not None
    )


def stored_tensor(value: Tensor, half: bool) -> Tensor:
    """A copy fit for storage: contiguous, on the CPU, in 16-bit floats if asked, unless a value would overflow."""
    value = value.detach().cpu().clone(memory_format=torch.contiguous_format)
    if half and value.is_floating_point():
        small = value.half()
        if bool(torch.isfinite(small).all()) or not bool(torch.isfinite(value).all()):
            return small
    return value


def header_of(info: ModelInfo, options: Mapping[str, Any]) -> dict[str, str]:
    """Text beside the tensors of our own files: what the model is, and the ``create_model`` options that rebuild it."""
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
    """What :func:`header_of` wrote; CheckpointError, with the file's ``label``, if incomplete or of a later version."""
    version = header.get("format_version")
    if version != _VERSION:
        raise CheckpointError(f"{label} has format version {version!r}, this package reads {_VERSION!r}")
    try:
        options, stored = json.loads(header["options"]), json.loads(header["info"])
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


def own_info(file: WeightFile) -> ModelInfo | None:
    """What our own header says, or the copy of it that our mmpose files carry; None for other files."""
    if file.metadata.get("format") == FORMAT:
        return read_header(file.metadata, file.label)
    meta = file.extras.get("meta")
    header = meta.get(FORMAT) if isinstance(meta, Mapping) else None
    return read_header(header, file.label) if isinstance(header, Mapping) else None
