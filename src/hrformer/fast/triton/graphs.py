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
from typing import Any, TypeVar, cast

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
    results: list[T | None] = [None] * len(ways)
    for i, way in list(enumerate(ways))[1:]:
        stream = sides[(i - 1) % len(sides)]
        stream.wait_event(fork)
        with torch.cuda.stream(stream):
            results[i] = way()
    results[0] = ways[0]()
    for stream in sides[: len(ways) - 1]:
        main.wait_stream(stream)
    return cast(list[T], results)


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
        self,
        model: nn.Module,
        *,
        max_graphs: int = 4,
        capture: Callable[[Callable[[Tensor], Any], Tensor], Replay] = capture_cuda_graph,
    ) -> None:
        super().__init__()
        if max_graphs < 1:
            raise ValueError(f"max_graphs must be at least 1, got {max_graphs}")
        self.model = model
        self.max_graphs = max_graphs
        self._capture = capture
        self._forget()

    def _forget(self) -> None:
        self._replays: OrderedDict[Key, Replay] = OrderedDict()
        self._last_use: dict[Key, int] = {}
        self._seen: OrderedDict[Key, None] = OrderedDict()
        self._refused: set[Key] = set()
        self._calls = 0
        self._lock = threading.Lock()
        self._finished: torch.cuda.Event | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Without graphs and lock, which cannot be copied."""
        own = ("_replays", "_last_use", "_seen", "_refused", "_calls", "_lock", "_finished")
        return {name: value for name, value in self.__dict__.items() if name not in own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._forget()

    def _apply(self, fn: Any, recurse: bool = True) -> GraphedModel:
        """Moving or casting the weights leaves the graphs' addresses behind."""
        self._forget()
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
        return list(self._replays)

    def _runs_as_it_is(self, x: Tensor) -> bool:
        wants_gradient = torch.is_grad_enabled() and x.requires_grad
        capturing = x.is_cuda and torch.cuda.is_current_stream_capturing()
        return not x.is_cuda or self.training or wants_gradient or capturing or torch.compiler.is_compiling()

    def forward(self, x: Tensor) -> Any:
        """The model's result, in tensors of its own."""
        if self._runs_as_it_is(x):
            return self.model(x)
        with self._lock:
            replay = self._replay_for(self.key(x), x)
            return self.model(x) if replay is None else self._run(replay, x)

    def _run(self, replay: Replay, x: Tensor) -> Any:
        """Replay after the last one, whatever streams the two calls come from: they share the buffers."""
        if x.is_cuda:
            stream = torch.cuda.current_stream(x.device)
            if self._finished is not None:
                stream.wait_event(self._finished)
            result = replay(x)
            self._finished = stream.record_event()
            return result
        return replay(x)

    def _replay_for(self, key: Key, x: Tensor) -> Replay | None:
        """The graph for a key, captured now where it is due; None where the call runs as it is."""
        self._calls += 1
        if key in self._replays:
            self._replays.move_to_end(key)
            self._last_use[key] = self._calls
            return self._replays[key]
        if key in self._refused or not self._is_due(key) or not self._make_room(x):
            return None
        try:
            self._replays[key] = self._capture(self.model, x)
        except RuntimeError as error:
            self._refused.add(key)
            logger.warning("no CUDA graph for input %s: %s", key[0], str(error).partition("\n")[0])
            return None
        self._last_use[key] = self._calls
        return self._replays[key]

    def _is_due(self, key: Key) -> bool:
        """Whether the key was seen before; the last few keys are remembered."""
        if key in self._seen:
            return True
        self._seen[key] = None
        if len(self._seen) > 16 * self.max_graphs:
            self._seen.popitem(last=False)
        return False

    def _make_room(self, x: Tensor) -> bool:
        """Drop the least recently used graph where the limit is reached; False where all are in use."""
        if len(self._replays) < self.max_graphs:
            return True
        oldest = next(iter(self._replays))
        if self._calls - self._last_use[oldest] <= 4 * self.max_graphs:
            return False
        if x.is_cuda:
            torch.cuda.synchronize(x.device)  # it may still be running
        del self._replays[oldest], self._last_use[oldest]
        return True
