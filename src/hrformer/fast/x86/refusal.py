"""What no compiled kernel takes, whichever it is."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

LARGEST = 2**31 - 1
"""Sizes are 32-bit integers in the kernels."""


def is_in_memory(tensor: Tensor) -> bool:
    """Whether a tensor's numbers lie as they are in a storage that holds them all.

    A view may be of negated numbers, zeros of automatic differentiation have no memory, and a storage may have been
    resized under its tensor, as sharding of parameters does. While a graph is compiled there is none to look at.
    """
    if torch.compiler.is_compiling():
        return True
    if tensor.layout != torch.strided or tensor.is_neg() or tensor._is_zerotensor():
        return False
    count = tensor.numel()
    if count and not tensor.is_contiguous():
        count = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return not count or int(tensor.storage_offset() + count) * tensor.itemsize <= tensor.untyped_storage().nbytes()


def tensors_refusal(x: Tensor, others: Sequence[Tensor | None] = ()) -> str | None:
    """Why kernels take neither this map nor these tensors beside it, or None where they do."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return "the model is being compiled or exported"
    if torch._C._are_functorch_transforms_active() or torch._C._len_torch_dispatch_stack():
        return "a transform or a mode watches the operations"
    for tensor in (x, *others):
        if tensor is None:
            continue
        if type(tensor) not in (Tensor, nn.Parameter):
            return f"{type(tensor).__name__} is a subclass of torch.Tensor"
        if tensor.device.type != "cpu" or tensor.dtype != torch.float32:
            return f"compiled kernels take float32 on the CPU, got {tensor.dtype} on {tensor.device.type}"
        if not is_in_memory(tensor):
            return f"compiled kernels take plain memory, got {tensor.layout}, negated numbers or none"
    if not 0 < x.numel() <= LARGEST:
        return f"a map of {x.numel()} numbers"
    return None
