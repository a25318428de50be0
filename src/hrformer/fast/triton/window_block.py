"""LayerNorm, window attention, projection and residual in one kernel, for windows of up to 64 tokens.

Dimension letters: B batch, H/W map size, C channels, K window side, N = K * K tokens, h heads, d head dimension.
Channels are covered by a main block and, where it saves products with zeros, a smaller tail block.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hrformer.fast.triton.launch import device_of, jit, pad_to, power_of_two, split_channels, tl
from hrformer.models.attention import window_padding

MAX_TOKENS = 64
MAX_CHANNELS = 256
"""Wider maps would keep more than 64 x 256 float32 sums in registers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PackedWindowBlock:
    """Weights as the kernel reads them, with zeros in the padding; C up = main + tail block, d up a power of two.

    Attributes:
        norm: (2, C up) float32, LayerNorm's scale and shift.
        qkv: (h, 3, C up, d up) in the precision of the map. ``qkv_bias``: (h, 3, d up) float32.
        proj: (h, d up, C up) in the precision of the map. ``proj_bias``: (C up) float32.
        bias: (h, tokens up, tokens up) in the precision of the map, or None.
        channels: C. ``normed``: channels that LayerNorm counts, the first of C; the others hold zeros.
        heads: h. ``window``: K. ``scale``: of the scores.
    """

    norm: Tensor
    qkv: Tensor
    qkv_bias: Tensor
    proj: Tensor
    proj_bias: Tensor
    bias: Tensor | None
    channels: int
    normed: int
    heads: int
    window: int
    scale: float


def window_block_applies(channels: int, window: int) -> bool:
    """Whether the whole block fits one program."""
    return window * window <= MAX_TOKENS and channels <= MAX_CHANNELS


def pack_window_block(
    norm: tuple[Tensor, Tensor], qkv: tuple[Tensor, Tensor], proj: tuple[Tensor, Tensor], bias: Tensor | None,
    dtype: torch.dtype, *, window: int, num_heads: int, normed: int | None = None, scale: float | None = None,
) -> PackedWindowBlock:  # fmt: skip
    """Lay out the weights of one block for maps of ``dtype``.

    Args:
        norm: LayerNorm's scale and shift, (C,) each, of which the first ``normed`` channels count, all by default.
        qkv: (3hd, C) and (3hd,), rows query, key, value. ``proj``: (C, hd) and (C,). ``bias``: (h, N, N) or None.
        window: K. ``num_heads``: h. ``scale``: of the scores, d ** -0.5 by default.
    """
    channels = proj[0].shape[0]
    head_dim = proj[0].shape[1] // num_heads
    width, wide_head = sum(split_channels(channels)), power_of_two(head_dim)
    tokens = power_of_two(window * window)
    weight = qkv[0].view(3, num_heads, head_dim, channels).permute(1, 0, 3, 2)
    out_weight = proj[0].view(channels, num_heads, head_dim).permute(1, 2, 0)
    return PackedWindowBlock(
        norm=pad_to(torch.stack(norm).float(), 2, width),
        qkv=pad_to(weight.to(dtype), num_heads, 3, width, wide_head),
        qkv_bias=pad_to(qkv[1].view(3, num_heads, head_dim).transpose(0, 1).float(), num_heads, 3, wide_head),
        proj=pad_to(out_weight.to(dtype), num_heads, wide_head, width),
        proj_bias=pad_to(proj[1].float(), width),
        bias=None if bias is None else pad_to(bias.to(dtype), num_heads, tokens, tokens),
        channels=channels,
        normed=normed or channels,
        heads=num_heads,
        window=window,
        scale=head_dim**-0.5 if scale is None else scale,
    )


@jit()
def window_pixels(window_index, tokens, height, width, window_rows, window_cols, top, left, WINDOW: tl.constexpr):
    """Index of each token's pixel among the pixels of all pictures, and whether it lies on the map."""
    image = (window_index // (window_rows * window_cols)).to(tl.int64)
    inner = window_index % (window_rows * window_cols)
    y = (inner // window_cols) * WINDOW - top + tokens // WINDOW
    x = (inner % window_cols) * WINDOW - left + tokens % WINDOW
    inside = (tokens < WINDOW * WINDOW) & (y >= 0) & (y < height) & (x >= 0) & (x < width)
    return (image * height + y) * width + x, inside


@jit()
def load_block(x_ptr, pixel, inside, columns, C: tl.constexpr):
    """Channels ``columns`` of the pixels, zero outside the map."""
    mask = inside[:, None] & (columns < C)[None, :]
    return tl.load(x_ptr + (pixel * C)[:, None] + columns[None, :], mask=mask, other=0.0)


@jit()
def _squares(x, mean, columns, NORMED: tl.constexpr):
    """Sum of squared distances from the mean, over the channels of one block."""
    centred = tl.where((columns < NORMED)[None, :], x.to(tl.float32) - mean[:, None], 0.0)
    return tl.sum(centred * centred, 1)


@jit()
def _normalise(x, mean, rate, norm_ptr, columns, inside, WIDTH: tl.constexpr):
    """LayerNorm's output in the precision of the map; zero for padded tokens, whatever its shift."""
    gain, shift = tl.load(norm_ptr + columns), tl.load(norm_ptr + WIDTH + columns)
    y = (x.to(tl.float32) - mean[:, None]) * rate[:, None] * gain[None, :] + shift[None, :]
    return tl.where(inside[:, None], y, 0.0).to(x.dtype)


@jit()
def _normalised_tokens(
    x_ptr, norm_ptr, pixel, inside, main, tail, eps,
    C: tl.constexpr, NORMED: tl.constexpr, WIDTH: tl.constexpr, TAIL: tl.constexpr
):  # fmt: skip
    """LayerNorm of one window: its main and its tail block, the latter a copy of the former where there is none."""
    a = load_block(x_ptr, pixel, inside, main, C)
    b = a
    mean = tl.sum(a.to(tl.float32), 1) / NORMED
    if TAIL > 0:
        b = load_block(x_ptr, pixel, inside, tail, C)
        mean += tl.sum(b.to(tl.float32), 1) / NORMED
    squares = _squares(a, mean, main, NORMED)
    if TAIL > 0:
        squares += _squares(b, mean, tail, NORMED)
    rate = tl.rsqrt(squares / NORMED + eps)
    a = _normalise(a, mean, rate, norm_ptr, main, inside, WIDTH)
    b = _normalise(b, mean, rate, norm_ptr, tail, inside, WIDTH) if TAIL > 0 else a
    return a, b


@jit()
def _head_input(a, b, weight_ptr, bias_ptr, main, tail, d, TAIL: tl.constexpr, BLOCK_D: tl.constexpr):
    """Query, key or value of one head: (tokens, d up)."""
    total = tl.dot(a, tl.load(weight_ptr + main[:, None] * BLOCK_D + d[None, :]), input_precision="ieee")
    if TAIL > 0:
        w = tl.load(weight_ptr + tail[:, None] * BLOCK_D + d[None, :])
        total = tl.dot(b, w, total, input_precision="ieee")
    return (total + tl.load(bias_ptr + d)[None, :]).to(a.dtype)


@jit()
def _attend(q, k, v, bias_ptr, token, scale, N: tl.constexpr, HAS_BIAS: tl.constexpr):
    """softmax(q k^T * scale + bias) v over the N keys of one window."""
    TOKENS: tl.constexpr = token.shape[0]
    scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
    if HAS_BIAS:
        scores += tl.load(bias_ptr + token[:, None] * TOKENS + token[None, :]).to(tl.float32)
    scores = tl.where((token < N)[None, :], scores, float("-inf"))
    weights = tl.exp(scores - tl.max(scores, 1)[:, None])
    out = tl.dot(weights.to(v.dtype), v, input_precision="ieee")
    return (out / tl.sum(weights, 1)[:, None]).to(v.dtype)


@jit()
def _store_sum(total, x_ptr, proj_bias_ptr, out_ptr, pixel, inside, columns, C: tl.constexpr):
    """x + total + bias, stored for the pixels on the map."""
    total += load_block(x_ptr, pixel, inside, columns, C).to(tl.float32) + tl.load(proj_bias_ptr + columns)[None, :]
    mask = inside[:, None] & (columns < C)[None, :]
    tl.store(out_ptr + (pixel * C)[:, None] + columns[None, :], total.to(out_ptr.dtype.element_ty), mask=mask)


@jit(do_not_specialize=["height", "width", "window_rows", "window_cols", "top", "left"])
def _window_block_kernel(
    x_ptr, norm_ptr, qkv_ptr, qkv_bias_ptr, proj_ptr, proj_bias_ptr, bias_ptr, out_ptr,
    height, width, window_rows, window_cols, top, left, eps, scale,
    C: tl.constexpr, NORMED: tl.constexpr, HEADS: tl.constexpr, WINDOW: tl.constexpr, HAS_BIAS: tl.constexpr,
    TOKENS: tl.constexpr, MAIN: tl.constexpr, TAIL: tl.constexpr, BLOCK_D: tl.constexpr
):  # fmt: skip
    """One window of one picture, all heads."""
    WIDTH: tl.constexpr = MAIN + TAIL
    token, d, main = tl.arange(0, TOKENS), tl.arange(0, BLOCK_D), tl.arange(0, MAIN)
    tail = main
    if TAIL > 0:
        tail = MAIN + tl.arange(0, TAIL)
    pixel, inside = window_pixels(tl.program_id(0), token, height, width, window_rows, window_cols, top, left, WINDOW)
    a, b = _normalised_tokens(x_ptr, norm_ptr, pixel, inside, main, tail, eps, C, NORMED, WIDTH, TAIL)
    total = tl.zeros((TOKENS, MAIN), tl.float32)
    if TAIL > 0:
        rest = tl.zeros((TOKENS, TAIL), tl.float32)
    for head in range(HEADS):
        weight, offset = qkv_ptr + head * 3 * WIDTH * BLOCK_D, qkv_bias_ptr + head * 3 * BLOCK_D
        q = _head_input(a, b, weight, offset, main, tail, d, TAIL, BLOCK_D)
        k = _head_input(a, b, weight + WIDTH * BLOCK_D, offset + BLOCK_D, main, tail, d, TAIL, BLOCK_D)
        weight, offset = weight + 2 * WIDTH * BLOCK_D, offset + 2 * BLOCK_D
        v = _head_input(a, b, weight, offset, main, tail, d, TAIL, BLOCK_D)
        table = bias_ptr + head * TOKENS * TOKENS
        o = _attend(q, k, v, table, token, scale, WINDOW * WINDOW, HAS_BIAS)
        proj = proj_ptr + (head * BLOCK_D + d[:, None]) * WIDTH
        total = tl.dot(o, tl.load(proj + main[None, :]), total, input_precision="ieee")
        if TAIL > 0:
            rest = tl.dot(o, tl.load(proj + tail[None, :]), rest, input_precision="ieee")
    _store_sum(total, x_ptr, proj_bias_ptr, out_ptr, pixel, inside, main, C)
    if TAIL > 0:
        _store_sum(rest, x_ptr, proj_bias_ptr, out_ptr, pixel, inside, tail, C)


def window_block(x: Tensor, packed: PackedWindowBlock, *, eps: float) -> Tensor:
    """x + projection(attention(LayerNorm(x))) inside windows, the map read and written once.

    The map is padded by masked loads, centred, to whole windows; padded tokens take part in the softmax with
    the projection biases as key and value, as in ``hrformer.models.attention.attend_in_windows``.

    Args:
        x: (B, H, W, C) contiguous, in the precision of ``packed``; any H and W.
        packed: see ``pack_window_block``; ``window_block_applies`` must hold.
        eps: of LayerNorm.

    Returns:
        (B, H, W, C).
    """
    batch, height, width, channels = x.shape
    x = x.contiguous()
    out = torch.empty_like(x)
    if out.numel() == 0:
        return out
    window, bias = packed.window, packed.bias
    rows, cols = -(-height // window), -(-width // window)
    left, _, top, _ = window_padding(height, width, window)
    main, tail = split_channels(channels)
    with device_of(x):
        _window_block_kernel[(batch * rows * cols,)](
            x, packed.norm, packed.qkv, packed.qkv_bias, packed.proj, packed.proj_bias,
            packed.proj_bias if bias is None else bias, out, height, width, rows, cols, top, left, eps, packed.scale,
            C=channels, NORMED=packed.normed, HEADS=packed.heads, WINDOW=window, HAS_BIAS=bias is not None,
            TOKENS=power_of_two(window * window), MAIN=main, TAIL=tail, BLOCK_D=packed.qkv.shape[-1],
            num_warps=8 if main + tail > 128 else 4, num_stages=1
        )  # fmt: skip
    return out
