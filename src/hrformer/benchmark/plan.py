"""What to measure: groups of jobs that take turns, and targets for what comes out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from hrformer.benchmark.candidates import Candidate, Origin, Way
from hrformer.benchmark.records import Kind

Sweep = Literal["batch", "size", "window"]

SWEEP_VALUES = {"batch": (1, 2, 4, 8, 16), "size": (0.5, 1, 1.5, 2), "window": (5, 7, 9, 11, 13, 15)}
"""Default points of a sweep; for "size" factors on height and width."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One candidate at one batch and size.

    Attributes:
        candidate: who.
        batch: pictures.
        size: (height, width), pixels.
    """

    candidate: Candidate
    batch: int
    size: tuple[int, int]

    def __post_init__(self) -> None:
        if self.batch < 1 or len(self.size) != 2 or min(self.size) < 1:
            raise ValueError(f"batch and size must be above 0, got {self.batch} and {self.size}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Jobs that take turns.

    Attributes:
        title: names the group in tables; unique in a plan.
        kind: what is measured.
        jobs: one or more.
        over: what differs between the jobs of one candidate, in a sweep; empty else.
    """

    title: str
    kind: Kind
    jobs: tuple[Job, ...]
    over: Literal["", "batch", "pixels", "window"] = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Selector:
    """Some of the candidates of a group.

    Attributes:
        origin: whose code.
        model: which network.
        ways: how run; empty for any.
    """

    origin: Origin
    model: str
    ways: tuple[Way, ...] = ()

    def takes(self, candidate: Candidate) -> bool:
        """Whether a candidate is one of them."""
        named = (candidate.origin, candidate.model) == (self.origin, self.model)
        return named and (not self.ways or candidate.way in self.ways)


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """What a group should show. The fastest of ours counts, and the fastest of the others'.

    Attributes:
        name: shown in tables.
        group: title of the group.
        ours: our candidates.
        against: the others; None for a limit in seconds, milliseconds or as an exponent.
        due: ratio to reach at least, or the limit.
        then: the same, for later.
        unit: "x", "s", "ms" or "exponent".
        part: of ``start``.
    """

    name: str
    group: str
    ours: Selector
    against: Selector | None = None
    due: float
    then: float | None = None
    unit: Literal["x", "s", "ms", "exponent"] = "x"
    part: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """A whole run.

    Attributes:
        name: of the preset, or "custom"; after a colon which part of it.
        groups: measured one after another.
        targets: judged at the end.
        baseline: label of the candidate that ratios are taken against; empty for each group's default.
    """

    name: str
    groups: tuple[Group, ...]
    targets: tuple[Target, ...] = ()
    baseline: str = ""

    def __post_init__(self) -> None:
        titles = [group.title for group in self.groups]
        if twice := sorted({title for title in titles if titles.count(title) > 1}):
            raise ValueError(f"more than one group is called {twice[0]!r}")
        if not self.groups:
            raise ValueError("there is nothing to measure")

    def only(self, word: str) -> Plan:
        """The groups whose title holds a word, with their targets; the word becomes part of the name.

        Raises:
            ValueError: there are none.
        """
        kept = tuple(group for group in self.groups if word.lower() in group.title.lower())
        if not kept:
            raise ValueError(f"no group is called like {word!r}; there are: {'; '.join(g.title for g in self.groups)}")
        titles = {group.title for group in kept}
        targets = tuple(target for target in self.targets if target.group in titles)
        return replace(self, name=f"{self.name}: {word}", groups=kept, targets=targets)


def sweep_group(
    title: str,
    candidates: Sequence[Candidate],
    over: Sweep,
    values: Sequence[float],
    *,
    batch: int,
    size: tuple[int, int],
    kind: Kind = "forward",
) -> Group:
    """Candidates at several points of one dimension, all of them in one group.

    Args:
        title: of the group.
        candidates: who.
        over: batches, factors on the size (sides are rounded to multiples of 32), or windows.
        values: points; empty takes ``SWEEP_VALUES``.
        batch: where it is not swept.
        size: (height, width) where it is not swept, else of factor 1.
        kind: what is measured.

    Raises:
        ValueError: a value is out of range, or there are fewer than two different points.
    """
    points = tuple(values) or SWEEP_VALUES[over]
    if over != "size" and any(value != int(value) for value in points):
        raise ValueError(f"a sweep over {over} needs whole numbers, got {points}")
    jobs = [job for value in points for one in candidates for job in [_point(one, over, value, batch, size)]]
    if len({(job.batch, job.size, job.candidate.window) for job in jobs}) < 2:
        raise ValueError(f"a sweep over {over} needs two or more different points, got {points}")
    return Group(title=title, kind=kind, jobs=tuple(jobs), over="pixels" if over == "size" else over)


def _point(candidate: Candidate, over: Sweep, value: float, batch: int, size: tuple[int, int]) -> Job:
    if over == "batch":
        return Job(candidate=candidate, batch=int(value), size=size)
    if over == "window":
        return Job(candidate=replace(candidate, window=int(value)), batch=batch, size=size)
    height, width = (max(32, round(side * value / 32) * 32) for side in size)
    return Job(candidate=candidate, batch=batch, size=(height, width))
