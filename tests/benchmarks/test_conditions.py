"""What is set for everybody, and what is written down about it."""

from __future__ import annotations

import json

import pytest
import torch

from conditions import Settings, apply, describe
from records import NEEDED


def test_description_holds_what_a_figure_needs() -> None:
    before = torch.get_num_threads()
    try:
        found = describe("cpu", apply(Settings(threads=1)))
    finally:
        torch.set_num_threads(before)
    assert (found["threads"], found["device"]) == (1, "cpu")
    assert found["malloc"] == "not glibc: as it is" or ("mmap" in found["malloc"] and " 0 MiB" not in found["malloc"])
    assert not [name for name in NEEDED if name not in found]
    assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize("fields", [{"threads": -1}, {"rounds": 0}, {"seconds": -1.0}, {"warmup": -0.1}])
def test_impossible_settings_are_refused(fields: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(fields))):
        Settings(**fields)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="no GPU"):
        Settings(device="cuda")
