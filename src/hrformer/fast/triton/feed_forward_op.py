"""The convolutional feed-forward network in training on CUDA: the depthwise stage as an operator, and the whole of it.

The stage (normalise, GELU, 3x3 convolution, statistics of the result) has a plain reference and Triton kernels that
store nothing but their arguments and result. Per network, autograd keeps the input, the two hidden maps that the
products and the convolution gave, the activated map of the second product and the last map; batch norms and GELUs are
computed again in the backward pass. Dimension letters: B batch, H/W map size, C channels, E hidden channels.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from hrformer.fast.triton.depthwise import depthwise_forward
from hrformer.fast.triton.depthwise_backward import depthwise_backward
from hrformer.fast.triton.launch import HALVES, HAVE_TRITON, exact, switched_off


def depthwise_stage(
    u: Tensor, mean: Tensor, scale: Tensor, shift: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """y = conv3x3(gelu((u - mean) * scale + shift)) + bias with the mean and the biased variance of y's channels.

    The mean stands apart from the shift because a folded one, shift - mean * scale, and the gradient of the scale
    cancel badly where the mean is far above the standard deviation. For the same reason kernels keep and merge means
    and squared deviations from them rather than sums of y and y * y.

    CUDA maps in float32, float16 and bfloat16 take the operator ``hrformer::depthwise_stage``; all else the
    reference. All three results carry gradients, so batch norm over y differentiates through its statistics.

    Args:
        u: (B, H, W, C), as the first pointwise product gave it.
        mean: (C,) of u. ``scale``: (C,) batch norm's weight / standard deviation. ``shift``: (C,) its bias.
        weight: (C, 1, 3, 3) and ``bias``: (C,) of the convolution. Zero padding comes after the GELU.

    Returns:
        y: (B, H, W, C) in the dtype of ``u``. Mean and variance: (C,), float32 (float64 if ``u`` is).
    """
    if HAVE_TRITON and u.is_cuda and u.dtype in (torch.float32, *HALVES):
        vectors = (vector.float() for vector in (mean, scale, shift))
        y, y_mean, y_variance = depthwise_stage_op(u.contiguous(), *vectors, weight, bias)
        return y, y_mean, y_variance
    return depthwise_stage_reference(u, mean, scale, shift, weight, bias)


def depthwise_stage_reference(
    u: Tensor, mean: Tensor, scale: Tensor, shift: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """``depthwise_stage`` in plain PyTorch; half precision is computed in float32 and rounded once."""
    hidden = F.gelu((exact(u) - mean) * scale + shift).permute(0, 3, 1, 2)
    y = F.conv2d(hidden, weight.to(hidden.dtype), bias.to(hidden.dtype), padding=1, groups=u.shape[-1])
    y = y.permute(0, 2, 3, 1).to(u.dtype).contiguous()
    return y, *channel_moments_reference(y)


def channel_moments_reference(x: Tensor) -> tuple[Tensor, Tensor]:
    """(C,) mean and biased variance of a map (B, H, W, C), float32 for half precision; 0 of an empty one."""
    values = exact(x).flatten(0, 2)
    if values.shape[0] == 0:
        return values.sum(0), values.sum(0)
    variance, mean = torch.var_mean(values, 0, correction=0)
    return mean, variance


depthwise_stage_op = torch.library.custom_op(
    "hrformer::depthwise_stage", depthwise_stage_reference, mutates_args=(), device_types="cpu"
)


@depthwise_stage_op.register_kernel("cuda")
def forward_with_kernels(*arguments: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What ``depthwise_stage_op`` runs on a CUDA device: the kernel, unless it is switched off."""
    if switched_off("depthwise"):
        return depthwise_stage_reference(*arguments)
    return depthwise_forward(*(tensor.contiguous() for tensor in arguments))


@depthwise_stage_op.register_fake
def _forward_fake(u: Tensor, mean: Tensor, *others: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return u.new_empty(u.shape), mean.new_empty(mean.shape), mean.new_empty(mean.shape)


def _backward_plain(
    grad_y: Tensor, grad_mean: Tensor, grad_variance: Tensor, y: Tensor, y_mean: Tensor,
    u: Tensor, mean: Tensor, scale: Tensor, shift: Tensor, weight: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of ``u``, ``scale``, ``shift`` (which gives that of ``mean``), ``weight`` and ``bias``, on the CPU."""
    cells = max(1, u.shape[0] * u.shape[1] * u.shape[2])
    gradient = exact(grad_y) + grad_mean / cells + grad_variance * (2 / cells) * (exact(y) - y_mean)
    centred = exact(u) - mean
    normalised = centred * scale + shift
    hidden = F.gelu(normalised)
    grad_hidden, grad_weight, grad_bias = torch.ops.aten.convolution_backward(
        gradient.permute(0, 3, 1, 2), hidden.permute(0, 3, 1, 2), weight.to(hidden.dtype), [u.shape[-1]],
        [1, 1], [1, 1], [1, 1], False, [0, 0], u.shape[-1], [True, True, True],
    )  # fmt: skip
    back = torch.ops.aten.gelu_backward(grad_hidden.permute(0, 2, 3, 1), normalised)
    sums = (back * centred).sum((0, 1, 2)), back.sum((0, 1, 2))
    return (back * scale).to(u.dtype).contiguous(), *sums, grad_weight.to(weight.dtype), grad_bias.to(weight.dtype)


depthwise_stage_backward_op = torch.library.custom_op(
    "hrformer::depthwise_stage_backward", _backward_plain, mutates_args=(), device_types="cpu"
)


@depthwise_stage_backward_op.register_kernel("cuda")
def backward_with_kernels(*arguments: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """What ``depthwise_stage_backward_op`` runs on a CUDA device: the kernel, unless it is switched off."""
    if switched_off("depthwise_backward"):
        return _backward_plain(*arguments)
    grad_u, grad_scale, grad_shift, *others = depthwise_backward(*(tensor.contiguous() for tensor in arguments))
    kernel, bias = (grad.to(arguments[-1].dtype) for grad in others)
    return grad_u, grad_scale.clone(), grad_shift.clone(), kernel.contiguous(), bias.clone()


@depthwise_stage_backward_op.register_fake
def _backward_fake(*arguments: Tensor) -> tuple[Tensor, ...]:
    u, _, scale, shift, weight = arguments[5:]
    bias = weight.new_empty(weight.shape[0])
    return *(x.new_empty(x.shape) for x in (u, scale, shift, weight)), bias


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    u, mean, scale, shift, weight, bias = inputs
    ctx.bias_dtype = bias.dtype
    ctx.save_for_backward(output[0], output[1], u, mean, scale, shift, weight)


def _backward(ctx: Any, grad_y: Tensor, grad_mean: Tensor, grad_variance: Tensor) -> tuple[Tensor, ...]:
    saved = ctx.saved_tensors
    grads = depthwise_stage_backward_op(grad_y, grad_mean, grad_variance, *saved)
    grad_u, grad_scale, grad_shift, grad_weight, grad_bias = grads
    return grad_u, -grad_shift * saved[4], grad_scale, grad_shift, grad_weight, grad_bias.to(ctx.bias_dtype)


depthwise_stage_op.register_autograd(_backward, setup_context=_setup_context)


class BatchNormState(NamedTuple):
    """Parameters and running statistics (C,) of a batch norm in training; the latter may be None, else are moved."""

    weight: Tensor
    bias: Tensor
    running_mean: Tensor | None
    running_var: Tensor | None
    momentum: float
    eps: float


def batch_normaliser(moments: tuple[Tensor, Tensor], count: int, norm: BatchNormState) -> tuple[Tensor, Tensor, Tensor]:
    """(C,) mean, scale and shift of a batch norm, from mean and biased variance of a batch of ``count`` cells.

    Moves the running statistics towards those of the batch, variance unbiased, as torch does.
    """
    mean, variance = moments
    if norm.running_mean is not None and norm.running_var is not None:
        with torch.no_grad():
            unbiased = variance * (count / max(1, count - 1))
            norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), norm.momentum)
            norm.running_var.lerp_(unbiased.to(norm.running_var.dtype), norm.momentum)
    return mean, norm.weight * (variance + norm.eps).rsqrt(), norm.bias


def conv_ffn_training(
    x: Tensor, fc1: tuple[Tensor, Tensor], norm1: BatchNormState, depthwise: tuple[Tensor, Tensor],
    norm2: BatchNormState, fc2: tuple[Tensor, Tensor], norm3: BatchNormState,
) -> Tensor:  # fmt: skip
    """1x1, BN, GELU, depthwise 3x3, BN, GELU, 1x1, BN, GELU with the statistics of the batch.

    Products run in the precision that autocast asks for, normalisation and statistics in float32.

    Args:
        x: (B, H, W, C) with more than one cell in all.
        fc1: weight (E, C) and bias (E,). ``depthwise``: (E, 1, 3, 3) and (E,). ``fc2``: (C, E) and (C,).
        norm1: over E, as is ``norm2``; ``norm3``: over C. Counting batches is left to the caller.

    Returns:
        (B, H, W, C). Differentiable once.
    """
    count = x.shape[0] * x.shape[1] * x.shape[2]
    u = F.linear(x, *fc1)
    y, mean, variance = depthwise_stage(u, *batch_normaliser(_Moments.apply(u), count, norm1), *depthwise)
    v = F.linear(_NormGelu.apply(y, *batch_normaliser((mean, variance), count, norm2)), *fc2)
    out: Tensor = _NormGelu.apply(v, *batch_normaliser(_Moments.apply(v), count, norm3))
    return out


class _Moments(torch.autograd.Function):
    """Mean and biased variance of the channels, keeping the map as it is instead of a float32 copy."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, variance = channel_moments_reference(x)
        ctx.save_for_backward(x, mean)
        return mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_mean: Tensor, grad_variance: Tensor) -> Tensor:
        x, mean = ctx.saved_tensors
        count = x.numel() // x.shape[-1]
        grad: Tensor = grad_mean / count + grad_variance * (2 / count) * (x - mean)
        return grad.to(x.dtype)


class _NormGelu(torch.autograd.Function):
    """gelu((x - mean) * scale + shift) in the dtype of x, keeping x alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, mean: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        ctx.save_for_backward(x, mean, scale, shift)
        return F.gelu((x - mean) * scale + shift).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        x, mean, scale, shift = ctx.saved_tensors
        centred = x - mean
        back = torch.ops.aten.gelu_backward(grad.to(centred.dtype), centred * scale + shift)
        of_shift = back.flatten(0, 2).sum(0)
        of_scale = (back * centred).flatten(0, 2).sum(0)
        return (back * scale).to(x.dtype), -of_shift * scale, of_scale, of_shift
