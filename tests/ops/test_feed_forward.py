"""The feed-forward operation of CPU training by finite differences; whole blocks are in tests/layers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hrformer.ops import feed_forward
from hrformer.ops.feed_forward import FeedForwardWeights, feed_forward_training
from hrformer.ops.normalisation import RunningStatistics

C, E = 3, 5


def parameters(layer_norm: bool) -> FeedForwardWeights:
    """Random float64 parameters of every kind."""
    shapes = [
        (C,),
        (C,),
        (E, C, 1, 1),
        (E,),
        (E,),
        (E,),
        (E, 1, 3, 3),
        (E,),
        (E,),
        (E,),
        (C, E, 1, 1),
        (C,),
        (C,),
        (C,),
    ]
    tensors: list[Tensor | None] = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    return FeedForwardWeights(*tensors) if layer_norm else FeedForwardWeights(None, None, *tensors[2:])


def running() -> tuple[RunningStatistics, ...]:
    return tuple(
        RunningStatistics(torch.zeros(n, dtype=torch.float64), torch.ones(n, dtype=torch.float64), 0.1, 1e-5)
        for n in (E, E, C)
    )


@pytest.mark.parametrize("stored", [True, False], ids=["stored", "recomputed"])
@pytest.mark.parametrize("layer_norm", [True, False])
def test_gradients_by_finite_differences(layer_norm: bool, stored: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_forward, "STORE_FROM", 1 if stored else 128)
    x = torch.randn(2, C, 3, 2, dtype=torch.float64, requires_grad=True)
    given = parameters(layer_norm)
    tensors = [p for p in given if p is not None]

    def run(x: Tensor, *tensors: Tensor) -> Tensor:
        absent = [None] * (len(given) - len(tensors))
        return feed_forward_training(x, FeedForwardWeights(*absent, *tensors), running(), 1e-6)

    assert torch.autograd.gradcheck(run, (x, *tensors), atol=1e-6, fast_mode=True)


def test_second_derivative_is_refused() -> None:
    x = torch.randn(1, C, 2, 2, dtype=torch.float64, requires_grad=True)
    y = feed_forward_training(x, parameters(True), running(), 1e-6)
    (grad,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_stores_the_input_and_little_else() -> None:
    kept: list[int] = []

    def pack(t: Tensor) -> Tensor:
        kept.append(t.numel())
        return t

    x = torch.randn(2, C, 16, 16, dtype=torch.float64, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        feed_forward_training(x, parameters(True), running(), 1e-6)
    # Input, output of the second product, mean and deviation per token, and small things: no hidden map.
    assert sum(kept) < 2 * x.numel() + 2 * 2 * 16 * 16 + 300
