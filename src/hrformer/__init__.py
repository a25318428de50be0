"""HRFormer and HRNet: classification, human pose and semantic segmentation in PyTorch."""

from __future__ import annotations

from hrformer.models.zoo import create_model, list_models

__version__ = "0.1.0"

__all__ = ["create_model", "list_models"]
