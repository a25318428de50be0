"""Sum of up to four maps, coarser ones brought to the size of the result on the fly, then ReLU.

Dimension letters: B batch, H/W size of the result, h/w of one term, C channels.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hrformer.fast.triton.launch import device_of, jit, power_of_two, tl

MAX_TERMS = 4
VALUES = 1024
"""Values of the result that one program makes."""


@jit()
def _between(place, size, full_size, ALIGNED: tl.constexpr):
    """The two cells of an axis of ``size`` that ``place`` of ``full_size`` lies between, and the second one's share."""
    if ALIGNED:
        where = place.to(tl.float32) * ((size - 1).to(tl.float32) / tl.maximum(full_size - 1, 1).to(tl.float32))
    else:
        where = (place.to(tl.float32) + 0.5) * (size.to(tl.float32) / full_size.to(tl.float32)) - 0.5
        where = tl.maximum(where, 0.0)
    low = tl.minimum(where.to(tl.int32), size - 1)
    return low, tl.minimum(low + 1, size - 1), where - low.to(tl.float32)


@jit()
def _row_of(ptr, image, y, x, channel, mask, h, w, C: tl.constexpr):
    """Values of the cells (y, x) of a term of h x w cells, in float32."""
    offsets = ((image * h + y) * w + x) * C
    return tl.load(ptr + offsets[:, None] + channel[None, :], mask=mask, other=0.0).to(tl.float32)


@jit()
def _term(ptr, image, y, x, channel, mask, h, w, height, width, C: tl.constexpr, KIND: tl.constexpr):
    """One term at the cells of the result: "same" size, "nearest", "bilinear" or "bilinear_aligned"."""
    if KIND == "same":
        return _row_of(ptr, image, y, x, channel, mask, h, w, C)
    elif KIND == "nearest":
        return _row_of(ptr, image, y * h // height, x * w // width, channel, mask, h, w, C)
    else:
        y0, y1, dy = _between(y, h, height, KIND == "bilinear_aligned")
        x0, x1, dx = _between(x, w, width, KIND == "bilinear_aligned")
        upper = _row_of(ptr, image, y0, x0, channel, mask, h, w, C) * (1.0 - dx)[:, None]
        upper += _row_of(ptr, image, y0, x1, channel, mask, h, w, C) * dx[:, None]
        lower = _row_of(ptr, image, y1, x0, channel, mask, h, w, C) * (1.0 - dx)[:, None]
        lower += _row_of(ptr, image, y1, x1, channel, mask, h, w, C) * dx[:, None]
        return upper * (1.0 - dy)[:, None] + lower * dy[:, None]


@jit(do_not_specialize=["pixels", "height", "width", "h0", "w0", "h1", "w1", "h2", "w2", "h3", "w3"])
def _fusion_sum_kernel(
    ptr0, ptr1, ptr2, ptr3, out_ptr, pixels, height, width, h0, w0, h1, w1, h2, w2, h3, w3,
    C: tl.constexpr, KIND0: tl.constexpr, KIND1: tl.constexpr, KIND2: tl.constexpr, KIND3: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr
):  # fmt: skip
    """A run of pixels and a block of channels of the result."""
    CHANNEL_BLOCKS: tl.constexpr = (C + BLOCK_C - 1) // BLOCK_C
    pid = tl.program_id(0)
    pixel = (pid // CHANNEL_BLOCKS).to(tl.int64) * BLOCK_P + tl.arange(0, BLOCK_P)
    channel = (pid % CHANNEL_BLOCKS) * BLOCK_C + tl.arange(0, BLOCK_C)
    mask = (pixel < pixels)[:, None] & (channel < C)[None, :]
    image = pixel // (height * width)
    inner = (pixel - image * (height * width)).to(tl.int32)
    y, x = inner // width, inner % width
    total = _term(ptr0, image, y, x, channel, mask, h0, w0, height, width, C, KIND0)
    if KIND1 != "absent":
        total += _term(ptr1, image, y, x, channel, mask, h1, w1, height, width, C, KIND1)
    if KIND2 != "absent":
        total += _term(ptr2, image, y, x, channel, mask, h2, w2, height, width, C, KIND2)
    if KIND3 != "absent":
        total += _term(ptr3, image, y, x, channel, mask, h3, w3, height, width, C, KIND3)
    total = tl.maximum(total, 0.0)
    tl.store(out_ptr + (pixel * C)[:, None] + channel[None, :], total.to(out_ptr.dtype.element_ty), mask=mask)


def fusion_sum(terms: Sequence[Tensor], size: tuple[int, int], *, mode: str) -> Tensor:
    """ReLU of the sum of the terms at ``size``.

    Args:
        terms: one to four (B, h, w, C) contiguous maps of one precision; those of another size are resized.
        size: (H, W) of the result.
        mode: "nearest", "bilinear" (corners not aligned) or "bilinear_aligned", with the scale h / H on each axis.

    Returns:
        (B, H, W, C); sums are float32 and rounded once.
    """
    assert 1 <= len(terms) <= MAX_TERMS
    batch, _, _, channels = terms[0].shape
    height, width = size
    out = torch.empty((batch, *size, channels), dtype=terms[0].dtype, device=terms[0].device)
    if out.numel() == 0:
        return out
    absent = MAX_TERMS - len(terms)
    kinds = ["same" if term.shape[1:3] == (height, width) else mode for term in terms] + ["absent"] * absent
    padded = [*(term.contiguous() for term in terms), *[terms[0]] * absent]
    block_c = min(power_of_two(channels), 128)
    block_p = VALUES // block_c
    pixels = batch * height * width
    sizes = [side for term in padded for side in term.shape[1:3]]
    with device_of(out):
        _fusion_sum_kernel[(-(-pixels // block_p) * -(-channels // block_c),)](
            *padded, out, pixels, height, width, *sizes, C=channels,
            **{f"KIND{i}": kind for i, kind in enumerate(kinds)},
            BLOCK_P=block_p, BLOCK_C=block_c, num_warps=4
        )  # fmt: skip
    return out
