"""A recipe: one run, and what is known about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from hrformer.train.config import AnyRun, with_fields
from hrformer.train.config_file import task_of


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """A run, and what is known about it. Calling it gives the run."""

    run: AnyRun
    title: str  # what it trains
    data: str  # what stands for ``--data.root`` in the command
    processes: int = 1  # that share the published batch, one per GPU; 1 for a plain command
    hardware: str  # it was meant for
    time: str = "not published; not run by us"  # it takes
    score: str  # published or measured, and by whom
    notes: str = ""  # what differs from the published run, and how to use it

    def __call__(self) -> AnyRun:
        return self.run

    def varied(self, name: str, changes: Mapping[str, Any], **facts: Any) -> Recipe:
        """Another recipe: the run with other values by dotted name, and other facts; notes are not taken along."""
        return replace(self, run=with_fields(self.run, {"recipe": name, **changes}), **{"notes": ""} | facts)

    @property
    def name(self) -> str:
        """In the catalogue and on the command line."""
        return self.run.recipe

    @property
    def task(self) -> str:
        """Of the run."""
        return task_of(self.run)

    @property
    def command(self) -> str:
        """That starts it."""
        launcher = f"torchrun --nproc-per-node {self.processes} -m " if self.processes > 1 else ""
        return f"{launcher}hrformer train {self.name} --data.root {self.data}"

    @property
    def description(self) -> str:
        """All that is known, for people."""
        facts = f"Hardware: {self.hardware}.\n\nTime: {self.time}.\n\nScore: {self.score}."
        return f"{self.title}.\n\nCommand: `{self.command}`\n\n{facts}\n\n{self.notes}".strip()
