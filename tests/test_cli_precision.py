"""``hrformer eval --precision``, with and without ``--fast``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import hrformer.cli.evaluate
from half_kernels import pretend_half_kernels, pretend_no_half
from hrformer.__main__ import main
from hrformer.cli.arguments import EvaluateArguments
from hrformer.evaluate.evaluate import evaluate
from training import WEIGHTS

NANO = str(WEIGHTS / "hrformer_nano_cifar10.safetensors")


@pytest.fixture
def line(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A command line that scores two pictures."""
    monkeypatch.chdir(tmp_path)
    places = ["--data.root", str(data_dir), "--weights", NANO, "--device", "cpu"]
    return ["eval", "cifar10_5k_tiny", *places, "--workers", "0", "--limit", "2"]


@pytest.fixture
def autocast(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The precisions of autocast that evaluations are run with."""
    seen: list[Any] = []

    def watched(*arguments: Any, **options: Any) -> Any:
        seen.append(options.get("precision", "fp32"))
        return evaluate(*arguments, **options)

    monkeypatch.setattr(hrformer.cli.evaluate, "evaluate", watched)
    return seen


def report() -> tuple[str, str]:
    found = json.loads(Path("evaluation/scores.json").read_text())
    return found["path"], found["precision"]


def test_float32_is_the_default(line: list[str], autocast: list[Any], capfd) -> None:
    assert EvaluateArguments().precision == "fp32"
    assert main(line) == 0
    assert (report(), autocast) == (("reference", "fp32"), ["fp32"])
    assert "precision" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("options", "ran", "inside"),
    [
        (["--precision", "bf16"], ("reference", "bf16"), "bf16"),
        (["--precision", "auto"], ("reference", "fp32"), "fp32"),
        (["--fast"], ("native", "fp32"), "fp32"),
        (["--fast", "--precision", "bf16"], ("native", "bf16"), "fp32"),
        (["--fast", "--precision", "auto"], ("native", "bf16"), "fp32"),
    ],
)
def test_precision_is_that_of_the_kernels_or_of_autocast(
    options: list[str], ran: tuple[str, str], inside: str, line: list[str], autocast: list[Any], capfd, monkeypatch
) -> None:
    made = pretend_half_kernels(monkeypatch)
    assert main([*line, *options]) == 0
    assert (report(), autocast) == (ran, [inside])
    assert made == ([ran[1]] if ran[0] == "native" else [])
    assert (f"precision: {ran[1]}\n" in capfd.readouterr().err) is ("--precision" in options)


def test_what_cannot_be_had_is_said(line: list[str], capfd, monkeypatch: pytest.MonkeyPatch) -> None:
    reason = pretend_no_half(monkeypatch)
    assert main([*line, "--fast", "--precision", "bf16"]) == 0
    said = capfd.readouterr().err
    assert report() == ("reference", "fp32")
    assert "precision: fp32 (" in said
    assert reason in said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--precision", "fp16"], "--precision fp16 is for a GPU; a CPU takes fp32, bf16 or auto"),
        (["--precision", "fp8"], "fp8"),
        (["--predictions", "classes.json", "--precision", "bf16"], "--fast and --precision run weights"),
        (["--predictions", "classes.json", "--fast"], "--fast and --precision run weights"),
    ],
)
def test_mistakes_are_one_line(options: list[str], message: str, line: list[str], capfd) -> None:
    start = [word for word in line if word not in ("--weights", NANO, "--limit", "2")]
    assert main([*(start if "--predictions" in options else line), *options]) == 2
    said = capfd.readouterr().err
    assert message in said
    assert "Traceback" not in said
    assert not Path("evaluation").exists()


def test_a_gpu_has_no_fast_path_in_half_precision_here() -> None:
    options = EvaluateArguments(fast=True, precision="bf16")
    with pytest.raises(ValueError, match="--fast runs weights in --precision fp32 on cuda:0"):
        hrformer.cli.evaluate._check_precision(options, torch.device("cuda:0"))
    for allowed in (EvaluateArguments(fast=True, precision="auto"), EvaluateArguments(precision="fp16")):
        hrformer.cli.evaluate._check_precision(allowed, torch.device("cuda:0"))
