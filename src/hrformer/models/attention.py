"""Window self-attention with relative position bias (HRFormer, section 3.1), and the arithmetic of windows.

Dimension letters: B batch, H/W map height and width, C channels, K window side, N = K * K tokens of a window, h heads,
d head dimension.
"""

# No postponed annotations here: TorchScript reads the buffer's annotation as an object.
import torch
import torch.nn.functional as F
from torch import Tensor, nn


def window_padding(height: int, width: int, window: int) -> tuple[int, int, int, int]:
    """Zeros needed around a map so that windows tile it: (left, right, top, bottom), in cells.

    Centred: floor(pad / 2) before, the rest after (HRFormer repository, all three attention copies).
    """
    pad_h = (height + window - 1) // window * window - height
    pad_w = (width + window - 1) // window * window - width
    return pad_w // 2, pad_w - pad_w // 2, pad_h // 2, pad_h - pad_h // 2


def pad_to_windows(x: Tensor, window: int) -> Tensor:
    """(B, H, W, C) -> (B, rows * K, cols * K, C): zeros around the map, so that windows tile it."""
    left, right, top, bottom = window_padding(x.shape[1], x.shape[2], window)
    return F.pad(x, (0, 0, left, right, top, bottom))


def crop_windows(x: Tensor, height: int, width: int, window: int) -> Tensor:
    """(B, rows * K, cols * K, C) -> (B, H, W, C): undoes ``pad_to_windows``.

    By padding less than nothing: exporters can prove its size for any H and W, and not that of a slice.
    """
    left, right, top, bottom = window_padding(height, width, window)
    return F.pad(x, (0, 0, -left, -right, -top, -bottom))


def attend_in_windows(
    qkv: Tensor, bias: Tensor | None, window: int, num_heads: int, scale: float | None = None
) -> Tensor:
    """Every token attends to those of its window.

    Args:
        qkv: (B, rows * K, cols * K, 3hd): per token query, key, value, each h x d.
        bias: (h, N, N) added to the scaled scores, or None.
        window: K, in cells.
        num_heads: h.
        scale: of the scores, d ** -0.5 by default.

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


def relative_position_index(window: int) -> Tensor:
    """Row of the bias table for each (query, key) pair of a window: (N * N,) int64.

    Entry ``(r1 - r2 + K - 1) * (2K - 1) + (c1 - c2 + K - 1)`` for tokens in row-major order, as in Swin.
    """
    rows, cols = torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
    rows, cols = rows.reshape(-1), cols.reshape(-1)
    delta_r = rows[:, None] - rows[None, :] + window - 1
    delta_c = cols[:, None] - cols[None, :] + window - 1
    return (delta_r * (2 * window - 1) + delta_c).reshape(-1)


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


class WindowAttention(nn.Module):
    """Multi-head self-attention in K x K windows of a channels-last map.

    The map is padded with zeros, centred, to a multiple of the window. Padded tokens are not masked: their keys and
    values are the biases of the projection, and they take part in the softmax (HRFormer repository). Both projections
    are called as modules, so that adapters, hooks and quantised layers take part. The bias table is a parameter whether
    or not it is used, since published pose weights hold one that their code never adds; unused, it needs no gradient,
    so data-parallel training needs no search for unused parameters.

    Args:
        channels: C.
        num_heads: divides C.
        window: K, in cells.
        position_bias: add the relative position bias to the scores.

    Raises:
        ValueError: ``num_heads`` does not divide ``channels`` or ``window`` is below 1.
    """

    relative_position_index: Tensor

    def __init__(self, channels: int, num_heads: int, window: int, position_bias: bool = True) -> None:
        super().__init__()
        if channels % num_heads:
            raise ValueError(f"num_heads must divide channels, got {num_heads} heads for {channels} channels")
        if window < 1:
            raise ValueError(f"window must be at least 1 cell, got {window}")
        self.num_heads = num_heads
        self.window = window
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * window - 1) ** 2, num_heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.register_buffer("relative_position_index", relative_position_index(window), persistent=False)
        self.set_position_bias(position_bias)

    def set_position_bias(self, enabled: bool) -> None:
        """Switch the bias on or off; the table stays, and needs a gradient only when on."""
        self.position_bias = enabled
        self.relative_position_bias_table.requires_grad_(enabled)

    def set_window(self, window: int) -> None:
        """Change the window and resize the table bilinearly, as the segmentation code does for K = 13 and 15."""
        if window == self.window:
            return
        table = self.relative_position_bias_table
        resized = resize_bias_table(table.detach(), window)
        self.relative_position_bias_table = nn.Parameter(resized, requires_grad=table.requires_grad)
        self.relative_position_index = relative_position_index(window).to(table.device)
        self.window = window

    def gathered_bias(self) -> Tensor | None:
        """(h, N, N) added to the scores of a window's N tokens, or None where the bias is off."""
        bias: Tensor | None = None
        if self.position_bias:
            tokens = self.window * self.window
            table = self.relative_position_bias_table[self.relative_position_index]
            bias = table.view(tokens, tokens, -1).permute(2, 0, 1).contiguous()
        return bias

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        qkv = self.qkv(pad_to_windows(x, self.window))
        out = attend_in_windows(qkv, self.gathered_bias(), self.window, self.num_heads)
        return self.proj(crop_windows(out, x.shape[1], x.shape[2], self.window))

    def extra_repr(self) -> str:
        return f"window={self.window}, num_heads={self.num_heads}, position_bias={self.position_bias}"
