"""Turns: who is called when, and for how long."""

from __future__ import annotations

import gc
import time

import pytest
import torch

from hrformer.benchmark.timing import TimingConfig, time_call, time_interleaved

CPU = torch.device("cpu")
ONCE = {"seconds": 0.0, "warmup": 0.0}


def test_calls_take_turns_to_and_fro() -> None:
    order: list[str] = []
    calls = [lambda name=name: order.append(name) for name in "abc"]
    samples = time_interleaved(calls, CPU, TimingConfig(rounds=2, **ONCE))
    # Every turn is one call to warm up and one that counts.
    assert "".join(order) == "aabbcc" + "ccbbaa"
    assert [[len(values) for values in rounds] for rounds in samples] == [[1, 1]] * 3


def test_slower_calls_measure_slower() -> None:
    calls = [lambda: time.sleep(0.002), lambda: time.sleep(0.01)]
    quick, slow = time_interleaved(calls, CPU, TimingConfig(rounds=1, seconds=0.02, warmup=0.0))
    assert min(quick[0]) >= 0.002
    assert min(slow[0]) >= 0.01
    assert len(quick[0]) > len(slow[0])


def test_turns_end_after_so_many_calls() -> None:
    ((values,),) = time_interleaved([lambda: None], CPU, TimingConfig(rounds=1, seconds=9, warmup=0, most_calls=5))
    assert len(values) == 5


def test_warming_up_lasts_as_long_as_asked() -> None:
    begin = time.perf_counter()
    time_interleaved([lambda: time.sleep(0.001)], CPU, TimingConfig(rounds=1, seconds=0, warmup=0.05))
    assert time.perf_counter() - begin >= 0.05


def test_garbage_is_not_collected_meanwhile_and_is_afterwards() -> None:
    seen: list[bool] = []
    time_interleaved([lambda: seen.append(gc.isenabled())], CPU, TimingConfig(rounds=1, **ONCE))
    assert seen == [False, False]
    assert gc.isenabled()


def test_progress_counts_rounds() -> None:
    told: list[int] = []
    time_interleaved([lambda: None], CPU, TimingConfig(rounds=3, **ONCE), told.append)
    assert told == [1, 2, 3]


@pytest.mark.parametrize("fields", [{"rounds": 0}, {"most_calls": 0}, {"seconds": -1.0}, {"warmup": -0.1}])
def test_settings_out_of_range_are_refused(fields: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(fields))):
        TimingConfig(**fields)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_time_covers_the_kernels() -> None:
    x = torch.randn(4096, 4096, device="cuda")
    device = torch.device("cuda")
    one, ten = time_call(lambda: x @ x, device), time_call(lambda: [x @ x for _ in range(20)], device)
    one, ten = time_call(lambda: x @ x, device), time_call(lambda: [x @ x for _ in range(20)], device)
    assert ten > 5 * one > 0
