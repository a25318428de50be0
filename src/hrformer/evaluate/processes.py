"""The processes that share an evaluation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Processes:
    """This process among those that share an evaluation; each takes every ``world_size``-th item.

    Attributes:
        rank: of this process, 0..world_size - 1.
        world_size: how many there are.
        gather: hands a Python object to all processes and returns everybody's, in order of rank; all must call it.
    """

    rank: int
    world_size: int
    gather: Callable[[Any], list[Any]]

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world_size:
            raise ValueError(f"rank must lie in 0..{self.world_size - 1}, got {self.rank}")


ALONE = Processes(rank=0, world_size=1, gather=lambda value: [value])
"""One process that takes everything."""

Progress = Callable[[int, int], object]
"""Called with the number of items done over all processes (estimated from this one) and the total."""
