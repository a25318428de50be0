"""Matrix product over the channels of a map, with LayerNorm before it and activation and residual after it.

Dimension letters: M pixels of all pictures, K input channels, N output channels.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hrformer.fast.triton.launch import (
    activate,
    activation_for,
    device_of,
    inner_block,
    jit,
    pad_to,
    power_of_two,
    round_up,
    tl,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class PackedPointwise:
    """Weights as the kernel reads them: rounded up to whole blocks with zeros, so that it loads without masks.

    Attributes:
        weight: (K up, N up), in the precision of the map. ``bias``: (N up) float32.
        norm: LayerNorm's scale and shift, (2, K up) float32, or None.
        channels: K and N without rounding. ``normed``: channels that LayerNorm counts, the first of K; the others
            hold zeros.
        blocks: side of a block along K and along N.
    """

    weight: Tensor
    bias: Tensor
    norm: Tensor | None
    channels: tuple[int, int]
    normed: int
    blocks: tuple[int, int]

    @property
    def column_blocks(self) -> int:
        """How many blocks cover N."""
        return self.weight.shape[1] // self.blocks[1]

    @property
    def constants(self) -> dict[str, int]:
        """Compile-time sizes of the kernels."""
        sizes = (*self.channels, *self.weight.shape, *self.blocks)
        return dict(zip(("K", "N", "PADDED_K", "PADDED_N", "BLOCK_K", "BLOCK_N"), sizes, strict=True))


def pack_pointwise(
    weight: Tensor, bias: Tensor, norm: tuple[Tensor, Tensor] | None, dtype: torch.dtype,
    *, normed: int | None = None, largest: tuple[int, int] = (64, 128),
) -> PackedPointwise:  # fmt: skip
    """Lay out weight (N, K), bias (N,) and LayerNorm's (K,) scale and shift for maps of ``dtype``.

    ``normed`` channels are counted by LayerNorm, all by default; ``largest`` bounds the sides of a block.
    """
    out_channels, in_channels = weight.shape
    block_k, block_n = min(inner_block(in_channels), largest[0]), min(power_of_two(out_channels), largest[1])
    padded_k, padded_n = round_up(in_channels, block_k), round_up(out_channels, block_n)
    return PackedPointwise(
        weight=pad_to(weight.T.to(dtype), padded_k, padded_n),
        bias=pad_to(bias.float(), padded_n),
        norm=None if norm is None else pad_to(torch.stack(norm).float(), 2, padded_k),
        channels=(in_channels, out_channels),
        normed=normed or in_channels,
        blocks=(block_k, block_n),
    )


@jit()
def _row_statistics(
    x_ptr, offsets, inside, eps, K: tl.constexpr, NORMED: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr
):
    """Mean and 1 / standard deviation of each row; chunks are merged by Chan's formula, so nothing cancels."""
    mean = tl.zeros((BLOCK_M,), tl.float32)
    squares = tl.zeros((BLOCK_M,), tl.float32)
    for start in range(0, NORMED, BLOCK_K):
        cols = start + tl.arange(0, BLOCK_K)
        # Whole groups of channels are loaded, those that do not count hold zeros.
        mask = inside[:, None] & (cols < K)[None, :]
        chunk = tl.load(x_ptr + offsets[:, None] + cols[None, :], mask=mask, other=0.0).to(tl.float32)
        count = tl.minimum(NORMED - start, BLOCK_K).to(tl.float32)
        seen = start * 1.0
        chunk_mean = tl.sum(chunk, 1) / count
        centred = tl.where((cols < NORMED)[None, :], chunk - chunk_mean[:, None], 0.0)
        step = chunk_mean - mean
        squares += tl.sum(centred * centred, 1) + step * step * (seen * count / (seen + count))
        mean += step * (count / (seen + count))
    return mean, tl.rsqrt(squares / NORMED + eps)


@jit()
def store_sum(
    total, residual_ptr, out_ptr, cell, n, inside, N: tl.constexpr, RESIDUAL: tl.constexpr, AFTER: tl.constexpr
):
    """after(total + residual) for cells of N channels, stored where ``inside``."""
    offsets = (cell * N)[:, None] + n[None, :]
    mask = inside[:, None] & (n < N)[None, :]
    if RESIDUAL:
        total += tl.load(residual_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
    total = activate(total, AFTER)
    tl.store(out_ptr + offsets, total.to(out_ptr.dtype.element_ty), mask=mask)


@jit(do_not_specialize=["rows"])
def _pointwise_kernel(
    x_ptr, weight_ptr, bias_ptr, norm_ptr, residual_ptr, out_ptr, rows, eps,
    K: tl.constexpr, N: tl.constexpr, PADDED_K: tl.constexpr, PADDED_N: tl.constexpr,
    NORM: tl.constexpr, NORMED: tl.constexpr, ACTIVATION: tl.constexpr, RESIDUAL: tl.constexpr, AFTER: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """One block of the output; neighbouring programs share rows, so the map comes from memory once."""
    COLUMN_BLOCKS: tl.constexpr = PADDED_N // BLOCK_N
    pid = tl.program_id(0)
    row = (pid // COLUMN_BLOCKS).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = (pid % COLUMN_BLOCKS) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = row < rows
    if NORM:
        mean, scale = _row_statistics(x_ptr, row * K, inside, eps, K, NORMED, BLOCK_M, BLOCK_K)
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(0, PADDED_K, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        mask = inside[:, None] & (k < K)[None, :]
        a = tl.load(x_ptr + (row * K)[:, None] + k[None, :], mask=mask, other=0.0)
        if NORM:
            gain = tl.load(norm_ptr + k)
            shift = tl.load(norm_ptr + PADDED_K + k)
            a = ((a.to(tl.float32) - mean[:, None]) * scale[:, None] * gain[None, :] + shift[None, :]).to(a.dtype)
        w = tl.load(weight_ptr + k[:, None] * PADDED_N + n[None, :])
        total = tl.dot(a, w, total, input_precision="ieee")
    total = activate(total + tl.load(bias_ptr + n)[None, :], ACTIVATION)
    store_sum(total, residual_ptr, out_ptr, row, n, inside, N, RESIDUAL, AFTER)


def pointwise(
    x: Tensor, packed: PackedPointwise,
    *, eps: float = 0.0, activation: str = "none", residual: Tensor | None = None, after: str = "none",
) -> Tensor:  # fmt: skip
    """after(activation(LayerNorm(x) @ weight.T + bias) + residual), LayerNorm where ``packed`` holds one.

    Args:
        x: (..., K) in the precision of ``packed``, see ``pack_pointwise``.
        eps: of LayerNorm.
        activation: "none", "gelu" or "relu", as ``after``.
        residual: (..., N), or None.

    Returns:
        (..., N).
    """
    x = x.contiguous()
    out = torch.empty((*x.shape[:-1], packed.channels[1]), dtype=x.dtype, device=x.device)
    rows = out.numel() // packed.channels[1]
    if rows == 0:
        return out
    block_m = 64  # wider ones were slower at every width measured on an H200
    with device_of(x):
        _pointwise_kernel[(-(-rows // block_m) * packed.column_blocks,)](
            x, packed.weight, packed.bias, packed.bias if packed.norm is None else packed.norm,
            x if residual is None else residual.contiguous(), out, rows, eps,
            NORM=packed.norm is not None, NORMED=packed.normed, ACTIVATION=activation_for(activation, x.dtype),
            RESIDUAL=residual is not None, AFTER=activation_for(after, x.dtype),
            BLOCK_M=block_m, **packed.constants, num_warps=4,
            # Not pipelined where the left operand is made in registers: up to CUDA 13.2 the next round may overwrite
            # those of a product that still runs (triton-lang/triton, issue 9433; seen in the machine code).
            num_stages=3 if packed.norm is None else 1,
        )  # fmt: skip
    return out
