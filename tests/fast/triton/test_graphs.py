"""Bookkeeping of graphs by an injected capture; the capture itself where there is a GPU."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hrformer.fast.triton.graphs import GraphedModel, side_by_side
from hrformer.zoo import create_model

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")


class Captures:
    """Stands in for a capture: replays by calling the model, and counts."""

    def __init__(self) -> None:
        self.made: list[tuple[int, ...]] = []
        self.replayed: list[tuple[int, ...]] = []

    def __call__(self, model: Callable[[Tensor], Any], x: Tensor) -> Callable[[Tensor], Any]:
        self.made.append(tuple(x.shape))

        def replay(y: Tensor) -> Any:
            assert y.shape == x.shape
            self.replayed.append(tuple(y.shape))
            return model(y)

        return replay


@pytest.fixture
def captures(monkeypatch: pytest.MonkeyPatch) -> Captures:
    """CPU tensors are treated as if a graph could hold them."""
    monkeypatch.setattr(GraphedModel, "_runs_as_it_is", lambda self, x: self.training)
    return Captures()


def graphed(captures: Captures, max_graphs: int = 2) -> GraphedModel:
    return GraphedModel(nn.Linear(3, 3), max_graphs=max_graphs, capture=captures).eval()


def run(model: GraphedModel, *rows: int) -> None:
    for count in rows:
        x = torch.randn(count, 3)
        torch.testing.assert_close(model(x), model.model(x))


def test_second_call_captures_and_later_ones_replay(captures: Captures) -> None:
    model = graphed(captures)
    run(model, 5, 5, 5, 5)
    assert captures.made == [(5, 3)]
    assert captures.replayed == [(5, 3)] * 3


def test_sizes_seen_once_are_not_captured(captures: Captures) -> None:
    run(graphed(captures), *range(1, 20))
    assert captures.made == []


def test_idle_graph_gives_way(captures: Captures) -> None:
    model = graphed(captures)
    run(model, 1, 1, 2, 2)
    run(model, *[2] * 8)
    run(model, 3, 3)
    assert [key[0] for key in model.graphed] == [(2, 3), (3, 3)]
    run(model, 1)
    assert captures.made == [(1, 3), (2, 3), (3, 3)]


def test_many_sizes_in_turn_do_not_capture_forever(captures: Captures) -> None:
    model = graphed(captures)
    run(model, *[1, 2, 3, 4] * 10)
    assert captures.made == [(1, 3), (2, 3)]


def test_key_tells_shape_dtype_and_autocast_apart() -> None:
    x = torch.zeros(2, 3)
    keys = {GraphedModel.key(x), GraphedModel.key(x.half()), GraphedModel.key(x[:1])}
    with torch.autocast("cpu", torch.bfloat16):
        keys.add(GraphedModel.key(x))
    assert len(keys) == 4
    assert GraphedModel.key(torch.ones(2, 3)) in keys


def test_moving_the_weights_forgets_the_graphs(captures: Captures) -> None:
    model = graphed(captures)
    run(model, 4, 4)
    assert len(model.graphed) == 1
    model.double().float()
    assert model.graphed == []
    run(model, 4, 4)
    assert captures.made == [(4, 3), (4, 3)]


def test_training_mode_runs_the_model_itself(captures: Captures) -> None:
    model = graphed(captures).train()
    run(model, 4, 4, 4)
    assert captures.made == []


def test_failed_capture_is_told_once_and_not_tried_again(caplog: pytest.LogCaptureFixture, captures: Captures) -> None:
    attempts = []

    def fails(model: Callable[[Tensor], Any], x: Tensor) -> Callable[[Tensor], Any]:
        attempts.append(x.shape)
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    model = GraphedModel(nn.Linear(3, 3), capture=fails).eval()
    with caplog.at_level(logging.WARNING, logger="hrformer"):
        run(model, 4, 4, 4, 4)
    assert len(attempts) == 1
    assert [record.getMessage() for record in caplog.records] == [
        "no CUDA graph for input (4, 3): operation not permitted when stream is capturing"
    ]


def test_copy_has_no_graphs_of_its_own(captures: Captures) -> None:
    model = graphed(captures)
    run(model, 4, 4)
    other = copy.deepcopy(model)
    assert other.graphed == []
    assert len(model.graphed) == 1
    run(other, 4)


def test_cpu_tensors_run_the_model_itself() -> None:
    captures = Captures()
    run(GraphedModel(nn.Linear(3, 3), capture=captures).eval(), 4, 4, 4)
    assert captures.made == []


def test_limit_must_allow_one() -> None:
    with pytest.raises(ValueError, match="max_graphs must be at least 1, got 0"):
        GraphedModel(nn.Linear(3, 3), max_graphs=0)


def test_side_by_side_keeps_the_order_outside_a_capture() -> None:
    order: list[int] = []

    def way(i: int) -> Callable[[], int]:
        return lambda: order.append(i) or i * i  # type: ignore[func-returns-value]

    assert side_by_side([way(i) for i in range(4)]) == [0, 1, 4, 9]
    assert order == [0, 1, 2, 3]
    assert side_by_side([]) == []


@needs_gpu
def test_graph_equals_the_model() -> None:
    plain = create_model("hrformer_nano", task="pose").cuda().eval()
    model = GraphedModel(plain, max_graphs=2).eval()
    with torch.no_grad():
        for size in [(2, 3, 64, 48)] * 3 + [(1, 3, 75, 50)] * 3:
            x = torch.randn(size, device="cuda")
            result, kept = model(x), model(x).clone()
            torch.testing.assert_close(result, plain(x), rtol=1e-4, atol=1e-4)
            model(torch.randn(size, device="cuda"))
            assert torch.equal(result, kept)
    assert len(model.graphed) == 2


@needs_gpu
def test_side_by_side_joins_inside_a_capture() -> None:
    x = torch.randn(64, 64, device="cuda")
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    with torch.cuda.stream(stream):
        x @ x
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        results = side_by_side([lambda i=i: (x @ x) * i for i in range(4)])
        total = torch.stack(results).sum(0)
    graph.replay()
    torch.testing.assert_close(total, (x @ x) * 6)
