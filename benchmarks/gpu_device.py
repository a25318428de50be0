"""The one place of ``gpu.py`` that knows whether there is a device: what CUDA does, and what stands in for it on a CPU.

On a CPU kernels run in Triton's interpreter, a CUDA graph is a call of the model, and the profiler counts the host.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
import torch.profiler
from torch import Tensor

import memory_probe
import networks
import own_process
from hrformer.fast import coat
from hrformer.fast import optimize as optimize_module
from hrformer.fast import stages as fused
from hrformer.fast.choice import Choice
from hrformer.fast.triton import attention_op as attention
from hrformer.fast.triton import feed_forward_op
from hrformer.fast.triton.graphs import GraphedModel, Replay
from hrformer.fast.triton.launch import HAVE_TRITON
from hrformer.fast.x86 import stages as native
from hrformer.models.trunk import HRNetConfig
from hrformer.zoo import VARIANTS, hrformer_nano

SPECK, HRNET_SPECK = "hrformer_speck", "hrnet_speck"
"""The networks of ``--tiny``: every layer that the large ones have, hardly a channel."""
OPERATORS = (
    (attention.window_attention_op, attention.forward_with_kernels),
    (attention.window_attention_backward_op, attention.backward_with_kernels),
    (feed_forward_op.depthwise_stage_op, feed_forward_op.forward_with_kernels),
    (feed_forward_op.depthwise_stage_backward_op, feed_forward_op.backward_with_kernels),
)


def add_specks() -> None:
    """Let ``create_model`` build the networks of ``--tiny``, and small pictures settle them."""
    # A window of 8 covers the whole finest map: few programs, each of which takes the interpreter long.
    sizes = {"channels": (8, 16, 16, 16), "num_heads": (1, 1, 1, 2), "num_blocks": 1, "mlp_ratio": 1.0, "window": 8}
    small = replace(hrformer_nano(), **sizes)
    VARIANTS[SPECK] = lambda: small
    VARIANTS[HRNET_SPECK] = lambda: HRNetConfig(width=4)
    networks.SETTLING_SIZES = dict.fromkeys(networks.SETTLING_SIZES, (64, 64))


def interpret_kernels() -> None:
    """Take the ways of a CUDA device on this CPU: kernels for inference and training, and graphs."""
    if not HAVE_TRITON:
        raise ImportError("Triton is not installed, so that there is nothing to interpret: pip install triton")
    fused.kernel_refusal = lambda x, dtypes=None: None
    native.native_refusal = lambda x, others=(): "Triton's turn"
    coat.on_gpu = lambda x: True
    coat._trains_on_cpu = lambda part, x: False
    attention.uses_kernel = lambda qkv, num_heads: True
    feed_forward_op.depthwise_stage = _depthwise_stage
    for operator, with_kernels in OPERATORS:
        operator.register_kernel("cpu", with_kernels)


@contextmanager
def plain_training() -> Iterator[None]:
    """Training takes the plain modules, and so does what settles a network's statistics."""
    before = coat.on_gpu
    coat.on_gpu = lambda x: False
    try:
        yield
    finally:
        coat.on_gpu = before


def _depthwise_stage(u: Tensor, *given: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    vectors = (vector.float() for vector in given[:3])
    result: tuple[Tensor, Tensor, Tensor] = feed_forward_op.depthwise_stage_op(u.contiguous(), *vectors, *given[3:])
    return result


def graph_on_cpu() -> None:
    """``optimize`` takes Triton's way on this CPU, and captures calls; memory is that of this process."""
    own_process.run_script = lambda name, order: memory_probe.measure(order)
    optimize_module.chosen = lambda model, wanted: Choice(backend="triton", precision="fp32")
    GraphedModel._runs_as_it_is = lambda self, x: self.training
    GraphedModel.__init__.__kwdefaults__["capture"] = _call


def _call(model: Callable[[Tensor], Any], x: Tensor) -> Replay:
    return model


def prepare(device: torch.device, *, interpret: bool) -> None:
    """Bring this process under the conditions of a stage.

    Args:
        device: of the run.
        interpret: on a CPU, run Triton's kernels too, which takes seconds for a network.
    """
    # Float32 is compared with float32: cuDNN's 10 bits of mantissa would fail every bound.
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    if device.type == "cpu":
        graph_on_cpu()
        if interpret:
            interpret_kernels()


def is_alive(device: torch.device) -> bool:
    """Whether the device still answers; after an illegal access it never does in this process."""
    try:
        synchronize(device)
        torch.ones(1, device=device).item()
    except RuntimeError:
        return False
    return True


def synchronize(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def activities(device: torch.device) -> list[Any]:
    """What torch's profiler watches."""
    kinds = torch.profiler.ProfilerActivity
    return [kinds.CPU, kinds.CUDA] if device.type == "cuda" else [kinds.CPU]


def own_time(event: Any, device: torch.device) -> float:
    """Microseconds that a row of the profiler's averages spent on the device, without those it called."""
    return float(event.self_device_time_total if device.type == "cuda" else event.self_cpu_time_total)


def is_kernel(event: Any, device: torch.device) -> bool:
    """Whether a row is a kernel, and no operator that launched some; on a CPU operators are all there is."""
    # Ranges that torch names itself, an optimizer's step for one, span kernels that are rows of their own.
    return device.type == "cpu" or ("CUDA" in str(event.device_type) and not event.is_user_annotation)
