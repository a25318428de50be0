"""Groups, sweeps and what they refuse; verdicts on figures whose answers are known."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench_records import candidate, record
from candidates import Job
from plan import Group, Plan, Selector, Target, growth_of, sweep_group
from records import Record

OURS = Selector(model="hrformer_small")
OFFICIAL = Selector(origin="official", model="hrformer_small", ways=("eager",))
THREE_TIMES = Target(name="t", group="G", ours=OURS, against=OFFICIAL, due=3.0, then=5.0)


def group(title: str) -> Group:
    return Group(title=title, kind="forward", jobs=(Job(candidate=candidate(), batch=1, size=(64, 64)),))


def test_sweeps_put_all_points_into_one_group() -> None:
    ones = [candidate(), candidate(way="fast")]
    batches = sweep_group("b", ones, "batch", (1, 4), batch=2, size=(256, 192))
    assert [(job.candidate, job.batch) for job in batches.jobs] == [(one, n) for n in (1, 4) for one in ones]
    sizes = sweep_group("s", ones[:1], "size", (0.5, 1, 2), batch=2, size=(256, 192))
    assert [(job.batch, job.size) for job in sizes.jobs] == [(2, (128, 96)), (2, (256, 192)), (2, (512, 384))]
    windows = sweep_group("w", ones[:1], "window", (), batch=1, size=(256, 192))
    assert [job.candidate.window for job in windows.jobs] == [5, 7, 9, 11, 13, 15]
    assert (batches.over, sizes.over, windows.over) == ("batch", "pixels", "window")


@pytest.mark.parametrize(
    ("over", "values", "message"),
    [
        ("batch", (1, 1), "two or more different points"),
        ("batch", (1, 2.5), "whole numbers"),
        ("batch", (0, 1), "above 0"),
        ("size", (1.0, 1.01), "two or more different points"),
    ],
)
def test_sweeps_that_show_nothing_are_refused(over, values: tuple[float, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sweep_group("x", [candidate()], over, values, batch=1, size=(64, 64))


def test_parts_of_a_plan_by_a_word() -> None:
    targets = tuple(Target(name="t", group=title, ours=OURS, due=1.0) for title in ("Pose, batch 1", "Training"))
    part = Plan(name="p", groups=(group("Pose, batch 1"), group("Training")), targets=targets).only("pose")
    assert [one.title for one in part.groups] == ["Pose, batch 1"]
    assert [target.group for target in part.targets] == ["Pose, batch 1"]
    assert part.name == "p: pose"
    with pytest.raises(ValueError, match="no group is called like 'memory'; there are: Pose, batch 1"):
        part.only("memory")


def test_the_best_of_each_side_counts() -> None:
    records = [
        record(candidate(), (2.0,), (2.0,)),
        record(candidate(way="fast"), (1.0,), (2.0,)),
        record(candidate(origin="official"), (4.0,), (8.0,)),
        record(candidate(origin="official", way="compiled"), (1.0,), (1.0,)),
    ]
    verdict = THREE_TIMES.judge(records, [])
    assert (verdict.measured, verdict.spread) == (pytest.approx(4), pytest.approx((4, 4)))
    assert verdict.winners == ("hrformer_small, fast", "official hrformer_small, eager")
    assert verdict.met is True


OURS_IN_2 = record(candidate(), (2.0,))


@pytest.mark.parametrize(
    ("records", "met", "reason"),
    [
        ([OURS_IN_2, record(candidate(origin="official"), (5.9,))], False, ""),
        ([OURS_IN_2, record(candidate(origin="official"), (9.0,), group="other")], None, "needs --peer official=PATH"),
        ([OURS_IN_2, record(candidate(origin="official"), failure="it broke")], None, "it broke"),
        ([record(candidate(origin="official"), (5.9,))], None, "hrformer_small was not measured"),
        ([], None, "not in this run"),
    ],
)
def test_targets_that_are_missed_or_not_measured(records: list[Record], met: bool | None, reason: str) -> None:
    verdict = THREE_TIMES.judge(records, [])
    assert (verdict.met, verdict.reason) == (met, reason)


def test_limits_in_time_of_one_part() -> None:
    parts = [record(candidate(), (0.002,), part="a"), record(candidate(), (0.004,), part="b")]
    limits = [Target(name="l", group="G", ours=OURS, due=3.0, unit="ms", part=part) for part in "ab"]
    found = [limit.judge(parts, []) for limit in limits]
    assert [(one.measured, one.met) for one in found] == [(pytest.approx(2), True), (pytest.approx(4), False)]


@pytest.mark.parametrize(("power", "met"), [(1.0, True), (2.0, False)])
def test_growth_in_proportion(power: float, met: bool) -> None:
    sweep = sweep_group("G", [candidate()], "size", (0.5, 1, 2), batch=1, size=(256, 192))
    found = [record(job.candidate, (1e-6 * (job.size[0] * job.size[1]) ** power,), size=job.size) for job in sweep.jobs]
    growth = growth_of(sweep, found)
    assert growth[0].exponent == pytest.approx(power)
    # The same candidate grew otherwise in another group.
    growth.insert(0, replace(growth[0], group="other", exponent=3 - power))
    assert Target(name="g", group="G", ours=OURS, due=1.1, unit="exponent").judge(found, growth).met is met
