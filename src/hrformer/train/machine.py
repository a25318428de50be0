"""The processes and devices of a run: accelerate does the work, this names what the loop needs of it.

Without accelerate one process trains all the same, see ``train.single``.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
import torch.distributed as dist
from timm.utils import ModelEmaV3
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict

from hrformer.models.model import VisionModel
from hrformer.train.config import LogConfig, RuntimeConfig
from hrformer.train.single import SingleProcess

_WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


class Machine:
    """One process of a run; all of them make one, with the same arguments.

    How many there are is decided by the launcher, ``torchrun`` or ``accelerate launch``; FSDP by the latter.

    Args:
        runtime: precision and device.
        log: which trackers accelerate should start.
        out: run directory.

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

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(self.accelerator, SingleProcess):
            return
        if self.world_size == 1:
            # accelerate keeps one state per process for ever; the next run here may want another precision.
            from accelerate.state import AcceleratorState

            AcceleratorState._reset_state(reset_partial_state=True)
        elif dist.is_initialized() and error is None:
            dist.destroy_process_group()

    @property
    def on_cpu(self) -> bool:
        """Whether the run computes on the CPU, where looking at a value waits for no device."""
        return self.device.type == "cpu"

    def average_of(self, model: VisionModel, decay: float) -> ModelEmaV3 | None:
        """Moving average of the weights, or None for decay 0.

        Raises:
            ValueError: the parameters are split over the processes.
        """
        if decay <= 0:
            return None
        if self.sharded:
            raise ValueError("ema_decay: an average of the weights needs whole parameters; use DDP or set it to 0")
        # Short runs would otherwise end near the weights they began with.
        return ModelEmaV3(model, decay=decay, use_warmup=True)

    def prepare(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[Any, Any]:
        """Wrap both for the processes and the precision."""
        prepared = self.accelerator.prepare(model, optimizer)
        return prepared[0], prepared[1]

    def unwrap(self, model: Any) -> Any:
        """The model inside DDP; FSDP's stays wrapped, since only the wrapper can be called."""
        return model if self.sharded else self.accelerator.unwrap_model(model, keep_torch_compile=False)

    def autocast(self) -> Any:
        """Context of the run's precision."""
        return self.accelerator.autocast()

    def wait(self) -> None:
        """Until all processes are here."""
        self.accelerator.wait_for_everyone()

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
            set_state_dict(
                model, optimizer.optimizer, model_state_dict=weights, optim_state_dict=moments, options=_WHOLE
            )
            return
        self.unwrap(model).load_state_dict(weights)
        optimizer.optimizer.load_state_dict(moments)

    def scaler_state(self) -> dict[str, Any] | None:
        """State of fp16's loss scaler, if there is one."""
        scaler = self.accelerator.scaler
        return None if scaler is None else scaler.state_dict()

    def load_scaler_state(self, state: dict[str, Any] | None) -> None:
        """Put back what :meth:`scaler_state` gave."""
        if state is not None and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state)


def _accelerator(runtime: RuntimeConfig, log: LogConfig, out: Path) -> Any:
    """accelerate's, or what stands in for it."""
    try:
        from accelerate import Accelerator
        from accelerate.utils import DistributedDataParallelKwargs, ProjectConfiguration
    except ImportError:
        return SingleProcess(runtime, log)
    # Batch norms that are not shared stay apart between validations, as in the published ImageNet runs.
    ddp = DistributedDataParallelKwargs(broadcast_buffers=runtime.sync_bn, gradient_as_bucket_view=True)
    launched = int(os.environ.get("WORLD_SIZE", "1"))
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


def find_batch_size(share: int, probe: Callable[[int], object], device: torch.device) -> int:
    """Largest part of a process's share of the batch that fits into the GPU's memory.

    Args:
        share: items that the process must work off per update.
        probe: runs a training step with so many items.
        device: elsewhere than on a GPU everything is taken at once.

    Returns:
        A divisor of ``share``.

    Raises:
        ValueError: not even one item fits.
    """
    if device.type != "cuda":
        return share
    for size in sorted((size for size in range(1, share + 1) if share % size == 0), reverse=True):
        try:
            probe(size)
            return size
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
    raise ValueError(
        "not even one sample fits into the GPU's memory: take a smaller --augment.size, "
        "--runtime.gradient-checkpointing, or a smaller model"
    )


class BuffersKept:
    """Context in which a model's buffers may change; afterwards they are as before."""

    def __init__(self, model: nn.Module) -> None:
        self._kept = [(buffer, buffer.clone()) for buffer in model.buffers()]

    def __enter__(self) -> BuffersKept:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with torch.no_grad():
            for buffer, value in self._kept:
                buffer.copy_(value)
