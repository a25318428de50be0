"""Window attention on channels-last maps, the plain reference.

Dimension letters: B batch, H/W map height and width, C channels, K window side, N = K * K tokens of a
window, h heads, d head dimension.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def window_padding(height: int, width: int, window: int) -> tuple[int, int, int, int]:
    """Zeros needed around a map so that windows tile it: (left, right, top, bottom), in cells.

    Centred: floor(pad / 2) before, the rest after (HRFormer repository, all three attention copies).
    """
    # In this form the padded sizes are multiples of K on sight, also where the compiler leaves H and W open.
    pad_h = (height + window - 1) // window * window - height
    pad_w = (width + window - 1) // window * window - width
    return pad_w // 2, pad_w - pad_w // 2, pad_h // 2, pad_h - pad_h // 2


def relative_position_index(window: int) -> Tensor:
    """Row of the bias table for each (query, key) pair of a window: (N * N,) int64.

    Entry ``(r1 - r2 + K - 1) * (2K - 1) + (c1 - c2 + K - 1)`` for tokens in row-major order, as in Swin.
    """
    rows, cols = torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
    rows, cols = rows.reshape(-1), cols.reshape(-1)
    delta_r = rows[:, None] - rows[None, :] + window - 1
    delta_c = cols[:, None] - cols[None, :] + window - 1
    return (delta_r * (2 * window - 1) + delta_c).reshape(-1)


def gather_bias(table: Tensor, index: Tensor, window: int) -> Tensor:
    """Bias of every head and token pair: table ((2K-1)^2, h), index (N * N,) -> (h, N, N)."""
    num_tokens = window * window
    return table[index].view(num_tokens, num_tokens, -1).permute(2, 0, 1).contiguous()


def resize_bias_table(table: Tensor, window: int) -> Tensor:
    """Resize a bias table to another window: ((2K-1)^2, h) -> ((2*window-1)^2, h).

    Bilinear per head with ``align_corners=False`` (HRFormer repository, ``seg/`` pretraining loader).

    Raises:
        ValueError: the table's rows are not the square of an odd number.
    """
    side = round(table.shape[0] ** 0.5)
    if side * side != table.shape[0] or side % 2 == 0:
        raise ValueError(f"a bias table has (2K-1)^2 rows, got {table.shape[0]}")
    new_side = 2 * window - 1
    if side == new_side:
        return table
    grid = table.float().T.reshape(1, -1, side, side)
    grid = F.interpolate(grid, size=(new_side, new_side), mode="bilinear", align_corners=False)
    return grid.reshape(-1, new_side * new_side).T.contiguous().to(table.dtype)


def pad_to_windows(x: Tensor, window: int) -> Tensor:
    """(B, H, W, C) -> (B, rows * K, cols * K, C): zeros around the map, so that windows tile it."""
    left, right, top, bottom = window_padding(x.shape[1], x.shape[2], window)
    return F.pad(x, (0, 0, left, right, top, bottom))


def crop_windows(x: Tensor, height: int, width: int, window: int) -> Tensor:
    """(B, rows * K, cols * K, C) -> (B, H, W, C): undoes ``pad_to_windows``; a view."""
    left, _, top, _ = window_padding(height, width, window)
    return x.narrow(1, top, height).narrow(2, left, width)


def attend_in_windows(
    qkv: Tensor,
    bias: Tensor | None,
    scale: float | None = None,  # TorchScript takes no defaults behind the star
    *,
    window: int,
    num_heads: int,
) -> Tensor:
    """Every token attends to those of its window.

    Args:
        qkv: (B, rows * K, cols * K, 3hd): per token query, key, value, each h x d.
        bias: (h, N, N) added to the scaled scores, or None.
        scale: of the scores, d ** -0.5 by default.
        window: K, in cells.
        num_heads: h.

    Returns:
        (B, rows * K, cols * K, hd).
    """
    batch, height, width, channels = qkv.shape
    rows, cols, head_dim = height // window, width // window, channels // (3 * num_heads)
    # (B, rows, K, cols, K, 3, h, d) -> (3, B, rows, cols, h, K, K, d): one copy makes every window contiguous
    qkv = qkv.view(batch, rows, window, cols, window, 3, num_heads, head_dim).permute(5, 0, 1, 3, 6, 2, 4, 7)
    query, key, value = qkv.reshape(3, batch * rows * cols, num_heads, window * window, head_dim).unbind(0)
    mask = None if bias is None else bias.to(query.dtype)
    out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)
    out = out.view(batch, rows, cols, num_heads, window, window, head_dim).permute(0, 1, 4, 2, 5, 3, 6)
    return out.reshape(batch, height, width, num_heads * head_dim)


def window_attention(
    x: Tensor,
    qkv_weight: Tensor,
    qkv_bias: Tensor,
    proj_weight: Tensor,
    proj_bias: Tensor,
    bias: Tensor | None,
    scale: float | None = None,
    *,
    window: int,
    num_heads: int,
) -> Tensor:
    """Multi-head self-attention inside non-overlapping windows, from its parameters.

    The map is padded with zeros, centred, to a multiple of the window. Padded tokens are not masked: their
    key and value are the projection biases and they take part in the softmax.

    Args:
        x: (B, H, W, C) normalised tokens, any H and W.
        qkv_weight: (3hd, C), rows query, key, value; d is C / h in the published models. ``qkv_bias``: (3hd,).
        proj_weight: (C, hd). ``proj_bias``: (C,).
        bias, scale, window, num_heads: see ``attend_in_windows``.

    Returns:
        (B, H, W, C).
    """
    qkv = F.linear(pad_to_windows(x, window), qkv_weight, qkv_bias)
    out = attend_in_windows(qkv, bias, scale, window=window, num_heads=num_heads)
    return F.linear(crop_windows(out, x.shape[1], x.shape[2], window), proj_weight, proj_bias)
