"""What every metric offers, and the common part of those that only count."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

State = dict[str, NDArray[Any]]
"""What a metric has seen, as named arrays: easy to pickle, save and send."""


class Metric(Protocol):
    """One score or table over a whole set. ``update`` takes what its task's predictions look like."""

    def reset(self) -> None:
        """Forget everything seen."""
        ...

    def state(self) -> State:
        """A copy of what was seen, for :meth:`merge` in another process."""
        ...

    def merge(self, state: State) -> None:
        """Add what another metric of the same settings has seen."""
        ...

    def compute(self) -> dict[str, Any]:
        """Scores and tables over everything seen, in JSON types; raises ValueError if that is nothing."""
        ...


class CountMetric:
    """Keeps int64 counts of fixed shapes, so that memory does not grow with the samples seen.

    Args:
        shapes: shape of each named count.
    """

    def __init__(self, **shapes: tuple[int, ...]) -> None:
        self._counts = {name: np.zeros(shape, dtype=np.int64) for name, shape in shapes.items()}

    def reset(self) -> None:
        """Forget everything seen."""
        for counts in self._counts.values():
            counts.fill(0)

    def state(self) -> State:
        """A copy of the counts; states of several processes may also simply be summed."""
        return {name: counts.copy() for name, counts in self._counts.items()}

    def merge(self, state: State) -> None:
        """Add the counts of another metric.

        Raises:
            ValueError: it counts something else.
        """
        own, other = ({k: np.shape(v) for k, v in counts.items()} for counts in (self._counts, state))
        if own != other:
            raise ValueError(f"cannot merge counts {other} into {own}; both metrics need the same settings")
        for name, counts in self._counts.items():
            counts += np.asarray(state[name], dtype=np.int64)


def ratio(part: int | np.integer, whole: int | np.integer) -> float | None:
    """``part / whole``, or None where there is nothing to divide by."""
    return float(part / whole) if whole else None


def names_for(names: tuple[str, ...], count: int, kind: str) -> tuple[str, ...]:
    """``names``, or numbers from 0 where there are none.

    Raises:
        ValueError: there are names, but not ``count``.
    """
    if names and len(names) != count:
        raise ValueError(f"there are {count} {kind}, but {len(names)} names for them")
    return tuple(names) or tuple(str(number) for number in range(count))
