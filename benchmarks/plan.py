"""What to measure: groups of jobs that take turns, and targets for what comes out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from candidates import Candidate, Job, Origin, Precision, Way
from records import Growth, Kind, Record, Verdict
from timing import fit_power_law, paired_ratio

Sweep = Literal["batch", "size", "window"]

SWEEP_VALUES = {"batch": (1, 2, 4, 8, 16), "size": (0.5, 1, 1.5, 2), "window": (5, 7, 9, 11, 13, 15)}
"""Default points of a sweep; for "size" factors on height and width."""


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
    """Some of the candidates of a group: whose code, which network, how run and in which precision; any way where
    ``ways`` is empty, any precision where it is None."""

    origin: Origin = "ours"
    model: str
    ways: tuple[Way, ...] = ()
    precision: Precision | None = None

    def takes(self, candidate: Candidate) -> bool:
        """Whether a candidate is one of them."""
        named = (candidate.origin, candidate.model) == (self.origin, self.model)
        fits = self.precision in (None, candidate.precision)
        return named and fits and (not self.ways or candidate.way in self.ways)

    def fastest(self, records: Sequence[Record]) -> Record | None:
        """The record with the lowest median among those that it takes, failures aside."""
        taken = [record for record in records if record.rounds and self.takes(record.candidate)]
        return min(taken, key=lambda record: record.median, default=None)


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

    def judge(self, records: Sequence[Record], growth: Sequence[Growth]) -> Verdict:
        """What was measured of it."""
        group = [record for record in records if record.group == self.group and record.part == self.part]
        if not group:
            return self._verdict(reason="not in this run")
        sides = [selector.fastest(group) for selector in (self.ours, self.against) if selector]
        found = [record for record in sides if record]
        if len(found) < len(sides):
            return self._verdict(reason=_why(group, self.against if sides[0] and self.against else self.ours))
        winners = tuple(record.candidate.label for record in found)
        if self.against:
            low, ratio, high = paired_ratio(found[1].rounds, found[0].rounds)
            return self._verdict(measured=ratio, spread=(low, high), winners=winners)
        if self.unit != "exponent":
            return self._verdict(measured=found[0].median * (1000 if self.unit == "ms" else 1), winners=winners)
        grown = [one.exponent for one in growth if (one.group, one.label) == (self.group, winners[0])]
        return self._verdict(measured=grown[0], winners=winners) if grown else self._verdict(reason="too few points")

    def _verdict(self, **found: Any) -> Verdict:
        return Verdict(name=self.name, due=self.due, then=self.then, unit=self.unit, **found)


def _why(group: Sequence[Record], selector: Selector) -> str:
    """Why a group has no figures of some candidates."""
    failed = [record.failure for record in group if selector.takes(record.candidate)]
    if failed:
        return failed[0]
    if selector.origin in ("official", "mmpose"):
        return f"needs --peer {selector.origin}=PATH"
    return f"{selector.model} was not measured"


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
    jobs = []
    for value in points:
        for candidate in candidates:
            job = Job(candidate=candidate, batch=batch, size=size)
            if over == "batch":
                job = replace(job, batch=int(value))
            elif over == "window":
                job = replace(job, candidate=replace(candidate, window=int(value)))
            else:
                height, width = (max(32, round(side * value / 32) * 32) for side in size)
                job = replace(job, size=(height, width))
            jobs.append(job)
    if len({(job.batch, job.size, job.candidate.window) for job in jobs}) < 2:
        raise ValueError(f"a sweep over {over} needs two or more different points, got {points}")
    return Group(title=title, kind=kind, jobs=tuple(jobs), over="pixels" if over == "size" else over)


def growth_of(group: Group, records: Sequence[Record]) -> list[Growth]:
    """Exponents of every candidate of a sweep over batch or pixels; none for other groups, or too few points."""
    found: list[Growth] = []
    if group.over not in ("batch", "pixels"):
        return found
    for label in dict.fromkeys(record.candidate.label for record in records):
        own = [record for record in records if record.candidate.label == label and record.rounds]
        sizes = [record.batch if group.over == "batch" else math.prod(record.size) for record in own]
        if len(set(sizes)) > 1:
            exponent, explained = fit_power_law(sizes, [record.median for record in own])
            grown = Growth(label=label, over=group.over, exponent=exponent, r_squared=explained, group=group.title)
            found.append(grown)
    return found
