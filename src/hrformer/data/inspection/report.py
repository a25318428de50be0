"""What an inspection says: findings with their fixes, and numbers about the data."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from hrformer.data.inspection.scan import Look

Severity = Literal["error", "warning"]

NAMED_PLACES = 5
"""How many files a finding names; the others are only counted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """Something wrong with the data, or suspicious.

    Attributes:
        severity: an "error" stops the training or makes it learn nonsense; a "warning" is worth a look.
        kind: short name that stays the same between versions, such as "unreadable-picture".
        split: part of the set it is about.
        what: one sentence.
        fix: what to do about it; empty where ``what`` says so.
        where: the first few files, classes or joints concerned.
        count: of all files, classes or joints concerned.
    """

    severity: Severity
    kind: str
    split: str
    what: str
    fix: str
    where: tuple[str, ...] = ()
    count: int = 0

    @property
    def places(self) -> str:
        """``where`` as text, with the number of those that are not named."""
        more = self.count - len(self.where)
        return ", ".join(self.where) + (f" and {more} more" if self.where and more > 0 else "")


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """Outcome of an inspection.

    Attributes:
        data: name of the set; empty if it could not be opened.
        task: "classification", "pose" or "segmentation".
        findings: errors first.
        statistics: numbers by part of the set, in JSON types; see the checks for what is in them.
    """

    data: str
    task: str
    findings: tuple[Finding, ...] = ()
    statistics: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def errors(self) -> int:
        """Number of findings that are errors."""
        return sum(finding.severity == "error" for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self) | {"errors": self.errors, "warnings": len(self.findings) - self.errors}


def sorted_findings(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Errors first; otherwise in the order given."""
    return tuple(sorted(findings, key=lambda finding: finding.severity != "error"))


class Places:
    """Counts places and keeps the first few."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self.first: list[str] = []
        self.count = 0
        for name in names:
            self.add(name)

    def __bool__(self) -> bool:
        return self.count > 0

    def add(self, name: str) -> None:
        """Take note of one place."""
        self.count += 1
        if len(self.first) < NAMED_PLACES:
            self.first.append(name)

    def finding(self, severity: Severity, kind: str, split: str, what: str, fix: str) -> Finding:
        """A finding about these places."""
        return Finding(
            severity=severity, kind=kind, split=split, what=what, fix=fix, where=tuple(self.first), count=self.count
        )


class Reasons:
    """Sorts files by what is wrong with them, whatever numbers and file names the messages contain."""

    def __init__(self) -> None:
        self._groups: dict[str, tuple[str, Places]] = {}

    def __bool__(self) -> bool:
        return bool(self._groups)

    def add(self, name: str, reason: str) -> None:
        """Take note of one file."""
        reason = reason.rstrip(".")
        pattern = re.sub(r"\S*[\d/\\]\S*", "#", reason)
        self._groups.setdefault(pattern, (reason, Places()))[1].add(name)

    def __iter__(self) -> Iterator[tuple[str, Places]]:
        """The first message of each group, and its files; the largest group first."""
        yield from sorted(self._groups.values(), key=lambda group: -group[1].count)


class Check(ABC):
    """Takes in the items of one part of a set, one after another, and says in the end what it found."""

    @abstractmethod
    def add(self, look: Look) -> None:
        """Take in one picture."""

    @abstractmethod
    def findings(self) -> Iterator[Finding]:
        """What is wrong, once everything was taken in."""

    @abstractmethod
    def statistics(self) -> dict[str, Any]:
        """Numbers in JSON types, once everything was taken in."""


def spread(values: list[float]) -> dict[str, float]:
    """Smallest, median and largest value; empty for no values."""
    if not values:
        return {}
    ordered = sorted(values)
    return {"smallest": ordered[0], "median": ordered[len(ordered) // 2], "largest": ordered[-1]}
