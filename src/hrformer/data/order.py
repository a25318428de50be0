"""Which item comes when: a pure function of seed, epoch and number, so that any run can be taken up at any update.

The global batch of an update is the same whatever the number of processes; each process takes its share of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch


class Key(NamedTuple):
    """What a loader asks for: an item, and how often the whole set came before, which seeds its augmentation too."""

    item: int
    epoch: int


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainOrder:
    """Shuffled batches without end; the last, incomplete batch of an epoch is dropped.

    Attributes:
        num_items: of the set.
        batch_size: items per update, over all processes and accumulated parts.
        world_size: number of processes.
        rank: of this process.
        parts: gradient accumulation: a process sees its share of the batch in so many parts.
        seed: of the shuffling.
    """

    num_items: int
    batch_size: int
    world_size: int = 1
    rank: int = 0
    parts: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.num_items, self.batch_size, self.world_size, self.parts) < 1:
            raise ValueError(f"all counts must be at least 1, got {self}")
        if not 0 <= self.rank < self.world_size:
            raise ValueError(f"rank must lie in 0..{self.world_size - 1}, got {self.rank}")
        if self.batch_size % (self.world_size * self.parts):
            raise ValueError(
                f"a batch of {self.batch_size} cannot be shared by {self.world_size} processes in {self.parts} parts "
                f"each; take a multiple of {self.world_size * self.parts}"
            )
        if self.num_items < self.batch_size:
            raise ValueError(
                f"one batch of {self.batch_size} is more than the whole training set of {self.num_items}; "
                f"take a batch of at most {self.num_items}"
            )

    @property
    def updates_per_epoch(self) -> int:
        """Full batches in one pass over the set."""
        return self.num_items // self.batch_size

    def epoch_items(self, epoch: int) -> list[int]:
        """All item numbers in this epoch's order."""
        generator = torch.Generator().manual_seed(mixed_seed(self.seed, epoch))
        return torch.randperm(self.num_items, generator=generator).tolist()

    def batches(self, first_update: int, end_update: int) -> Iterator[list[Key]]:
        """This process's batches for the updates first..end - 1, ``parts`` of them per update."""
        items: list[int] = []
        current = -1
        share = self.batch_size // self.world_size
        part = share // self.parts
        for update in range(first_update, end_update):
            epoch, place = divmod(update, self.updates_per_epoch)
            if epoch != current:
                items, current = self.epoch_items(epoch), epoch
            start = place * self.batch_size + self.rank * share
            for low in range(start, start + share, part):
                yield [Key(index, epoch) for index in items[low : low + part]]


def eval_order(num_items: int, batch_size: int, world_size: int = 1, rank: int = 0) -> list[list[Key]]:
    """Batches of one process that bring every item exactly once over all processes, in order.

    The processes' shares may differ by one item, and the last batch of each may be smaller.
    """
    if batch_size < 1 or not 0 <= rank < world_size:
        raise ValueError(
            f"batch_size must be at least 1 and rank in 0..world_size - 1, got {batch_size} and {rank} of {world_size}"
        )
    own = range(rank, num_items, world_size)
    return [[Key(item, 0) for item in own[low : low + batch_size]] for low in range(0, len(own), batch_size)]


def mixed_seed(*numbers: int) -> int:
    """One 63-bit seed from several integers; different for (1, 2) and (2, 1)."""
    value = 0x9E3779B97F4A7C15
    for number in numbers:
        # splitmix64's finaliser (Steele, Lea, Flood 2014), whose outputs pass statistical tests for any input.
        value = (value ^ (number & 0xFFFFFFFFFFFFFFFF)) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
        value = (value ^ value >> 27) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
        value ^= value >> 31
    return value >> 1
