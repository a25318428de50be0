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
        return _Sum.forward(ctx, gradients[0])


class SharedBatchNorm2d(nn.BatchNorm2d):
    """Batch norm over the batches of all processes, in plain operations: torch's SyncBatchNorm runs on GPUs only.

    Mean and variance are averaged over the processes, whose batches must be of one size, as the loader's are.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) of this process -> normalised with everybody's statistics."""
        if not self.training or _alone():
            return super().forward(x)
        world = dist.get_world_size()
        wide = x if x.dtype == torch.float64 else x.float()
        mean = _Sum.apply(wide.mean(dim=(0, 2, 3))) / world
        centred = wide - mean[:, None, None]
        variance = _Sum.apply(centred.square().mean(dim=(0, 2, 3))) / world
        if self.running_mean is not None and self.running_var is not None:
            count = x.numel() // x.shape[1] * world
            with torch.no_grad():
                share = self.momentum if self.momentum is not None else 0.1
                self.running_mean.lerp_(mean.detach(), share)
                self.running_var.lerp_(variance.detach() * count / max(count - 1, 1), share)
                if self.num_batches_tracked is not None:
                    self.num_batches_tracked.add_(1)
        scale = torch.rsqrt(variance + self.eps)
        if not self.affine:
            return (centred * scale[:, None, None]).to(x.dtype)
        return (centred * (scale * self.weight)[:, None, None] + self.bias[:, None, None]).to(x.dtype)


def share_batch_norm(model: nn.Module, device: torch.device) -> nn.Module:
    """Replace every batch norm by one over all processes; parameters, buffers and names stay."""
    if device.type != "cpu":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SharedBatchNorm2d
    return model


class PeerFailed(RuntimeError):
    """Another process of the run failed and has told why; this one only stops, too."""


def _alone() -> bool:
    return not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1


def processes() -> Processes | None:
    """The processes of this run for the evaluation, or None where there is only one."""
    return None if _alone() else Processes(rank=dist.get_rank(), world_size=dist.get_world_size(), gather=gather)


def gather(value: Any) -> list[Any]:
    """The objects of all processes, in order of rank; every process must ask."""
    if _alone():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


@cache
def _processor_group(world: Any) -> Any:
    """A group of all processes for small values on the CPU, apart from what the GPUs exchange.

    Made anew where the default group ``world`` is another than before, as in tests.
    """
    return dist.new_group(backend="gloo")


def _reduced(values: list[float], operation: Any) -> list[float]:
    numbers = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(numbers, op=operation, group=_processor_group(dist.group.WORLD))
    return numbers.tolist()


def sum_over_processes(values: dict[str, float]) -> dict[str, float]:
    """Sums by name; every process must ask, with the same names. Waits for no GPU."""
    if _alone():
        return values
    return dict(zip(values, _reduced(list(values.values()), dist.ReduceOp.SUM), strict=True))


def any_process(flag: bool) -> bool:
    """Whether the flag is set on some process; every process must ask."""
    return flag if _alone() else _reduced([float(flag)], dist.ReduceOp.MAX) == [1.0]


@contextmanager
def together() -> Iterator[None]:
    """Context that all processes enter and leave; where it fails in some, it fails in all.

    The first of those that failed raises its error, all others :class:`PeerFailed`, so that it is told once. Without
    this the others would wait for it in their next exchange, for half an hour.
    """
    if _alone():
        yield
        return
    error: Exception | None = None
    try:
        yield
    except Exception as raised:
        error = raised
    world, rank = dist.get_world_size(), dist.get_rank()
    first = int(_reduced([world if error is None else rank], dist.ReduceOp.MIN)[0])
    if first == world:
        return
    if error is not None and first == rank:
        raise error
    raise PeerFailed(f"process {first} of this run failed")
