"""Forward passes and training steps do what a user's would."""

from __future__ import annotations

import copy

import pytest
import torch

from bench_records import candidate
from hrformer.benchmark.calls import make_input, prepare_forward, prepare_training
from hrformer.benchmark.networks import Sources, build_network
from hrformer.models.model import TASKS

CPU = torch.device("cpu")
SIZE = (64, 64)


@pytest.fixture(scope="module")
def networks() -> dict:
    return {task: build_network(candidate("hrformer_nano", task=task), Sources()) for task in TASKS}


def test_forward_returns_what_the_network_does(networks: dict) -> None:
    one = candidate("hrformer_nano")
    x = make_input(one, 2, SIZE, CPU, seed=0)
    network = copy.deepcopy(networks["pose"])
    with torch.inference_mode():
        expected = network(x)
    assert torch.equal(prepare_forward(network, one, CPU)(x), expected)


def test_plain_network_in_a_graph_gives_the_same_and_is_not_trained(networks: dict) -> None:
    one = candidate("hrformer_nano", way="eager-graphs")
    x, network = make_input(one, 2, SIZE, CPU, seed=0), copy.deepcopy(networks["pose"])
    with torch.inference_mode():
        expected = network(x)
    forward = prepare_forward(network, one, CPU)
    assert all(torch.equal(forward(x), expected) for _ in range(3))
    with pytest.raises(ValueError, match="not by eager-graphs"):
        prepare_training(network, one, 2, SIZE, CPU, seed=0)


def test_layout_and_precision_reach_input_and_weights(networks: dict) -> None:
    one = candidate("hrformer_nano", layout="channels_last", precision="bf16")
    x = make_input(one, 2, SIZE, CPU, seed=0)
    assert x.dtype == torch.bfloat16
    assert x.is_contiguous(memory_format=torch.channels_last)
    network = copy.deepcopy(networks["pose"])
    assert prepare_forward(network, one, CPU)(x).dtype == torch.bfloat16
    weight = network.backbone.layer1[0].conv2.weight
    assert weight.dtype == torch.bfloat16
    assert weight.is_contiguous(memory_format=torch.channels_last)


def test_autocast_keeps_weights_and_computes_in_half(networks: dict) -> None:
    one = candidate("hrformer_nano", precision="bf16", half_by="autocast")
    network = copy.deepcopy(networks["pose"])
    x = make_input(one, 1, SIZE, CPU, seed=0)
    assert x.dtype == torch.float32
    assert prepare_forward(network, one, CPU)(x).dtype == torch.bfloat16
    assert next(network.parameters()).dtype == torch.float32


def test_inputs_follow_the_seed() -> None:
    one = candidate("hrformer_nano")
    first, again, other = (make_input(one, 1, SIZE, CPU, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("task", TASKS)
def test_steps_train(networks: dict, task) -> None:
    network = copy.deepcopy(networks[task])
    before = [parameter.detach().clone() for parameter in network.parameters()]
    step = prepare_training(network, candidate("hrformer_nano", task=task), 2, SIZE, CPU, seed=0)
    losses = [float(step()) for _ in range(4)]
    assert all(loss > 0 for loss in losses)
    assert losses[-1] < losses[0]
    moved = [not torch.equal(old, new) for old, new in zip(before, network.parameters(), strict=True)]
    assert all(moved)


def test_training_runs_eager_or_compiled_only(networks: dict) -> None:
    with pytest.raises(ValueError, match="not by fast"):
        prepare_training(networks["pose"], candidate("hrformer_nano", way="fast"), 1, SIZE, CPU, seed=0)
