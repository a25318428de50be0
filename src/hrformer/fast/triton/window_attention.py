"""Window attention forward: one pass over the packed map of real tokens, padding by masked loads.

Dimension letters: B batch, H/W map height and width, C channels, K window side, N = K * K tokens of a window,
h heads, d head dimension. A program serves one head and one block of queries and goes through many windows;
keys are walked block by block with a running softmax in float32. Windows up to 8 (N <= 64) are a single block, for
which the bias stays in registers over all windows of the program.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs

from __future__ import annotations

import torch
from torch import Tensor

from hrformer.fast.triton.launch import device_of, jit, power_of_two, resident_programs, tl
from hrformer.models.attention import window_padding

MAX_HEAD_DIM = 128


class WindowGrid:
    """How windows tile a packed map (B, H, W, 3C), and how a kernel cuts them into blocks; all in cells or counts.

    Attributes:
        block: tokens in a block of queries or keys, a power of two from 16 to 64.
        sizes: runtime sizes in the order of ``SIZES``.
        constants: compile-time sizes, the same for all images of a model.
    """

    def __init__(self, qkv: Tensor, window: int, num_heads: int) -> None:
        batch, height, width, packed = qkv.shape
        rows, cols = -(-height // window), -(-width // window)
        left, _, top, _ = window_padding(height, width, window)
        self.channels = packed // 3
        self.num_windows, self.num_tokens = batch * rows * cols, window * window
        self.block = min(64, power_of_two(self.num_tokens))
        self.num_blocks = -(-self.num_tokens // self.block)
        self.sizes = (height, width, rows, cols, top, left, self.num_windows)
        self.head_dim = self.channels // num_heads
        block_dim = power_of_two(self.head_dim)
        self.constants = {
            "HEADS": num_heads, "D": self.head_dim, "BLOCK_D": block_dim, "K": window, "BLOCK": self.block,
            # Twice as many for wide heads: their loads are scalar, and 8 warps keep the addresses in registers.
            "num_warps": self.block // (16 if block_dim <= 32 else 8),
        }  # fmt: skip

    def slots(self, device: torch.device, programs_per_window: int) -> int:
        """How many programs share the windows of one head and block; at least one."""
        wanted = -(-resident_programs(device) // programs_per_window)
        return max(1, min(self.num_windows, wanted))


SIZES = ["height", "width", "rows", "cols", "top", "left", "num_windows"]
"""Arguments whose value must not lead to another compilation."""


@jit()
def window_corner(window, height, width, rows, cols, top, left, K: tl.constexpr):
    """Map cell of a window's first token (64 bits, perhaps in the padding), and its row and column in the map."""
    cell = window % (rows * cols)
    y = (cell // cols) * K - top
    x = (cell % cols) * K - left
    return (tl.cast(window // (rows * cols), tl.int64) * height + y) * width + x, y, x


@jit()
def token_cells(tokens, y, x, height, width, K: tl.constexpr):
    """Cells from the window's corner to each token (32 bits are enough), and which tokens are real, not padding."""
    y += tokens // K
    x += tokens % K
    inside = (tokens < K * K) & (y >= 0) & (y < height) & (x >= 0) & (x < width)
    return tokens // K * width + tokens % K, inside


@jit()
def load_tokens(source, padding, cells, inside, ROW: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """(BLOCK, BLOCK_D) values of tokens from a map with ROW values in a cell; tokens outside hold ``padding``."""
    dims = tl.arange(0, BLOCK_D)
    used = dims < D
    place = cells[:, None] * ROW + dims[None, :]
    values = tl.load(source + place, mask=inside[:, None] & used[None, :], other=0.0)
    outside = tl.load(padding + dims, mask=used, other=0.0)
    return tl.where(inside[:, None], values, outside[None, :])


@jit()
def load_bias(bias, head, queries, keys, K: tl.constexpr, HAS_BIAS: tl.constexpr):
    """(BLOCK, BLOCK) bias in float32 with -inf for keys beyond the window, so that adding it also masks."""
    if HAS_BIAS:
        place = (head * (K * K) + queries[:, None]) * (K * K) + keys[None, :]
        real = (queries < K * K)[:, None] & (keys < K * K)[None, :]
        tile = tl.load(bias + place, mask=real, other=0.0).to(tl.float32)
    else:
        tile = tl.zeros((queries.shape[0], keys.shape[0]), tl.float32)
    return tl.where((keys < K * K)[None, :], tile, float("-inf"))


@jit(do_not_specialize=SIZES)
def forward_kernel(
    qkv, padding, bias, out, softmax, height, width, rows, cols, top, left, num_windows, scale,
    HEADS: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr, K: tl.constexpr, BLOCK: tl.constexpr,
    HAS_BIAS: tl.constexpr,
):  # fmt: skip
    """Attended map (B, H, W, C), softmax (windows, h, 2, N); program axes: head and query block, slot."""
    head = tl.program_id(0) % HEADS
    C: tl.constexpr = HEADS * D
    queries = tl.program_id(0) // HEADS * BLOCK + tl.arange(0, BLOCK)
    dims = tl.arange(0, BLOCK_D)
    padding += head * D
    bias_tile = load_bias(bias, head, queries, tl.arange(0, BLOCK), K, HAS_BIAS)
    for window in range(tl.program_id(1), num_windows, tl.num_programs(1)):
        corner, y, x = window_corner(window, height, width, rows, cols, top, left, K)
        source = qkv + corner * (3 * C) + head * D
        cells, inside = token_cells(queries, y, x, height, width, K)
        query = load_tokens(source, padding, cells, inside, 3 * C, D, BLOCK_D)
        highest = tl.full((BLOCK,), float("-inf"), tl.float32)
        total = tl.zeros((BLOCK,), tl.float32)
        attended = tl.zeros((BLOCK, BLOCK_D), tl.float32)
        for start in range(0, K * K, BLOCK):
            keys = start + tl.arange(0, BLOCK)
            if K * K > BLOCK:
                bias_tile = load_bias(bias, head, queries, keys, K, HAS_BIAS)
            key_cells, key_inside = token_cells(keys, y, x, height, width, K)
            key = load_tokens(source + C, padding + C, key_cells, key_inside, 3 * C, D, BLOCK_D)
            value = load_tokens(source + 2 * C, padding + 2 * C, key_cells, key_inside, 3 * C, D, BLOCK_D)
            scores = tl.dot(query, tl.trans(key), input_precision="ieee") * scale + bias_tile
            higher = tl.maximum(highest, tl.max(scores, 1))
            shrink = tl.exp(highest - higher)
            weights = tl.exp(scores - higher[:, None])
            total = total * shrink + tl.sum(weights, 1)
            product = tl.dot(weights.to(value.dtype), value, input_precision="ieee")
            attended = attended * shrink[:, None] + product
            highest = higher
        attended = attended / total[:, None]
        target = out + corner * C + head * D + cells[:, None] * C + dims[None, :]
        tl.store(target, attended.to(out.dtype.element_ty), mask=inside[:, None] & (dims < D)[None, :])
        row = softmax + (tl.cast(window, tl.int64) * HEADS + head) * (2 * K * K) + queries
        tl.store(row, highest, mask=queries < K * K)
        tl.store(row + K * K, total, mask=queries < K * K)


def attention_forward(
    qkv: Tensor, padding: Tensor, bias: Tensor | None, window: int, num_heads: int,
    *, scale: float | None = None, slots: int | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Launch the forward kernel.

    Args:
        qkv: (B, H, W, 3C) contiguous; per token query, key, value, each h x d.
        padding: (3C,) contiguous, the value of padded tokens, in the dtype of ``qkv``.
        bias: (h, N, N) contiguous, any floating dtype, or None.
        window: K. ``num_heads``: h.
        scale: of the scores, d ** -0.5 by default.
        slots: programs that share the windows of one head and query block; None fills the GPU.

    Returns:
        (B, H, W, C) in the dtype of ``qkv``; flat (windows, h, 2, N) float32, for every token, padded ones too: the
        largest score, and the sum of exp(score - largest). Their one logarithm would cost float32 half its accuracy.
    """
    grid = WindowGrid(qkv, window, num_heads)
    out = torch.empty(*qkv.shape[:3], grid.channels, dtype=qkv.dtype, device=qkv.device)
    softmax = torch.empty(grid.num_windows * num_heads * 2 * window**2, dtype=torch.float32, device=qkv.device)
    if grid.num_windows == 0:
        return out, softmax
    programs = num_heads * grid.num_blocks
    slots = slots or grid.slots(qkv.device, programs)
    with device_of(qkv):
        forward_kernel[(programs, slots)](
            qkv, padding, bias, out, softmax, *grid.sizes, scale or grid.head_dim**-0.5,
            HAS_BIAS=bias is not None, **grid.constants,
        )  # fmt: skip
    return out, softmax
