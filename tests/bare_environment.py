"""A Python whose environment has only what a borrowed device has: everything else that is installed here is hidden."""

from __future__ import annotations

import os
import re
import sys
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]

THERE = (
    "huggingface-hub",
    "numpy",
    "opencv-python-headless",
    "pillow",
    "pytest",
    "rich",
    "safetensors",
    "timm",
    "torch",
    "torchvision",
    "triton",
)

HOOK = """
import sys

HIDDEN = set({hidden!r})


class Without:
    def __init__(self, finder):
        self._finder = finder

    def __getattr__(self, name):
        return getattr(self._finder, name)

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in HIDDEN else self._finder.find_spec(name, path, target)


sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
"""


def closure(names: tuple[str, ...]) -> set[str]:
    """Distributions and all that they require, extras aside."""
    found: set[str] = set()
    pending = list(names)
    while pending:
        name = re.sub(r"[-_.]+", "-", pending.pop()).lower()
        if name in found:
            continue
        found.add(name)
        try:
            needed = requires(name) or []
        except PackageNotFoundError:
            continue
        pending += [re.split(r"[^\w.-]", line)[0] for line in needed if "extra ==" not in line]
    return found


def hidden_modules() -> list[str]:
    """Top-level modules that are installed here and would not be there; the package itself is not installed there."""
    kept = closure(THERE)
    return sorted(
        module
        for module, owners in packages_distributions().items()
        if not any(re.sub(r"[-_.]+", "-", owner).lower() in kept | {"hrformer"} for owner in owners)
    )


def environment(folder: Path, *paths: Path) -> dict[str, str]:
    """Variables for a Python, and all that it starts, with ``paths`` first and the rest hidden.

    Args:
        folder: for the file that hides them, which every Python reads at its start.
        paths: where the package is found, as nothing is installed there.
    """
    (folder / "sitecustomize.py").write_text(HOOK.format(hidden=hidden_modules()), encoding="utf-8")
    found = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "TRITON_"))}
    # pytest loads what says that it is a plugin of its, hidden or not.
    return found | {
        "PYTHONPATH": os.pathsep.join(map(str, (folder, *paths))),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


if __name__ == "__main__":
    sys.stdout.write("\n".join(hidden_modules()) + "\n")
