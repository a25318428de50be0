from __future__ import annotations

import itertools
from typing import Any

import pytest

from hrformer.data.order import Key, TrainOrder, eval_order, mixed_seed


def updates_of(first: int, end: int, **values: Any) -> list[list[Key]]:
    """Global batches, put together again from all processes and parts, in the order of the ranks."""
    world_size, parts = values.get("world_size", 1), values.get("parts", 1)
    per_rank = [list(TrainOrder(rank=rank, **values).batches(first, end)) for rank in range(world_size)]
    return [
        [key for batches in per_rank for part in batches[update * parts : (update + 1) * parts] for key in part]
        for update in range(end - first)
    ]


@pytest.mark.parametrize(("world_size", "parts"), [(1, 1), (2, 1), (1, 4), (3, 2), (6, 2)])
def test_order_is_the_same_for_any_number_of_processes_and_parts(world_size: int, parts: int) -> None:
    shape = {"num_items": 50, "batch_size": 12, "seed": 3}
    assert updates_of(0, 9, world_size=world_size, parts=parts, **shape) == updates_of(0, 9, **shape)


def test_an_epoch_has_every_item_at_most_once_and_drops_the_rest() -> None:
    order = TrainOrder(num_items=50, batch_size=12, seed=3)
    assert order.updates_per_epoch == 4
    for epoch in range(3):
        keys = [key for batch in order.batches(4 * epoch, 4 * epoch + 4) for key in batch]
        assert len(keys) == len({key.item for key in keys}) == 48
        assert {key.epoch for key in keys} == {epoch}
        assert sorted(order.epoch_items(epoch)) == list(range(50))
        assert [key.item for key in keys] == order.epoch_items(epoch)[:48]
    assert order.epoch_items(0) != order.epoch_items(1)
    assert order.epoch_items(0) != TrainOrder(num_items=50, batch_size=12, seed=4).epoch_items(0)


@pytest.mark.parametrize("taken_up", [1, 3, 4, 7, 8])
def test_a_run_goes_on_where_it_was(taken_up: int) -> None:
    order = TrainOrder(num_items=50, batch_size=12, parts=2, seed=3)
    whole = list(order.batches(0, 10))
    assert list(order.batches(0, taken_up)) + list(order.batches(taken_up, 10)) == whole
    assert all(len(batch) == 6 for batch in whole)


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("num_items", [0, 1, 2, 10, 23])
def test_evaluation_has_every_item_once(world_size: int, num_items: int) -> None:
    shares = [eval_order(num_items, 4, world_size, rank) for rank in range(world_size)]
    items = [key.item for share in shares for batch in share for key in batch]
    assert sorted(items) == list(range(num_items))
    sizes = [sum(map(len, share)) for share in shares]
    assert max(sizes) - min(sizes) <= 1
    assert all(0 < len(batch) <= 4 for share in shares for batch in share)
    for share in shares:
        own = [key.item for batch in share for key in batch]
        assert own == sorted(own)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"batch_size": 51}, "one batch of 51 is more than the whole training set of 50; take a batch of at most 50"),
        (
            {"batch_size": 10, "world_size": 4},
            "10 cannot be shared by 4 processes in 1 parts each; take a multiple of 4",
        ),
        ({"batch_size": 10, "parts": 3}, "take a multiple of 3"),
        ({"batch_size": 0}, "all counts must be at least 1"),
        ({"batch_size": 10, "world_size": 2, "rank": 2}, r"rank must lie in 0\.\.1, got 2"),
    ],
)
def test_odd_training_orders_are_refused(values: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainOrder(num_items=50, **values)


def test_odd_evaluation_orders_are_refused() -> None:
    for values in ({"batch_size": 0}, {"batch_size": 1, "rank": 1}, {"batch_size": 1, "rank": -1}):
        with pytest.raises(ValueError, match="batch_size must be at least 1 and rank in 0"):
            eval_order(num_items=5, **values)


def test_mixed_seeds_differ() -> None:
    seeds = {mixed_seed(*numbers) for numbers in itertools.product(range(12), repeat=3)}
    assert len(seeds) == 12**3
    assert mixed_seed(1, 2) != mixed_seed(2, 1)
    assert mixed_seed(1) != mixed_seed(1, 0)
    assert all(0 <= seed < 2**63 for seed in seeds)
    ones = sum(bin(seed).count("1") for seed in seeds) / len(seeds)
    assert abs(ones - 31.5) < 0.5  # half of 63 bits; the standard error is 0.1
    # What every augmentation of every run hangs on; another value would change them all.
    assert mixed_seed(1, 2, 3) == 6087047714123848686
