"""HRFormer and HRNet: classification, human pose and semantic segmentation in PyTorch.

Once this package is imported, ``timm.create_model`` knows the names of HRFormer, whether timm comes before or after it.
"""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from hrformer.checkpoints.checkpoint import load_checkpoint
from hrformer.export.export import export
from hrformer.fast.optimize import optimize
from hrformer.geometry.input_spec import InputSpec
from hrformer.predict.predictors import load
from hrformer.predict.results import Classification, Keypoints, Segmentation
from hrformer.zoo import create_model, list_models

__version__ = "0.1.0"

__all__ = [
    "Classification",
    "InputSpec",
    "Keypoints",
    "Segmentation",
    "create_model",
    "export",
    "list_models",
    "load",
    "load_checkpoint",
    "optimize",
]


class _TimmImport(MetaPathFinder):
    """Waits for the import of timm, which takes a second that not everybody needs, and registers our names then."""

    def find_spec(self, name: str, path: Any, target: ModuleType | None = None) -> Any:
        if name != "timm":
            return None
        sys.meta_path.remove(self)
        spec = find_spec(name)
        if spec is not None and spec.loader is not None:
            load_timm = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                load_timm(module)
                _register()

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _register() -> None:
    import hrformer.timm_api  # noqa: F401


if "timm" in sys.modules:
    _register()
else:
    sys.meta_path.insert(0, _TimmImport())
