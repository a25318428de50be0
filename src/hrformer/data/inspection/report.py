"""What an inspection says: findings with their fixes, and numbers about the data."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median_high
from typing import Any, Literal

Severity = Literal["error", "warning"]
NAMED_PLACES = 5  # how many files a finding names; the others are only counted


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """Something wrong with the data, or suspicious."""

    severity: Severity  # an "error" stops the training or makes it learn nonsense; a "warning" is worth a look
    kind: str  # short name that stays the same between versions, such as "unreadable-picture"
    split: str = ""  # part of the set it is about; checks of a part leave it to the part
    what: str  # one sentence
    fix: str  # what to do about it; empty where ``what`` says so
    where: tuple[str, ...] = ()  # the first few files, classes or joints concerned
    count: int = 0  # of all files, classes or joints concerned

    @property
    def places(self) -> str:
        """``where`` as text, with the number of those that are not named."""
        more = self.count - len(self.where)
        return ", ".join(self.where) + (f" and {more} more" if self.where and more > 0 else "")


def finding(
    severity: Severity, kind: str, what: str, fix: str, places: Sequence[str] = (), *, split: str = ""
) -> Finding:
    """A finding about these places, the first of which it names."""
    where = tuple(places[:NAMED_PLACES])
    return Finding(severity=severity, kind=kind, split=split, what=what, fix=fix, where=where, count=len(places))


def grouped(reasons: Iterable[tuple[str, str]]) -> list[tuple[str, list[str]]]:
    """Sort files by what is wrong with them, (file, message), whatever numbers and names the messages contain.

    Returns:
        The first message of each group, and its files; the largest group first.
    """
    groups: dict[str, tuple[str, list[str]]] = {}
    for name, reason in reasons:
        reason = reason.rstrip(".")
        pattern = re.sub(r"\S*[\d/\\]\S*", "#", reason)
        groups.setdefault(pattern, (reason, []))[1].append(name)
    return sorted(groups.values(), key=lambda group: -len(group[1]))


def spread(values: Iterable[float]) -> dict[str, float]:
    """Smallest, median and largest value; empty for no values."""
    numbers = list(values)
    if not numbers:
        return {}
    return {"smallest": min(numbers), "median": median_high(numbers), "largest": max(numbers)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """Outcome of an inspection."""

    data: str  # name of the set; empty if it could not be opened
    task: str  # "classification", "pose" or "segmentation"
    findings: tuple[Finding, ...] = ()  # errors first
    # Numbers by part of the set, in JSON types; see the checks for what is in them.
    statistics: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def errors(self) -> int:
        """Number of findings that are errors."""
        return sum(one.severity == "error" for one in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self) | {"errors": self.errors, "warnings": len(self.findings) - self.errors}
