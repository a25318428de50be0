"""Modules of folded weights that lend them to ``hrformer.fast.stages``."""

from __future__ import annotations

from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from hrformer.fast.stage_weights import AttentionWeights, ConvolutionWeights, DepthwiseWeights, PointwiseWeights

Weights = TypeVar("Weights", AttentionWeights, ConvolutionWeights, DepthwiseWeights, PointwiseWeights)


class Frozen(nn.Module):
    """A module that holds folded weights as buffers and lends them to ``hrformer.fast.stages``.

    The kernels' own layouts are made at the first call and thrown away when the module moves or is copied. Weights
    are not meant to change: loading others into the buffers would leave those layouts behind.
    """

    def __init__(self) -> None:
        super().__init__()
        self._weights: dict[str, Any] = {}

    def hold(self, name: str, value: Tensor | None, dtype: torch.dtype) -> None:
        """Register a buffer that no state dict holds: it can be made again from the trained model."""
        held = None if value is None else value.detach().to(dtype).contiguous()
        self.register_buffer(name, held, persistent=False)

    def lend(self, kind: type[Weights], prefix: str, **settings: Any) -> Weights:
        """The buffers whose names start with ``prefix`` as weights of one stage."""
        if prefix not in self._weights:
            tensors: dict[str, Any] = {
                name.removeprefix(prefix): held for name, held in self._buffers.items() if name.startswith(prefix)
            }
            self._weights[prefix] = kind(**tensors, **settings)
        return cast(Weights, self._weights[prefix])

    def _apply(self, fn: Any, recurse: bool = True) -> Frozen:
        self._weights = {}
        return super()._apply(fn, recurse)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_weights": {}}


def channels_last(x: Tensor) -> Tensor:
    """(B, C, H, W) -> contiguous (B, H, W, C), free where the memory is channels-last; in autocast's precision."""
    if torch.is_autocast_enabled(x.device.type):
        x = x.to(torch.get_autocast_dtype(x.device.type))
    return x.permute(0, 2, 3, 1).contiguous()
