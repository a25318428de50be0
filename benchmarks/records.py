"""What a run leaves behind: one record per candidate, batch, size and kind, and the document around them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from candidates import Candidate
from hrformer.files import write_file
from timing import quartiles

FORMAT = 1
"""Of the JSON file; raised when its fields change their meaning."""

Kind = Literal["forward", "train", "memory", "train-memory", "stages", "start"]

NEEDED = ("date", "python", "torch", "platform", "cpu", "cores", "gpus", "device", "threads", "malloc", "commit")
"""Conditions without which a figure means nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """Figures of one candidate at one batch and size.

    Attributes:
        group: title of the group it was measured in, all of whose members took turns.
        kind: what was measured.
        candidate: who.
        batch: pictures.
        size: (height, width) of the input, pixels.
        part: stage of ``stages`` and ``start``; empty else.
        rounds: values by round, MiB of memory, else seconds.
        first: seconds of the slowest of the first calls, compilation included; None where there is none.
        failure: why there are no values.
        note: how it was measured, where that can differ.
    """

    group: str
    kind: Kind
    candidate: Candidate
    batch: int
    size: tuple[int, int]
    part: str = ""
    rounds: tuple[tuple[float, ...], ...] = ()
    first: float | None = None
    failure: str = ""
    note: str = ""

    @property
    def quartiles(self) -> tuple[float, float, float]:
        """Of all values; a ``ValueError`` where there are none."""
        return quartiles([value for values in self.rounds for value in values])

    @property
    def median(self) -> float:
        """Of all values."""
        return self.quartiles[1]

    @property
    def images_per_second(self) -> float | None:
        """At the median, for kinds that run batch after batch."""
        return self.batch / self.median if self.kind in ("forward", "train") and self.rounds else None

    def shown(self, value: float) -> str:
        """A value of this record with its unit, three digits."""
        if "memory" in self.kind:
            return f"{value:.0f} MiB" if value >= 10 else f"{value:.2g} MiB"
        return seconds(value)


def seconds(value: float) -> str:
    """As "1.23 s" or "12.3 ms"."""
    return f"{value:.3g} s" if value >= 1 else f"{value * 1000:.3g} ms"


@dataclass(frozen=True, kw_only=True, slots=True)
class Growth:
    """How one candidate's time grows.

    Attributes:
        label: of the candidate.
        over: "batch" or "pixels".
        exponent: 1 for growth in proportion.
        r_squared: how well a power law fits.
        group: title of the group it was measured in.
    """

    label: str
    over: str
    exponent: float
    r_squared: float
    group: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """A target and what was measured.

    Attributes:
        name: what is compared.
        due: value to reach.
        then: value hoped for later; None where there is none.
        measured: None where it could not be measured.
        unit: "x" for a ratio (at least), "s" or "ms" for a time (at most), "exponent" (at most).
        spread: quartiles of the measured value, where it is a ratio.
        winners: labels of the candidates compared: ours, and the other's best.
        reason: why nothing was measured.
    """

    name: str
    due: float
    then: float | None = None
    measured: float | None = None
    unit: str = "x"
    spread: tuple[float, float] | None = None
    winners: tuple[str, ...] = ()
    reason: str = ""

    @property
    def met(self) -> bool | None:
        """None where nothing was measured."""
        if self.measured is None:
            return None
        return self.measured >= self.due if self.unit == "x" else self.measured <= self.due


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """A whole run.

    Attributes:
        name: of the plan.
        command: that repeats it.
        conditions: machine, versions, date and settings; holds at least ``NEEDED``.
        records: figures.
        growth: of sweeps.
        verdicts: of the preset's targets.
        baseline: label of the candidate that ratios are taken against; empty for the first of each group.
    """

    name: str
    command: str
    conditions: Mapping[str, Any]
    records: tuple[Record, ...]
    growth: tuple[Growth, ...] = ()
    verdicts: tuple[Verdict, ...] = ()
    baseline: str = ""
    format: int = FORMAT

    def __post_init__(self) -> None:
        if missing := [name for name in NEEDED if name not in self.conditions]:
            raise ValueError(f"the conditions of a run lack {', '.join(missing)}")


def write_document(document: Document, path: Path) -> None:
    """Write the JSON file whole."""
    text = json.dumps(_shortened(asdict(document)), indent=1, ensure_ascii=False) + "\n"
    write_file(path, lambda part: part.write_text(text, encoding="utf-8"))


def _shortened(value: Any) -> Any:
    """Numbers to six digits: clocks are no better, and files get short. No NaN, which JSON does not have."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _shortened(one) for key, one in value.items()}
    return [_shortened(one) for one in value] if isinstance(value, list | tuple) else value
