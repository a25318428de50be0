"""Build hook: compiles the kernels for x86 processors into the package, where there is a compiler.

Without one the wheel is pure Python, and models take the other ways that ``hrformer.optimize`` knows.
"""

from __future__ import annotations

import importlib.util
import sysconfig
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

NATIVE = Path("src", "hrformer", "fast", "x86")


class NativeKernels(BuildHookInterface[Any]):
    """Run for wheels and editable installations."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, list the files as parts of the wheel, and name the platform in its tag."""
        if self.target_name != "wheel":
            return
        build = _load(Path(self.root) / NATIVE / "build.py")
        try:
            made: list[Path] = build.build()
        except RuntimeError as error:
            self.app.display_warning(f"hrformer without compiled kernels: {error}")
            return
        build_data["artifacts"] += [f"/{NATIVE.as_posix()}/{path.name}" for path in made]
        build_data["pure_python"] = False
        # The files are called through ctypes: they depend on the platform, not on the version of Python.
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"


def _load(path: Path) -> ModuleType:
    """The package's own compile script, without importing the package, whose dependencies are not here."""
    spec = importlib.util.spec_from_file_location("hrformer_native_build", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
