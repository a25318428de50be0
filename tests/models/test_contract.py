"""What every named model promises, whatever its blocks and its head."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from hrformer.fast.coat import RecomputedBranch, set_grad_checkpointing
from hrformer.models.model import TASKS, VisionModel
from hrformer.zoo import create_model, list_models

COUNT = 3
EVERY = [(name, task) for name in list_models() for task in TASKS]
LIGHT = [("hrformer_nano", task) for task in TASKS] + [("hrformer_tiny", "segmentation"), ("hrnet_w18", "pose")]
ODD = (61, 83)


def build(name: str, task: str, **options) -> VisionModel:
    if task == "segmentation" and "_window" in name:
        options |= {"ocr_channels": 64, "ocr_key_channels": 32}  # wide in the variants without a suffix
    return create_model(name, task, **options, **{"num_keypoints" if task == "pose" else "num_classes": COUNT})


def expected_shape(task: str, batch: int, size: tuple[int, int]) -> tuple[int, ...]:
    height, width = size
    return {
        "classification": (batch, COUNT),
        "pose": (batch, COUNT, math.ceil(height / 4), math.ceil(width / 4)),
        "segmentation": (batch, COUNT, height, width),
    }[task]


def as_tuple(outputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)


def objective(outputs: Tensor | tuple[Tensor, ...]) -> Tensor:
    """A number to differentiate in which no part of the output cancels."""
    generator = torch.Generator().manual_seed(5)
    return sum((y * torch.randn(y.shape, generator=generator)).sum() for y in as_tuple(outputs))


def lively(model: VisionModel) -> VisionModel:
    """Weights and statistics away from their initial values: fresh pose models answer almost 0 to everything."""
    generator = torch.Generator().manual_seed(6)
    for m in model.modules():
        if isinstance(m, nn.Conv2d):
            nn.init.normal_(m.weight, 0.0, m.weight[0].numel() ** -0.5, generator=generator)
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean.normal_(0.0, 0.1, generator=generator)
            m.running_var.uniform_(0.5, 1.5, generator=generator)
    return model


@pytest.fixture(scope="module", params=EVERY, ids=lambda case: f"{case[0]}-{case[1]}")
def model(request: pytest.FixtureRequest) -> VisionModel:
    torch.manual_seed(0)
    return build(*request.param)


class TestEveryModel:
    @torch.no_grad()
    def test_eval_shape(self, model: VisionModel) -> None:
        output = model.eval()(torch.randn(1, 3, *ODD))
        assert tuple(output.shape) == expected_shape(model.task, 1, ODD)
        assert torch.isfinite(output).all()

    def test_training_reaches_every_parameter(self, model: VisionModel) -> None:
        outputs = model.train()(torch.randn(2, 3, 32, 32))
        if model.task == "segmentation":
            assert isinstance(outputs, tuple), "(auxiliary, main)"
            assert len(outputs) == 2
        assert all(tuple(y.shape) == expected_shape(model.task, 2, (32, 32)) for y in as_tuple(outputs))
        parameters = dict(model.named_parameters())
        gradients = torch.autograd.grad(objective(outputs), list(parameters.values()), allow_unused=True)
        found = dict(zip(parameters, gradients, strict=True))
        assert [name for name, grad in found.items() if grad is None] == []
        assert [name for name, grad in found.items() if not torch.isfinite(grad).all()] == []


@pytest.fixture(scope="module", params=LIGHT, ids=lambda case: f"{case[0]}-{case[1]}")
def case(request: pytest.FixtureRequest) -> tuple[str, str]:
    return request.param


@pytest.fixture(scope="module")
def light(case: tuple[str, str]) -> VisionModel:
    """In eval mode, to be left so."""
    torch.manual_seed(0)
    return lively(build(*case)).eval()


class TestLightModels:
    @pytest.mark.parametrize("size", [(64, 48), (32, 32), (7, 5), (1, 1)])
    @torch.no_grad()
    def test_any_size_gives_the_same_twice(self, light: VisionModel, size: tuple[int, int]) -> None:
        x = torch.randn(1, 3, *size)
        kept, first, second = x.clone(), light(x), light(x)
        assert tuple(first.shape) == expected_shape(light.task, 1, size)
        assert torch.equal(first, second)
        assert torch.equal(x, kept), "the input is not written to"

    @torch.no_grad()
    def test_state_dict_survives(self, light: VisionModel, case: tuple[str, str]) -> None:
        torch.manual_seed(1)
        other = build(*case).eval()
        x = torch.randn(1, 3, *ODD)
        output = light(x)
        assert not torch.allclose(other(x), output)
        other.load_state_dict(light.state_dict(), strict=True)
        assert torch.equal(other(x), output)

    @torch.no_grad()
    def test_pictures_do_not_see_each_other(self, light: VisionModel) -> None:
        x = torch.randn(3, 3, 40, 52)
        batch = light(x)
        tolerance = 1e-5 * batch.abs().max().item()
        for i in range(3):
            torch.testing.assert_close(light(x[i : i + 1]), batch[i : i + 1], rtol=0, atol=tolerance)

    @torch.no_grad()
    def test_memory_format_does_not_matter(self, light: VisionModel) -> None:
        x = torch.randn(2, 3, 40, 52)
        strided = x.contiguous(memory_format=torch.channels_last)
        assert torch.equal(light(strided), light(x))
        turned = copy.deepcopy(light).to(memory_format=torch.channels_last)
        output = light(x)
        torch.testing.assert_close(turned(strided), output, rtol=0, atol=1e-5 * output.abs().max().item())

    def test_gradient_checkpointing_changes_nothing(self, light: VisionModel, case: tuple[str, str]) -> None:
        """Not even dropped paths and batch statistics, which a second forward pass would touch again."""
        plain = copy.deepcopy(light).train()
        if case[0].startswith("hrformer"):
            plain = build(*case, drop_path_rate=0.3)
            plain.load_state_dict(light.state_dict())
        thrifty = copy.deepcopy(plain)
        set_grad_checkpointing(thrifty.backbone)
        x, results = torch.randn(2, 3, 40, 32), []
        for m in (plain, thrifty):
            torch.manual_seed(2)
            loss = objective(m(x))
            loss.backward()
            gradients = {name: p.grad for name, p in m.named_parameters()}
            results.append((loss, gradients, dict(m.named_buffers())))
        torch.testing.assert_close(results[1], results[0])
        set_grad_checkpointing(thrifty.backbone, False)
        assert not any(isinstance(m, RecomputedBranch) for m in thrifty.modules())

    def test_half_precision_under_autocast(self, light: VisionModel) -> None:
        x = torch.randn(1, 3, 32, 32)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            output = light(x)
        assert torch.isfinite(output).all()


@pytest.mark.parametrize("task", TASKS)
def test_only_drop_path_and_dropout_are_random_in_training(task: str) -> None:
    options = {"dropout": 0.0} if task == "segmentation" else {}
    x = torch.randn(2, 3, 32, 32)
    for rate, same in ((0.0, True), (0.5, False)):
        model = lively(build("hrformer_nano", task, drop_path_rate=rate, **options)).train()
        first, second = (as_tuple(model(x)) for _ in range(2))
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True)) is same


@pytest.mark.parametrize("task", TASKS)
def test_pickled_models_work(task: str, tmp_path) -> None:
    model = build("hrformer_nano", task).eval()
    torch.save(model, tmp_path / "model.pt")
    again = torch.load(tmp_path / "model.pt", weights_only=False)
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(again(x), model(x))
    assert again.info == model.info
