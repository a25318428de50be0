"""Window attention between its two products: the plain reference, and an operator with Triton kernels on CUDA.

Dimension letters: B batch, H/W map height and width, C channels, K window side, N = K * K tokens of a
window, h heads, d head dimension.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hrformer.fast.triton.launch import HALVES, HAVE_TRITON, exact, switched_off
from hrformer.fast.triton.window_attention import MAX_HEAD_DIM, attention_forward
from hrformer.fast.triton.window_attention_backward import attention_backward
from hrformer.models.attention import attend_in_windows, crop_windows, pad_to_windows


def window_attention_core(
    qkv: Tensor, pad_token: Tensor, bias: Tensor | None, *, window: int, num_heads: int
) -> Tensor:
    """Attention inside non-overlapping windows, from packed queries, keys and values to the attended map.

    The map is padded, centred, to a multiple of the window with tokens that hold ``pad_token``. They are not masked:
    their keys and values take part. Half precision on a CUDA device takes the operator ``hrformer::window_attention``,
    which stores two numbers per token and head for the backward pass and computes the weights again; float32 (slow in
    Triton at full precision) and all else take the reference.

    Args:
        qkv: (B, H, W, 3C) real tokens, bias of the product included; per token query, key, value, each h x d.
        pad_token: (3C,) what a padded token holds: the bias of the product. Rounded to the dtype of ``qkv``; gets a
            gradient through padded keys and values.
        bias: (h, N, N) added to the scaled scores, any floating dtype, or None.
        window: K, in cells. ``num_heads``: h; divides C. Scores are scaled by d ** -0.5.

    Returns:
        (B, H, W, C), before the output projection.
    """
    if uses_kernel(qkv, num_heads):
        out: Tensor = window_attention_op(qkv.contiguous(), pad_token.to(qkv.dtype), bias, window, num_heads)[0]
        return out
    return window_attention_reference(qkv, pad_token, bias, window=window, num_heads=num_heads)


def uses_kernel(qkv: Tensor, num_heads: int) -> bool:
    """Whether ``window_attention_core`` takes the Triton kernels for this packed map."""
    head_dim = qkv.shape[-1] // 3 // num_heads
    return HAVE_TRITON and qkv.is_cuda and qkv.dtype in HALVES and head_dim <= MAX_HEAD_DIM


def window_attention_reference(
    qkv: Tensor, pad_token: Tensor, bias: Tensor | None, *, window: int, num_heads: int
) -> Tensor:
    """``window_attention_core`` in plain PyTorch; same arguments.

    The kernels' error from float64, output and gradients, is at most twice that of this function at the same
    precision; their tests hold them to it in the interpreter, float32 and float16.
    """
    attended = attend_in_windows(_padded(qkv, pad_token, window), bias, window, num_heads)
    return crop_windows(attended, qkv.shape[1], qkv.shape[2], window)


def _forward_plain(
    qkv: Tensor, pad_token: Tensor, bias: Tensor | None, window: int, num_heads: int
) -> tuple[Tensor, Tensor]:
    """(B, H, W, C) attended map; float32 softmax terms (windows * h * 2 * N): largest score, sum of exponentials.

    The terms are flat because a compiler would ask whether there is one window.
    """
    query, key, value = _heads(_to_windows(exact(qkv), exact(pad_token), window), num_heads)
    scores = _scores(query, key, bias)
    highest = scores.amax(-1)
    weights = (scores - highest[..., None]).exp()
    total = weights.sum(-1)
    joined = (weights @ value / total[..., None]).transpose(1, 2).flatten(2)
    out = _to_map(joined, qkv, window)
    return out.to(qkv.dtype).contiguous(), torch.stack([highest, total], 2).float().flatten()


window_attention_op = torch.library.custom_op(
    "hrformer::window_attention", _forward_plain, mutates_args=(), device_types="cpu"
)


@window_attention_op.register_kernel("cuda")
def forward_with_kernels(qkv: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
    """What ``window_attention_op`` runs on a CUDA device: the kernel, where it has this case and is on."""
    if switched_off("window_attention") or not uses_kernel(qkv, num_heads=others[-1]):
        return _forward_plain(qkv, *others)
    return attention_forward(*map(_contiguous, (qkv, *others)))


@window_attention_op.register_fake
def _forward_fake(
    qkv: Tensor, pad_token: Tensor, bias: Tensor | None, window: int, num_heads: int
) -> tuple[Tensor, Tensor]:
    batch, height, width, packed = qkv.shape
    windows = batch * -(-height // window) * -(-width // window)
    softmax = qkv.new_empty(windows * num_heads * 2 * window * window, dtype=torch.float32)
    return qkv.new_empty(batch, height, width, packed // 3), softmax


def _backward_plain(
    grad_out: Tensor, qkv: Tensor, pad_token: Tensor, bias: Tensor | None, out: Tensor, softmax: Tensor,
    window: int, num_heads: int, bias_grad: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of ``qkv``, ``pad_token`` and, where ``bias_grad``, ``bias`` (else empty)."""
    query, key, value = _heads(_to_windows(exact(qkv), exact(pad_token), window), num_heads)
    scale = query.shape[-1] ** -0.5
    zero = grad_out.new_zeros(grad_out.shape[-1])
    gradient = _heads(_to_windows(exact(grad_out), exact(zero), window), num_heads, parts=1)[0]
    weights = _scores(query, key, bias).softmax(-1)
    from_weights = gradient @ value.mT
    from_scores = weights * (from_weights - (weights * from_weights).sum(-1, keepdim=True))
    parts = torch.stack([from_scores @ key * scale, from_scores.mT @ query * scale, weights.mT @ gradient])
    packed = parts.permute(1, 3, 0, 2, 4).flatten(2)
    grad_qkv = _to_map(packed, qkv, window).to(qkv.dtype).contiguous()
    outside = _to_windows(packed.new_zeros(*qkv.shape[:3], 1), packed.new_ones(1), window)
    grad_pad = (packed * outside).sum((0, 1)).to(pad_token.dtype)
    if bias is None or not bias_grad:
        return grad_qkv, grad_pad, qkv.new_empty(0)
    return grad_qkv, grad_pad, from_scores.sum(0).to(bias.dtype)


window_attention_backward_op = torch.library.custom_op(
    "hrformer::window_attention_backward", _backward_plain, mutates_args=(), device_types="cpu"
)


@window_attention_backward_op.register_kernel("cuda")
def backward_with_kernels(
    grad_out: Tensor, qkv: Tensor, pad_token: Tensor, bias: Tensor | None, *others: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """What ``window_attention_backward_op`` runs on a CUDA device, as in the forward pass."""
    arguments = (grad_out, qkv, pad_token, bias, *others)
    if switched_off("window_attention_backward") or not uses_kernel(qkv, num_heads=others[-2]):
        return _backward_plain(*arguments)
    grad_qkv, of_padding, grad_bias = attention_backward(*map(_contiguous, arguments))
    # Queries of padded tokens are never seen.
    grad_pad = F.pad(of_padding, (0, 0, 1, 0)).flatten().to(pad_token.dtype)
    if bias is None or grad_bias is None:
        return grad_qkv, grad_pad, grad_qkv.new_empty(0)
    return grad_qkv, grad_pad, grad_bias.to(bias.dtype)


@window_attention_backward_op.register_fake
def _backward_fake(
    grad_out: Tensor, qkv: Tensor, pad_token: Tensor, bias: Tensor | None, *others: Any
) -> tuple[Tensor, Tensor, Tensor]:
    grad_bias = qkv.new_empty(0) if bias is None or not others[-1] else bias.new_empty(bias.shape)
    return qkv.new_empty(qkv.shape), pad_token.new_empty(pad_token.shape), grad_bias


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    qkv, pad_token, bias, ctx.window, ctx.num_heads = inputs
    out, softmax = output
    ctx.mark_non_differentiable(softmax)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(qkv, pad_token, bias, out, softmax)


def _backward(ctx: Any, grad_out: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad_out is None:
        return (None,) * 5
    qkv, pad_token, bias, out, softmax = ctx.saved_tensors
    bias_grad = bias is not None and ctx.needs_input_grad[2]
    grad_qkv, grad_pad, grad_bias = window_attention_backward_op(
        grad_out, qkv, pad_token, bias, out, softmax, ctx.window, ctx.num_heads, bias_grad
    )
    return grad_qkv, grad_pad, grad_bias if bias_grad else None, None, None


window_attention_op.register_autograd(_backward, setup_context=_setup_context)


def _contiguous(x: Any) -> Any:
    return x.contiguous() if isinstance(x, Tensor) else x


def _scores(query: Tensor, key: Tensor, bias: Tensor | None) -> Tensor:
    scores = query @ key.mT * query.shape[-1] ** -0.5
    return scores if bias is None else scores + bias.to(scores.dtype)


def _padded(x: Tensor, pad_token: Tensor, window: int) -> Tensor:
    """(B, H, W, X) -> (B, rows * K, cols * K, X), with ``pad_token`` (X,) in the padding."""
    inside = pad_to_windows(torch.ones(1, *x.shape[1:3], 1, dtype=torch.bool, device=x.device), window)
    return torch.where(inside, pad_to_windows(x, window), pad_token.to(x.dtype))


def _to_windows(x: Tensor, pad_token: Tensor, window: int) -> Tensor:
    """(B, H, W, X) -> (windows, N, X), with ``pad_token`` (X,) in the padding."""
    x = _padded(x, pad_token, window)
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // window, window, width // window, window, channels)
    return x.transpose(2, 3).reshape(-1, window * window, channels)


def _to_map(x: Tensor, like: Tensor, window: int) -> Tensor:
    """(windows, N, X) -> (B, H, W, X): back in place, without the padding; B, H and W as of ``like``."""
    batch, height, width, _ = like.shape
    rows, cols = (height + window - 1) // window, (width + window - 1) // window
    x = x.reshape(batch, rows, cols, window, window, x.shape[-1]).transpose(2, 3)
    return crop_windows(x.reshape(batch, rows * window, cols * window, x.shape[-1]), height, width, window)


def _heads(x: Tensor, num_heads: int, parts: int = 3) -> tuple[Tensor, ...]:
    """(windows, N, parts * C) -> ``parts`` tensors (windows, h, N, d)."""
    split = x.unflatten(-1, (parts, num_heads, x.shape[-1] // parts // num_heads))
    return split.permute(2, 0, 3, 1, 4).unbind(0)
