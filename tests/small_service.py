"""A service with small networks, for the tests of serving."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hrformer.serve.app import Service
from hrformer.serve.options import ServeOptions
from hrformer.serve.server import load_service

WEIGHTS = Path(__file__).parent / "weights"
NANO = {name: str(WEIGHTS / f"hrformer_nano_{name}.safetensors") for name in ("cifar10", "lspet", "camvid")}
PICTURES = Path(__file__).parents[1] / "src" / "hrformer" / "export" / "pictures"


def nano_service(*names: str, token: str | None = None, **limits: Any) -> Service:
    """A service with small networks, by the name of their data; people fill the picture."""
    named = [f"{name}={NANO[name]}" for name in names]
    detector = "picture" if "lspet" in names else None
    return load_service(named, ServeOptions(**limits), device="cpu", detector=detector, token=token)
