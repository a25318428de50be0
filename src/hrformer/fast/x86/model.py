"""A trained model on the compiled kernels for x86 processors: no compiling, any input size at once."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from contextlib import nullcontext
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from hrformer.fast.eligibility import HEADS
from hrformer.fast.fused import fuse_trunk
from hrformer.fast.x86 import stages as native
from hrformer.fast.x86.library import current_threads, find_half_library, find_library, kernel_threads
from hrformer.fast.x86.program import NotRecordableError, Program
from hrformer.models.blocks import TransformerBlock
from hrformer.models.model import VisionModel
from hrformer.models.trunk import HighResolutionTrunk

logger = logging.getLogger("hrformer")

MAX_PROGRAMS = 8
"""Input sizes that keep a recording each; the least recently used one gives way."""


Precision = Literal["fp32", "bf16"]


def native_model_refusal(model: nn.Module, precision: Precision = "fp32") -> str | None:
    """Why this model does not run on the compiled kernels in a precision, or None where it does."""
    reason = find_library()[1] or (find_half_library()[1] if precision == "bf16" else "")
    if reason:
        return reason
    trunk = model.backbone if isinstance(model, VisionModel) else None
    if not isinstance(trunk, HighResolutionTrunk) or not any(isinstance(p, TransformerBlock) for p in trunk.modules()):
        return "the compiled kernels are for HRFormer"
    return None


class NativeTrunk(nn.Module):
    """A fused trunk that runs from a recording where a size comes again: see ``hrformer.fast.x86.program``.

    Args:
        trunk: on kernels; (B, 3, H, W) to maps by name.
        half: compute in bfloat16.
        gives_half: whether its maps are bfloat16 then, and not float32.
    """

    def __init__(self, trunk: nn.Module, *, half: bool = False, gives_half: bool = False) -> None:
        super().__init__()
        self.trunk = trunk
        self.in_half, self.gives_half = half, gives_half
        self._programs: OrderedDict[tuple[Any, ...], Program | None] = OrderedDict()
        self._seen: tuple[Any, ...] | None = None
        self._lock = threading.Lock()

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """As the trunk."""
        x = x.contiguous(memory_format=torch.channels_last)
        if self.in_half:
            x = x.bfloat16()
        maps = self._maps(x)
        return maps if not self.in_half or self.gives_half else {name: y.float() for name, y in maps.items()}

    def _maps(self, x: Tensor) -> dict[str, Tensor]:
        program = None if native.native_refusal(x) else self._program(x)
        if program is None:
            return cast(dict[str, Tensor], self.trunk(x))
        names = [info.name for info in cast(HighResolutionTrunk, self.trunk).feature_info]
        return dict(zip(names, program(x), strict=True))

    def _program(self, x: Tensor) -> Program | None:
        """The recording for a size, made when the size comes a second time in a row or later."""
        key = (tuple(x.shape), x.stride(), x.storage_offset(), current_threads())
        with self._lock:
            if key in self._programs:
                self._programs.move_to_end(key)
                return self._programs[key]
            again, self._seen = self._seen == key, key
            if not again:
                return None
            try:
                self._programs[key] = Program(lambda x: list(self.trunk(x).values()), x)
            except NotRecordableError as error:
                logger.debug("no recording for pictures of %s: %s", tuple(x.shape), error)
                self._programs[key] = None
            if len(self._programs) > MAX_PROGRAMS:
                self._programs.popitem(last=False)
            return self._programs[key]

    def __getattr__(self, name: str) -> Any:
        """What else is asked of a trunk, such as ``feature_info``."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("trunk"), name)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_programs": OrderedDict(), "_seen": None, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._lock = threading.Lock()


class NativeModel(nn.Module):
    """HRFormer with folded weights on the kernels of ``hrformer.fast.x86.stages``: (B, 3, H, W) float32 on the CPU.

    In bfloat16 its own heads compute so too, but for their last layers; other heads get float32 maps.

    Args:
        model: in evaluation mode; read, not kept.
        threads: of the kernels; None follows ``torch.get_num_threads()``.
        precision: of maps between kernels and of products.
    """

    def __init__(self, model: VisionModel, threads: int | None = None, precision: Precision = "fp32") -> None:
        super().__init__()
        with torch.no_grad():
            self.fused = fuse_trunk(model, align=1, lone=True)
        half = precision == "bf16"
        self.half_head = half and type(model.head) in HEADS
        self.fused.backbone = NativeTrunk(self.fused.backbone, half=half, gives_half=self.half_head)
        if self.half_head:
            _keep_linear(cast(nn.Module, self.fused.head))
        self.threads = threads

    def forward(self, x: Tensor) -> Any:
        """What ``model`` returns, to rounding; float32."""
        with nullcontext() if self.threads is None else kernel_threads(self.threads):
            if not self.half_head:
                return self.fused(x)
            # What is left to torch between kernels computes in bfloat16 too.
            with torch.autocast("cpu", torch.bfloat16):
                return tree_map(Tensor.float, self.fused(x))


class _Float32Linear(nn.Linear):
    """A linear layer in float32 whatever is around it."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return super().forward(x.float())


def _keep_linear(module: nn.Module) -> None:
    """Let the linear layers below ``module`` compute in float32, in place."""
    for part in module.modules():
        if type(part) is nn.Linear:
            part.__class__ = _Float32Linear
