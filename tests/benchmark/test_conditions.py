"""What is set for everybody, and what is written down about it."""

from __future__ import annotations

import json

import pytest
import torch

from hrformer.benchmark.conditions import Conditions, apply, describe
from hrformer.benchmark.records import NEEDED


def test_description_holds_what_a_figure_needs() -> None:
    before = torch.get_num_threads()
    try:
        found = describe(apply(Conditions(threads=1)), "cpu")
    finally:
        torch.set_num_threads(before)
    assert found["threads"] == 1
    assert found["device"] == "cpu"
    assert not [name for name in NEEDED if name not in found]
    assert json.loads(json.dumps(found)) == found


def test_malloc_is_set_or_said_to_be_as_it_is() -> None:
    said = apply(Conditions())["malloc"]
    assert said == "not glibc: as it is" or ("mmap threshold" in said and " 0 MiB" not in said)


@pytest.mark.parametrize("fields", [{"device": "tpu"}, {"threads": -1}])
def test_impossible_conditions_are_refused(fields: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(fields))):
        Conditions(**fields)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="no GPU"):
        Conditions(device="cuda")
