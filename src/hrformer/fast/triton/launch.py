"""What the kernels share: Triton where it is installed, block sizes, precision of products, activations.

The inference kernels take products in full ("ieee"): half precision has no other way, and float32, which Triton
multiplies slowly so, runs in the interpreter only; on a device ``hrformer.fast.stages`` leaves float32 to torch.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import torch
from torch import Tensor

try:
    import triton  # type: ignore[import-untyped, unused-ignore]
    import triton.language as tl  # type: ignore[import-untyped, unused-ignore]
except ImportError:  # no wheel for this system
    triton = tl = None

HAVE_TRITON = triton is not None
HALVES = (torch.float16, torch.bfloat16)
MIN_DOT = 16
"""Smallest side of a block that ``tl.dot`` takes."""

SOUND_ASSEMBLER = (12, 9)
"""The first ptxas that compiles ``window_block`` right. 12.8, in the wheels of Triton up to 3.6, drops the instruction
that starts a shared-memory descriptor, so that the kernel multiplies by whatever lies at an undefined address: seen in
its machine code and, as wrong results and illegal accesses, on an H100 and an H200."""

KERNELS = (
    *("depthwise", "depthwise_backward", "depthwise_pointwise", "fusion_sum", "pointwise"),
    *("window_attention", "window_attention_backward", "window_block"),
)
"""What can be switched off: each module of this package that launches a kernel."""
SWITCH = "HRFORMER_TRITON_OFF"
"""Environment variable with the names of kernels, between commas, whose place plain PyTorch takes."""


def switched_off(*kernels: str) -> str | None:
    """Why one of these kernels may not run, or None; ValueError where the switch names what is no kernel."""
    off = _names(os.environ.get(SWITCH, ""))
    return next((f"{SWITCH} names {kernel}" for kernel in kernels if kernel in off), None)


@cache
def _names(text: str) -> frozenset[str]:
    names = frozenset(name.strip() for name in text.split(",")) - {""}
    if unknown := sorted(names - set(KERNELS)):
        raise ValueError(f"{SWITCH} names {', '.join(unknown)}; there are {', '.join(KERNELS)}")
    return names


@cache
def assembler_version() -> tuple[int, int]:
    """Major and minor version of the ptxas that Triton calls; (0, 0) where it does not say."""
    try:
        major, minor = triton.knobs.nvidia.ptxas.version.split(".")[:2]
        return int(major), int(minor)
    except (AttributeError, RuntimeError, ValueError):
        return 0, 0


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
def gelu_half(x):
    """GELU for results that are rounded to half precision: off by 6e-5 at most, in half the instructions.

    x times 1/2 + c P(c^2), c being x within +-4.25, where the sum reaches 0 and 1 exactly; P is the minimax
    polynomial of x times the error (Lawson's iteration in float64).
    """
    c = tl.minimum(tl.maximum(x, -4.25), 4.25)
    t = c * c
    p = t * 6.76632153e-11 - 6.33666897e-09
    p = p * t + 2.60963532e-07
    p = p * t - 6.29953911e-06
    p = p * t + 0.000100902696
    p = p * t - 0.00115760206
    p = p * t + 0.00999652781
    p = p * t - 0.0666732788
    p = p * t + 0.39911443
    return x * (p * c + 0.5)


@jit()
def activate(x, NAME: tl.constexpr):
    """Apply "gelu", "gelu_half", "relu" or "none"."""
    if NAME == "gelu":
        x = gelu(x)
    elif NAME == "gelu_half":
        x = gelu_half(x)
    elif NAME == "relu":
        x = tl.maximum(x, 0.0)
    return x


def activation_for(name: str, dtype: torch.dtype) -> str:
    """The form of an activation that is exact enough for results in ``dtype``."""
    return "gelu_half" if name == "gelu" and dtype in HALVES else name


def exact(x: Tensor) -> Tensor:
    """Half precision to float32; other dtypes as they are."""
    return x.float() if x.dtype in HALVES else x


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


def resident_programs(device: torch.device) -> int:
    """Programs that fill a GPU, four for each multiprocessor; 4 where there is no GPU.

    So many of four warps does one of an H100 hold with the registers of these kernels. Those that keep sums in
    registers are launched with about this many programs, each going through many tiles: few partial sums are left to
    add, in a fixed order, so results do not change from run to run on one GPU model.
    """
    if device.type != "cuda":
        return 4
    return 4 * torch.cuda.get_device_properties(device).multi_processor_count
