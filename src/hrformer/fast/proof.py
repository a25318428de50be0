"""Whether a program of a runtime answers as the network does that it was made from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isfinite
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import TreeSpec, tree_flatten

FP32_BOUND = 1e-4
"""Of the largest absolute output: ten times what this package's models need."""
BF16_BOUND = 0.1
"""Every layer rounds to 8 bits of mantissa, 4e-3; this package's models come to 2e-2."""


class DifferenceError(ArithmeticError):
    """A program answers otherwise than its network."""


class _NoLookAtValues(TorchDispatchMode):
    """Refuses to turn a tensor's value into a number or a condition of Python, which no program repeats."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.equal.default):
            raise DifferenceError("the network looks at the values of a tensor")
        return func(*args, **(kwargs or {}))


def structure_of_same(
    run: Callable[[Tensor], Sequence[Tensor]], network: Callable[[Tensor], Any], x: Tensor, bound: float
) -> TreeSpec:
    """The containers of the network's answer to pictures like ``x``, once the program is seen to give the same tensors.

    Args:
        run: the program.
        network: what it was made from, in evaluation mode.
        x: (B, C, H, W) float32, finite.
        bound: how far values may lie apart, as a part of the largest absolute one of their tensor.

    Raises:
        DifferenceError: it does not; what the first difference is.
    """
    example = _pictures_like(x)
    kept = example.clone()
    with torch.random.fork_rng(devices=[]):  # a network that draws numbers goes on with those it had drawn
        found = run(example)
        with _NoLookAtValues():
            expected, structure = tree_flatten(network(example))
    if not torch.equal(example, kept):
        raise DifferenceError("the network writes to its input")
    if len(found) != len(expected):
        raise DifferenceError(f"{len(expected)} outputs are {len(found)}")
    for number, (mine, theirs) in enumerate(zip(found, expected, strict=True)):
        difference = _difference(mine, theirs, bound)
        if difference:
            raise DifferenceError(f"output {number}{difference}")
    return structure


def _pictures_like(x: Tensor) -> Tensor:
    """In the range of ``x``, no two alike: zeros, or one picture many times, would show little."""
    seeded = torch.Generator().manual_seed(0)
    noise = torch.rand(x.shape, generator=seeded, dtype=x.dtype, device="cpu")
    return ((x + noise * (x.abs().max() or 1.0)) / 2).requires_grad_(x.requires_grad)


def _difference(found: Tensor, expected: Any, bound: float) -> str:
    """What is wrong with an output, empty where nothing is."""
    if type(expected) is not Tensor:
        return f" is of type {type(expected).__name__}, which no program returns"
    if (found.dtype, found.shape) != (expected.dtype, expected.shape):
        return f" is {expected.dtype} {tuple(expected.shape)}, the program's {found.dtype} {tuple(found.shape)}"
    found, expected = found.double(), expected.double()
    finite = expected[expected.isfinite()]
    largest = finite.abs().max().item() if finite.numel() else 0.0
    if torch.allclose(found, expected, rtol=0.0, atol=bound * largest, equal_nan=True):
        return ""
    return f" differs by {(found - expected).abs().max().item():.1e}, where the largest is {largest:.1e}"


def is_finite(x: Tensor) -> bool:
    """By numpy, which takes microseconds; on crowded cores torch's threads wait milliseconds for each other."""
    pictures = x.detach().resolve_neg().numpy()
    return isfinite(pictures.min()) and isfinite(pictures.max())
