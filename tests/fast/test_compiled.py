"""The operator that convolves one picture in graphs for open sizes, and when it stands in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hrformer.fast.compiled import convolution_op, convolutions_for_any_size

SIZES = [(64, 96), (30, 32), (128, 160), (17, 19), (81, 90)]
"""Of one picture with 3 to 8 channels: maps on both sides of 20,480 numbers."""


def arguments(bias: bool) -> tuple[Any, ...]:
    x = torch.randn(1, 4, 9, 12).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(6, 4, 3, 3)
    tensors = [t.requires_grad_() for t in (x, weight, *([torch.randn(6)] if bias else []))]
    return (*tensors, *(() if bias else (None,)), [2, 1], [1, 2], [1, 2])


@pytest.mark.parametrize("bias", [True, False])
def test_the_operator_is_pytorchs_convolution(bias: bool) -> None:
    given = arguments(bias)
    torch.library.opcheck(convolution_op, given)
    tensors = [t for t in given[:3] if t is not None]
    out, expected = convolution_op(*given), torch.conv2d(*given)
    torch.testing.assert_close(out, expected)
    seed = torch.randn_like(out)
    found, wanted = (torch.autograd.grad(y, tensors, seed) for y in (out, expected))
    torch.testing.assert_close(found, wanted)


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1),
            nn.Conv2d(8, 8, 3, padding=1, groups=8),
            nn.Conv2d(8, 8, 3, padding="same", padding_mode="reflect"),
            nn.BatchNorm2d(8),
            nn.Conv2d(8, 6, 1, bias=False),
            nn.Conv2d(6, 6, 3, dilation=2),
        )

    def forward(self, x: Tensor) -> Tensor:
        with convolutions_for_any_size(x):
            return self.layers(x)


def compiled(model: nn.Module, **options: Any) -> tuple[Callable[[Tensor], Tensor], list[torch.fx.GraphModule]]:
    torch._dynamo.reset()
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    return torch.compile(model, backend=backend, fullgraph=True, **options), graphs


def names(graph: torch.fx.GraphModule) -> list[str]:
    return [str(node.target) for node in graph.graph.nodes]


def stands_in(graph: torch.fx.GraphModule) -> bool:
    return any("hrformer" in name and "convolution" in name for name in names(graph))


@pytest.mark.parametrize("training", [True, False])
def test_one_graph_serves_one_picture_of_any_size(training: bool) -> None:
    model = Network().train(training)
    run, graphs = compiled(model, dynamic=True)
    for size in SIZES:
        x = torch.randn(1, 3, *size)
        found, expected = run(x), model(x)
        torch.testing.assert_close(found, expected)
        seed = torch.randn_like(found)
        gradients = (torch.autograd.grad(y, list(model.parameters()), seed) for y in (found, expected))
        # sums over all cells, in another order
        torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-3)
    assert len(graphs) == 1
    assert stands_in(graphs[0])


@pytest.mark.parametrize("batch", [1, 2])
def test_a_fixed_size_or_more_pictures_keep_pytorchs_convolutions(batch: int) -> None:
    run, graphs = compiled(Network().eval(), dynamic=batch > 1)
    run(torch.randn(batch, 3, 32, 40))
    assert not stands_in(graphs[0])


def test_half_precision_keeps_pytorchs_convolutions() -> None:
    model, x = Network().eval(), torch.randn(1, 3, 32, 40)
    run, graphs = compiled(model, dynamic=True)
    with torch.autocast("cpu", torch.bfloat16):
        assert run(x).dtype == torch.bfloat16
    assert not stands_in(graphs[0])
    run, graphs = compiled(model.bfloat16(), dynamic=True)
    assert run(x.bfloat16()).dtype == torch.bfloat16
    assert not stands_in(graphs[0])


def test_exported_graphs_hold_plain_operations() -> None:
    sizes = {2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
    program = torch.export.export(Network().eval(), (torch.randn(1, 3, 32, 40),), dynamic_shapes=(sizes,))
    assert not stands_in(program.graph_module)
