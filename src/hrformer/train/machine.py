"""The processes and devices of a run: accelerate does the work, this names what the loop needs of it.

Without accelerate one process trains all the same, with the same results.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.utils._pytree import tree_map

from hrformer.train.config import LogConfig, RuntimeConfig

_WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


class Machine:
    """One process of a run; all of them make one, with the same arguments.

    How many there are is decided by the launcher, ``torchrun`` or ``accelerate launch``; FSDP by the latter.

    Args:
        runtime: precision and device.
        log: which trackers accelerate should start.
        out: run folder.

    Raises:
        ImportError: accelerate is not installed, and there are several processes or trackers.
        ValueError: the precision is not possible on this machine.
    """

    def __init__(self, runtime: RuntimeConfig, log: LogConfig, out: Path) -> None:
        if runtime.threads:
            torch.set_num_threads(runtime.threads)
        # Kernels of depthwise convolutions have one channel, for which both strides name the same memory.
        warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
        self.accelerator: Any = _accelerator(runtime, log, out)
        self.device: torch.device = self.accelerator.device
        self.rank: int = self.accelerator.process_index
        self.world_size: int = self.accelerator.num_processes
        self.main: bool = self.accelerator.is_main_process
        self.sharded = "FSDP" in str(self.accelerator.distributed_type)
        self._shared_buffers = runtime.sync_bn

    def __enter__(self) -> Machine:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if isinstance(self.accelerator, SingleProcess):
            return
        if self.world_size == 1:
            # accelerate keeps one state per process for ever; the next run here may want another precision.
            from accelerate.state import AcceleratorState

            AcceleratorState._reset_state(reset_partial_state=True)
        elif dist.is_initialized() and error is None:
            dist.destroy_process_group()

    def unwrap(self, model: Any) -> Any:
        """The model inside DDP; FSDP's stays wrapped, since only the wrapper can be called."""
        return model if self.sharded else self.accelerator.unwrap_model(model, keep_torch_compile=False)

    def forward(self, model: Any, images: Tensor) -> Any:
        """Output of the model in the run's precision, as float32."""
        with self.accelerator.autocast():
            output = model(images)
        return tree_map(Tensor.float, output)

    @torch.no_grad()
    def share_buffers(self, model: nn.Module) -> None:
        """Give all processes the buffers of the first, where batch norms are not shared."""
        if self.world_size > 1 and not self._shared_buffers:
            for buffer in model.buffers():
                dist.broadcast(buffer, src=0)

    def state_dicts(self, model: Any, optimizer: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Whole state of model and optimiser; every process must ask."""
        if self.sharded:
            return get_state_dict(model, optimizer.optimizer, options=_WHOLE)
        return self.unwrap(model).state_dict(), optimizer.optimizer.state_dict()

    def load_state_dicts(self, model: Any, optimizer: Any, weights: dict[str, Any], moments: dict[str, Any]) -> None:
        """Put back what :meth:`state_dicts` gave."""
        if self.sharded:
            states = {"model_state_dict": weights, "optim_state_dict": moments}
            set_state_dict(model, optimizer.optimizer, **states, options=_WHOLE)
        else:
            self.unwrap(model).load_state_dict(weights)
            optimizer.optimizer.load_state_dict(moments)


def _accelerator(runtime: RuntimeConfig, log: LogConfig, out: Path) -> Any:
    """accelerate's, or what stands in for it."""
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    try:
        from accelerate import Accelerator
        from accelerate.utils import DistributedDataParallelKwargs, ProjectConfiguration
    except ImportError as error:
        if log.trackers or launched > 1:
            raise ImportError(
                "training in several processes or with trackers needs accelerate: pip install 'hrformer[train]'; one "
                "process without trackers (log.trackers empty) does without it"
            ) from error
        return SingleProcess(runtime)
    # Batch norms that are not shared stay apart between validations, as in the published ImageNet runs.
    ddp = DistributedDataParallelKwargs(broadcast_buffers=runtime.sync_bn, gradient_as_bucket_view=True)
    # Left to itself, accelerate forms no group without GPUs, and every process would be a run of its own.
    no_gpu = launched > 1 and not torch.cuda.is_available() and not torch.xpu.is_available()
    accelerator = Accelerator(
        mixed_precision="no" if runtime.precision == "fp32" else runtime.precision,
        cpu=runtime.cpu or no_gpu,
        log_with=list(log.trackers) or None,
        project_config=ProjectConfiguration(project_dir=str(out), logging_dir=str(out / "tensorboard")),
        kwargs_handlers=[ddp],
    )
    if accelerator.num_processes != launched:
        raise ValueError(
            f"{launched} processes were started, but they form groups of {accelerator.num_processes}: each would be a "
            "run of its own in the same folder. Start one process, or give each its GPU, or all --runtime.cpu"
        )
    return accelerator


class SingleProcess:
    """Stands in for ``accelerate.Accelerator`` where that is not installed: what one process without trackers calls.

    Raises:
        ValueError: the precision is not possible on this machine.
    """

    process_index, num_processes, is_main_process, distributed_type = 0, 1, True, "NO"

    def __init__(self, runtime: RuntimeConfig) -> None:
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        self.device = torch.device("cpu" if runtime.cpu else device)
        self._half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(runtime.precision)
        if runtime.precision == "fp16" and self.device.type == "cpu":
            raise ValueError("runtime.precision fp16 needs a GPU; take bf16 or fp32")
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=runtime.precision == "fp16")

    def prepare(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[nn.Module, _ScaledOptimizer]:
        """The optimiser behind the loss scaler, which changes something in fp16 only."""
        self._optimizer = optimizer
        return model, _ScaledOptimizer(optimizer, self.scaler)

    def unwrap_model(self, model: nn.Module, **_: Any) -> nn.Module:
        return model

    def autocast(self) -> AbstractContextManager[Any]:
        return nullcontext() if self._half is None else torch.autocast(self.device.type, self._half)

    def backward(self, loss: Tensor) -> None:
        self.scaler.scale(loss).backward()

    def clip_grad_norm_(self, parameters: Any, limit: float) -> Tensor:
        """Clip all gradients together and return their norm before; to be called right after ``backward``."""
        self.scaler.unscale_(self._optimizer)
        return torch.nn.utils.clip_grad_norm_(parameters, limit)

    def no_sync(self, model: nn.Module) -> AbstractContextManager[None]:
        return nullcontext()

    def wait_for_everyone(self) -> None:
        """There is nobody else."""


class _ScaledOptimizer:
    def __init__(self, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler) -> None:
        self.optimizer, self._scaler = optimizer, scaler
        self.zero_grad = optimizer.zero_grad

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return self.optimizer.param_groups

    def step(self) -> None:
        self._scaler.step(self.optimizer)
        self._scaler.update()


def find_batch_size(share: int, probe: Callable[[int], object], device: torch.device) -> int:
    """Largest divisor of a process's share of the batch that fits into the GPU's memory; elsewhere all of it.

    Args:
        share: items that the process must work off per update.
        probe: runs a training step with so many items.
        device: of the process.

    Raises:
        ValueError: not even one item fits.
    """
    if device.type != "cuda":
        return share
    for size in (size for size in range(share, 0, -1) if share % size == 0):
        try:
            probe(size)
            return size
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
    raise ValueError(
        "not even one sample fits into the GPU's memory: take a smaller --augment.size, "
        "--runtime.gradient-checkpointing, or a smaller model"
    )
