"""Depthwise 3x3 convolution of activated maps for training: normalisation and GELU on the way in, statistics out.

y = conv3x3(gelu((u - mean) * scale + shift)) + bias, zero padding after the GELU, with the mean and the summed squared
deviation of y for every channel. The activated map is never stored; the backward pass computes it again.

Dimension letters: B batch, H/W map size, C channels. A strip is four rows of a segment of columns in one image. A
program serves one block of channels and goes through many tiles of strips, walking along the columns of each:
six values enter with every column, and each is activated once for the nine outputs that it touches.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs

from __future__ import annotations

import torch
from torch import Tensor

from hrformer.fast.triton.launch import device_of, gelu, inner_block, jit, resident_programs, tl

ROWS = 4
"""Output rows of a strip; the kernels are written out for this number."""
STRIPS = 4
"""Strips of a tile: 2 values for each thread keep the state of a walk in registers."""
SEGMENT = 16
"""Longest segment of columns, in cells; two more are read."""
SIZES = ["height", "width", "groups", "segments", "length", "num_strips"]
"""Arguments whose value must not lead to another compilation."""


class StripGrid:
    """How strips tile maps (B, H, W, C), and how a kernel cuts strips and channels into tiles.

    Attributes:
        groups: strips above each other. ``segments``: strips beside each other.
        length: columns of a segment, chosen to waste few.
        block: channels of a program.
        sizes: runtime sizes in the order of ``SIZES``.
        constants: compile-time sizes, the same for all images of a model.
    """

    def __init__(self, size: tuple[int, ...]) -> None:
        batch, height, width, channels = size
        self.groups, self.segments = -(-height // ROWS), -(-width // SEGMENT)
        self.length = -(-width // max(1, self.segments))
        self.num_strips = batch * self.groups * self.segments
        self.block = inner_block(channels)
        self.num_blocks = -(-channels // self.block)
        self.sizes = (height, width, self.groups, self.segments, self.length, self.num_strips)
        self.constants = {"C": channels, "BLOCK": self.block, "STRIPS": STRIPS, "num_warps": 4}

    def slots(self, device: torch.device) -> int:
        """How many programs share the strips of one block of channels."""
        tiles = -(-self.num_strips // STRIPS)
        return min(tiles, -(-resident_programs(device) // self.num_blocks))


@jit()
def strip_corners(strips, height, width, groups, segments, length, num_strips):
    """First cell (64 bits), row and column of each strip, all (STRIPS, 1).

    A strip beyond the last starts so far below the map that the row above it is outside, too.
    """
    column = strips % segments * length
    row = strips // segments % groups * 4
    image = tl.cast(strips // (segments * groups), tl.int64)
    cell = (image * height + row) * width + column
    return cell[:, None], tl.where(strips < num_strips, row, height + 1)[:, None], column[:, None]


@jit()
def load_row(source, cells, row, offset, height, inside, stride, mean, scale, shift):
    """Activated values of the row ``offset`` rows from the strip's first; 0 outside the map."""
    used = inside & (row + offset >= 0) & (row + offset < height)
    raw = tl.load(source + cells + offset * stride, mask=used, other=0.0).to(tl.float32)
    return tl.where(used, gelu((raw - mean) * scale + shift), 0.0)


@jit()
def three(a, b, c, u, v, w):
    """Sum of three products."""
    return a * u + b * v + c * w


@jit()
def load_three(a, b, c, channels, known):
    """Three numbers of each channel, as rows (1, BLOCK)."""
    first = tl.load(a + channels, mask=known, other=0.0)[None, :]
    second = tl.load(b + channels, mask=known, other=0.0)[None, :]
    third = tl.load(c + channels, mask=known, other=0.0)[None, :]
    return first, second, third


@jit()
def load_taps(weight, channels, used):
    """The nine weights of each channel, (1, BLOCK) each, row by row."""
    place = weight + channels[None, :] * 9
    used = used[None, :]
    return (
        tl.load(place, mask=used, other=0.0).to(tl.float32),
        tl.load(place + 1, mask=used, other=0.0).to(tl.float32),
        tl.load(place + 2, mask=used, other=0.0).to(tl.float32),
        tl.load(place + 3, mask=used, other=0.0).to(tl.float32),
        tl.load(place + 4, mask=used, other=0.0).to(tl.float32),
        tl.load(place + 5, mask=used, other=0.0).to(tl.float32),
        tl.load(place + 6, mask=used, other=0.0).to(tl.float32),
        tl.load(place + 7, mask=used, other=0.0).to(tl.float32),
        tl.load(place + 8, mask=used, other=0.0).to(tl.float32),
    )


@jit()
def store_row(target, values, cells, row, offset, height, inside, stride):
    """Write one row as the map's type; what was written, 0 where nothing was, and where something was as 1 and 0."""
    used = inside & (row + offset < height)
    stored = values.to(target.dtype.element_ty)
    tl.store(target + cells + offset * stride, stored, mask=used)
    return tl.where(used, stored.to(tl.float32), 0.0), used.to(tl.float32)


@jit(do_not_specialize=SIZES)
def forward_kernel(
    u, mean, scale, shift, weight, bias, y, counts, means, squares,
    height, width, groups, segments, length, num_strips,
    C: tl.constexpr, BLOCK: tl.constexpr, STRIPS: tl.constexpr,
):  # fmt: skip
    """Map y and partial statistics of each slot; program axes: block of channels, slot."""
    channels = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    known = channels < C
    mean, scale, shift = load_three(mean, scale, shift, channels, known)
    bias = tl.load(bias + channels, mask=known, other=0.0).to(tl.float32)[None, :]
    w0, w1, w2, w3, w4, w5, w6, w7, w8 = load_taps(weight, channels, known)
    stride = width * C
    zero = tl.zeros((STRIPS, BLOCK), tl.float32)
    total, average, square = zero, zero, zero
    for tile in range(tl.program_id(1), tl.cdiv(num_strips, STRIPS), tl.num_programs(1)):
        strips = tile * STRIPS + tl.arange(0, STRIPS)
        corner, row, column = strip_corners(strips, height, width, groups, segments, length, num_strips)
        corner = corner * C + channels[None, :]
        # Outputs of the column before this one and of this one, as far as they are summed.
        p0, p1, p2, p3, q0, q1, q2, q3 = zero, zero, zero, zero, zero, zero, zero, zero
        for step in range(-1, length + 1):
            inside = (column + step >= 0) & (column + step < width) & known[None, :]
            cells = corner + step * C
            g0 = load_row(u, cells, row, -1, height, inside, stride, mean, scale, shift)
            g1 = load_row(u, cells, row, 0, height, inside, stride, mean, scale, shift)
            g2 = load_row(u, cells, row, 1, height, inside, stride, mean, scale, shift)
            g3 = load_row(u, cells, row, 2, height, inside, stride, mean, scale, shift)
            g4 = load_row(u, cells, row, 3, height, inside, stride, mean, scale, shift)
            g5 = load_row(u, cells, row, 4, height, inside, stride, mean, scale, shift)
            p0 += three(g0, g1, g2, w2, w5, w8) + bias
            p1 += three(g1, g2, g3, w2, w5, w8) + bias
            p2 += three(g2, g3, g4, w2, w5, w8) + bias
            p3 += three(g3, g4, g5, w2, w5, w8) + bias
            done = (step >= 1) & (column + step <= width) & known[None, :]
            cells -= C
            v0, n0 = store_row(y, p0, cells, row, 0, height, done, stride)
            v1, n1 = store_row(y, p1, cells, row, 1, height, done, stride)
            v2, n2 = store_row(y, p2, cells, row, 2, height, done, stride)
            v3, n3 = store_row(y, p3, cells, row, 3, height, done, stride)
            count = n0 + n1 + n2 + n3
            middle = (v0 + v1 + v2 + v3) / tl.maximum(count, 1.0)
            v0, v1, v2, v3 = (v0 - middle) * n0, (v1 - middle) * n1, (v2 - middle) * n2, (v3 - middle) * n3
            spread = v0 * v0 + v1 * v1 + v2 * v2 + v3 * v3
            total, average, square = merge(total, average, square, count, middle, spread)
            p0 = q0 + three(g0, g1, g2, w1, w4, w7)
            p1 = q1 + three(g1, g2, g3, w1, w4, w7)
            p2 = q2 + three(g2, g3, g4, w1, w4, w7)
            p3 = q3 + three(g3, g4, g5, w1, w4, w7)
            q0 = three(g0, g1, g2, w0, w3, w6)
            q1 = three(g1, g2, g3, w0, w3, w6)
            q2 = three(g2, g3, g4, w0, w3, w6)
            q3 = three(g3, g4, g5, w0, w3, w6)
    store_moments(counts, means, squares, total, average, square, channels, known, C)


@jit()
def merge(count, mean, square, more, more_mean, more_square):
    """Count, mean and summed squared deviation of two sets together (Chan, Golub and LeVeque, 1983)."""
    together = count + more
    delta = more_mean - mean
    part = more / tl.maximum(together, 1.0)
    return together, mean + delta * part, square + more_square + delta * delta * count * part


@jit()
def store_moments(counts, means, squares, count, mean, square, channels, known, C: tl.constexpr):
    """Merge the rows of (ROWS, BLOCK) statistics and write them as row ``program_id(1)`` of the partial results."""
    total = tl.sum(count, 0)
    together = tl.sum(count * mean, 0) / tl.maximum(total, 1.0)
    delta = mean - together[None, :]
    place = tl.program_id(1) * C + channels
    tl.store(counts + place, total, mask=known)
    tl.store(means + place, together, mask=known)
    tl.store(squares + place, tl.sum(square + count * delta * delta, 0), mask=known)


def depthwise_forward(
    u: Tensor, mean: Tensor, scale: Tensor, shift: Tensor, weight: Tensor, bias: Tensor, *, slots: int | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Launch the forward kernel; all arguments contiguous.

    Args:
        u: (B, H, W, C).
        mean: (C,) float32, subtracted first. ``scale``, ``shift``: (C,) float32, applied next, before the GELU.
        weight: (C, 1, 3, 3) and ``bias``: (C,), any floating dtype.
        slots: programs that share the strips of one block of channels; None fills the GPU.

    Returns:
        y (B, H, W, C) in the dtype of ``u``; mean and biased variance (C,) float32 of y as stored.
    """
    y = torch.empty_like(u)
    if u.numel() == 0:
        return y, torch.zeros_like(mean), torch.zeros_like(mean)
    grid = StripGrid(u.shape)
    slots = slots or grid.slots(u.device)
    moments = [torch.empty(slots, u.shape[3], dtype=torch.float32, device=u.device) for _ in range(3)]
    with device_of(u):
        forward_kernel[(grid.num_blocks, slots)](
            u, mean, scale, shift, weight, bias, y, *moments, *grid.sizes, **grid.constants
        )
    # Each program counted the cells, their mean and their summed squared deviation.
    counts, means, squares = moments
    total = counts.sum(0).clamp(min=1)
    y_mean = (counts * means).sum(0) / total
    return y, y_mean, (squares + counts * (means - y_mean).square()).sum(0) / total
