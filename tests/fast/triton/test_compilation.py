"""Kernels compile for H100 and H200 without one, and fit: shared memory, registers, no large spills."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hrformer.fast.triton.launch import SOUND_ASSEMBLER, assembler_version

pytest.importorskip("triton")

SCRIPT = Path(__file__).resolve().parents[2] / "ahead_of_time.py"
SHARED_BYTES = 232_448
"""What one program may use on compute capability 9.0 (CUDA programming guide: 227 KiB)."""
STACK_BYTES = 256
"""Per thread; a few spilled registers cost little, arrays on the stack would."""


def compiled(part: str, cache: Path) -> list[Any]:
    """What ``ahead_of_time.py`` says about a part's kernels."""
    environment = os.environ | {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(cache)}
    command = [sys.executable, str(SCRIPT), part]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    found: list[Any] = json.loads(finished.stdout)
    return found


@pytest.mark.slow
def test_kernels_of_the_base_model_fit_hopper(tmp_path: Path) -> None:
    kernels = compiled("models", tmp_path)
    assert {kernel["name"] for kernel in kernels} == {
        "_window_block_kernel",
        "_pointwise_kernel",
        "forward_kernel",
        "_depthwise_pointwise_kernel",
        "_fusion_sum_kernel",
    }
    for kernel in kernels:
        assert kernel["shared_bytes"] <= SHARED_BYTES, kernel
        assert kernel["stack_bytes"] <= STACK_BYTES, kernel
        assert kernel["registers"] * kernel["num_warps"] * 32 <= 65_536, kernel
        if kernel["name"] != "_window_block_kernel" or assembler_version() >= SOUND_ASSEMBLER:
            assert kernel["undefined"] == [], kernel


@pytest.mark.slow
def test_loops_of_training_carry_what_changes(tmp_path: Path) -> None:
    """Triton drops a variable that a loop's body gives the value another one started with; the interpreter does not.

    The depthwise stage's backward pass carries twelve sums and two columns of six gradients.
    """
    kernels = compiled("training", tmp_path)
    assert [kernel["carried"] for kernel in kernels if kernel["name"] == "backward_kernel"] == [24]
    assert all(kernel["undefined"] == [] for kernel in kernels)


@pytest.mark.slow
def test_sizes_do_not_compile_again(tmp_path: Path) -> None:
    """Maps of other sizes run the same programs, but for a few forms: the depthwise product has one for each of its
    three tiles, the fusion's sum one for terms that are resized in the kernel and one for those resized before."""
    by_size: dict[str, set[str]] = {}
    for form in compiled("forms", tmp_path):
        size, _, rest = form.partition(": ")
        by_size.setdefault(size, set()).add(re.sub(r"'(TILE_[HW]|KIND\d)': ('\w+'|\d+)", "", rest))
    first, *others = by_size.values()
    assert len(by_size) == 5
    assert len(first) > 5
    assert all(other == first for other in others)
