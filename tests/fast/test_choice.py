"""The backend and precision that a model gets, whatever this machine has."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import hrformer.fast.choice as module
from fast_models import small
from hrformer.fast.choice import BACKENDS, PRECISIONS, Wanted, check_precision, chosen, weights_precision

NO_KERNELS, NO_HALF = "no kernels today", "no kernels for bf16 today"


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Pretends that there are these kernels and packages."""

    def pretend(
        *, kernels: tuple[str, ...] = ("fp32", "bf16"), packages: tuple[str, ...] = (), pays: bool = True
    ) -> None:
        half = SimpleNamespace(pays=pays) if "bf16" in kernels else None

        def refusal(model: nn.Module, precision: str) -> str | None:
            return None if precision in kernels else NO_HALF if precision == "bf16" else NO_KERNELS

        monkeypatch.setattr(module, "find_half_library", lambda: (half, "" if half else NO_HALF))
        monkeypatch.setattr(module, "native_model_refusal", refusal)
        monkeypatch.setattr(module, "find_spec", lambda name: name if name in packages else None)

    return pretend


def choice(model: nn.Module | None = None, **wanted: Any) -> tuple[str, str, str]:
    found = chosen(small("hrformer_nano", "pose") if model is None else model, Wanted(**wanted))
    return found.backend, found.precision, found.reason


def test_float32_is_the_default(machine) -> None:
    machine()
    assert choice() == ("native", "fp32", "")
    assert Wanted().precision == "fp32"


@pytest.mark.parametrize(
    ("kernels", "bf16", "auto"),
    [
        (("fp32", "bf16"), ("native", "bf16", ""), ("native", "bf16", "")),
        (("fp32",), ("openvino", "bf16", ""), ("native", "fp32", "")),
        ((), ("openvino", "bf16", ""), ("openvino", "fp32", "")),
    ],
)
def test_kernels_come_first_then_openvino(machine, kernels, bf16, auto) -> None:
    machine(kernels=kernels, packages=("openvino", "onnxruntime"))
    assert choice(precision="bf16") == bf16
    assert choice(precision="auto") == auto


def test_auto_takes_float32_where_dot_products_take_longer(machine) -> None:
    machine(pays=False)
    assert choice(precision="auto") == ("native", "fp32", "")
    assert choice(precision="bf16") == ("native", "bf16", "")


def test_auto_takes_float32_kernels_for_a_model_that_has_no_others(machine, monkeypatch) -> None:
    machine(packages=("openvino",))
    monkeypatch.setattr(module, "native_model_refusal", lambda model, precision: {"bf16": "too wide"}.get(precision))
    assert choice(precision="auto") == ("native", "fp32", "")
    assert choice(precision="bf16") == ("openvino", "bf16", "")


def test_auto_lets_openvino_compute_as_the_kernels_would(machine, monkeypatch) -> None:
    machine(packages=("openvino",))
    monkeypatch.setattr(module, "native_model_refusal", lambda model, precision: "for HRFormer")
    assert choice(precision="auto") == ("openvino", "bf16", "")
    assert choice(precision="auto", backend="onnxruntime") == ("onnxruntime", "fp32", "")


@pytest.mark.parametrize("packages", [(), ("onnxruntime",)])
def test_what_cannot_be_had_is_said_where_it_was_asked_for(machine, packages: tuple[str, ...]) -> None:
    machine(kernels=("fp32",), packages=packages)
    backend, precision, reason = choice(precision="bf16")
    assert (backend, precision) == ("onnxruntime" if packages else "reference", "fp32")
    for said in (NO_HALF, "pip install 'hrformer[fast-cpu]'", "products are fp32, not bf16 as asked"):
        assert said in reason
    assert choice(precision="auto") == ("native", "fp32", "")


def test_the_plain_network_says_so_too(machine) -> None:
    machine()
    asked = "products are fp32, not bf16 as asked"
    assert choice(backend="reference") == ("reference", "fp32", "")
    assert choice(backend="reference", precision="auto") == ("reference", "fp32", "")
    assert choice(backend="reference", precision="bf16") == ("reference", "fp32", asked)
    training = small("hrformer_nano", "pose").train()
    assert choice(training, precision="bf16")[2].endswith(f"; {asked}")
    assert asked not in choice(training)[2]


def test_other_types_of_weights_say_their_own(machine) -> None:
    machine()
    names = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16", torch.float64: "fp64"}
    for dtype, name in names.items():
        assert weights_precision(nn.Linear(2, 2, dtype=dtype)) == name
    assert weights_precision(nn.Flatten()) == "fp32"
    backend, precision, reason = choice(nn.Linear(2, 2, dtype=torch.bfloat16), precision="bf16")
    assert (backend, precision, reason) == ("reference", "bf16", "no fast path for torch.bfloat16 on cpu")


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"backend": "native", "precision": "bf16"}, f"'native' does not run here in bf16: {NO_HALF}"),
        ({"backend": "native"}, f"'native' does not run here: {NO_KERNELS}"),
        ({"backend": "onnxruntime", "precision": "bf16"}, "'onnxruntime' computes in fp32"),
        ({"backend": "triton", "precision": "bf16"}, "runs on CUDA"),
    ],
)
def test_backends_asked_for_by_name_refuse(machine, wanted: dict[str, Any], message: str) -> None:
    machine(kernels=())
    with pytest.raises(ValueError, match=message):
        choice(**wanted)


def test_names_are_checked() -> None:
    assert (PRECISIONS, BACKENDS[0]) == (("fp32", "bf16", "auto"), "auto")
    for name in PRECISIONS:
        check_precision(name)
    for wrong in ("fp16", "BF16", "", None):
        with pytest.raises(ValueError, match=rf"'fp32', 'bf16' or 'auto', got {wrong!r}"):
            check_precision(wrong)
