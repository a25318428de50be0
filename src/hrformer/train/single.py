"""One process without accelerate: the few of its methods that training on one device calls, with the same results."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from hrformer.train.config import LogConfig, RuntimeConfig

HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class SingleProcess:
    """Stands in for ``accelerate.Accelerator`` where that is not installed.

    Args:
        runtime: precision and device.
        log: must name no trackers.

    Raises:
        ImportError: the run wants what only accelerate has: several processes, or trackers.
        ValueError: the precision is not possible on this machine.
    """

    process_index, num_processes, is_main_process, distributed_type = 0, 1, True, "NO"

    def __init__(self, runtime: RuntimeConfig, log: LogConfig) -> None:
        if log.trackers or int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ImportError(
                "training in several processes or with trackers needs accelerate: pip install 'hrformer[train]'; one "
                "process without trackers (log.trackers empty) does without it"
            )
        self.device = _device(runtime)
        self._half = HALVES.get(runtime.precision)
        if runtime.precision == "fp16" and self.device.type == "cpu":
            raise ValueError("runtime.precision fp16 needs a GPU; take bf16 or fp32")
        self.scaler = torch.amp.GradScaler(self.device.type) if runtime.precision == "fp16" else None
        self._optimizer: torch.optim.Optimizer | None = None

    def prepare(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[nn.Module, _Optimizer]:
        """The model under autocast, with float32 results, and the optimiser behind the loss scaler."""
        self._optimizer = optimizer
        return (model if self._half is None else _Autocast(model, self)), _Optimizer(optimizer, self.scaler)

    def unwrap_model(self, model: nn.Module, **_: Any) -> nn.Module:
        """The model that was prepared."""
        return model.module if isinstance(model, _Autocast) else model

    def autocast(self) -> AbstractContextManager[Any]:
        """Context of the run's precision."""
        return nullcontext() if self._half is None else torch.autocast(self.device.type, self._half)

    def backward(self, loss: Tensor) -> None:
        """Gradients of a loss, scaled in fp16."""
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()

    def clip_grad_norm_(self, parameters: Any, limit: float) -> Tensor:
        """Clip all gradients together and return their norm before; to be called right after ``backward``."""
        if self.scaler is not None and self._optimizer is not None:
            self.scaler.unscale_(self._optimizer)
        return torch.nn.utils.clip_grad_norm_(parameters, limit)

    def no_sync(self, model: nn.Module) -> AbstractContextManager[None]:
        """Nothing is shared anyway."""
        return nullcontext()

    def wait_for_everyone(self) -> None:
        """There is nobody else."""


class _Autocast(nn.Module):
    def __init__(self, module: nn.Module, machine: SingleProcess) -> None:
        super().__init__()
        self.module = module
        self._machine = machine

    def forward(self, x: Tensor) -> Any:
        with self._machine.autocast():
            result = self.module(x)
        return tree_map_only(Tensor, lambda y: y.float() if y.dtype in HALVES.values() else y, result)


class _Optimizer:
    """An optimiser whose steps go through the loss scaler, where there is one."""

    def __init__(self, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler | None) -> None:
        self.optimizer, self._scaler = optimizer, scaler

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return self.optimizer.param_groups

    def zero_grad(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)

    def step(self) -> None:
        if self._scaler is None:
            self.optimizer.step()
            return
        self._scaler.step(self.optimizer)
        self._scaler.update()


def _device(runtime: RuntimeConfig) -> torch.device:
    if runtime.cpu:
        return torch.device("cpu")
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
