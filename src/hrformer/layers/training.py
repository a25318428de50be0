"""When a block in training on the CPU may run as one operation with its own backward pass, and that operation.

Only unchanged modules with the settings and the tensors that the operation has qualify, see
``hrformer.layers.unchanged``; a mode that watches operations would be passed over too. Anything of that kind takes the
plain modules, whose result or error it is.
"""

from __future__ import annotations

from typing import Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from hrformer.layers.attention import WindowAttention, kernels_train
from hrformer.layers.unchanged import has_hooks, is_plain_linear, is_unchanged
from hrformer.native.refusal import is_in_memory
from hrformer.ops.conv_ffn import BatchNormState, conv_ffn_training
from hrformer.ops.feed_forward import FeedForwardWeights, Running, feed_forward_training
from hrformer.ops.normalisation import RunningStatistics
from hrformer.ops.window_training import AttentionWeights, window_attention_training

DTYPES = (torch.float32, torch.float64)

NUMBER = (int, float)
"""Types of settings; a tensor is also a setting of torch's, which operations with one structure cannot take."""


class FeedForward(Protocol):
    """The layers of ``hrformer.layers.blocks.ConvFFN``, which is built on this module."""

    training: bool
    fc1: nn.Conv2d
    norm1: nn.BatchNorm2d
    dw3x3: nn.Conv2d
    norm2: nn.BatchNorm2d
    fc2: nn.Conv2d
    norm3: nn.BatchNorm2d
    act: nn.GELU


def attention_applies(x: Tensor, norm: nn.LayerNorm, attn: WindowAttention) -> bool:
    """Whether :func:`normed_attention` may stand in for ``attn(norm(x))``."""
    return (
        attn.training
        and _plainly_trained(x)
        and is_unchanged(attn, WindowAttention)
        and _has_bias_table(attn, x)
        and _is_layer_norm(norm, x, x.shape[-1])
        and _is_linear(attn.qkv, x, 3 * x.shape[-1])
        and _is_linear(attn.proj, x, x.shape[-1])
    )


def normed_attention(x: Tensor, norm: nn.LayerNorm, attn: WindowAttention) -> Tensor:
    """``attn(norm(x))`` of (B, H, W, C) tokens, storing less and in fewer passes."""
    parameters = (norm.weight, norm.bias, attn.qkv.weight, attn.qkv.bias, attn.proj.weight, attn.proj.bias)
    weights = AttentionWeights(*parameters, attn.gathered_bias())
    return window_attention_training(x, weights, window=attn.window, num_heads=attn.num_heads, layer_eps=norm.eps)


def feed_forward_applies(x: Tensor, norm: nn.LayerNorm | None, ffn: FeedForward) -> bool:
    """Whether :func:`normed_feed_forward` may stand in for ``ffn(norm(x))``.

    Args:
        x: (B, C, H, W). One cell in all has no variance; batch norm says so itself.
        norm: layer norm over C, or None.
        ffn: the network.
    """
    return (
        ffn.training
        and _plainly_trained(x)
        and x.numel() > x.shape[1]
        and (norm is None or _is_layer_norm(norm, x, x.shape[1]))
        and _is_feed_forward(ffn, x, x.dtype)
    )


def normed_feed_forward(x: Tensor, norm: nn.LayerNorm | None, ffn: FeedForward) -> Tensor:
    """``ffn(norm(x))`` of a map (B, C, H, W), storing less; counts the batch in the running statistics."""
    layer = (None, None) if norm is None else (norm.weight, norm.bias)
    pairs = (ffn.fc1, ffn.norm1, ffn.dw3x3, ffn.norm2, ffn.fc2, ffn.norm3)
    weights = FeedForwardWeights(*layer, *(p for m in pairs for p in (m.weight, m.bias)))
    running: Running = (_running(ffn.norm1), _running(ffn.norm2), _running(ffn.norm3))
    return feed_forward_training(x, weights, running, 0.0 if norm is None else norm.eps)


def depthwise_stage_applies(x: Tensor, ffn: FeedForward) -> bool:
    """Whether :func:`staged_feed_forward` may stand in for ``ffn(x)``: on a GPU, in training, plain batch norms."""
    return (
        ffn.training
        and kernels_train(x)
        and not torch.jit.is_tracing()
        and x.numel() > x.shape[1]
        and not _has_any_global_hook()
        and _is_feed_forward(ffn, x, None)
    )


def staged_feed_forward(x: Tensor, ffn: FeedForward) -> Tensor:
    """``ffn(x)`` of a map (B, C, H, W) through the fused depthwise stage; counts the batch as ``ffn`` does."""
    y = conv_ffn_training(
        x.permute(0, 2, 3, 1).contiguous(),
        (ffn.fc1.weight.flatten(1), cast(Tensor, ffn.fc1.bias)),
        _batch_norm_state(ffn.norm1),
        (ffn.dw3x3.weight, cast(Tensor, ffn.dw3x3.bias)),
        _batch_norm_state(ffn.norm2),
        (ffn.fc2.weight.flatten(1), cast(Tensor, ffn.fc2.bias)),
        _batch_norm_state(ffn.norm3),
    )
    return y.permute(0, 3, 1, 2)


def _batch_norm_state(norm: nn.BatchNorm2d) -> BatchNormState:
    """A batch norm's parameters and statistics, after counting the batch."""
    _count_batch(norm)
    assert norm.momentum is not None
    return BatchNormState(norm.weight, norm.bias, norm.running_mean, norm.running_var, norm.momentum, norm.eps)


def _count_batch(norm: nn.BatchNorm2d) -> None:
    """As the module itself does; recomputation takes the counter away for a while."""
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)


def _running(norm: nn.BatchNorm2d) -> RunningStatistics:
    """The statistics to move, after counting the batch."""
    _count_batch(norm)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.momentum is not None
    return RunningStatistics(norm.running_mean, norm.running_var, norm.momentum, norm.eps)


def _plainly_trained(x: Tensor) -> bool:
    """An ordinary tensor on the CPU, of exact precision, recorded by autograd and by nothing else."""
    if (
        torch.compiler.is_compiling() or torch.jit.is_tracing()
    ):  # before the size is asked for: a traced size is a tensor
        return False
    return (
        type(x) in (Tensor, nn.Parameter)
        and x.device.type == "cpu"
        and x.dtype in DTYPES
        and x.ndim == 4
        and x.numel() > 0
        and is_in_memory(x)
        and torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and torch._C._len_torch_dispatch_stack() == 0
        and not torch._C._are_functorch_transforms_active()
        and not _has_any_global_hook()
    )


def _holds(module: nn.Module, x: Tensor, dtype: torch.dtype, **shapes: tuple[int, ...]) -> bool:
    """Whether a module has these tensors, of one dtype, where the map is."""
    there = {**module._parameters, **module._buffers}
    return all(_is_ordinary(there.get(name), shape, dtype, x.device) for name, shape in shapes.items())


def _is_ordinary(tensor: Tensor | None, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> bool:
    return (
        tensor is not None
        and type(tensor) in (Tensor, nn.Parameter)
        and tensor.shape == shape
        and tensor.dtype == dtype
        and tensor.device == device
        and is_in_memory(tensor)
    )


def _is_feed_forward(ffn: FeedForward, x: Tensor, dtype: torch.dtype | None) -> bool:
    """The plain modules with exact GELU and batch norms of the batch, of this or of any one dtype."""
    if has_hooks(cast(nn.Module, ffn)) or type(ffn.fc1) is not nn.Conv2d:
        return False
    channels, hidden, dtype = x.shape[1], ffn.fc1.out_channels, dtype or ffn.fc1.weight.dtype
    convolutions = (
        (ffn.fc1, (hidden, channels, 1, 1), 1),
        (ffn.dw3x3, (hidden, 1, 3, 3), hidden),
        (ffn.fc2, (channels, hidden, 1, 1), 1),
    )
    norms = ((ffn.norm1, hidden), (ffn.norm2, hidden), (ffn.norm3, channels))
    return (
        is_unchanged(ffn.act, nn.GELU)
        and ffn.act.approximate == "none"
        and all(_is_convolution(m, x, dtype, shape, groups) for m, shape, groups in convolutions)
        and all(_is_batch_norm(m, x, dtype, count) for m, count in norms)
    )


def _has_bias_table(attn: WindowAttention, x: Tensor) -> bool:
    """Whether there is a bias for every head and pair of a window's tokens, or none."""
    heads, window = attn.num_heads, attn.window
    if type(heads) is not int or type(window) is not int or heads < 1 or x.shape[-1] % heads:
        return False
    index = attn._buffers.get("relative_position_index")
    return not attn.position_bias or (
        _holds(attn, x, x.dtype, relative_position_bias_table=((2 * window - 1) ** 2, heads))
        and _is_ordinary(index, (window**4,), torch.int64, x.device)
    )


def _is_linear(module: nn.Linear, x: Tensor, out_features: int) -> bool:
    shape = (out_features, x.shape[-1])
    return is_plain_linear(module) and _holds(module, x, x.dtype, weight=shape, bias=shape[:1])


def _is_convolution(module: nn.Conv2d, x: Tensor, dtype: torch.dtype, shape: tuple[int, ...], groups: int) -> bool:
    """With a bias, keeping the size by zeros at the border."""
    return (
        is_unchanged(module, nn.Conv2d)
        and _holds(module, x, dtype, weight=shape, bias=shape[:1])
        and module.groups == groups
        and module.stride == module.dilation == (1, 1)
        and module.padding == (shape[-2] // 2, shape[-1] // 2)
        and module.padding_mode == "zeros"
    )


def _is_layer_norm(module: nn.LayerNorm, x: Tensor, channels: int) -> bool:
    shape = (channels,)
    return (
        is_unchanged(module, nn.LayerNorm)
        and module.normalized_shape == shape
        and isinstance(module.eps, NUMBER)
        and _holds(module, x, x.dtype, weight=shape, bias=shape)
    )


def _is_batch_norm(module: nn.BatchNorm2d, x: Tensor, dtype: torch.dtype, channels: int) -> bool:
    """With statistics of the batch, which it keeps by a fixed momentum, and parameters."""
    shape = (channels,)
    return (
        is_unchanged(module, nn.BatchNorm2d)
        and module.training
        and module.track_running_stats
        and module.num_features == channels
        and isinstance(module.momentum, NUMBER)
        and isinstance(module.eps, NUMBER)
        and _holds(module, x, dtype, weight=shape, bias=shape, running_mean=shape, running_var=shape)
    )
