from __future__ import annotations

import pytest
import torch
from torch import nn

from hrformer.train.machine import BuffersKept, find_batch_size

GPU = torch.device("cuda")


def probe_with_room_for(limit: int, tried: list[int]):
    def probe(count: int) -> None:
        tried.append(count)
        if count > limit:
            raise torch.OutOfMemoryError("CUDA out of memory")

    return probe


def test_largest_part_that_fits() -> None:
    tried: list[int] = []
    assert find_batch_size(24, probe_with_room_for(7, tried), GPU) == 6
    assert tried == [24, 12, 8, 6]


def test_everything_at_once_without_a_gpu() -> None:
    tried: list[int] = []
    assert find_batch_size(24, probe_with_room_for(7, tried), torch.device("cpu")) == 24
    assert tried == []


def test_nothing_fits() -> None:
    with pytest.raises(ValueError, match="not even one sample fits"):
        find_batch_size(4, probe_with_room_for(0, []), GPU)


def test_other_errors_are_not_taken_for_lack_of_memory() -> None:
    def broken(count: int) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        find_batch_size(4, broken, GPU)


def test_trial_leaves_no_trace_in_statistics() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with BuffersKept(model):
        model(torch.randn(2, 3, 4, 4))
        assert not torch.equal(model[1].running_mean, before["1.running_mean"])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
