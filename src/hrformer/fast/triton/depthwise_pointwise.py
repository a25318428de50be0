"""Depthwise 3x3 convolution computed on the fly as the left operand of a matrix product over channels.

Dimension letters: B batch, H/W size of the input map, K its channels, N output channels, S stride.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hrformer.fast.triton.launch import activate, activation_for, device_of, jit, pad_to, round_up, tl
from hrformer.fast.triton.pointwise import PackedPointwise, pack_pointwise, store_sum

TILES = ((8, 8), (4, 16), (16, 4))
"""Height and width of the pixels of one program: 64, the fewest rows that fill Hopper's matrix units."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PackedDepthwise:
    """Weights as the kernel reads them: ``taps`` (10, K up) float32, nine row by row, then the bias; the product's."""

    taps: Tensor
    product: PackedPointwise


def pack_depthwise(
    depthwise: Tensor, depthwise_bias: Tensor, weight: Tensor, bias: Tensor, dtype: torch.dtype
) -> PackedDepthwise:
    """Lay out depthwise (K, 3, 3) and (K,), weight (N, K) and bias (N,) for maps of ``dtype``."""
    # One block of up to 256 outputs: each further one would compute the depthwise stage again.
    product = pack_pointwise(weight, bias, None, dtype, largest=(32, 256))
    taps = torch.cat([depthwise.flatten(1).T, depthwise_bias[None]]).float()
    return PackedDepthwise(taps=pad_to(taps, 10, product.weight.shape[0]), product=product)


@jit()
def _depthwise(
    x_ptr, taps_ptr, image, y, x, k, on_map, height, width, K: tl.constexpr, PADDED_K: tl.constexpr, S: tl.constexpr
):
    """The 3x3 convolution at output cells (y, x) in float32; outside the map are zeros."""
    total = tl.zeros((y.shape[0], k.shape[0]), tl.float32) + tl.load(taps_ptr + 9 * PADDED_K + k)[None, :]
    for tap in tl.static_range(9):
        row, col = y * S + (tap // 3 - 1), x * S + (tap % 3 - 1)
        inside = on_map & (row >= 0) & (row < height) & (col >= 0) & (col < width)
        offsets = ((image * height + row) * width + col) * K
        value = tl.load(x_ptr + offsets[:, None] + k[None, :], mask=inside[:, None] & (k < K)[None, :], other=0.0)
        total += value.to(tl.float32) * tl.load(taps_ptr + tap * PADDED_K + k)[None, :]
    return total


@jit(do_not_specialize=["height", "width", "out_height", "out_width", "tile_rows", "tile_cols"])
def _depthwise_pointwise_kernel(
    x_ptr, taps_ptr, weight_ptr, bias_ptr, residual_ptr, out_ptr,
    height, width, out_height, out_width, tile_rows, tile_cols,
    K: tl.constexpr, N: tl.constexpr, PADDED_K: tl.constexpr, PADDED_N: tl.constexpr, S: tl.constexpr,
    MIDDLE: tl.constexpr, ACTIVATION: tl.constexpr, RESIDUAL: tl.constexpr,
    TILE_H: tl.constexpr, TILE_W: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr
):  # fmt: skip
    """One tile of one picture and one block of output channels."""
    COLUMN_BLOCKS: tl.constexpr = PADDED_N // BLOCK_N
    pid = tl.program_id(0)
    n = (pid % COLUMN_BLOCKS) * BLOCK_N + tl.arange(0, BLOCK_N)
    tile = pid // COLUMN_BLOCKS
    image = (tile // (tile_rows * tile_cols)).to(tl.int64)
    inner = tile % (tile_rows * tile_cols)
    cell = tl.arange(0, TILE_H * TILE_W)
    y = (inner // tile_cols) * TILE_H + cell // TILE_W
    x = (inner % tile_cols) * TILE_W + cell % TILE_W
    on_map = (y < out_height) & (x < out_width)
    total = tl.zeros((TILE_H * TILE_W, BLOCK_N), tl.float32)
    for start in range(0, PADDED_K, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        a = _depthwise(x_ptr, taps_ptr, image, y, x, k, on_map, height, width, K, PADDED_K, S)
        w = tl.load(weight_ptr + k[:, None] * PADDED_N + n[None, :])
        total = tl.dot(activate(a, MIDDLE).to(w.dtype), w, total, input_precision="ieee")
    total = activate(total + tl.load(bias_ptr + n)[None, :], ACTIVATION)
    cell = (image * out_height + y) * out_width + x
    store_sum(total, residual_ptr, out_ptr, cell, n, on_map, N, RESIDUAL, "none")


def best_tile(height: int, width: int) -> tuple[int, int]:
    """The tile that covers a map with the fewest cells beside it; squares first, their halo is the smallest."""
    return min(TILES, key=lambda tile: round_up(height, tile[0]) * round_up(width, tile[1]))


def depthwise_pointwise(
    x: Tensor, packed: PackedDepthwise,
    *, stride: int = 1, middle: str = "none", activation: str = "none", residual: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """activation(middle(depthwise3x3(x)) @ weight.T + bias) + residual; padding 1, zeros.

    Args:
        x: (B, H, W, K) in the precision of ``packed``, see ``pack_depthwise``.
        stride: S, of the depthwise convolution.
        middle: between the two, "none", "gelu" or "relu". ``activation``: after the second, the same choice.
        residual: (B, ceil(H / S), ceil(W / S), N), or None.

    Returns:
        (B, ceil(H / S), ceil(W / S), N).
    """
    batch, height, width, _ = x.shape
    product = packed.product
    x = x.contiguous()
    out_height, out_width = -(-height // stride), -(-width // stride)
    out = torch.empty((batch, out_height, out_width, product.channels[1]), dtype=x.dtype, device=x.device)
    if out.numel() == 0:
        return out
    tile_h, tile_w = best_tile(out_height, out_width)
    tile_rows, tile_cols = -(-out_height // tile_h), -(-out_width // tile_w)
    # One stage: pipelined, the next round may overwrite the registers of a product that still runs (see ``pointwise``).
    with device_of(x):
        _depthwise_pointwise_kernel[(batch * tile_rows * tile_cols * product.column_blocks,)](
            x, packed.taps, product.weight, product.bias, x if residual is None else residual.contiguous(), out,
            height, width, out_height, out_width, tile_rows, tile_cols,
            MIDDLE=activation_for(middle, x.dtype), ACTIVATION=activation_for(activation, x.dtype),
            RESIDUAL=residual is not None, S=stride, TILE_H=tile_h, TILE_W=tile_w, **product.constants,
            num_warps=8 if product.blocks[1] > 128 else 4, num_stages=1
        )  # fmt: skip
    return out
