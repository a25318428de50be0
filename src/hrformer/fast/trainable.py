"""What has to hold of a layer and of a map before a kernel trains in the layer's place."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from hrformer.fast.eligibility import is_unchanged
from hrformer.fast.x86.structures import is_in_memory
from hrformer.fast.x86.training import RunningStatistics, half_kernels

NUMBER = (int, float)
"""Types of settings; a tensor is also a setting of torch's, which kernels cannot take."""


def running_statistics(norm: nn.BatchNorm2d) -> RunningStatistics:
    """The statistics to move, after counting the batch; recomputation takes the counter away for a while."""
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
    assert norm.momentum is not None
    return RunningStatistics(cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var), norm.momentum, norm.eps)


def trains(part: nn.Module, x: Tensor) -> bool:
    """Training on more than one token, which nothing watches; a traced size is a tensor."""
    return part.training and not torch.jit.is_tracing() and x.numel() > x.shape[-1] and not _has_any_global_hook()


def trains_on_cpu(part: nn.Module, x: Tensor) -> bool:
    """Training of (B, H, W, C) tokens that autograd records."""
    return (
        not torch.compiler.is_compiling()
        and x.is_cpu
        and trains(part, x)
        and torch.is_grad_enabled()
        and x.ndim == 4
        and (not torch.is_autocast_enabled("cpu") or half_kernels() is not None)
    )


def in_float32(x: Tensor) -> Tensor:
    """A map as kernels take it: what torch's autocast leaves in bfloat16, in float32."""
    return x.float() if x.dtype is torch.bfloat16 and half_kernels() is not None else x


def is_batch_norm(norm: nn.BatchNorm2d, x: Tensor, dtype: torch.dtype | None, channels: int) -> bool:
    """With parameters, and statistics of the batch which it keeps by a fixed momentum."""
    shape = (channels,)
    return (
        is_layer(norm, nn.BatchNorm2d, x, dtype, weight=shape, bias=shape, running_mean=shape, running_var=shape)
        and norm.training
        and norm.track_running_stats
        and norm.num_features == channels
        and isinstance(norm.momentum, NUMBER)
        and isinstance(norm.eps, NUMBER)
    )


def is_layer(
    part: nn.Module, kind: type[nn.Module], x: Tensor, dtype: torch.dtype | None = None, **shapes: tuple[int, ...]
) -> bool:
    """Whether a part is exactly a ``kind``, with tensors of these shapes, of one dtype, where the tokens are."""
    tensors = {**part._parameters, **part._buffers}
    return is_unchanged(part, kind) and all(
        is_ordinary(tensors.get(name), shape, dtype or x.dtype, x.device) for name, shape in shapes.items()
    )


def is_ordinary(tensor: Tensor | None, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> bool:
    """What lies in memory on the CPU is for ``training_refusal`` to say, which sees all tensors once."""
    return (
        tensor is not None
        and type(tensor) in (Tensor, nn.Parameter)
        and tensor.shape == shape
        and tensor.dtype == dtype
        and tensor.device == device
        and (tensor.is_cpu or is_in_memory(tensor))
    )
