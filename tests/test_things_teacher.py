"""The teacher of hrformer_tiny_things."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

FILE = Path(__file__).resolve().parents[1] / "examples" / "things_teacher.py"


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("things_teacher", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["things_teacher"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["things_teacher"]


def test_the_last_layer_is_the_regression_of_the_features(script: ModuleType) -> None:
    generator = torch.Generator().manual_seed(0)
    inputs, true = torch.randn(4000, 6, generator=generator), torch.randn(3, 6, generator=generator)
    labels = torch.multinomial((inputs @ true.T).softmax(1), 1, generator=generator)[:, 0]
    found = script.fitted(inputs, labels, 3, decay=1e-6).weight.detach()
    # Only differences between classes are determined.
    torch.testing.assert_close(found - found.mean(0), true - true.mean(0), atol=0.2, rtol=0)
    small = script.fitted(inputs, labels, 3, decay=10.0).weight.detach()
    assert small.abs().max() < 0.1
