"""One thread that runs the networks of all models, on batches made of what requests left in bounded queues."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


class QueueFull(RuntimeError):
    """There is no place left in a queue."""


class WorkerDied(RuntimeError):
    """The thread that runs the networks has ended, or the runtime below it fails on what it could do before."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Lane:
    """A network as the batcher knows it.

    Attributes:
        name: what reports call it.
        probe: runs the network on an input that it has answered before; an error means that the runtime is broken.
        pixels: most pixels in a batch, for networks whose parts are whole pictures; at least one part goes.
    """

    name: str
    probe: Callable[[], object]
    pixels: int | None = None


@dataclass(kw_only=True, slots=True, eq=False)
class _Item:
    part: Tensor | None  # None for work that is no part of a batch
    run: Callable[[Any], Any]
    since: float
    future: Future[Any] = field(default_factory=Future)


@dataclass(kw_only=True, slots=True, eq=False)
class _Bucket:
    """Items that may share a batch."""

    lane: Lane
    most: int  # in a batch
    items: deque[_Item] = field(default_factory=deque)


class Batcher:
    """Runs networks, one batch at a time, oldest request first.

    Parts of equal shape for the same network and options share a batch, whichever requests they belong to. A batch goes
    as soon as it is full, or its first part has waited ``max_wait``. One that fails is run again part by part, so that
    the neighbours of a bad part get their answers. An error other than ``ValueError`` puts the runtime itself in
    doubt: it must then answer the lane's probe, and where it does not, the thread ends and ``died`` says why.

    Args:
        max_batch: most parts in a batch.
        max_wait: seconds that a part waits for company.
        capacity: most parts waiting in a bucket; one that is empty takes any number of a picture's parts.
        whole: bring batches to a power of two with copies of the last part, for runtimes that prepare every length.
        observe: called with the lane's name, the number of parts and the seconds of every batch.
    """

    def __init__(
        self,
        *,
        max_batch: int,
        max_wait: float,
        capacity: int,
        whole: bool = False,
        observe: Callable[[str, int, float], None] = lambda *_: None,
    ) -> None:
        self._max_batch, self._max_wait, self._capacity, self._whole = max_batch, max_wait, capacity, whole
        self._observe = observe
        self._buckets: OrderedDict[Hashable, _Bucket] = OrderedDict()
        self._changed = threading.Condition()
        self._closing = False
        self._busy_since: float | None = None
        self.died: BaseException | None = None
        self._threads = torch.get_num_threads()
        self._thread = threading.Thread(target=self._work, name="hrformer-networks", daemon=True)
        self._thread.start()

    def submit(
        self, lane: Lane, key: Hashable, run: Callable[[Tensor], Sequence[Any]], parts: Sequence[Tensor]
    ) -> list[Future[Any]]:
        """Queue a picture's parts; a future for the answer of each. A cancelled one leaves the queue.

        Args:
            lane: the network.
            key: parts with equal keys and shapes may share a batch.
            run: stacked parts (B, ...) -> B answers; that of any part with the key.
            parts: tensors.

        Raises:
            QueueFull: no place for them.
            WorkerDied: nothing runs any more.
        """
        made: list[Future[Any]] = []
        with self._changed:
            self._check_alive()
            for part in parts:
                bucket = self._bucket((lane.name, key, tuple(part.shape)), lane, self._most(lane, part))
                before = len(bucket.items) - len(made)
                if before and before + len(parts) > self._capacity:
                    for future in made:
                        future.cancel()
                    raise QueueFull
                item = _Item(part=part, run=run, since=time.monotonic())
                bucket.items.append(item)
                made.append(item.future)
            self._changed.notify()
        return made

    def call(self, lane: Lane, work: Callable[[], Any]) -> Future[Any]:
        """Queue work that shares no batch but needs the thread for itself; WorkerDied as for ``submit``."""
        with self._changed:
            self._check_alive()
            item = _Item(part=None, run=lambda _: work(), since=time.monotonic())
            self._bucket((lane.name, "single work"), lane, 1).items.append(item)
            self._changed.notify()
        return item.future

    @property
    def waiting(self) -> int:
        """Parts and single works in the queues."""
        with self._changed:
            return sum(len(bucket.items) for bucket in self._buckets.values())

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs and its runtimes answer."""
        return self.died is None and self._thread.is_alive()

    def busy_for(self) -> float:
        """Seconds that the batch at work has taken so far; 0 for none."""
        since = self._busy_since
        return 0.0 if since is None else time.monotonic() - since

    def close(self, seconds: float = 10.0) -> None:
        """Finish what is queued and end the thread, which is left to itself if that takes longer."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(seconds)

    def _check_alive(self) -> None:
        if self._closing or not self.is_alive:
            raise _ended(self.died)

    def _most(self, lane: Lane, part: Tensor) -> int:
        if lane.pixels is None:
            return self._max_batch
        return max(1, min(self._max_batch, lane.pixels // (part.shape[0] * part.shape[1])))

    def _bucket(self, key: Hashable, lane: Lane, most: int) -> _Bucket:
        if key not in self._buckets:
            self._buckets[key] = _Bucket(lane=lane, most=most)
        return self._buckets[key]

    def _work(self) -> None:
        torch.set_num_threads(self._threads)  # that of a thread is its own
        try:
            while (taken := self._next_batch()) is not None:
                lane, items = taken
                self._busy_since = time.monotonic()
                self._run(lane, items)
                self._busy_since = None
        except BaseException as error:
            self.died = error
        with self._changed:
            for bucket in self._buckets.values():
                for item in bucket.items:
                    if item.future.set_running_or_notify_cancel():
                        item.future.set_exception(_ended(self.died))
            self._buckets.clear()

    def _next_batch(self) -> tuple[Lane, list[_Item]] | None:
        """Waits for a batch that is due; None where there is no more to come."""
        with self._changed:
            while True:
                now = time.monotonic()
                due, wait = None, None
                for key, bucket in list(self._buckets.items()):
                    while bucket.items and bucket.items[0].future.cancelled():
                        bucket.items.popleft()
                    if not bucket.items:
                        del self._buckets[key]
                        continue
                    since = bucket.items[0].since
                    full = self._closing or len(bucket.items) >= bucket.most
                    left = 0.0 if full else since + self._max_wait - now
                    if left > 0:
                        wait = left if wait is None else min(wait, left)
                    elif due is None or since < due.items[0].since:
                        due = bucket
                if due is not None:
                    return due.lane, self._taken(due)
                if self._closing and not self._buckets:
                    return None
                self._changed.wait(wait)

    def _taken(self, bucket: _Bucket) -> list[_Item]:
        """The next items of a bucket; those that nobody waits for are dropped."""
        items: list[_Item] = []
        while bucket.items and len(items) < bucket.most:
            item = bucket.items.popleft()
            if item.future.set_running_or_notify_cancel():
                items.append(item)
        return items

    def _run(self, lane: Lane, items: list[_Item]) -> None:
        if not items:
            return
        start = time.monotonic()
        try:
            answers = self._answers(items)
        except BaseException as error:
            if len(items) > 1 and isinstance(error, Exception):
                for item in items:
                    self._run(lane, [item])
                return
            self._failed(lane, items, error)
            return
        self._observe(lane.name, len(items), time.monotonic() - start)
        for item, answer in zip(items, answers, strict=True):
            item.future.set_result(answer)

    def _answers(self, items: list[_Item]) -> Sequence[Any]:
        first, parts = items[0], [item.part for item in items if item.part is not None]
        if not parts:
            return [first.run(None)]
        if self._whole:
            parts += [parts[-1]] * ((1 << (len(parts) - 1).bit_length()) - len(parts))
        answers = first.run(torch.stack(parts))
        if len(answers) != len(parts):
            raise RuntimeError(f"{len(answers)} answers for {len(parts)} parts")
        return answers[: len(items)]

    def _failed(self, lane: Lane, items: list[_Item], error: BaseException) -> None:
        """One part alone has failed: its own fault, or that of the runtime, whose probe fails too."""
        if not isinstance(error, ValueError):
            try:
                if not isinstance(error, Exception):
                    raise error
                lane.probe()
            except BaseException as broken:
                for item in items:
                    item.future.set_exception(_ended(broken))
                raise broken from error
        for item in items:
            item.future.set_exception(error)


def _ended(reason: BaseException | None) -> WorkerDied:
    text = f": {type(reason).__name__}: {reason}" if reason else ""
    return WorkerDied(f"the thread that runs the networks has ended{text}")
