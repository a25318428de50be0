"""Convolutions of one picture in a graph compiled for open sizes: an operator that asks no open size for its value.

PyTorch chooses how the CPU convolves one float32 picture by whether it holds more than 20,480 numbers, and its compiler
makes that choice part of the graph: every further map that falls on the other side compiles the network again, for a
choice that changes nothing in the graph. The operator makes the choice when it runs.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.symbolic_shapes import has_static_value, statically_known_true
from torch.overrides import TorchFunctionMode


def _convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: list[int], padding: list[int], dilation: list[int]
) -> Tensor:
    """(1, C, H, W) -> (1, C', H', W'), channels last."""
    out = torch.conv2d(x, weight, bias, stride, padding, dilation)
    return out.contiguous(memory_format=torch.channels_last)


convolution_op = torch.library.custom_op("hrformer::convolution", _convolve, mutates_args=(), device_types="cpu")


@convolution_op.register_fake
def _convolve_fake(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: list[int], padding: list[int], dilation: list[int]
) -> Tensor:
    height, width = (
        (x.shape[2 + i] + 2 * padding[i] - dilation[i] * (weight.shape[2 + i] - 1) - 1) // stride[i] + 1 for i in (0, 1)
    )
    size = (x.shape[0], weight.shape[0], height, width)
    return torch.empty(size, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


@torch.library.custom_op("hrformer::convolution_backward", mutates_args=(), device_types="cpu")
def convolution_backward_op(
    grad: Tensor, x: Tensor, weight: Tensor, stride: list[int], padding: list[int], dilation: list[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of map, weight and bias."""
    grads = torch.ops.aten.convolution_backward(
        grad, x, weight, [weight.shape[0]], stride, padding, dilation, False, [0, 0], 1, [True, True, True]
    )
    return grads[0].contiguous(memory_format=torch.channels_last), grads[1].contiguous(), grads[2]


@convolution_backward_op.register_fake
def _backward_fake(
    grad: Tensor, x: Tensor, weight: Tensor, stride: list[int], padding: list[int], dilation: list[int]
) -> tuple[Tensor, Tensor, Tensor]:
    grad_x = torch.empty(x.shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    return grad_x, weight.new_empty(weight.shape), weight.new_empty(weight.shape[0])


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, bias, *ctx.settings = inputs
    ctx.has_bias = bias is not None
    ctx.save_for_backward(x, weight)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    grads = convolution_backward_op(grad, *ctx.saved_tensors, *ctx.settings)
    return grads[0], grads[1], grads[2] if ctx.has_bias else None, None, None, None


convolution_op.register_autograd(_backward, setup_context=_keep)


class _AskNoSize(TorchFunctionMode):
    """Convolutions whose choice depends on the size become the operator; all else stays."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.conv2d and not kwargs and _depends_on_size(*args):
            return convolution_op(*args[:6])
        return func(*args, **(kwargs or {}))


def _depends_on_size(x: Tensor, weight: Tensor, bias: Any = None, *settings: Any) -> bool:
    """Whether this is a layer's convolution of all channels; depthwise ones and half precision ask no size."""
    if len(settings) != 4 or not all(isinstance(pair, tuple) for pair in settings[:3]):
        return False
    return settings[3] == 1 and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")


def convolutions_for_any_size(x: Tensor) -> AbstractContextManager[Any]:
    """Where these (1, C, H, W) pictures are traced with open sizes on a CPU: their convolutions ask no size.

    Elsewhere nothing changes, exported graphs included.
    """
    if not torch.compiler.is_compiling() or torch.compiler.is_exporting():
        return nullcontext()
    one = x.device.type == "cpu" and x.dim() == 4 and statically_known_true(x.shape[0] == 1)
    fixed = has_static_value(x.shape[2]) and has_static_value(x.shape[3])
    return _AskNoSize() if one and not fixed else nullcontext()
