"""Saved configurations, trained by processes of their own that may be killed."""

from __future__ import annotations

import multiprocessing
from multiprocessing.process import BaseProcess
from pathlib import Path

from hrformer.train.config_file import read_config
from hrformer.train.loop import train


def start_saved(config: Path, out: Path) -> BaseProcess:
    """Train a saved configuration, or go on with it, in a process of its own.

    It is forked from one that has imported everything and done nothing: an interpreter of its own would take four
    seconds to start.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["saved_runs"])
    process = context.Process(target=_run_saved, args=(config, out), daemon=True)
    process.start()
    return process


def _run_saved(config: Path, out: Path) -> None:
    train(read_config(config), out, resume=True)
