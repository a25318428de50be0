"""Forward passes and training steps do what a user's would."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

import hrformer.fast.optimize
from bench_records import candidate
from calls import Forward, make_input, prepare_training
from candidates import Candidate, Job
from half_kernels import pretend, pretend_half_kernels
from hrformer.models.model import TASKS
from networks import build_network

CPU = torch.device("cpu")


def job(one: Candidate, batch: int = 2) -> Job:
    return Job(candidate=one, batch=batch, size=(64, 64))


def pictures(one: Candidate, seed: int = 0) -> Tensor:
    return make_input(job(one), CPU, seed)


@pytest.fixture(scope="module")
def networks() -> dict:
    return {task: build_network(candidate("hrformer_nano", task=task), {}) for task in TASKS}


@pytest.mark.parametrize("way", ["eager", "eager-graphs"])
def test_forward_returns_what_the_network_does(networks: dict, way) -> None:
    one, network = candidate("hrformer_nano", way=way), copy.deepcopy(networks["pose"])
    x = pictures(one)
    with torch.inference_mode():
        expected = network(x)
    forward = Forward(network, one, CPU)
    assert all(torch.equal(forward(x), expected) for _ in range(3))


def test_layout_and_precision_reach_input_and_weights(networks: dict) -> None:
    one = candidate("hrformer_nano", layout="channels_last", precision="bf16")
    x, network = pictures(one), copy.deepcopy(networks["pose"])
    assert Forward(network, one, CPU)(x).dtype == torch.bfloat16
    for tensor in (x, network.backbone.layer1[0].conv2.weight):
        assert tensor.dtype == torch.bfloat16
        assert tensor.is_contiguous(memory_format=torch.channels_last)


def test_autocast_keeps_weights_and_computes_in_half(networks: dict) -> None:
    one = candidate("hrformer_nano", precision="bf16", half_by="autocast")
    x, network = pictures(one), copy.deepcopy(networks["pose"])
    assert Forward(network, one, CPU)(x).dtype == torch.bfloat16
    assert (x.dtype, next(network.parameters()).dtype) == (torch.float32, torch.float32)


def test_another_precision_is_not_timed(networks: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    made, one = pretend_half_kernels(monkeypatch), candidate("hrformer_nano", way="fast", precision="bf16")
    assert Forward(copy.deepcopy(networks["pose"]), one, CPU).backend() == "native"
    assert made == ["bf16"]
    packages = {"find_spec": lambda name: name if name == "onnxruntime" else None}
    pretend(monkeypatch, native_model_refusal=lambda model, precision: "none", **packages)
    monkeypatch.setattr(hrformer.fast.optimize, "find_spec", lambda name: name)
    with pytest.raises(ValueError, match="onnxruntime ran in fp32"):
        Forward(copy.deepcopy(networks["pose"]), one, CPU).backend()


def test_inputs_follow_the_seed() -> None:
    first, again, other = (pictures(candidate(), seed) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("task", TASKS)
def test_steps_train(networks: dict, task) -> None:
    network = copy.deepcopy(networks[task])
    before = [parameter.detach().clone() for parameter in network.parameters()]
    step = prepare_training(network, job(candidate("hrformer_nano", task=task)), CPU, seed=0)
    losses = [float(step()) for _ in range(3)]
    assert 0 < losses[-1] < losses[0]
    assert not any(torch.equal(old, new) for old, new in zip(before, network.parameters(), strict=True))


@pytest.mark.parametrize("way", ["fast", "eager-graphs"])
def test_training_runs_eager_or_compiled_only(networks: dict, way) -> None:
    with pytest.raises(ValueError, match=f"not by {way}"):
        prepare_training(networks["pose"], job(candidate("hrformer_nano", way=way)), CPU, seed=0)
