"""What is trained, what decays, and learning rates at chosen updates."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hrformer.train.config import BatchConfig, ClassificationRun, OptimConfig, PoseRun, ScheduleConfig, SegmentationRun
from hrformer.train.optim import (
    cosine_rate,
    freeze,
    make_optimizer,
    parameter_groups,
    poly_rate,
    rate_at,
    set_rate,
    set_training,
    step_rate,
    total_updates,
)
from hrformer.zoo import create_model

TABLE = "backbone.stage2.0.branches.0.0.attn.relative_position_bias_table"
NORM = "backbone.stage2.0.branches.0.0.norm1.weight"
BATCH_NORM_BIAS = "backbone.bn1.bias"
CONV_BIAS = "backbone.stage2.0.branches.0.0.ffn.fc1.bias"
CONV = "backbone.conv1.weight"


def decays(rule: str) -> dict[str, float]:
    model = create_model("hrformer_nano", "pose", num_keypoints=3)
    groups = parameter_groups(model, OptimConfig(weight_decay=0.05, exempt=rule))
    return {name: group["weight_decay"] for group in groups for name in group["names"]}


@pytest.mark.parametrize(
    ("rule", "exempt"),
    [
        # Recipes: only classification decays the tables, only pose decays biases and norms.
        ("classification", {NORM, BATCH_NORM_BIAS, CONV_BIAS}),
        ("pose", {TABLE}),
        ("segmentation", {TABLE, NORM, BATCH_NORM_BIAS, CONV_BIAS}),
        ("none", set()),
    ],
)
def test_weight_decay_exemptions(rule: str, exempt: set[str]) -> None:
    decay = decays(rule)
    for name in (TABLE, NORM, BATCH_NORM_BIAS, CONV_BIAS, CONV):
        assert decay[name] == (0.0 if name in exempt else 0.05), name


def test_every_parameter_is_in_one_group() -> None:
    model = create_model("hrformer_nano", "segmentation", ocr_channels=16, ocr_key_channels=8)
    names = [name for group in parameter_groups(model, OptimConfig()) for name in group["names"]]
    assert sorted(names) == sorted(name for name, _ in model.named_parameters())


def test_frozen_stages_keep_weights_and_statistics() -> None:
    model = create_model("hrformer_nano", "pose", num_keypoints=3)
    frozen = freeze(model, ("stem", "stage1", "stage2"))
    optimizer = make_optimizer(parameter_groups(model, OptimConfig(lr=0.1)), OptimConfig(lr=0.1))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    set_training(model, frozen)
    model(torch.randn(2, 3, 64, 64)).square().mean().backward()
    optimizer.step()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    still = ("backbone.conv", "backbone.bn", "backbone.layer1", "backbone.transition1", "backbone.stage2")
    assert not [name for name in changed if name.startswith(still)]
    assert "backbone.stage3.0.branches.0.0.ffn.norm1.running_mean" in changed
    assert "head.final_layer.weight" in changed


def test_timm_backbone_freezes_whole() -> None:
    model = create_model("resnet18", "pose", num_keypoints=3)
    with pytest.raises(ValueError, match="only be frozen as a whole"):
        freeze(model, ("stage1",))
    freeze(model, ("backbone",))
    names = [name for group in parameter_groups(model, OptimConfig()) for name in group["names"]]
    assert names
    assert all(name.startswith("head.") for name in names)


def test_layer_decay_lowers_the_rate_towards_the_input() -> None:
    model = create_model("hrformer_nano", "pose", num_keypoints=3)
    config = OptimConfig(lr=1.0, layer_decay=0.5)
    optimizer = make_optimizer(parameter_groups(model, config), config)
    set_rate(optimizer, 2.0)
    rates = {name: group["lr"] for group in optimizer.param_groups for name in group["names"]}
    assert rates["head.final_layer.weight"] == 2.0
    assert rates["backbone.stage4.0.branches.0.0.ffn.fc1.weight"] == 1.0
    assert rates[CONV] == 2.0 * 0.5**5


def test_published_rates_at_chosen_steps() -> None:
    imagenet = ClassificationRun(
        optim=OptimConfig(lr=5e-4, lr_batch=512),
        schedule=ScheduleConfig(kind="cosine", epochs=300, warmup_epochs=20, warmup_ratio=1e-3, floor_ratio=0.01),
        batch=BatchConfig(total=1024),
    )
    per_epoch = 1251
    assert rate_at(0, imagenet, per_epoch) == pytest.approx(1e-6)
    # After 20 epochs the cosine is already 20 epochs old.
    after_warmup = 1e-5 + 0.5 * (1e-3 - 1e-5) * (1 + torch.cos(torch.tensor(torch.pi * 20 / 300)).item())
    assert rate_at(20 * per_epoch + 1, imagenet, per_epoch) == pytest.approx(after_warmup, rel=1e-6)
    assert rate_at(300 * per_epoch + 1, imagenet, per_epoch) == pytest.approx(1e-5)

    cityscapes = SegmentationRun(
        optim=OptimConfig(lr=1e-4),
        schedule=ScheduleConfig(kind="poly", updates=80_000, warmup_updates=1500, warmup_ratio=1e-6),
        batch=BatchConfig(total=8),
    )
    assert rate_at(0, cityscapes, 371) == pytest.approx(1e-10)
    assert rate_at(1500, cityscapes, 371) == 1e-4
    assert rate_at(40_750, cityscapes, 371) == pytest.approx(1e-4 * 0.5**0.9)


def test_length_in_epochs_or_updates() -> None:
    assert total_updates(ScheduleConfig(epochs=2.5), 100) == 250
    assert total_updates(ScheduleConfig(updates=7), 100) == 7


@pytest.mark.parametrize(("name", "kind"), [("adamw", "AdamW"), ("adam", "Adam"), ("sgd", "SGD")])
def test_optimizers(name: str, kind: str) -> None:
    model = create_model("hrformer_nano", "pose", num_keypoints=3)
    config = replace(OptimConfig(), name=name)
    assert type(make_optimizer(parameter_groups(model, config), config)).__name__ == kind


def test_frozen_norms_keep_their_statistics_only() -> None:
    model = create_model("hrformer_nano", "pose", num_keypoints=3)
    assert not freeze(model, ("norms",)), "fresh norms have nothing to keep"
    model.train()
    model(torch.randn(2, 3, 64, 64))
    fresh = [module for module in model.head.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for module in fresh:
        module.reset_running_stats()
    frozen = freeze(model, ("norms",))
    assert not set(map(id, fresh)) & set(map(id, frozen))
    assert all(parameter.requires_grad for parameter in model.parameters())
    set_training(model, frozen)
    before = {name: value.clone() for name, value in model.state_dict().items() if "running_mean" in name}
    model(torch.randn(2, 3, 64, 64)).sum().backward()
    assert before
    state = model.state_dict()
    assert not [name for name, value in before.items() if name.startswith("backbone.") and not state[name].equal(value)]
    assert model.backbone.bn1.weight.grad is not None


@pytest.fixture(scope="module")
def golden(parity_dir: Path) -> dict:
    return json.loads((parity_dir / "protocol" / "segmentation.json").read_text())


def test_cosine_matches_timm_as_the_official_loop_calls_it(golden: dict) -> None:
    assert len(golden["cls_cosine_lr"]) == 2
    for case in golden["cls_cosine_lr"].values():
        total, warmup = (case[name] * case["steps_per_epoch"] for name in ("epochs", "warmup_epochs"))
        settings = (case["base_lr"], total, warmup, case["warmup_lr"], case["min_lr"])
        assert cosine_rate(0, *settings) == case["lr_before_any_step"]
        for step, want in zip(case["steps"], case["lr"], strict=True):
            assert cosine_rate(step + 1, *settings) == pytest.approx(want, rel=1e-12)
        assert cosine_rate(total + 1, *settings) == case["min_lr"]


def test_poly_matches_the_reference(golden: dict) -> None:
    assert len(golden["poly_lr"]) == 2
    for total, case in golden["poly_lr"].items():
        settings = (case["base_lr"], int(total), 0.9, case["warm_iters"], case["warm_ratio"])
        for iteration, want in zip(case["iterations"], case["lr"], strict=True):
            assert poly_rate(iteration, *settings) == pytest.approx(want, rel=1e-10)
        assert poly_rate(int(total), *settings) == 0


@pytest.mark.parametrize(
    ("update", "want"),
    [
        (0, 5e-7),  # 0.001 x peak
        (250, 5e-4 * (0.001 + 0.999 / 2)),
        (499, 5e-4 * (1 - 0.999 / 500)),
        (500, 5e-4),
        (170 * 586 - 1, 5e-4),
        (170 * 586, 5e-5),
        (200 * 586 - 1, 5e-5),
        (200 * 586, 5e-6),
        (210 * 586 - 1, 5e-6),
    ],
)
def test_steps_of_the_published_pose_run(update: int, want: float) -> None:
    config = PoseRun(
        optim=OptimConfig(lr=5e-4),
        schedule=ScheduleConfig(kind="step", epochs=210, milestones=(170, 200), warmup_updates=500),
        batch=BatchConfig(total=256),
    )
    assert rate_at(update, config, 586) == pytest.approx(want, rel=1e-12)  # 149,813 people in batches of 256


def test_warmup_and_milestones_multiply() -> None:
    assert step_rate(50, 1.0, (10,), 0.1, 100, 0.0) == pytest.approx(0.05)


def test_without_warmup_the_peak_comes_first() -> None:
    assert cosine_rate(0, 1.0, 10, 0, 0.1, 0.0) == 1.0
    assert step_rate(0, 1.0, (), 0.1, 0, 1e-3) == 1.0
    assert poly_rate(0, 1.0, 10, 0.9, 0, 1e-6) == 1.0


@pytest.mark.parametrize("kind", ["cosine", "poly"])
def test_a_warmup_as_long_as_the_run_is_refused(kind: str) -> None:
    config = PoseRun(optim=OptimConfig(), schedule=ScheduleConfig(kind=kind, epochs=1, warmup_updates=500))
    with pytest.raises(ValueError, match="the warm-up of 500 updates must be shorter than the run, which has 500"):
        rate_at(0, config, 500)
