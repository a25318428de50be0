"""``hrformer models``: the table, and the sizes in it."""

from __future__ import annotations

import pytest

from hrformer.__main__ import main
from hrformer.checkpoints.registry import list_weights
from hrformer.cli.models import MEASURED, measure
from hrformer.models.model import TASKS
from hrformer.zoo import list_models


def test_models_lists_everything(capfd) -> None:
    assert main(["models"]) == 0
    out = capfd.readouterr().out
    assert all(f" {name} " in out for name in list_models())
    assert all(f" {entry.name} " in out for entry in list_weights())
    assert "3.245" in out  # pose S
    assert "multiply-add" in out
    assert main(["models", "hrformer_nano", "--size", "64", "96"]) == 0
    assert "64x96" in capfd.readouterr().out


# Sums of table 4.5 of the recipes: convolutions, linear layers and attention products, counted by hand.
@pytest.mark.parametrize(
    ("name", "task", "size", "giga"),
    [
        ("hrformer_small", "pose", (256, 192), 3.245),
        ("hrformer_tiny", "classification", (224, 224), 1.708),
        pytest.param("hrformer_base", "pose", (384, 288), 30.453, marks=pytest.mark.slow),
        pytest.param("hrformer_small", "segmentation", (512, 512), 103.9, marks=pytest.mark.slow),
    ],
)
def test_multiply_adds(name: str, task, size: tuple[int, int], giga: float) -> None:
    counted = measure(name, task, size)[1] / 1e9
    assert counted == pytest.approx(giga, abs=0.0005 if giga < 100 else 0.05)


def test_measured_sizes_are_complete_and_right_for_a_small_model() -> None:
    assert list(MEASURED) == list_models()
    for task in TASKS:
        assert MEASURED["hrformer_nano"][TASKS.index(task)] == measure("hrformer_nano", task)


@pytest.mark.slow
@pytest.mark.parametrize("name", list_models())
def test_measured_sizes(name: str) -> None:
    for task in TASKS:
        assert MEASURED[name][TASKS.index(task)] == measure(name, task)
