"""A machine whose compiled kernels compute in bf16, or have none, whatever this one has."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

import hrformer.fast.choice
import hrformer.fast.optimize
from hrformer.models.model import VisionModel


def pretend_half_kernels(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Kernels for both precisions, in whose place the plain network answers; the precisions that they are made for."""
    made: list[str] = []

    def native_model(model: VisionModel, threads: int | None, precision: str) -> nn.Module:
        made.append(precision)
        return model

    library = SimpleNamespace(pays=True)
    pretend(monkeypatch, find_half_library=lambda: (library, ""), native_model_refusal=lambda model, precision: None)
    monkeypatch.setattr(hrformer.fast.optimize, "NativeModel", native_model)
    return made


def pretend_no_half(monkeypatch: pytest.MonkeyPatch) -> str:
    """Neither kernels nor packages that compute in bf16; the reason."""
    reason = "no kernels for bf16 today"

    def refusal(model: nn.Module, precision: str) -> str | None:
        return reason

    absent: dict[str, Any] = {"find_half_library": lambda: (None, reason), "find_spec": lambda name: None}
    pretend(monkeypatch, native_model_refusal=refusal, **absent)
    return reason


def pretend(monkeypatch: pytest.MonkeyPatch, **functions: Any) -> None:
    """Put functions in the place of those that ``hrformer.fast.choice`` asks."""
    for name, function in functions.items():
        monkeypatch.setattr(hrformer.fast.choice, name, function)
