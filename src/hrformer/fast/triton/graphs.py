"""CUDA graphs: the whole forward recorded once per input shape and replayed, and branches recorded side by side.

A replay launches everything at once, so that a batch of one costs what the device needs and not what Python and the
launches of hundreds of kernels take.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

logger = logging.getLogger("hrformer")

T = TypeVar("T")
Replay = Callable[[Tensor], Any]
Key = tuple[Any, ...]

WARM_UPS = 2
"""Runs before a capture: the first compiles kernels, which a capture must not."""


@cache
def _side_streams(device: int) -> list[torch.cuda.Stream]:
    """Streams for all branches but the first, kept for the life of the process."""
    return [torch.cuda.Stream(device) for _ in range(3)]


def side_by_side(ways: Sequence[Callable[[], T]]) -> list[T]:
    """Results of functions that do not depend on each other; while a graph is captured, on parallel streams.

    Outside a capture the order is kept: there the launches take longer than the kernels, and streams gain nothing.
    What a function reads must stay alive until all have returned, as arguments do. Then memory is safe: a side
    stream gets freed memory again only after its next fork, and that waits for everything recorded before. Calls
    must not be nested.
    """
    if len(ways) < 2 or not torch.cuda.is_available() or not torch.cuda.is_current_stream_capturing():
        return [way() for way in ways]
    main = torch.cuda.current_stream()
    sides = _side_streams(main.device_index)
    fork = main.record_event()
    others = []
    for i, way in enumerate(ways[1:]):
        stream = sides[i % len(sides)]
        stream.wait_event(fork)
        with torch.cuda.stream(stream):
            others.append(way())
    results = [ways[0](), *others]
    for stream in sides[: len(others)]:
        main.wait_stream(stream)
    return results


def capture_cuda_graph(model: Callable[[Tensor], Any], x: Tensor) -> Replay:
    """Record ``model`` on inputs like ``x``; the result replays it on others of the same shape, dtype and device.

    Inputs are copied into the graph's own buffer and outputs out of it, so results stay valid after later calls.

    Raises:
        RuntimeError: the model does something that a graph cannot hold, such as waiting for the device.
    """
    with torch.cuda.device(x.device), torch.inference_mode(False), torch.no_grad():
        buffer = torch.empty_like(x).copy_(x)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                model(buffer)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # Other threads may go on using the device: only this one's calls must fit the graph.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            outputs = model(buffer)

    def replay(y: Tensor) -> Any:
        with torch.cuda.device(buffer.device), torch.inference_mode(False), torch.no_grad():
            buffer.copy_(y)
            graph.replay()
            return tree_map_only(Tensor, torch.clone, outputs)

    return replay


class _Graphs:
    """What a ``GraphedModel`` remembers; a copy starts with nothing."""

    def __init__(self) -> None:
        self.replays: OrderedDict[Key, Replay] = OrderedDict()
        self.last_use: dict[Key, int] = {}
        self.seen: list[Key] = []
        self.refused: set[Key] = set()
        self.calls = 0
        self.lock = threading.Lock()
        self.finished: torch.cuda.Event | None = None

    def __reduce__(self) -> tuple[type[_Graphs], tuple[()]]:
        return _Graphs, ()


class GraphedModel(nn.Module):
    """A model whose forward runs as one CUDA graph per input shape.

    A shape is captured at its second call; the first runs as it is, so that sizes seen once cost nothing extra. At
    most ``max_graphs`` are kept, each with its own memory for every intermediate map. When a further shape wants
    one, the graph that has not been used for the longest gives way, provided it was idle for
    ``4 * max_graphs`` calls; otherwise the call runs as it is, so that many sizes in turn do not capture forever.
    CPU tensors, training mode and inputs that want a gradient run as they are too. Results never alias.

    Args:
        model: takes one tensor; waits for nothing on the device.
        max_graphs: limit, at least 1.
        capture: makes the replay function of a model for inputs like the given one.
    """

    def __init__(
        self, model: nn.Module, *, max_graphs: int = 4, capture: Callable[..., Replay] = capture_cuda_graph
    ) -> None:
        super().__init__()
        if max_graphs < 1:
            raise ValueError(f"max_graphs must be at least 1, got {max_graphs}")
        self.model = model
        self.max_graphs = max_graphs
        self._capture = capture
        self._graphs = _Graphs()

    def _apply(self, fn: Any, recurse: bool = True) -> GraphedModel:
        """Moving or casting the weights leaves the graphs' addresses behind."""
        self._graphs = _Graphs()
        return super()._apply(fn, recurse)

    @staticmethod
    def key(x: Tensor) -> Key:
        """What a graph is made for: shape, dtype, device, and the precision of autocast around the call."""
        kind = x.device.type
        autocast = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        return (tuple(x.shape), x.dtype, x.device, autocast)

    @property
    def graphed(self) -> list[Key]:
        """Keys of the graphs held, least recently used first."""
        return list(self._graphs.replays)

    def _runs_as_it_is(self, x: Tensor) -> bool:
        wants_gradient = torch.is_grad_enabled() and x.requires_grad
        capturing = x.is_cuda and torch.cuda.is_current_stream_capturing()
        return not x.is_cuda or self.training or wants_gradient or capturing or torch.compiler.is_compiling()

    def forward(self, x: Tensor) -> Any:
        """The model's result, in tensors of its own."""
        if self._runs_as_it_is(x):
            return self.model(x)
        graphs = self._graphs
        with graphs.lock:
            replay = self._replay_for(self.key(x), x)
            if replay is None or not x.is_cuda:
                return (replay or self.model)(x)
            # After the last replay, whatever streams the two calls come from: they share the buffers.
            stream = torch.cuda.current_stream(x.device)
            if graphs.finished is not None:
                stream.wait_event(graphs.finished)
            result = replay(x)
            graphs.finished = stream.record_event()
            return result

    def _replay_for(self, key: Key, x: Tensor) -> Replay | None:
        """The graph for a key, captured now where it is due; None where the call runs as it is."""
        graphs = self._graphs
        graphs.calls += 1
        if key not in graphs.replays:
            if key not in graphs.seen:
                graphs.seen = [*graphs.seen, key][-16 * self.max_graphs :]
                return None
            if key in graphs.refused or not self._make_room(x):
                return None
            try:
                graphs.replays[key] = self._capture(self.model, x)
            except RuntimeError as error:
                graphs.refused.add(key)
                logger.warning("no CUDA graph for input %s: %s", key[0], str(error).partition("\n")[0])
                return None
        graphs.replays.move_to_end(key)
        graphs.last_use[key] = graphs.calls
        return graphs.replays[key]

    def _make_room(self, x: Tensor) -> bool:
        """Drop the least recently used graph where the limit is reached; False where all are in use."""
        graphs = self._graphs
        if len(graphs.replays) < self.max_graphs:
            return True
        oldest = next(iter(graphs.replays))
        if graphs.calls - graphs.last_use[oldest] <= 4 * self.max_graphs:
            return False
        if x.is_cuda:
            torch.cuda.synchronize(x.device)  # it may still be running
        del graphs.replays[oldest], graphs.last_use[oldest]
        return True
