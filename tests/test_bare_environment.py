"""What must work where only PyTorch, Triton and what they need are installed: a borrowed device, for example."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bare_environment import REPOSITORY, environment, hidden_modules

IMPORTS = """
import importlib.util, sys
for name in ("tyro", "supervision", "accelerate", "xdist", "scipy", "pyarrow"):
    assert importlib.util.find_spec(name) is None, name
import hrformer, hrformer.train.loop, hrformer.recipes.catalogue, measuring, presets
assert hrformer.__file__.startswith(sys.argv[1])
import numpy as np
from hrformer.predict.results import Classification
from hrformer.data.draw import draw_joints
print(draw_joints(np.zeros((9, 9, 3), np.uint8), np.ones((1, 2, 3))).any())
"""


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        cwd=REPOSITORY,
        env=environment(folder, REPOSITORY / "src", REPOSITORY / "benchmarks"),
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_hidden_modules_are_the_right_ones() -> None:
    hidden = set(hidden_modules())
    assert {"tyro", "supervision"} <= hidden
    assert not hidden & {"torch", "torchvision", "timm", "numpy", "cv2", "PIL", "safetensors", "huggingface_hub"}
    assert not hidden & {"rich", "pytest", "triton", "filelock", "yaml", "hrformer"}


def test_the_package_comes_without_the_rest(tmp_path: Path) -> None:
    """Drawing included."""
    finished = run(tmp_path, "-c", IMPORTS, str(REPOSITORY))
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout == "True\n"


@pytest.mark.slow
def test_kernels_tests_are_collected_and_run(tmp_path: Path) -> None:
    """All of them are imported; one file runs."""
    folders = ["tests/fast"]
    finished = run(tmp_path, "-m", "pytest", "-q", "--collect-only", "-p", "no:cacheprovider", *folders)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    finished = run(tmp_path, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/fast/triton/test_fusion_sum.py")
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert " passed" in finished.stdout
