"""The plain window attention layer as a function of its tensors."""

from __future__ import annotations

from torch import Tensor
from torch.func import functional_call

from hrformer.models.attention import WindowAttention


def window_attention(
    x: Tensor,
    qkv_weight: Tensor,
    qkv_bias: Tensor,
    proj_weight: Tensor,
    proj_bias: Tensor,
    bias: Tensor | None = None,
    *,
    window: int,
    num_heads: int,
) -> Tensor:
    """The layer on (B, H, W, C) tokens with these tensors in the place of its own, and the (h, N, N) bias."""
    layer = WindowAttention(x.shape[-1], num_heads, window)
    layer.gathered_bias = lambda: bias
    tensors = {"qkv.weight": qkv_weight, "qkv.bias": qkv_bias, "proj.weight": proj_weight, "proj.bias": proj_bias}
    return functional_call(layer, tensors, (x,))
