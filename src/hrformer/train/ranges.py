"""Which values a setting may have, and the words that say so."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable
from typing import Any

Range = tuple[Callable[[Any], bool], str]
"""Which values a field may have, and the words that say so."""

NOT_NEGATIVE: Range = (lambda value: value >= 0, "must not be negative")
FINITE: Range = (lambda value: 0 <= value < math.inf, "must not be negative")
POSITIVE: Range = (lambda value: value > 0, "must be above 0")
AT_LEAST_1: Range = (lambda value: value >= 1, "must be at least 1")
SHARE: Range = (lambda value: 0 <= value <= 1, "must lie in [0, 1]")
BELOW_1: Range = (lambda value: 0 <= value < 1, "must lie in [0, 1)")
FACTOR: Range = (lambda value: 0 < value <= 1, "must lie in (0, 1]")
RISING: Range = (
    lambda epochs: list(epochs) == sorted({e for e in epochs if e > 0}),
    "must be rising numbers of epochs",
)


def require(section: str, config: object, **ranges: Range) -> None:
    """Raise a ValueError for a field outside its range, which has None in any case."""
    for name, (fits, words) in ranges.items():
        value = getattr(config, name)
        if value is not None and not fits(value):
            raise ValueError(f"{section}{name} {words}, got {value}")


def nearest(value: object, options: Iterable[str]) -> str:
    """The option spelt most alike, as the end of a message; empty if none is."""
    close = difflib.get_close_matches(str(value), list(options), 1)
    return f"; did you mean {close[0]!r}?" if close else ""
