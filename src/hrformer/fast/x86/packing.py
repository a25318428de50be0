"""Weights in the layout that the compiled kernels read: panels of vectors of outputs, see ``source/product.h``."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


def panel_widths(vectors: int) -> list[int]:
    """Vectors of every panel, together ``vectors``; the rule of ``panel_vectors`` in ``source/product.h``."""
    widths = []
    while vectors > 0:
        widths.append(4 if vectors == 4 else min(vectors, 3))
        vectors -= widths[-1]
    return widths


def filled(vector: Tensor, lanes: int) -> Tensor:
    """(..., n) -> (..., n rounded up to whole vectors), with zeros, float32 and contiguous."""
    return F.pad(vector.float(), (0, -vector.shape[-1] % lanes)).contiguous()


def pack_product(weight: Tensor, lanes: int) -> Tensor:
    """(N, K) weights of a product over K -> (K * N rounded up to whole vectors,) float32, panel after panel."""
    columns = filled(weight.T, lanes)  # (K, N)
    panels = columns.split([width * lanes for width in panel_widths(columns.shape[1] // lanes)], 1)
    return torch.cat([panel.reshape(-1) for panel in panels])


NEVER = -1e30
"""Score of places that are no tokens, finite so that the kernels' exponential stays finite."""

Pair = tuple[Tensor, Tensor]
"""Weight and bias."""


@dataclass(frozen=True)
class NativeLinear:
    """A product over K channels, packed, and its bias, filled; a norm's gain and shift are folded in."""

    weight: Tensor
    bias: Tensor
    channels: int

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor, norm: Pair | None, lanes: int) -> NativeLinear:
        """From (N, K) and (N,); ``norm`` holds gain and shift (K,) of a layer norm before it."""
        weight, bias = weight.double(), bias.double()
        if norm is not None:
            bias = bias + weight @ norm[1].double()
            weight = weight * norm[0].double()
        return cls(pack_product(weight, lanes), filled(bias, lanes), weight.shape[0])


@dataclass(frozen=True)
class NativeAttention:
    """Products of window attention and the bias of its scores, (h, N, filled N).

    Queries are scaled, the norm is folded in, and padded tokens count as zeros: a constant added to all keys changes no
    softmax, and one added to all values passes it unchanged, so that the biases of keys go and those of values move
    into the projection.
    """

    qkv: NativeLinear
    proj: NativeLinear
    bias: Tensor

    @classmethod
    def of(
        cls,
        norm: Pair,
        qkv: Pair,
        proj: Pair,
        bias: Tensor | None,
        lanes: int,
        *,
        window: int,
        num_heads: int,
        scale: float | None,
    ) -> NativeAttention:
        """From gain and shift (C,), (3hd, C) and (3hd,), (C, hd) and (C,), (h, N, N); see ``AttentionWeights``."""
        weight, whole = qkv[0].double(), qkv[1].double().view(3, -1)
        head_dim = whole.shape[1] // num_heads
        scale = head_dim**-0.5 if scale is None else scale
        factors = torch.tensor([scale, 1.0, 1.0], dtype=torch.float64, device=weight.device)[:, None]
        # Real tokens hold the norm's shift, those of the padding do not: it stays with keys and values.
        moved = (weight @ norm[1].double()).view(3, -1)
        moved[0] += whole[0]
        scaled = (weight * norm[0].double()).view(3, -1, weight.shape[1]) * factors[..., None]
        out = proj[0].double()
        tokens = window * window
        rows = (num_heads, tokens, tokens + -tokens % lanes)
        scores = torch.full(rows, NEVER, dtype=torch.float32, device=weight.device)
        scores[..., :tokens] = 0.0 if bias is None else bias.float()
        return cls(
            NativeLinear.of(scaled.flatten(0, 1), (moved * factors).flatten(), None, lanes),
            NativeLinear.of(out, proj[1].double() + out @ whole[2], None, lanes),
            scores,
        )
