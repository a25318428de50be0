"""Work handed to a fresh Python process: JSON in, JSON out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any


class ProbeError(RuntimeError):
    """A process that was to measure something failed; the message ends with what it said last."""


def run_module(
    module: str, order: Mapping[str, Any], *, environment: Mapping[str, str] | None = None, timeout: float = 1800
) -> Any:
    """Run ``python -m module`` with this interpreter.

    Args:
        module: reads JSON from standard input and writes JSON to standard output.
        order: what it reads.
        environment: variables to add to this process's own.
        timeout: seconds.

    Raises:
        ProbeError: it failed, took too long, or wrote something else.
    """
    command = [sys.executable, "-m", module]
    try:
        done = subprocess.run(
            command,
            input=json.dumps(order),
            capture_output=True,
            text=True,
            timeout=timeout,
            env=os.environ | dict(environment or {}),
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ProbeError(f"{module}: no answer within {timeout:.0f} s") from error
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"ended with code {done.returncode}"]
        raise ProbeError(f"{module}: {said[-1]}")
    try:
        # Libraries may greet on standard output first.
        return json.loads(done.stdout.strip().splitlines()[-1])
    except (ValueError, IndexError) as error:
        raise ProbeError(f"{module}: answered {done.stdout[-200:]!r}") from error
