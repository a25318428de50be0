"""HRFormer and HRNet: classification, human pose and semantic segmentation in PyTorch.

Importing the package also registers the HRFormer names with timm.
"""

from __future__ import annotations

import hrformer.timm_api  # noqa: F401  registers the names with timm
from hrformer.checkpoints.checkpoint import load_checkpoint
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
    "list_models",
    "load",
    "load_checkpoint",
    "optimize",
]
