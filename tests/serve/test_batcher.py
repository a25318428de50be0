"""Batches over requests, bounded queues, and what happens when the network fails."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from typing import Any

import pytest
import torch
from torch import Tensor

from hrformer.serve.batcher import Batcher, Lane, QueueFull, WorkerDied

LANE = Lane(name="net", probe=lambda: None)


class Network:
    """Doubles numbers; keeps the lengths of its batches, and can be held back, or refuse some numbers."""

    def __init__(self) -> None:
        self.lengths: list[int] = []
        self.free = threading.Event()
        self.free.set()
        self.entered = threading.Event()
        self.refused: dict[float, BaseException] = {}

    def __call__(self, x: Tensor) -> Sequence[float]:
        self.entered.set()
        assert self.free.wait(10)
        self.lengths.append(len(x))
        for value, error in self.refused.items():
            if (x == value).any():
                raise error
        return [2 * float(row.sum()) for row in x]


@pytest.fixture
def network() -> Network:
    return Network()


@pytest.fixture
def make() -> Iterator[Callable[..., Batcher]]:
    made: list[Batcher] = []

    def one(**options: Any) -> Batcher:
        made.append(Batcher(**{"max_batch": 4, "max_wait": 0.05, "capacity": 6} | options))
        return made[-1]

    yield one
    for batcher in made:
        batcher.close(5)


def numbers(*values: float) -> list[Tensor]:
    return [torch.full((1, 1), value) for value in values]


def hold(batcher: Batcher, network: Network) -> Future[Any]:
    """Occupy the thread with a batch of its own until ``network.free`` is set."""
    network.free.clear()
    first = batcher.submit(LANE, "held", network, numbers(0))[0]
    assert network.entered.wait(10)
    return first


def test_parts_of_several_requests_share_batches(make: Callable[..., Batcher], network: Network) -> None:
    batcher = make()
    hold(batcher, network)
    futures = [batcher.submit(LANE, "", network, numbers(*row)) for row in ((1, 2), (3,), (4, 5, 6))]
    network.free.set()
    assert [[future.result(10) for future in row] for row in futures] == [[2, 4], [6], [8, 10, 12]]
    assert network.lengths == [1, 4, 2]


def test_other_keys_lanes_and_shapes_do_not_mix(make: Callable[..., Batcher], network: Network) -> None:
    batcher = make()
    hold(batcher, network)
    other = Lane(name="other", probe=lambda: None)
    futures = batcher.submit(LANE, "a", network, numbers(1)) + batcher.submit(LANE, "b", network, numbers(2))
    futures += batcher.submit(other, "a", network, numbers(3))
    futures += batcher.submit(LANE, "a", network, [torch.ones(1, 2)])
    network.free.set()
    assert [future.result(10) for future in futures] == [2, 4, 6, 4]
    assert network.lengths == [1] * 5


def test_a_part_waits_for_company_no_longer_than_told(make: Callable[..., Batcher], network: Network) -> None:
    batcher = make(max_wait=0.3)
    start = time.monotonic()
    first = batcher.submit(LANE, "", network, numbers(1))
    time.sleep(0.1)
    second = batcher.submit(LANE, "", network, numbers(2))
    assert second[0].result(10) == 4
    assert first[0].result(10) == 2
    assert 0.25 < time.monotonic() - start < 2
    assert network.lengths == [2]
    full = batcher.submit(LANE, "", network, numbers(1, 2, 3, 4))
    start = time.monotonic()
    wait(full, 10)
    assert time.monotonic() - start < 0.25  # a full batch does not wait


def test_a_bad_part_fails_alone(make: Callable[..., Batcher], network: Network) -> None:
    batcher = make()
    network.refused[2] = ValueError("no twos")
    hold(batcher, network)
    futures = batcher.submit(LANE, "", network, numbers(1, 2, 3))
    network.free.set()
    assert futures[0].result(10) == 2
    with pytest.raises(ValueError, match="no twos"):
        futures[1].result(10)
    assert futures[2].result(10) == 6
    assert batcher.is_alive


def test_an_error_of_the_runtime_is_one_of_the_part_if_the_probe_passes(
    make: Callable[..., Batcher], network: Network
) -> None:
    batcher = make()
    network.refused[2] = RuntimeError("out of memory")
    with pytest.raises(RuntimeError, match="out of memory"):
        batcher.submit(LANE, "", network, numbers(2))[0].result(10)
    assert batcher.is_alive
    assert batcher.submit(LANE, "", network, numbers(3))[0].result(10) == 6


def test_a_broken_runtime_ends_the_thread_and_everything_that_waits(
    make: Callable[..., Batcher], network: Network
) -> None:
    batcher = make(max_wait=0.0)

    def probe() -> None:
        raise RuntimeError("device lost")

    network.refused[2] = RuntimeError("device lost")
    hold(batcher, network)
    doomed = batcher.submit(Lane(name="net", probe=probe), "", network, numbers(2))
    later = [*batcher.submit(LANE, "later", network, numbers(1)), batcher.call(LANE, lambda: 1)]
    network.free.set()
    for future in doomed + later:
        with pytest.raises(WorkerDied):
            future.result(10)
    assert not batcher.is_alive
    assert str(batcher.died) == "device lost"
    with pytest.raises(WorkerDied):
        batcher.submit(LANE, "", network, numbers(1))


def test_what_is_called_off_is_not_run(make: Callable[..., Batcher], network: Network) -> None:
    batcher = make()
    hold(batcher, network)
    futures = batcher.submit(LANE, "", network, numbers(1, 2, 3))
    assert futures[1].cancel()
    lonely = batcher.submit(LANE, "lonely", network, numbers(9))
    assert lonely[0].cancel()
    network.free.set()
    assert [futures[0].result(10), futures[2].result(10)] == [2, 6]
    assert network.lengths == [1, 2]


def test_queues_are_bounded(make: Callable[..., Batcher], network: Network) -> None:
    """An empty one takes any number of parts, so that a picture with many people has a chance."""
    batcher = make(capacity=3)
    hold(batcher, network)
    batcher.submit(LANE, "many", network, numbers(*range(10)))
    with pytest.raises(QueueFull):
        batcher.submit(LANE, "many", network, numbers(1))
    batcher.submit(LANE, "few", network, numbers(1, 2))
    with pytest.raises(QueueFull):
        batcher.submit(LANE, "few", network, numbers(3, 4))
    batcher.submit(LANE, "few", network, numbers(3))
    assert batcher.waiting == 13
    network.free.set()


def test_the_oldest_goes_first(make: Callable[..., Batcher], network: Network) -> None:
    batcher, order = make(max_wait=0.0), []
    hold(batcher, network)
    futures = [batcher.call(LANE, lambda: order.append("call"))]
    futures += batcher.submit(LANE, "", lambda x: [order.append("part")], numbers(1))
    futures += [batcher.call(LANE, lambda: order.append("second call"))]
    network.free.set()
    wait(futures, 10)
    assert order == ["call", "part", "second call"]


def test_batches_come_in_powers_of_two_where_wanted(make: Callable[..., Batcher], network: Network) -> None:
    sizes: list[int] = []
    batcher = make(whole=True, max_batch=8, observe=lambda _, size, __: sizes.append(size))
    hold(batcher, network)
    futures = batcher.submit(LANE, "", network, numbers(1, 2, 3, 4, 5))
    network.free.set()
    assert [future.result(10) for future in futures] == [2, 4, 6, 8, 10]
    assert network.lengths == [1, 8]
    assert sizes == [1, 5]


def test_whole_pictures_are_counted_by_pixels(make: Callable[..., Batcher], network: Network) -> None:
    batcher, lane = make(), Lane(name="masks", probe=lambda: None, pixels=2)
    hold(batcher, network)
    futures = batcher.submit(lane, "", network, numbers(1, 2, 3)) + batcher.submit(
        lane, "", network, [torch.ones(2, 2)]
    )
    network.free.set()
    assert [future.result(10) for future in futures] == [2, 4, 6, 8]
    assert sorted(network.lengths) == [1, 1, 1, 2]


def test_closing_finishes_what_is_queued(make: Callable[..., Batcher], network: Network) -> None:
    batcher = make(max_wait=5.0)
    futures = batcher.submit(LANE, "", network, numbers(1, 2))
    batcher.close(10)
    assert [future.result(0) for future in futures] == [2, 4]
    with pytest.raises(WorkerDied):
        batcher.call(LANE, lambda: None)


def test_time_of_the_batch_at_work(make: Callable[..., Batcher], network: Network) -> None:
    batcher = make()
    assert batcher.busy_for() == 0
    first = hold(batcher, network)
    time.sleep(0.05)
    assert 0.04 < batcher.busy_for() < 5
    network.free.set()
    first.result(10)
