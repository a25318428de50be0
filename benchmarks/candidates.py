"""What is compared: a network, whose code it is, and the way it is run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import timm

from hrformer.models.model import Task
from hrformer.zoo import INPUT_SPECS, list_models

Origin = Literal["ours", "timm", "transformers", "official", "mmpose"]
Way = Literal[
    "eager",
    "eager-graphs",
    "compiled",
    "compiled-graphs",
    "fast",
    "fast-native",
    "fast-openvino",
    "fast-onnxruntime",
    "fast-triton",
]
Layout = Literal["contiguous", "channels_last"]
Precision = Literal["fp32", "bf16", "fp16"]
HalfBy = Literal["cast", "autocast"]

TIMM_NAMES = {
    "deit_s": "deit_small_patch16_224",
    "deit_b": "deit_base_patch16_224",
    "swin_t": "swin_tiny_patch4_window7_224",
    "swin_s": "swin_small_patch4_window7_224",
    "swin_b": "swin_base_patch4_window7_224",
    "timm_hrnet_w18": "hrnet_w18",
    "timm_hrnet_w32": "hrnet_w32",
    "timm_hrnet_w48": "hrnet_w48",
}
"""Short names of classifiers in timm; any other is "timm/NAME"."""

VITPOSE = "vitpose_b"


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """One way to run one network.

    Attributes:
        origin: whose code.
        model: name in our ``zoo`` for "ours", "official" and "mmpose", in timm for "timm", ``VITPOSE`` for
            "transformers".
        task: which head.
        way: plain PyTorch ("eager"; "eager-graphs": in a CUDA graph), ``torch.compile`` ("compiled-graphs": with CUDA
            graphs), or ``optimize`` with the backend it chooses or the named one. In training: the plain or compiled
            module.
        layout: of the input and, for plain and compiled modules, of the weights.
        precision: of the arithmetic.
        half_by: how a half precision is reached: weights and input cast to it, or autocast over float32 weights. The
            runtimes on the CPU take float32 in any case and compute in bfloat16 inside.
        window: side of the attention windows of our HRFormer, where it is not the model's own.
    """

    origin: Origin = "ours"
    model: str
    task: Task
    way: Way = "eager"
    layout: Layout = "contiguous"
    precision: Precision = "fp32"
    half_by: HalfBy = "cast"
    window: int | None = None

    @property
    def label(self) -> str:
        """Everything that tells it from the other candidates of a run, such as "official hrformer_small, eager"."""
        parts = [self.model if self.origin in ("ours", "transformers") else f"{self.origin} {self.model}"]
        if self.window is not None:
            parts.append(f"window {self.window}")
        parts.append(self.way)
        if self.layout == "channels_last":
            parts.append("channels-last")
        if self.precision != "fp32":
            parts.append(f"{self.precision} by {self.half_by}")
        return ", ".join(parts)

    @property
    def bare(self) -> Candidate:
        """The same network, whatever the way it is run."""
        return replace(self, way="eager", layout="contiguous", precision="fp32", half_by="cast")


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One candidate at one batch (pictures) and size (height, width in pixels)."""

    candidate: Candidate
    batch: int
    size: tuple[int, int]

    def __post_init__(self) -> None:
        if self.batch < 1 or min(self.size) < 1:
            raise ValueError(f"batch and size must be above 0, got {self.batch} and {self.size}")


def find_baseline(name: str, task: Task) -> tuple[Origin, str]:
    """Whose code and which model a baseline's name means.

    Args:
        name: a model of ours (HRNet in our trunk), a key of ``TIMM_NAMES``, "timm/NAME" or ``VITPOSE``.
        task: it must have a head for.

    Raises:
        ValueError: there is none of this name, or not for this task.
    """
    if name in list_models():
        return "ours", name
    if name == VITPOSE:
        if task != "pose":
            raise ValueError(f"{VITPOSE} is for pose, not for {task}")
        return "transformers", name
    known = TIMM_NAMES.get(name, name.removeprefix("timm/") if name.startswith("timm/") else "")
    if not known or not timm.is_model(known):
        raise ValueError(
            f"no baseline named {name!r}; known: {', '.join([*list_models(), *TIMM_NAMES, VITPOSE])}, or timm/NAME"
        )
    if task != "classification":
        raise ValueError(f"{name} is a classifier of timm, and the task is {task}")
    return "timm", known


def default_size(task: Task) -> tuple[int, int]:
    """Height and width of the task's usual input: 224x224, 256x192, 520x520."""
    return INPUT_SPECS[task].size
