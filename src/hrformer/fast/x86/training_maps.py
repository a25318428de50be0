"""What lies between convolutions and between branches, in training on x86 processors: compiled kernels as autograd
functions.

Plain autograd reads a map five times for a batch norm with ReLU and its gradient eight times; the kernels read it twice
and three times. The plain modules of ``hrformer.models`` are the reference.

Dimension letters: B batch, C channels, H and W size of the map. Maps are (B, C, H, W) in channels-last memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hrformer.fast.x86.structures import filled_count
from hrformer.fast.x86.training import RunningStatistics, half_kernels, in_order, kernels

MAX_TERMS = 4
"""Maps that one kernel sums."""


def batch_norm_training(
    x: Tensor, weight: Tensor, bias: Tensor, running: RunningStatistics, *, added: Tensor | None = None, relu: bool
) -> Tensor:
    """Batch norm with the statistics of the batch, plus another map, then ReLU.

    Args:
        x: (B, C, H, W), float32 on the CPU, with more than one cell in all; see ``training.training_refusal``. Or
            bfloat16 where ``training.half_kernels`` are there; the result and ``added`` are of its dtype.
        weight, bias: (C,) in float32.
        running: statistics; moved in place.
        added: (B, C, H, W) or none.
        relu: whether the sum is rectified.

    Returns:
        (B, C, H, W) in channels-last memory. Differentiable once.
    """
    y: Tensor = _BatchNorm.apply(x, added, weight, bias, running, relu)
    return y


def fusion_training(terms: Sequence[Tensor], factors: Sequence[int]) -> Tensor:
    """ReLU of the sum of at most ``MAX_TERMS`` maps, those that are smaller by a factor with their cells repeated.

    Args:
        terms: (B, C, H / factor, W / factor), float32 on the CPU.
        factors: of each term; divide H and W.

    Returns:
        (B, C, H, W) in channels-last memory. Differentiable once.
    """
    y: Tensor = _Fusion.apply(tuple(factors), *terms)
    return y


class _BatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, added: Tensor | None, weight: Tensor, bias: Tensor, running: RunningStatistics, relu: bool
    ) -> Tensor:
        library = kernels() if x.dtype is torch.float32 else half_kernels()
        assert library is not None
        ctx.library = library
        tokens, scale, shift, past = in_order([_tokens(x), weight, bias, None if added is None else _tokens(added)])
        channels = x.shape[1]
        ctx.size = {"tokens": tokens.numel() // channels, "channels": channels, "relu": int(relu)}
        y, statistics = torch.empty_like(tokens), weight.new_empty(2 * filled_count(channels, library.lanes))
        moved = {f"running_{name}1": value for name, value in running._asdict().items()}
        maps = {"x": tokens, "added": past, "y": y, "statistics": statistics}
        library.call("batch_norm_training", in_memory=True, **maps, weight=scale, bias=shift, **ctx.size, **moved)
        y = y.permute(0, 3, 1, 2)
        ctx.was_added = added is not None
        ctx.save_for_backward(x, y if relu and ctx.was_added else None, statistics, weight, bias)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        x, y, statistics, weight, bias = ctx.saved_tensors
        grad, x, y, statistics, weight, bias = in_order(
            [_tokens(grad), _tokens(x), None if y is None else _tokens(y), statistics, weight, bias]
        )
        grad_x = torch.empty_like(x)
        past: Tensor | None = grad if ctx.was_added and ctx.needs_input_grad[1] else None
        if past is not None and ctx.size["relu"]:
            past = torch.empty_like(x)
        written = {"weight_grad": torch.empty_like(weight), "bias_grad": torch.empty_like(bias)}
        ctx.library.call(
            "batch_norm_training_backward",
            in_memory=True,
            grad=grad,
            x=x,
            y=y,
            grad_x=grad_x,
            grad_added=None if past is grad else past,
            **{"statistics": statistics, "weight": weight, "bias": bias, **written, **ctx.size},
        )
        return _map(grad_x), None if past is None else _map(past), *written.values(), None, None


class _Fusion(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, factors: tuple[int, ...], *terms: Tensor) -> Tensor:
        maps = in_order([_tokens(term) for term in terms])
        batch, height, width, channels = maps[0].shape
        height, width = height * factors[0], width * factors[0]
        ctx.factors = factors
        ctx.size = {"batch": batch, "height": height, "width": width, "channels": channels}
        fields: dict[str, Any] = {}
        for i, (term, factor) in enumerate(zip(maps, factors, strict=True)):
            fields |= {f"term{i}": term, f"height{i}": term.shape[1], f"width{i}": term.shape[2], f"factor{i}": factor}
        y = maps[0].new_empty(batch, height, width, channels)
        kernels().call("fusion", in_memory=True, y=y, **ctx.size, **fields, bilinear=0)
        y = y.permute(0, 3, 1, 2)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        grad, y = in_order([_tokens(grad), _tokens(*ctx.saved_tensors)])
        batch, height, width, channels = grad.shape
        wanted = {f for f, needed in zip(ctx.factors, ctx.needs_input_grad[1:], strict=True) if needed}
        same = {1: torch.empty_like(grad)} if 1 in wanted else {}  # one map for all terms of the result's size
        grads: list[Tensor | None] = []
        fields: dict[str, Any] = {}
        for factor, needed in zip(ctx.factors, ctx.needs_input_grad[1:], strict=True):
            back = same.get(factor) if needed else None
            if needed and back is None:
                back = grad.new_empty(batch, height // factor, width // factor, channels)
            if back is not None and not any(back is one for one in fields.values()):
                number = len(fields) // 2
                fields |= {f"term{number}": back, f"factor{number}": factor}
            grads.append(None if back is None else _map(back))
        kernels().call("fusion_training_backward", in_memory=True, grad=grad, y=y, **ctx.size, **fields)
        return None, *grads


def _tokens(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1)


def _map(tokens: Tensor) -> Tensor:
    return tokens.permute(0, 3, 1, 2)
