"""What runs on the machines of a cluster: opens pictures, decodes them ahead of the network, gives small rows back."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, TypeAlias

import torch

from hrformer.cluster.rows import ID, row_of, table_of
from hrformer.data.images import ImageError, LoadedImage, load_image
from hrformer.predict.outcomes import Outcome, predict_each
from hrformer.predict.predictors import AnyPredictor
from hrformer.predict.results import check_finite

Make: TypeAlias = Callable[[], tuple[AnyPredictor, dict[str, Any]]]
"""Loads a predictor on the machine where it is called; with the options of its ``stream``."""


class Ahead:
    """Loads pictures in threads, a few ahead of the one that is asked for.

    Args:
        names: of the pictures, in the order in which they will be asked for.
        threads: in which they are loaded.
        ahead: how many pictures beyond the one asked for are in work or waiting.
    """

    def __init__(self, names: Sequence[str], threads: ThreadPoolExecutor, ahead: int) -> None:
        self._left, self._threads, self._ahead = deque(names), threads, ahead
        self._loading: dict[str, Future[LoadedImage]] = {}

    def load(self, name: str) -> LoadedImage:
        """One picture; ImageError if it cannot be read."""
        while self._left and len(self._loading) <= self._ahead:
            wanted = self._left.popleft()
            self._loading[wanted] = self._threads.submit(_load, wanted)
        loading = self._loading.pop(name, None)
        return _load(name) if loading is None else loading.result()


def _load(name: str) -> LoadedImage:
    if not name:
        raise ImageError("the manifest has no path in this row")
    return load_image(name)


class Worker:
    """Turns rows of (id, uri) into rows of results; one lives on each GPU, or each core.

    Args:
        make: loads the predictor.
        task: of the predictor.
        threads: in which pictures are read and decoded.
        cpu: run the network on one core, since each core has a worker.
    """

    def __init__(self, make: Make, task: str, threads: int, cpu: bool) -> None:
        if cpu:
            torch.set_num_threads(1)
        self.task = task
        self.predictor, self.options = make()
        self._threads, self._ahead = ThreadPoolExecutor(threads), 2 * threads

    def __call__(self, inputs: Any) -> Any:
        """Predict on the rows of a ``pyarrow.Table`` with ``id`` and ``uri``; the same rows with results, in order."""
        answers: dict[str, dict[str, Any]] = {}

        def told(outcome: Outcome) -> None:
            answers[outcome.name] = _answer(outcome)

        ids, uris = inputs[ID].to_pylist(), inputs["uri"].to_pylist()
        names = list(dict.fromkeys(uris))
        ahead = Ahead(names, self._threads, self._ahead)
        predict_each(self.predictor, [(name, partial(ahead.load, name)) for name in names], self.options, told)
        return table_of(self.task, [{ID: i, "uri": uri, **answers[uri]} for i, uri in zip(ids, uris, strict=True)])


def _answer(outcome: Outcome) -> dict[str, Any]:
    if outcome.result is None:
        return {"error": outcome.error}
    try:
        check_finite(outcome.result)
        return row_of(outcome.result)
    except (ValueError, MemoryError) as error:
        height, width = outcome.result.image.shape[:2]
        return {"width": width, "height": height, "error": str(error)}
