"""What several processes need beyond accelerate: batch norm over all of them, also on the CPU, and agreement."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from hrformer.evaluate.inference import Processes


class _Sum(torch.autograd.Function):
    """Sum over all processes; so is its gradient."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total


class SharedBatchNorm2d(nn.BatchNorm2d):
    """Batch norm over the batches of all processes, in plain operations: torch's SyncBatchNorm runs on GPUs only.

    Mean and variance are averaged over the processes, whose batches must be of one size, as the loader's are.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) of this process -> normalised with everybody's statistics."""
        if not (self.training and dist.is_initialized() and dist.get_world_size() > 1):
            return super().forward(x)
        world = dist.get_world_size()
        wide = x if x.dtype == torch.float64 else x.float()
        mean = _mean(wide, world)
        centred = wide - mean[:, None, None]
        variance = _mean(centred.square(), world)
        if self.track_running_stats and self.running_mean is not None and self.running_var is not None:
            count = x.numel() // x.shape[1] * world
            with torch.no_grad():
                share = self.momentum if self.momentum is not None else 0.1
                self.running_mean.lerp_(mean.detach(), share)
                self.running_var.lerp_(variance.detach() * count / max(count - 1, 1), share)
                if self.num_batches_tracked is not None:
                    self.num_batches_tracked.add_(1)
        scale = torch.rsqrt(variance + self.eps)
        if self.affine:
            scale = scale * self.weight
        out = centred * scale[:, None, None]
        if self.affine:
            out = out + self.bias[:, None, None]
        return out.to(x.dtype)


def _mean(x: Tensor, world: int) -> Tensor:
    """(B, C, H, W) of every process -> (C,) mean over all of them."""
    total: Tensor = _Sum.apply(x.mean(dim=(0, 2, 3)))
    return total / world


def share_batch_norm(model: nn.Module, device: torch.device) -> nn.Module:
    """Replace every batch norm by one over all processes; parameters, buffers and names stay."""
    if device.type != "cpu":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.BatchNorm2d:
                child.__class__ = SharedBatchNorm2d
                setattr(parent, name, child)
    return model


def processes() -> Processes | None:
    """The processes of this run for the evaluation, or None where there is only one."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return None
    return Processes(rank=dist.get_rank(), world_size=dist.get_world_size(), gather=_gather)


def _gather(value: Any) -> list[Any]:
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


class PeerFailed(RuntimeError):
    """Another process of the run failed and has told why; this one only stops, too."""


@cache
def _agreement(world: Any) -> Any:
    """A group of all processes for small values on the CPU, apart from what the GPUs exchange."""
    return dist.new_group(backend="gloo")


def _group() -> Any:
    # Made anew where the default group is another than before, as in tests.
    return _agreement(dist.group.WORLD)


def sum_over_processes(values: dict[str, float]) -> dict[str, float]:
    """Sums by name; every process must ask, with the same names. Waits for no GPU."""
    if processes() is None:
        return values
    sums = torch.tensor(list(values.values()), dtype=torch.float64)
    dist.all_reduce(sums, group=_group())
    return dict(zip(values, sums.tolist(), strict=True))


@contextmanager
def together() -> Iterator[None]:
    """Context that all processes enter and leave; where it fails in some, it fails in all.

    The first of those that failed raises its error, all others :class:`PeerFailed`, so that it is told once. Without
    this the others would wait for it in their next exchange, for half an hour.
    """
    if processes() is None:
        yield
        return
    error: Exception | None = None
    try:
        yield
    except Exception as raised:
        error = raised
    world, rank = dist.get_world_size(), dist.get_rank()
    first = torch.tensor(world if error is None else rank)
    dist.all_reduce(first, op=dist.ReduceOp.MIN, group=_group())
    if first.item() == world:
        return
    if error is not None and first.item() == rank:
        raise error
    raise PeerFailed(f"process {int(first.item())} of this run failed")


def told_to_all(error: str) -> None:
    """End all processes where this one has an error; every process must ask.

    Raises:
        ValueError: with the error, in the first process that has one; the others raise :class:`PeerFailed`.
    """
    with together():
        if error:
            raise ValueError(error)


def any_process(flag: bool, device: torch.device) -> bool:
    """Whether the flag is set on some process; every process must ask."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return flag
    value = torch.tensor(float(flag), device=device)
    dist.all_reduce(value, op=dist.ReduceOp.MAX)
    return bool(value.item())
