"""What the kernels share: Triton where it is installed, block sizes, precision of products, activations.

The inference kernels take products in full ("ieee"): half precision has no other way, and float32, which Triton
multiplies slowly so, runs in the interpreter only; on a device ``hrformer.ops.fused`` leaves float32 to torch.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

try:
    import triton  # type: ignore[import-untyped, unused-ignore]
    import triton.language as tl  # type: ignore[import-untyped, unused-ignore]
except ImportError:  # no wheel for this system
    triton = tl = None

HAVE_TRITON = triton is not None
MIN_DOT = 16
"""Smallest side of a block that ``tl.dot`` takes."""


def jit(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """``triton.jit`` with options, or the function as it stands where Triton is absent."""

    def decorate(function: Callable[..., Any]) -> Any:
        return triton.jit(function, **options) if triton is not None else function

    return decorate


@jit()
def gelu(x):
    """x times the normal distribution function of x, by the error function, as ``torch.nn.GELU`` has it."""
    return 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))


@jit()
def activate(x, NAME: tl.constexpr):
    """Apply "gelu", "relu" or "none"."""
    if NAME == "gelu":
        x = gelu(x)
    elif NAME == "relu":
        x = tl.maximum(x, 0.0)
    return x


def power_of_two(value: int) -> int:
    """Smallest power of two that is at least ``value`` and at least ``MIN_DOT``."""
    return max(MIN_DOT, 1 << (value - 1).bit_length())


def round_up(value: int, step: int) -> int:
    """Smallest multiple of ``step`` that is at least ``value``."""
    return -(-value // step) * step


def inner_block(size: int) -> int:
    """Block of a summed dimension: 64, 32 or 16, the largest that pads at most a quarter more than the best."""
    best = min(round_up(size, block) for block in (64, 32, 16))
    return next(block for block in (64, 32, 16) if round_up(size, block) <= 1.25 * best)


def split_channels(channels: int) -> tuple[int, int]:
    """Cover ``channels`` by a power of two and a smaller one or none: 78 -> (64, 16), 36 -> (32, 16), 32 -> (32, 0).

    Blocks are powers of two, and one block of 128 for 78 channels would multiply mostly zeros.
    """
    whole = power_of_two(channels)
    main = max(whole // 2, MIN_DOT)
    if channels <= main:
        return main, 0
    tail = power_of_two(channels - main)
    return (main, tail) if main + tail < whole else (whole, 0)


def pad_to(tensor: Tensor, *sizes: int) -> Tensor:
    """Contiguous copy with zeros appended on every dimension up to ``sizes``."""
    padded = tensor.new_zeros(sizes)
    padded[tuple(slice(0, size) for size in tensor.shape)] = tensor
    return padded


def device_of(x: Tensor) -> AbstractContextManager[Any]:
    """Triton launches on the current device, which need not be the tensor's."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()
