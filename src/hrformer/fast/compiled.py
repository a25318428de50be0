"""What a graph compiled by ``torch.compile`` for open sizes needs, so that it holds for all sizes.

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
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from hrformer.models.fusion import upsample_to


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
    one = x.device.type == "cpu" and x.dim() == 4 and _surely(x.shape[0] == 1)
    return _AskNoSize() if one and not (_is_fixed(x.shape[2]) and _is_fixed(x.shape[3])) else nullcontext()


def compiled_for_any_size(x: Tensor) -> bool:
    """Whether a graph is compiled in which height or width of this (B, H, W, C) map stays open.

    Splitting an open size into windows asks whether there is one window or more, and whether any cell is padded: the
    graph would then hold for the answers found, and every other size would compile again. The operator of window
    attention asks nothing. Exported graphs hold plain operations alone.
    """
    if not torch.compiler.is_compiling() or torch.compiler.is_exporting():
        return False
    return x.device.type in ("cpu", "cuda") and not (_is_fixed(x.shape[1]) and _is_fixed(x.shape[2]))


def upsample_sooner(x: Tensor, factor: int, size: tuple[int, int], mode: str) -> Tensor:
    """``upsample_to`` without its second step where the first gives the size; in a graph for open sizes, always gives.

    Asking for the sizes at hand would tie the graph to them.
    """
    grown = (x.shape[-2] * factor, x.shape[-1] * factor)
    if mode in ("nearest", "bilinear") and _surely(grown[0] == size[0]) and _surely(grown[1] == size[1]):
        return F.interpolate(x, size=grown, mode=mode, align_corners=None if mode == "nearest" else False)
    return upsample_to(x, factor, size, mode)


def _surely(condition: Any) -> bool:
    """Whether a condition on sizes holds; in a graph that is compiled, whether it always does."""
    if not torch.compiler.is_compiling():
        return bool(condition)
    from torch.fx.experimental.symbolic_shapes import statically_known_true

    return statically_known_true(condition)


def _is_fixed(size: int) -> bool:
    from torch.fx.experimental.symbolic_shapes import has_static_value

    return has_static_value(size)
