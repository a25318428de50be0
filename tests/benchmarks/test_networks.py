"""Networks with random weights that behave like trained ones."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bench_records import candidate
from hrformer.zoo import create_model
from networks import build_network, settle


@pytest.fixture(scope="module")
def nano() -> nn.Module:
    return build_network(candidate("hrformer_nano"), {})


def test_activations_are_of_ordinary_size(nano: nn.Module) -> None:
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        settled = nano(x).abs().mean()
        fresh = create_model("hrformer_nano", "pose").eval()(x).abs().mean()
    # The recipe's weights (standard deviation 0.001) let them vanish, which is what settling is for.
    assert 0.05 < settled < 20
    assert fresh < settled / 20


def test_the_seed_decides_about_the_weights(nano: nn.Module) -> None:
    state = torch.random.get_rng_state()
    again, other = (build_network(candidate("hrformer_nano"), {}, seed) for seed in (0, 1))
    weights = [next(one.parameters()) for one in (nano, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert torch.equal(torch.random.get_rng_state(), state)


def test_settling_keeps_momenta_and_sets_statistics() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=0.3))
    settle(network, (16, 16))
    assert network[1].momentum == 0.3
    with torch.no_grad():
        y = network.eval()(torch.randn(8, 3, 64, 64))
    assert y.mean().abs() < 0.2
    assert 0.7 < y.std() < 1.4


def test_windows_reach_the_model() -> None:
    assert build_network(candidate("hrformer_nano", window=5), {}).info.options["window_size"] == 5


def test_a_peer_without_a_checkout_says_what_to_do() -> None:
    with pytest.raises(ValueError, match="--peer official=PATH"):
        build_network(candidate(origin="official"), {})


@pytest.mark.slow
def test_vitpose_b_is_of_the_published_size() -> None:
    pytest.importorskip("transformers", reason="needs transformers")
    network = build_network(candidate("vitpose_b", origin="transformers"), {})
    # ViTPose's table says 90M for B with the classic decoder.
    assert round(sum(parameter.numel() for parameter in network.parameters()) / 1e6) == 90
    with torch.inference_mode():
        assert network(torch.randn(1, 3, 256, 192)).shape == (1, 17, 64, 48)
