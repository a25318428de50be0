"""Small trained weights, and variations of the small runs that tests train."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from hrformer.train.config import RunConfig

Run = TypeVar("Run", bound=RunConfig)

WEIGHTS = Path(__file__).resolve().parent / "weights"
"""Folder of ``hrformer_nano_{cifar10,lspet,camvid}.safetensors``."""


def longer(config: Run, updates: int) -> Run:
    """The same run with another number of updates."""
    return replace(config, schedule=replace(config.schedule, updates=updates))
