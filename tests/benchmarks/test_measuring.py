"""Whole plans on the smallest model."""

from __future__ import annotations

import gc
import itertools
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import measuring
import memory_probe
import own_process
from bench_records import candidate
from candidates import Candidate, Job
from conditions import Settings
from hrformer.fast.optimize import Engine
from measuring import Turn, run_plan
from networks import build_network
from plan import Group, Plan, Selector, Target, sweep_group
from records import Document, Kind
from stages import STAGES, TOTAL

QUICK = Settings(rounds=2, seconds=0, warmup=0)
NANO = candidate("hrformer_nano")


@pytest.fixture(autouse=True)
def small_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Statistics of small pictures, which take less time to settle."""
    monkeypatch.setattr("networks.SETTLING_SIZES", dict.fromkeys(("classification", "pose", "segmentation"), (64, 64)))


def group(kind: Kind, *candidates: Candidate, batch: int = 1) -> Group:
    jobs = tuple(Job(candidate=one, batch=batch, size=(64, 64)) for one in candidates)
    return Group(title=kind, kind=kind, jobs=jobs)


def run(*groups: Group, **options: Any) -> Document:
    return run_plan(Plan(name="custom", groups=groups), QUICK, "x", **options)


def test_jobs_take_turns_to_and_fro_without_garbage_collection(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    def prepare(bench: measuring.Bench, kind: str, job: Job) -> Turn:
        def turn() -> dict[str, list[float]]:
            assert not gc.isenabled()
            order.append(job.candidate.model)
            if len(order) == 4 and job.candidate.model == "c":
                raise RuntimeError("out of memory\nand more")
            return {"": [1.0]}

        return Turn(run=turn)

    monkeypatch.setattr(measuring.Bench, "_prepare", prepare)
    lines: list[str] = []
    plan = Plan(name="p", groups=(group("forward", *map(candidate, "abc")),))
    found = run_plan(plan, replace(QUICK, rounds=3), "x", lines.append)
    assert "".join(order) == "abc" + "cba" + "ab"
    assert [len(record.rounds) for record in found.records] == [3, 3, 0]
    # Whoever breaks in the middle is a failure, and the others go on.
    assert found.records[2].failure == "RuntimeError: out of memory"
    assert lines[:4] == ["1 of 1: forward", "  round 1", "  round 2", "  round 3"]
    assert gc.isenabled()


def test_failures_do_not_stop_the_others_and_every_group_is_kept() -> None:
    lines: list[str] = []
    kept: list[list[str]] = []
    groups = (group("forward", candidate(origin="official"), NANO), replace(group("forward", NANO), title="again"))
    target = Target(name="t", group="forward", ours=Selector(model="hrformer_nano"), due=60, unit="s")

    def keep(document: Document) -> None:
        kept.append([record.group for record in document.records])

    plan = Plan(name="custom", groups=groups, targets=(target,))
    found = run_plan(plan, QUICK, "x", lines.append, keep)
    failed, measured, _ = found.records
    assert "--peer official=PATH" in failed.failure
    assert any("--peer official=PATH" in line for line in lines)
    assert [len(values) for values in measured.rounds] == [1, 1]
    assert measured.first is not None
    assert found.verdicts[0].met is True
    assert found.conditions["device"] == "cpu"
    assert kept == [["forward"] * 2, ["forward", "forward", "again"]]


def test_training_and_growth() -> None:
    sweep = sweep_group("growth", [NANO], "batch", (1, 8), batch=1, size=(64, 64))
    found = run(group("train", NANO, batch=2), sweep)
    assert all(record.rounds for record in found.records)
    (growth,) = found.growth
    assert growth.over == "batch"
    assert 0 < growth.exponent < 3


@pytest.mark.parametrize("task", ["pose", "classification", "segmentation"])
def test_stages_add_up(task) -> None:
    found = run(group("stages", candidate("hrformer_nano", task=task), batch=2))
    rounds = {record.part: [values[0] for values in record.rounds] for record in found.records}
    assert set(rounds) == {*STAGES, TOTAL}
    assert rounds[TOTAL] == pytest.approx([sum(rounds[stage][n] for stage in STAGES) for n in range(2)])


def test_a_plain_network_is_not_sold_as_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino", reason="needs openvino")
    prepare = measuring.Forward

    def falls_back(network, one, device):
        forward = prepare(network, one, device)
        forward._run._use(Engine("reference", "it fails"))
        return forward

    monkeypatch.setattr(measuring, "Forward", falls_back)
    (record,) = run(group("forward", candidate("hrformer_nano", way="fast-openvino"))).records
    assert record.failure == "hrformer_nano, fast-openvino: the plain network ran in place of openvino"


def test_memory_of_a_step_is_more_than_that_of_a_forward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_process, "run_script", lambda name, order: memory_probe.measure(order))
    forward, training = run(group("memory", NANO), group("train-memory", NANO, batch=4)).records
    assert "VmHWM" in forward.note or "getrusage" in forward.note
    # Gradients and two moments of 1.4 M float32 parameters alone are 16 MiB.
    assert 16 < training.median < 2000
    assert forward.median < training.median
    assert len(training.rounds) == 1


@pytest.mark.slow
def test_memory_is_measured_in_a_process_of_its_own() -> None:
    (record,) = run(group("memory", NANO)).records
    assert not record.failure
    assert 0 < record.median < 2000


@pytest.mark.parametrize(
    ("script", "message"),
    [("raise KeyError('job')", r"probe\.py: KeyError: 'job'"), ("print('no JSON')", "answered 'no JSON")],
)
def test_what_a_process_says_last_is_the_reason(
    script: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "probe.py").write_text(script)
    monkeypatch.setattr(own_process, "__file__", str(tmp_path / "own_process.py"))
    with pytest.raises(own_process.ProbeError, match=message):
        own_process.run_script("probe.py", {})


def test_start_is_timed_with_an_empty_and_with_a_filled_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    caches: list[str] = []
    clock = itertools.count()

    def start(name: str, order: dict[str, Any], **environment: str) -> list[float]:
        assert Path(order["weights"]).is_file()
        assert Path(order["picture"]).is_file()
        assert order["options"] == {}
        caches.append(environment["HRFORMER_HOME"])
        begin = time.monotonic() + next(clock)
        return [begin, begin + 1, begin + 3, begin + 6]

    monkeypatch.setattr(own_process, "run_script", start)
    # Networks that hrformer.load does not take are refused.
    found = run(group("start", NANO, candidate("hrformer_nano", way="compiled")))
    assert len(caches) == 4
    assert caches[0] == caches[1] != caches[2] == caches[3]
    assert found.records[-1].failure.endswith("the start is measured for eager and fast")
    seconds = {record.part: record.median for record in found.records[:-1]}
    assert seconds["load, first run"] == pytest.approx(1)
    assert seconds["second result, later runs"] == pytest.approx(3)
    assert seconds["start to first result, later runs"] == pytest.approx(seconds["imports, later runs"] + 3)


@pytest.mark.slow
def test_a_process_starts_and_predicts(tmp_path: Path, skier) -> None:
    weights = own_process.write_weights(NANO, QUICK, tmp_path)
    seconds = own_process.time_start(NANO, weights, Path(skier.path), tmp_path, QUICK)
    assert tuple(seconds) == (*own_process.STEPS, own_process.TO_FIRST_RESULT)
    assert all(value > 0 and math.isfinite(value) for value in seconds.values())


def test_ways_of_a_network_start_from_the_same_weights(tmp_path: Path) -> None:
    bench = measuring.Bench(QUICK, tmp_path)
    first, second = bench._network(NANO), bench._network(replace(NANO, way="fast"))
    assert first is not second
    assert torch.equal(next(first.parameters()), next(second.parameters()))
    assert torch.equal(next(first.parameters()), next(build_network(NANO, {}).parameters()))
