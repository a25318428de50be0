"""Processes forked from one that has imported the package and done nothing else.

An interpreter of its own would take four seconds to import it. Functions must stand in modules that are found by name.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from torch.multiprocessing import start_processes

from hrformer.train.config_file import read_config
from hrformer.train.loop import train

multiprocessing.get_context("forkserver").set_forkserver_preload(["forked"])


def fork(function: Callable[..., None], *arguments: Any) -> BaseProcess:
    """A process that calls the function and ends."""
    process = multiprocessing.get_context("forkserver").Process(target=function, args=arguments, daemon=True)
    process.start()
    return process


def fork_several(function: Callable[..., None], *arguments: Any, count: int) -> None:
    """So many of them, each given its number before the arguments; raises what one of them does."""
    start_processes(function, arguments, nprocs=count, start_method="forkserver")


def train_saved(config: Path, out: Path, environment: Mapping[str, str] | None = None) -> None:
    """Train a saved configuration, or go on with it."""
    os.environ.update(environment or {})
    train(read_config(config), out, resume=True)
