"""A trained model on the compiled kernels for x86 processors: no compiling, any input size at once."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from hrformer.fast.fused_blocks import fuse_trunk
from hrformer.fast.fused_convs import replace_lone_convolutions
from hrformer.layers.blocks import TransformerBlock
from hrformer.models.model import VisionModel
from hrformer.native.library import find_library, kernel_threads


def native_model_refusal(model: nn.Module) -> str | None:
    """Why this model does not run on the compiled kernels, or None where it does."""
    reason = find_library()[1]
    if reason:
        return reason
    if not isinstance(model, VisionModel) or not any(isinstance(part, TransformerBlock) for part in model.modules()):
        return "the compiled kernels are for HRFormer"
    return None


class NativeModel(nn.Module):
    """HRFormer with folded weights on the kernels of ``hrformer.ops.native``: (B, 3, H, W) float32 on the CPU.

    Args:
        model: in evaluation mode; read, not kept.
        threads: of the kernels; None follows ``torch.get_num_threads()``.
    """

    def __init__(self, model: VisionModel, threads: int | None = None) -> None:
        super().__init__()
        with torch.no_grad():
            self.fused = fuse_trunk(model, align=1)
            replace_lone_convolutions(self.fused)
        self.threads = threads

    def forward(self, x: Tensor) -> Any:
        """What ``model`` returns, to rounding."""
        with nullcontext() if self.threads is None else kernel_threads(self.threads):
            return self.fused(x)
