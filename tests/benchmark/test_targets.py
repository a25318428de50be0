"""Verdicts on figures whose answers are known."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench_records import candidate, record
from hrformer.benchmark.plan import Selector, Target, sweep_group
from hrformer.benchmark.targets import growth_of, judge

OURS = Selector(origin="ours", model="hrformer_small")
OFFICIAL = Selector(origin="official", model="hrformer_small", ways=("eager",))
THREE_TIMES = Target(name="t", group="G", ours=OURS, against=OFFICIAL, due=3.0, then=5.0)


def records() -> list:
    return [
        record(candidate(), (2.0,), (2.0,)),
        record(candidate(way="fast"), (1.0,), (2.0,)),
        record(candidate(origin="official"), (4.0,), (8.0,)),
        record(candidate(origin="official", way="compiled"), (1.0,), (1.0,)),
    ]


def test_the_best_of_each_side_counts() -> None:
    verdict = judge(THREE_TIMES, records(), [])
    assert verdict.measured == pytest.approx(4)
    assert verdict.spread == pytest.approx((4, 4))
    assert verdict.winners == ("hrformer_small, fast", "official hrformer_small, eager")
    assert verdict.met is True


def test_missed_targets_are_missed() -> None:
    found = [record(candidate(), (2.0,)), record(candidate(origin="official"), (5.9,))]
    assert judge(THREE_TIMES, found, []).met is False


def test_sides_of_different_groups_are_not_compared() -> None:
    found = [record(candidate(), (2.0,)), record(candidate(origin="official"), (9.0,), group="other")]
    verdict = judge(THREE_TIMES, found, [])
    assert verdict.met is None
    assert verdict.reason == "needs --peer official=PATH"


def test_failures_are_the_reason() -> None:
    failed = record(candidate(origin="official"), failure="it broke")
    assert judge(THREE_TIMES, [record(candidate(), (1.0,)), failed], []).reason == "it broke"
    assert judge(THREE_TIMES, [], []).reason == "not in this run"


def test_limits_in_time() -> None:
    limit = Target(name="l", group="G", ours=OURS, due=3.0, unit="ms")
    assert judge(limit, [record(candidate(), (0.002,))], []).measured == pytest.approx(2)
    assert judge(limit, [record(candidate(), (0.002,))], []).met is True
    assert judge(limit, [record(candidate(), (0.004,))], []).met is False


def test_parts_are_told_apart() -> None:
    parts = [record(candidate(), (1.0,), kind="start", part="a"), record(candidate(), (9.0,), kind="start", part="b")]
    limit = Target(name="l", group="G", ours=OURS, due=5.0, unit="s", part="b")
    assert judge(limit, parts, []).met is False


@pytest.mark.parametrize(("power", "met"), [(1.0, True), (2.0, False)])
def test_growth_in_proportion(power: float, met: bool) -> None:
    group = sweep_group("G", [candidate()], "size", (0.5, 1, 2), batch=1, size=(256, 192))
    found = [record(job.candidate, (1e-6 * (job.size[0] * job.size[1]) ** power,), size=job.size) for job in group.jobs]
    growth = growth_of(group, found)
    assert growth[0].exponent == pytest.approx(power)
    # The same candidate grew otherwise in another group.
    growth.insert(0, replace(growth[0], group="other", exponent=3 - power))
    verdict = judge(Target(name="g", group="G", ours=OURS, due=1.1, unit="exponent"), found, growth)
    assert verdict.met is met
