"""Gradients of the depthwise stage; the activated map and its derivative are computed again from the stage's input.

Letters, strips and tiles as in ``depthwise``. With e the gradient of y, which takes in those of y's mean and
variance, and n = (u - mean) * scale + shift: the gradient of the activated map g is the transposed convolution of e;
times gelu'(n) * scale it is that of u. Sums for the weights and the channels stay in registers, are written once
for each program and added in a fixed order: no atomics.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs

from __future__ import annotations

import torch
from torch import Tensor

from hrformer.fast.triton.depthwise import SIZES, StripGrid, load_taps, load_three, strip_corners, three
from hrformer.fast.triton.launch import device_of, jit, tl

NUM_SUMS = 12
"""Rows of the partial sums: nine weights row by row, bias, scale, shift."""


@jit()
def load_gradient(grad_y, y, cells, row, offset, height, inside, stride, mean, grad_mean, grad_variance):
    """Gradient of one row of y: that of the map, and what the statistics pass on; 0 outside the map."""
    used = inside & (row + offset >= 0) & (row + offset < height)
    place = cells + offset * stride
    direct = tl.load(grad_y + place, mask=used, other=0.0).to(tl.float32)
    value = tl.load(y + place, mask=used, other=0.0).to(tl.float32)
    return tl.where(used, direct + grad_mean + grad_variance * (value - mean), 0.0)


@jit()
def load_six_gradients(grad_y, y, cells, row, height, inside, stride, mean, grad_mean, grad_variance):
    """Gradients of the rows of y from the one above the strip to the one below it."""
    r0 = load_gradient(grad_y, y, cells, row, -1, height, inside, stride, mean, grad_mean, grad_variance)
    r1 = load_gradient(grad_y, y, cells, row, 0, height, inside, stride, mean, grad_mean, grad_variance)
    r2 = load_gradient(grad_y, y, cells, row, 1, height, inside, stride, mean, grad_mean, grad_variance)
    r3 = load_gradient(grad_y, y, cells, row, 2, height, inside, stride, mean, grad_mean, grad_variance)
    r4 = load_gradient(grad_y, y, cells, row, 3, height, inside, stride, mean, grad_mean, grad_variance)
    r5 = load_gradient(grad_y, y, cells, row, 4, height, inside, stride, mean, grad_mean, grad_variance)
    return r0, r1, r2, r3, r4, r5


@jit()
def load_activated(u, cells, row, offset, height, inside, stride, mean, scale, shift):
    """One row of u - mean, its GELU after the norm and the derivative there, 0 outside, and which of it is inside."""
    used = inside & (row + offset < height)
    value = tl.load(u + cells + offset * stride, mask=used, other=0.0).to(tl.float32)
    centred = tl.where(used, value - mean, 0.0)
    x = centred * scale + shift
    cumulative = 0.5 * (1.0 + tl.erf(x * 0.7071067811865476))
    slope = cumulative + x * tl.exp(-0.5 * x * x) * 0.3989422804014327
    return centred, tl.where(used, x * cumulative, 0.0), tl.where(used, slope, 0.0), used


@jit()
def store_four(target, stride, a, b, c, d, scale, used_a, used_b, used_c, used_d):
    """Write four rows of gradients times the scale."""
    tl.store(target, (a * scale).to(target.dtype.element_ty), mask=used_a)
    tl.store(target + stride, (b * scale).to(target.dtype.element_ty), mask=used_b)
    tl.store(target + 2 * stride, (c * scale).to(target.dtype.element_ty), mask=used_c)
    tl.store(target + 3 * stride, (d * scale).to(target.dtype.element_ty), mask=used_d)


@jit()
def correlate(a, b, c, d, u, v, w, x):
    """Sum of four products."""
    return a * u + b * v + c * w + d * x


@jit(do_not_specialize=SIZES)
def backward_kernel(
    grad_y, y, u, mean, scale, shift, weight, y_mean, grad_mean, grad_variance, grad_u, sums,
    height, width, groups, segments, length, num_strips,
    C: tl.constexpr, BLOCK: tl.constexpr, STRIPS: tl.constexpr,
):  # fmt: skip
    """Gradient of u and partial sums (slots, 12, C); program axes: block of channels, slot."""
    channels = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    known = channels < C
    mean, scale, shift = load_three(mean, scale, shift, channels, known)
    y_mean, grad_mean, grad_variance = load_three(y_mean, grad_mean, grad_variance, channels, known)
    w0, w1, w2, w3, w4, w5, w6, w7, w8 = load_taps(weight, channels, known)
    stride = width * C
    zero = tl.zeros((STRIPS, BLOCK), tl.float32)
    # Not the same zeros for left and middle: Triton would take left = middle for no change and keep left at zero.
    empty = tl.zeros((STRIPS, BLOCK), tl.float32)
    s0, s1, s2, s3, s4, s5, s6, s7, s8 = zero, zero, zero, zero, zero, zero, zero, zero, zero
    sum_bias, sum_scale, sum_shift = zero, zero, zero
    for tile in range(tl.program_id(1), tl.cdiv(num_strips, STRIPS), tl.num_programs(1)):
        strips = tile * STRIPS + tl.arange(0, STRIPS)
        corner, row, column = strip_corners(strips, height, width, groups, segments, length, num_strips)
        corner = corner * C + channels[None, :]
        # Gradients of six rows of y in three columns: l left, m middle, r right; the middle is the column written.
        l0, l1, l2, l3, l4, l5 = zero, zero, zero, zero, zero, zero
        m0, m1, m2, m3, m4, m5 = empty, empty, empty, empty, empty, empty
        for step in range(-1, length + 1):
            inside = (column + step >= 0) & (column + step < width) & known[None, :]
            at = corner + step * C
            r0, r1, r2, r3, r4, r5 = load_six_gradients(
                grad_y, y, at, row, height, inside, stride, y_mean, grad_mean, grad_variance
            )
            done = (step >= 1) & (column + step <= width) & known[None, :]
            at -= C
            u0, g0, slope0, used0 = load_activated(u, at, row, 0, height, done, stride, mean, scale, shift)
            u1, g1, slope1, used1 = load_activated(u, at, row, 1, height, done, stride, mean, scale, shift)
            u2, g2, slope2, used2 = load_activated(u, at, row, 2, height, done, stride, mean, scale, shift)
            u3, g3, slope3, used3 = load_activated(u, at, row, 3, height, done, stride, mean, scale, shift)
            # An input cell reaches the outputs around it through the mirrored weights.
            d0 = three(l0, l1, l2, w8, w5, w2) + three(m0, m1, m2, w7, w4, w1) + three(r0, r1, r2, w6, w3, w0)
            d1 = three(l1, l2, l3, w8, w5, w2) + three(m1, m2, m3, w7, w4, w1) + three(r1, r2, r3, w6, w3, w0)
            d2 = three(l2, l3, l4, w8, w5, w2) + three(m2, m3, m4, w7, w4, w1) + three(r2, r3, r4, w6, w3, w0)
            d3 = three(l3, l4, l5, w8, w5, w2) + three(m3, m4, m5, w7, w4, w1) + three(r3, r4, r5, w6, w3, w0)
            d0, d1, d2, d3 = d0 * slope0, d1 * slope1, d2 * slope2, d3 * slope3  # slope is 0 outside the map
            store_four(grad_u + at, stride, d0, d1, d2, d3, scale, used0, used1, used2, used3)
            sum_scale += correlate(d0, d1, d2, d3, u0, u1, u2, u3)
            sum_shift += d0 + d1 + d2 + d3
            sum_bias += tl.where(done, m1 + m2 + m3 + m4, 0.0)  # rows below the map hold 0, other segments do not
            s0 += correlate(g0, g1, g2, g3, r2, r3, r4, r5)
            s1 += correlate(g0, g1, g2, g3, m2, m3, m4, m5)
            s2 += correlate(g0, g1, g2, g3, l2, l3, l4, l5)
            s3 += correlate(g0, g1, g2, g3, r1, r2, r3, r4)
            s4 += correlate(g0, g1, g2, g3, m1, m2, m3, m4)
            s5 += correlate(g0, g1, g2, g3, l1, l2, l3, l4)
            s6 += correlate(g0, g1, g2, g3, r0, r1, r2, r3)
            s7 += correlate(g0, g1, g2, g3, m0, m1, m2, m3)
            s8 += correlate(g0, g1, g2, g3, l0, l1, l2, l3)
            l0, l1, l2, l3, l4, l5 = m0, m1, m2, m3, m4, m5
            m0, m1, m2, m3, m4, m5 = r0, r1, r2, r3, r4, r5
    place = sums + tl.program_id(1) * (12 * C) + channels
    store_sums(place, s0, s1, s2, s3, s4, s5, known, C)
    store_sums(place + 6 * C, s6, s7, s8, sum_bias, sum_scale, sum_shift, known, C)


@jit()
def store_sums(place, a, b, c, d, e, f, known, C: tl.constexpr):
    """Write six rows of (C,) sums over the strips."""
    tl.store(place, tl.sum(a, 0), mask=known)
    tl.store(place + C, tl.sum(b, 0), mask=known)
    tl.store(place + 2 * C, tl.sum(c, 0), mask=known)
    tl.store(place + 3 * C, tl.sum(d, 0), mask=known)
    tl.store(place + 4 * C, tl.sum(e, 0), mask=known)
    tl.store(place + 5 * C, tl.sum(f, 0), mask=known)


def depthwise_backward(
    grad_y: Tensor, grad_mean: Tensor, grad_variance: Tensor, y: Tensor, y_mean: Tensor,
    u: Tensor, mean: Tensor, scale: Tensor, shift: Tensor, weight: Tensor, *, slots: int | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Launch the backward kernel; arguments as for and from ``depthwise_forward``, all contiguous.

    Args:
        grad_y: (B, H, W, C) in the dtype of ``u``.
        grad_mean: (C,) float32, gradient of y's mean. ``grad_variance``: (C,) float32, of its biased variance.
        slots: programs that share the strips of one block of channels; None fills the GPU.

    Returns:
        Gradients: of ``u``, (B, H, W, C) in its dtype; in float32 of ``scale`` (C,), ``shift`` (C,), ``weight``
        (C, 1, 3, 3) and ``bias`` (C,).
    """
    batch, height, width, channels = u.shape
    grad_u = torch.empty_like(u)
    grid = StripGrid(u.shape)
    slots = (slots or grid.slots(u.device)) if u.numel() else 0
    sums = torch.empty(slots, NUM_SUMS, channels, dtype=torch.float32, device=u.device)
    if slots:
        cells = batch * height * width
        with device_of(u):
            backward_kernel[(grid.num_blocks, slots)](
                grad_y, y, u, mean, scale, shift, weight, y_mean, grad_mean / cells, grad_variance * (2 / cells),
                grad_u, sums, *grid.sizes, **grid.constants,
            )  # fmt: skip
    total = sums.sum(0)
    return grad_u, total[10], total[11], total[:9].T.reshape(channels, 1, 3, 3), total[9]
