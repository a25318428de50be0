"""The kernels' tests on the device, files side by side; standard library only, since each has a process of its own."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from gpu_record import Case, Record, Skip, stage_json

HERE = Path(__file__).resolve().parent

KERNEL_TESTS = (
    "kernels/test_window_block.py", "kernels/test_pointwise.py", "kernels/test_depthwise_pointwise.py",
    "kernels/test_fusion_sum.py", "kernels/test_window_attention.py", "kernels/test_depthwise.py",
    "kernels/test_huge_batches.py", "kernels/test_launch.py", "ops/test_fused.py", "ops/test_attention.py",
    "ops/test_depthwise.py", "ops/test_conv_ffn.py", "ops/test_switches.py", "fast/test_fused_blocks.py",
    "fast/test_fused_convs.py", "fast/test_graphs.py", "layers/test_attention.py", "layers/test_blocks.py",
    "kernels/test_compilation.py",
)  # fmt: skip
"""Below ``tests/``; what matters most comes first."""


def run_tests(options: argparse.Namespace) -> int:
    """The stage: a case for every file."""
    record = Record(stage_json(options), lambda: True, options.seconds)
    return record.run_all(test_cases(options, record))


def test_cases(options: argparse.Namespace, record: Record) -> Iterator[Case]:
    """Files of tests side by side; each is a line with what failed."""
    tests = HERE.parent / "tests"
    files = KERNEL_TESTS[3:4] if options.tiny else KERNEL_TESTS
    with ThreadPoolExecutor(max_workers=2 if options.tiny else min(8, os.cpu_count() or 1)) as pool:
        end = time.monotonic() + options.seconds - 2
        running = {name: pool.submit(_test_file, tests / name, end) for name in files if not record.known(name)}
        for name, result in running.items():
            yield name, result.result


def _test_file(file: Path, end: float) -> Mapping[str, Any]:
    if (left := end - time.monotonic()) < 1:
        raise Skip("no time left")
    if not file.is_file():
        raise Skip("the tests are not part of this tree")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short", "-rf", str(file)]
    try:
        finished = subprocess.run(
            command,
            cwd=HERE.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=left,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise TimeoutError(f"not done after {left:.0f} s") from error
    lines = finished.stdout.strip().splitlines()
    facts: dict[str, Any] = {"result": lines[-1].strip("= ") if lines else ""}
    if finished.returncode not in (0, 5):
        print(finished.stdout, flush=True)
        facts["rows"] = [{"failed": line} for line in lines if line.startswith(("FAILED", "ERROR"))][:20]
        facts["wrong"] = f"exit status {finished.returncode}"
    return facts
