"""Whole plans on the smallest model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench_records import candidate
from hrformer.benchmark import run as run_module
from hrformer.benchmark.plan import Group, Job, Plan, Selector, Target, sweep_group
from hrformer.benchmark.run import Settings, run_plan
from hrformer.benchmark.stages import STAGES
from hrformer.benchmark.start import STEPS, TOTAL
from hrformer.benchmark.timing import TimingConfig
from hrformer.fast.optimize import Engine

QUICK = Settings(timing=TimingConfig(rounds=2, seconds=0, warmup=0))
NANO = candidate("hrformer_nano")


def group(kind, *candidates, **fields) -> Group:
    jobs = tuple(Job(candidate=one, batch=fields.get("batch", 1), size=(64, 64)) for one in candidates)
    return Group(title=kind, kind=kind, jobs=jobs)


def test_failures_do_not_stop_the_others() -> None:
    lines: list[str] = []
    plan = Plan(
        name="custom",
        groups=(group("forward", candidate("hrformer_small", origin="official"), NANO),),
        targets=(
            Target(name="t", group="forward", ours=Selector(origin="ours", model="hrformer_nano"), due=60, unit="s"),
        ),
    )
    found = run_plan(plan, replace(QUICK, tell=lines.append), "hrformer bench")
    failed, measured = found.records
    assert "--peer official=PATH" in failed.failure
    assert [len(values) for values in measured.rounds] == [1, 1]
    assert measured.first is not None
    assert found.verdicts[0].met is True
    assert any("--peer official=PATH" in line for line in lines)
    assert found.conditions["device"] == "cpu"


def test_what_is_known_is_kept_after_every_group() -> None:
    kept: list[tuple[str, ...]] = []
    settings = replace(QUICK, keep=lambda document: kept.append(tuple(record.group for record in document.records)))
    groups = (group("forward", NANO), replace(group("forward", NANO), title="again"))
    run_plan(Plan(name="custom", groups=groups), settings, "x")
    assert kept == [("forward",), ("forward", "again")]


def test_training_and_growth() -> None:
    sweep = sweep_group("growth", [NANO], "batch", (1, 16), batch=1, size=(64, 64))
    found = run_plan(Plan(name="custom", groups=(group("train", NANO, batch=2), sweep)), QUICK, "x")
    assert all(record.rounds for record in found.records)
    (growth,) = found.growth
    assert growth.over == "batch"
    assert 0 < growth.exponent < 3


@pytest.mark.parametrize("task", ["pose", "classification", "segmentation"])
def test_stages_add_up(task) -> None:
    one = candidate("hrformer_nano", task=task)
    found = run_plan(Plan(name="custom", groups=(group("stages", one, batch=2),)), QUICK, "x")
    by_part = {record.part: record.rounds for record in found.records}
    assert set(by_part) == {*STAGES, TOTAL_OF_STAGES}
    for number in range(2):
        total = sum(by_part[stage][number][0] for stage in STAGES)
        assert by_part[TOTAL_OF_STAGES][number][0] == pytest.approx(total)


TOTAL_OF_STAGES = "end to end"


def test_a_plain_network_is_not_sold_as_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    fast = run_module.prepare_forward

    def falls_back(network, one, device):
        forward = fast(network, one, device)
        forward._run._use(Engine("reference", "it fails"))
        return forward

    monkeypatch.setattr(run_module, "prepare_forward", falls_back)
    pytest.importorskip("openvino", reason="needs openvino")
    plan = Plan(name="custom", groups=(group("forward", candidate("hrformer_nano", way="fast-openvino")),))
    (record,) = run_plan(plan, QUICK, "x").records
    assert record.failure == "hrformer_nano, fast-openvino: the plain network ran in place of openvino"


@pytest.mark.slow
def test_memory_is_measured_in_a_process_of_its_own() -> None:
    plan = Plan(name="custom", groups=(group("memory", NANO), group("train-memory", NANO, batch=4)))
    forward, training = run_plan(plan, QUICK, "x").records
    assert "VmHWM" in forward.note or "getrusage" in forward.note
    mib = training.summary.median
    # Gradients and two moments of 1.2 M float32 parameters alone are 14 MiB.
    assert 14 < mib < 2000
    assert forward.summary.median < mib


@pytest.mark.slow
def test_start_is_timed_step_by_step(tmp_path: Path) -> None:
    settings = replace(QUICK, timing=TimingConfig(rounds=1, seconds=0, warmup=0))
    found = run_plan(Plan(name="custom", groups=(group("start", NANO),)), settings, "x")
    assert not [record.failure for record in found.records if record.failure]
    seconds = {record.part: record.summary.median for record in found.records}
    for run in ("first run", "later runs"):
        assert seconds[f"{TOTAL}, {run}"] == pytest.approx(sum(seconds[f"{step}, {run}"] for step in STEPS[:3]))
        assert all(seconds[f"{step}, {run}"] > 0 for step in STEPS)
