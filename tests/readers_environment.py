"""A Python with the libraries of users and peers, apart from ours: made once under build/, then kept.

``make apart`` makes them before the tests ask for them, which otherwise wait for the package index.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
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
)
PEERS = ("trackers>=2.6", "pydeprecate>=0.4")
"""Beside our own packages, without what they require: of that, they would bring an OpenCV in the place of ours."""
UNREACHABLE = re.compile(r"connection broken by|Temporary failure in name resolution|Network is unreachable")


def run_there(script: Path, *arguments: str, cwd: Path) -> Any:
    """What a script prints there, read as JSON; skips the test where the package index cannot be reached."""
    return _run(_python(), script, *arguments, cwd=cwd, environment=_variables())


def _run(python: str, script: Path, *arguments: str, cwd: Path, environment: dict[str, str]) -> Any:
    finished = subprocess.run(
        [python, str(script), *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout.splitlines()[-1])


def run_peers(script: Path, *arguments: str, cwd: Path) -> Any:
    """The same with our own Python, and ``PEERS`` besides."""
    environment = _variables() | {"PYTHONPATH": str(_peers())}
    return _run(sys.executable, script, *arguments, cwd=cwd, environment=environment)


def _peers() -> Path:
    folder = REPOSITORY / "build" / f"peers-{sys.version_info.major}.{sys.version_info.minor}"

    def fill() -> None:
        target = ("--target", str(folder), "--upgrade", "--no-deps")
        _call(sys.executable, "-m", "pip", "install", "--quiet", "--no-compile", "--retries", "2", *target, *PEERS)

    _made(folder, PEERS, fill)
    return folder


def _python() -> str:
    folder = REPOSITORY / "build" / f"readers-{sys.version_info.major}.{sys.version_info.minor}"
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"

    def fill() -> None:
        # Our own pip fills it; without compiling what will not be imported that takes half the time.
        _call(sys.executable, "-m", "venv", "--clear", "--without-pip", str(folder))
        pip = (sys.executable, "-m", "pip", "--python", str(python))
        _call(*pip, "install", "--quiet", "--no-compile", "--retries", "2", *REQUIREMENTS)

    _made(folder, REQUIREMENTS, fill)
    return str(python)


def _made(folder: Path, requirements: tuple[str, ...], fill: Callable[[], None]) -> None:
    """Several processes of tests want the folder at the same time; the first makes it."""
    folder.parent.mkdir(exist_ok=True)
    stamp, wanted = folder / "requirements.txt", "\n".join(requirements)
    with FileLock(f"{folder}.lock"):
        if not stamp.is_file() or stamp.read_text() != wanted:
            fill()
            stamp.write_text(wanted)


def _call(*command: str) -> None:
    finished = subprocess.run(command, env=_variables(), capture_output=True, text=True, check=False)
    if finished.returncode and UNREACHABLE.search(finished.stderr):
        pytest.skip("needs the package index, to make an environment with the libraries that users have")
    assert finished.returncode == 0, finished.stderr[-2000:]


def _variables() -> dict[str, str]:
    """Ours without what would show that environment our packages."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


if __name__ == "__main__":
    _peers()
    _python()
