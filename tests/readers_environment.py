"""A Python with the libraries of users and peers, apart from ours: made once under build/, then kept."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

REPOSITORY = Path(__file__).resolve().parents[1]
REQUIREMENTS = (
    "ezc3d>=1.6",
    "opensim>=4.5; python_version < '3.14'",
    "pandas>=2.2",
    "sleap-io>=0.9",
    "tables>=3.10",
    "trackers>=2.6",
)
UNREACHABLE = re.compile(r"connection broken by|Temporary failure in name resolution|Network is unreachable")


def run_there(script: Path, *arguments: str, cwd: Path) -> Any:
    """What a script prints there, read as JSON; skips the test where the package index cannot be reached."""
    finished = subprocess.run(
        [_python(), str(script), *arguments], cwd=cwd, env=_variables(), capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout.splitlines()[-1])


def _python() -> str:
    folder = REPOSITORY / "build" / f"readers-{sys.version_info.major}.{sys.version_info.minor}"
    folder.parent.mkdir(exist_ok=True)
    python, stamp = folder / ("Scripts" if os.name == "nt" else "bin") / "python", folder / "requirements.txt"
    wanted = "\n".join(REQUIREMENTS)
    # Several processes of tests want it at the same time; the first makes it.
    with FileLock(f"{folder}.lock"):
        if not stamp.is_file() or stamp.read_text() != wanted:
            # Our own pip fills it; without compiling what will not be imported that takes half the time.
            _call(sys.executable, "-m", "venv", "--clear", "--without-pip", str(folder))
            pip = (sys.executable, "-m", "pip", "--python", str(python))
            _call(*pip, "install", "--quiet", "--no-compile", "--retries", "2", *REQUIREMENTS)
            stamp.write_text(wanted)
    return str(python)


def _call(*command: str) -> None:
    finished = subprocess.run(command, env=_variables(), capture_output=True, text=True, check=False)
    if finished.returncode and UNREACHABLE.search(finished.stderr):
        pytest.skip("needs the package index, to make an environment with the libraries that users have")
    assert finished.returncode == 0, finished.stderr[-2000:]


def _variables() -> dict[str, str]:
    """Ours without what would show that environment our packages."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
