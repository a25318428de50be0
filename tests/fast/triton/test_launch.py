"""The switch of each kernel: what it accepts, and that it names every kernel there is."""

from __future__ import annotations

from pathlib import Path

import pytest

from hrformer.fast.optimize import optimize
from hrformer.fast.triton import launch
from hrformer.fast.triton.launch import KERNELS, SWITCH, switched_off
from hrformer.zoo import create_model


def test_every_module_with_a_kernel_has_a_switch() -> None:
    modules = Path(launch.__file__).parent.glob("*.py")
    assert {path.stem for path in modules if "_kernel[" in path.read_text("utf-8")} == set(KERNELS)


def test_names_stand_between_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    assert switched_off("pointwise") is None
    monkeypatch.setenv(SWITCH, "window_block, fusion_sum,")
    assert switched_off("pointwise", "fusion_sum") == "HRFORMER_TRITON_OFF names fusion_sum"
    assert switched_off("pointwise", "window_attention") is None


@pytest.mark.parametrize("text", ["window_blok", "pointwise,all", "POINTWISE", "pointwise;fusion_sum"])
def test_unknown_names_are_an_error_that_says_the_right_ones(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, text)
    with pytest.raises(ValueError, match=f"HRFORMER_TRITON_OFF names .*; there are {', '.join(KERNELS)}"):
        switched_off("pointwise")
    with pytest.raises(ValueError, match="HRFORMER_TRITON_OFF"):
        optimize(create_model("hrformer_nano", "pose"), backend="reference")
