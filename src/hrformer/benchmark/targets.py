"""Targets against records: the fastest of ours against the fastest of the others, from the same rounds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hrformer.benchmark.plan import Group, Selector, Target
from hrformer.benchmark.records import Growth, Record, Verdict
from hrformer.benchmark.statistics import fit_power_law, paired_ratio


def judge(target: Target, records: Sequence[Record], growth: Sequence[Growth]) -> Verdict:
    """What was measured of a target."""
    group = [record for record in records if record.group == target.group and record.part == target.part]
    if not group:
        return _unmeasured(target, "not in this run")
    ours = fastest(group, target.ours)
    if ours is None:
        return _unmeasured(target, _why(group, target.ours))
    if target.unit == "exponent":
        wanted = (target.group, ours.candidate.label)
        found = next((one for one in growth if (one.group, one.label) == wanted), None)
        if found is None:
            return _unmeasured(target, "too few points")
        return _verdict(target, found.exponent, (ours,))
    if target.against is None:
        factor = 1000 if target.unit == "ms" else 1
        return _verdict(target, ours.summary.median * factor, (ours,))
    against = fastest(group, target.against)
    if against is None:
        return _unmeasured(target, _why(group, target.against))
    ratio = paired_ratio(against.rounds, ours.rounds)
    return _verdict(target, ratio.median, (ours, against), spread=(ratio.p25, ratio.p75))


def fastest(records: Iterable[Record], selector: Selector) -> Record | None:
    """The record with the lowest median among those that a selector takes, failures aside."""
    taken = [record for record in records if record.rounds and selector.takes(record.candidate)]
    return min(taken, key=lambda record: record.summary.median, default=None)


def growth_of(group: Group, records: Sequence[Record]) -> list[Growth]:
    """Exponents of every candidate of a sweep over batch or pixels; none for other groups, or too few points."""
    found: list[Growth] = []
    if group.over not in ("batch", "pixels"):
        return found
    labels = dict.fromkeys(record.candidate.label for record in records)
    for label in labels:
        own = [record for record in records if record.candidate.label == label and record.rounds]
        sizes = [record.batch if group.over == "batch" else record.size[0] * record.size[1] for record in own]
        if len(set(sizes)) < 2:
            continue
        law = fit_power_law(sizes, [record.summary.median for record in own])
        grown = Growth(label=label, over=group.over, exponent=law.exponent, r_squared=law.r_squared, group=group.title)
        found.append(grown)
    return found


def _why(group: Sequence[Record], selector: Selector) -> str:
    failed = [record.failure for record in group if selector.takes(record.candidate)]
    if failed:
        return failed[0]
    if selector.origin in ("official", "mmpose"):
        return f"needs --peer {selector.origin}=PATH"
    return f"{selector.model} was not measured"


def _verdict(
    target: Target, measured: float, winners: Sequence[Record], spread: tuple[float, float] | None = None
) -> Verdict:
    return Verdict(
        name=target.name,
        due=target.due,
        then=target.then,
        unit=target.unit,
        measured=measured,
        spread=spread,
        winners=tuple(record.candidate.label for record in winners),
    )


def _unmeasured(target: Target, reason: str) -> Verdict:
    return Verdict(name=target.name, due=target.due, then=target.then, unit=target.unit, reason=reason)
