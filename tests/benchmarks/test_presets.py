"""The standard runs hold every row of the project's targets."""

from __future__ import annotations

import pytest

from presets import PRESETS, cpu, cpu_bf16, gpu

BOTH = ("official", "mmpose")


@pytest.mark.parametrize("name", PRESETS)
def test_targets_name_groups_of_their_plan_and_candidates_in_them(name: str) -> None:
    plan = PRESETS[name](BOTH)
    groups = {group.title: [job.candidate for job in group.jobs] for group in plan.groups}
    assert len(groups) == len(plan.groups)
    assert len(plan.targets) >= (6 if name == "cpu-bf16" else 9)
    for target in plan.targets:
        for selector in filter(None, (target.ours, target.against)):
            assert any(selector.takes(one) for one in groups[target.group]), target.name


@pytest.mark.parametrize("name", PRESETS)
def test_candidates_of_a_group_have_labels_of_their_own(name: str) -> None:
    for group in PRESETS[name](BOTH).groups:
        keys = [(job.candidate.label, job.batch, job.size) for job in group.jobs]
        assert len(set(keys)) == len(keys)


def test_peers_take_part_only_where_they_are() -> None:
    for preset in PRESETS.values():
        origins = {job.candidate.origin for group in preset(()).groups for job in group.jobs}
        assert not origins & set(BOTH)


def test_cpu_targets_are_those_of_the_project() -> None:
    dues = {(target.name, target.due, target.then) for target in cpu(BOTH).targets}
    for model, rival, then in (("hrformer_small", "hrnet_w32", 1.6), ("hrformer_base", "hrnet_w48", 1.1)):
        for batch in (1, 8):
            assert (f"{model} against the official code in eager, batch {batch}", 3.0, 5.0) in dues
            assert (f"{model} against the best of {rival}, batch {batch}", 1.0, then) in dues
    assert ("hrformer_small, training step against the official code", 2.5, 4.0) in dues
    assert ("hrformer_small, training memory against the official code", 2.0, None) in dues


def test_cpu_bf16_compares_in_the_same_precision_but_for_our_own_float32() -> None:
    plan = cpu_bf16()
    dues = {(target.name, target.due, target.then) for target in plan.targets}
    for model, rival in (("hrformer_small", "hrnet_w32"), ("hrformer_base", "hrnet_w48")):
        for batch in (1, 8):
            assert (f"{model} against the best of {rival}, bf16, batch {batch}", 1.0, 1.5) in dues
    assert ("hrformer_base in bf16 against its own float32, batch 8", 1.6, 1.8) in dues
    assert ("hrformer_small, training step in bf16 against the official code at its best", 2.5, 4.0) in dues
    for target in plan.targets:
        sides = [
            job.candidate.precision
            for group in plan.groups
            for job in group.jobs
            for selector in filter(None, (target.ours, target.against))
            if group.title == target.group and selector.takes(job.candidate)
        ]
        assert set(sides) == ({"bf16", "fp32"} if "own float32" in target.name else {"bf16"}), target.name


def test_gpu_runs_in_half_precision_and_large() -> None:
    plan = gpu(BOTH)
    forward = [job for group in plan.groups for job in group.jobs]
    assert {job.candidate.precision for job in forward} == {"bf16"}
    on_cpu = ("fast-native", "fast-openvino", "fast-onnxruntime")  # none of them runs there
    assert not [job.candidate.label for job in forward if job.candidate.way in on_cpu]
    assert {job.size for job in forward if job.candidate.task == "segmentation"} == {(1024, 2048)}
    assert any(target.unit == "ms" and target.due == 3.0 for target in plan.targets)
