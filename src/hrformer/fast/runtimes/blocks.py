"""HRFormer's blocks rewritten for graph runtimes on the CPU (OpenVINO, ONNX Runtime): the same function, fewer passes.

What changes against ``hrformer.models.blocks``, none of which changes a result beyond rounding:

- Maps stay (B, C, H, W) between all operations. A runtime keeps them channels-last inside, so that layer norm as sums
  over the channel axis and attention projections as 1x1 convolutions need no reordering.
- Batch norms, the affine part of layer norms and the scale of queries are folded into the convolutions, in float64.
- Padded tokens hold zeros, see ``hrformer.fast.folding.folded_attention``.
- Channels and head dimensions grow to multiples of ``align`` with zeros: vector units have no partial loads on AVX2.

Dimension letters as in ``hrformer.models.attention``; P is C rounded up.
"""

from __future__ import annotations

from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hrformer.fast.folding import folded_attention, folded_conv, widen, zero_padded
from hrformer.fast.triton.launch import round_up
from hrformer.models.attention import WindowAttention, window_padding
from hrformer.models.blocks import ConvFFN, TransformerBlock
from hrformer.models.model import VisionModel
from hrformer.models.trunk import HighResolutionTrunk


def conv1x1(weight: Tensor, bias: Tensor) -> nn.Conv2d:
    """A 1x1 convolution of (out, in) float64 weights as float32 module."""
    conv = nn.Conv2d(weight.shape[1], weight.shape[0], 1)
    conv.weight = nn.Parameter(weight.float().reshape(*weight.shape, 1, 1), requires_grad=False)
    conv.bias = nn.Parameter(bias.float(), requires_grad=False)
    return conv


class ChannelNorm(nn.Module):
    """Layer norm over the channels of a map, without its affine part: (B, P, H, W) -> the same.

    Two passes, the deviations before their squares, as exact as the reference. Channels from ``channels`` on are
    filling: they count for nothing and stay zero.
    """

    mask: Tensor

    def __init__(self, channels: int, padded: int, eps: float, device: torch.device | str = "cpu") -> None:
        super().__init__()
        self.channels, self.eps = channels, eps
        mask = torch.arange(padded, device=device) < channels
        self.register_buffer("mask", mask.float().view(1, -1, 1, 1))
        self.filled = padded > channels

    def forward(self, x: Tensor) -> Tensor:
        mean = x.sum(1, keepdim=True) / self.channels
        deviation = x - mean * self.mask if self.filled else x - mean
        length = torch.linalg.vector_norm(deviation, dim=1, keepdim=True)  # runtimes have this as one pass
        return deviation * torch.rsqrt(length * length / self.channels + self.eps)


class RuntimeAttention(nn.Module):
    """Window attention on a normalised map, see the module's notes; the norm's affine part is folded in.

    Args:
        attention: the trained module.
        norm: the layer norm before it.
        align: see the module's notes.
    """

    bias: Tensor | None

    def __init__(self, attention: WindowAttention, norm: nn.LayerNorm, align: int) -> None:
        super().__init__()
        channels, self.num_heads, self.window = attention.proj.out_features, attention.num_heads, attention.window
        real = channels // self.num_heads
        self.head_dim = round_up(real, align)
        padded = round_up(channels, align)
        gain, first, last = ((layer.weight, layer.bias) for layer in (norm, attention.qkv, attention.proj))
        (weight, bias), (out, out_bias) = folded_attention(gain, first, last, real**-0.5)
        heads = (3, self.num_heads, self.head_dim)
        weight = zero_padded(weight.view(3, self.num_heads, real, channels), (*heads, padded))
        self.qkv = nn.Linear(padded, 3 * self.num_heads * self.head_dim)
        self.qkv.weight = nn.Parameter(weight.reshape(-1, padded).float(), requires_grad=False)
        bias = zero_padded(bias.view(3, self.num_heads, real), heads)
        self.qkv.bias = nn.Parameter(bias.reshape(-1).float(), requires_grad=False)
        out = zero_padded(out.view(channels, self.num_heads, real), (padded, self.num_heads, self.head_dim))
        self.proj = conv1x1(out.reshape(padded, -1), zero_padded(out_bias, (padded,)))
        table = attention.gathered_bias()
        self.register_buffer("bias", None if table is None else table.detach().float())

    def forward(self, x: Tensor) -> Tensor:
        """(B, P, H, W) -> (B, P, H, W)."""
        batch, height, width = x.shape[0], x.shape[2], x.shape[3]
        left, right, top, bottom = window_padding(height, width, self.window)
        k, h, d = self.window, self.num_heads, self.head_dim
        rows, cols = (height + top + bottom) // k, (width + left + right) // k
        qkv = self.qkv(x.permute(0, 2, 3, 1))
        if left or right or top or bottom:
            qkv = F.pad(qkv, (0, 0, left, right, top, bottom))
        qkv = qkv.reshape(batch, rows, k, cols, k, 3, h, d).permute(5, 0, 1, 3, 6, 2, 4, 7)
        query, key, value = qkv.reshape(3, batch * rows * cols, h, k * k, d).unbind(0)
        scores = torch.matmul(query, key.transpose(-1, -2))
        if self.bias is not None:
            scores = scores + self.bias
        out = torch.matmul(scores.softmax(-1), value)
        out = out.view(batch, rows, cols, h, k, k, d).permute(0, 1, 4, 2, 5, 3, 6)
        out = out.reshape(batch, rows * k, cols * k, h * d)
        if left or right or top or bottom:
            out = out[:, top : top + height, left : left + width]
        return self.proj(out.permute(0, 3, 1, 2))


class RuntimeFFN(nn.Module):
    """The feed-forward network with every batch norm and the layer norm's affine part folded into its convolutions."""

    def __init__(self, ffn: ConvFFN, norm: nn.LayerNorm, align: int) -> None:
        super().__init__()
        weight, bias = folded_conv(ffn.fc1, ffn.norm1)
        weight = weight.flatten(1)
        bias = bias + weight @ norm.bias.double()
        weight = weight * norm.weight.double()
        hidden, channels = (round_up(count, align) for count in weight.shape)
        self.fc1 = conv1x1(zero_padded(weight, (hidden, channels)), zero_padded(bias, (hidden,)))
        weight, bias = folded_conv(ffn.dw3x3, ffn.norm2)
        self.dw3x3 = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.dw3x3.weight = nn.Parameter(zero_padded(weight, (hidden, 1, 3, 3)).float(), requires_grad=False)
        self.dw3x3.bias = nn.Parameter(zero_padded(bias, (hidden,)).float(), requires_grad=False)
        weight, bias = folded_conv(ffn.fc2, ffn.norm3)
        self.fc2 = conv1x1(zero_padded(weight.flatten(1), (channels, hidden)), zero_padded(bias, (channels,)))

    def forward(self, x: Tensor) -> Tensor:
        """(B, P, H, W) normalised -> (B, P, H, W)."""
        return F.gelu(self.fc2(F.gelu(self.dw3x3(F.gelu(self.fc1(x))))))


class RuntimeBlock(nn.Module):
    """A trained ``TransformerBlock`` for runtimes: (B, P, H, W) -> (B, P, H, W)."""

    def __init__(self, block: TransformerBlock, align: int) -> None:
        super().__init__()
        channels = block.attn.proj.out_features
        padded = round_up(channels, align)
        device = block.norm1.weight.device
        self.norm1 = ChannelNorm(channels, padded, block.norm1.eps, device)
        self.attn = RuntimeAttention(block.attn, block.norm1, align)
        self.norm2 = ChannelNorm(channels, padded, block.norm2.eps, device)
        self.ffn = RuntimeFFN(block.ffn, block.norm2, align)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.ffn(self.norm2(x))


ALIGN = 8
"""Channels of branches grow to multiples of this: floats in a 256-bit register, half of a 512-bit one."""


def runtime_module(module: nn.Module) -> nn.Module:
    """``runtime_model`` for our models; other modules as they are, in evaluation mode."""
    return runtime_model(module) if isinstance(module, VisionModel) else module.eval()


@torch.no_grad()
def runtime_model(model: VisionModel, align: int = ALIGN) -> VisionModel:
    """A float32 copy in evaluation mode whose blocks are ``RuntimeBlock`` and whose branches are ``align``-ed wide.

    Inputs and outputs are those of ``model``; a bare trunk, whose maps are outputs, keeps its channels. Models with
    other backbones come back as plain copies.
    """
    copy = deepcopy(model).float().eval().requires_grad_(False)
    trunk = copy.backbone
    if not isinstance(trunk, HighResolutionTrunk):
        return copy
    _replace_blocks(trunk, widen(trunk, copy.head, align))
    return copy


def _replace_blocks(module: nn.Module, align: int) -> None:
    for name, child in module.named_children():
        if isinstance(child, TransformerBlock):
            setattr(module, name, RuntimeBlock(child, align))
        else:
            _replace_blocks(child, align)
