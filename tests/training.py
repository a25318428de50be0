"""Variations of the small runs that tests train."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from hrformer.train.config import RunConfig

Run = TypeVar("Run", bound=RunConfig)


def longer(config: Run, updates: int) -> Run:
    """The same run with another number of updates."""
    return replace(config, schedule=replace(config.schedule, updates=updates))
