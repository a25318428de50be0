"""What hrformer_tiny_things began with."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

import hrformer

FILE = Path(__file__).resolve().parents[1] / "examples" / "things_start.py"


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("things_start", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["things_start"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["things_start"]


def test_the_start_is_the_small_model_where_it_has_the_layers(script: ModuleType) -> None:
    small, large = hrformer.load("hrformer_nano_cifar10").model.state_dict(), script.grown().state_dict()
    same = [name for name in small if small[name].shape == large[name].shape]
    assert all(torch.equal(small[name], large[name]) for name in same)
    blocks = {name for name in small if name.startswith("backbone.stage4.0.branches")}
    assert blocks <= set(same)
    assert not torch.equal(
        large["backbone.stage3.1.branches.0.0.attn.qkv.weight"], small["backbone.stage3.0.branches.0.0.attn.qkv.weight"]
    )


def test_the_last_layer_is_the_regression_of_the_features(script: ModuleType) -> None:
    generator = torch.Generator().manual_seed(0)
    inputs, true = torch.randn(4000, 6, generator=generator), torch.randn(3, 6, generator=generator)
    labels = torch.multinomial((inputs @ true.T).softmax(1), 1, generator=generator)[:, 0]
    found = script.fitted(inputs, labels, 3, decay=1e-6).weight.detach()
    # Only differences between classes are determined.
    torch.testing.assert_close(found - found.mean(0), true - true.mean(0), atol=0.2, rtol=0)
    small = script.fitted(inputs, labels, 3, decay=10.0).weight.detach()
    assert small.abs().max() < 0.1
