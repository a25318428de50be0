"""Groups, sweeps and what they refuse."""

from __future__ import annotations

import pytest

from bench_records import candidate
from hrformer.benchmark.plan import Group, Job, Plan, Selector, Target, sweep_group


def group(title: str) -> Group:
    return Group(title=title, kind="forward", jobs=(Job(candidate=candidate(), batch=1, size=(64, 64)),))


def test_sweeps_put_all_points_into_one_group() -> None:
    ones = [candidate(), candidate(way="fast")]
    batches = sweep_group("b", ones, "batch", (1, 4), batch=2, size=(256, 192))
    assert [(job.candidate, job.batch) for job in batches.jobs] == [(one, n) for n in (1, 4) for one in ones]
    sizes = sweep_group("s", ones[:1], "size", (0.5, 1, 2), batch=2, size=(256, 192))
    assert [job.size for job in sizes.jobs] == [(128, 96), (256, 192), (512, 384)]
    assert {job.batch for job in sizes.jobs} == {2}
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


def test_plans_name_each_group_once_and_hold_some() -> None:
    with pytest.raises(ValueError, match="more than one group is called 'a'"):
        Plan(name="p", groups=(group("a"), group("a")))
    with pytest.raises(ValueError, match="nothing to measure"):
        Plan(name="p", groups=())


def test_parts_of_a_plan_by_a_word() -> None:
    ours = Selector(origin="ours", model="hrformer_small")
    targets = tuple(Target(name="t", group=title, ours=ours, due=1.0) for title in ("Pose, batch 1", "Training"))
    plan = Plan(name="p", groups=(group("Pose, batch 1"), group("Training")), targets=targets)
    part = plan.only("pose")
    assert [one.title for one in part.groups] == ["Pose, batch 1"]
    assert [target.group for target in part.targets] == ["Pose, batch 1"]
    assert part.name == "p: pose"
    with pytest.raises(ValueError, match="no group is called like 'memory'; there are: Pose, batch 1; Training"):
        plan.only("memory")
