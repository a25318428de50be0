"""Random weights for the stages of inference, as tests of the compiled kernels take them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from hrformer.fast.folding import AttentionWeights, ConvolutionWeights, DepthwiseWeights, PointwiseWeights
from hrformer.models.attention import WindowAttention


def attention_weights(channels: int, heads: int, window: int, bias: bool = True) -> AttentionWeights:
    attn, norm = WindowAttention(channels, heads, window), nn.LayerNorm(channels)
    for vector in (norm.weight, norm.bias, attn.qkv.bias, attn.proj.bias):
        nn.init.normal_(vector)
    nn.init.normal_(attn.relative_position_bias_table)
    gathered = attn.gathered_bias().detach() if bias else None
    return AttentionWeights(
        norm_weight=norm.weight.detach(),
        norm_bias=norm.bias.detach(),
        qkv_weight=attn.qkv.weight.detach(),
        qkv_bias=attn.qkv.bias.detach(),
        proj_weight=attn.proj.weight.detach(),
        proj_bias=attn.proj.bias.detach(),
        bias=gathered,
        window=window,
        num_heads=heads,
        eps=1e-6,
    )


def product_weights(into: int, out: int, *, norm: bool = False) -> PointwiseWeights:
    extra: dict[str, Any] = {"norm_weight": torch.randn(into), "norm_bias": torch.randn(into), "eps": 1e-6}
    return PointwiseWeights(weight=torch.randn(out, into) / into**0.5, bias=torch.randn(out), **(extra if norm else {}))


def depthwise_weights(into: int, out: int, stride: int = 1) -> DepthwiseWeights:
    product = product_weights(into, out)
    taps, bias = torch.randn(into, 3, 3) / 3, torch.randn(into)
    return DepthwiseWeights(
        depthwise=taps, depthwise_bias=bias, weight=product.weight, bias=product.bias, stride=stride
    )


def convolution_weights(
    into: int, out: int, kernel: tuple[int, int], stride: tuple[int, int] = (1, 1), padding: tuple[int, int] = (0, 0)
) -> ConvolutionWeights:
    weight = torch.randn(out, into, *kernel) / (into * kernel[0] * kernel[1]) ** 0.5
    return ConvolutionWeights(weight=weight, bias=torch.randn(out), stride=stride, padding=padding)
