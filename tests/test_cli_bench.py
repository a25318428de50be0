"""``hrformer bench`` as users call it."""

from __future__ import annotations

import re

import pytest
import torch

from half_kernels import pretend_half_kernels, pretend_no_half
from hrformer.__main__ import main

SMALL = ["--size", "64", "64", "--seconds", "0", "--device", "cpu"]


def test_models_and_weights_are_timed(capsys: pytest.CaptureFixture[str]) -> None:
    before = torch.get_num_threads()
    options = ["--task", "segmentation", "--batch", "1", "2", "--threads", "1"]
    assert main(["bench", "hrformer_nano", "hrformer_tiny_things", *options, *SMALL]) == 0
    assert torch.get_num_threads() == before
    out = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in out.splitlines() if line.startswith("│")]
    assert [row[0] for row in rows] == ["hrformer_nano"] * 4 + ["hrformer_tiny_things"] * 4
    assert [row[1] for row in rows[::2]] == ["PyTorch"] * 4
    assert all(row[1].startswith("optimize: ") for row in rows[1::2])
    assert [row[2:5] for row in rows[:4]] == [["fp32", "1", "64x64"]] * 2 + [["fp32", "2", "64x64"]] * 2
    for row in rows:
        milliseconds, pictures = float(row[6].removesuffix(" ms")), float(row[7])
        assert pictures == pytest.approx(1000 * int(row[3]) / milliseconds, rel=0.02)
    assert re.search(r"1 threads.*; torch \d.*; \d{4}-\d\d-\d\dT", out)


def test_half_precision_is_timed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "hrformer_nano", "--precision", "bf16", *SMALL]) == 0
    assert "bf16 on cpu" in capsys.readouterr().out


def ways(options: list[str], capsys: pytest.CaptureFixture[str]) -> list[tuple[str, str]]:
    """What ran the model, and in which precision."""
    assert main(["bench", "hrformer_nano", *options, *SMALL]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    cells = [[cell.strip() for cell in line.strip("│").split("│")] for line in lines]
    return [(row[1], row[2]) for row in cells]


def test_rows_say_in_what_they_ran(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    made = pretend_half_kernels(monkeypatch)
    assert ways([], capsys) == [("PyTorch", "fp32"), ("optimize: native", "fp32")]
    assert ways(["--precision", "bf16"], capsys) == [("PyTorch", "bf16"), ("optimize: native", "bf16")]
    assert ways(["--precision", "auto"], capsys) == [("PyTorch", "fp32"), ("optimize: native", "bf16")]
    assert made == ["fp32", "bf16", "bf16"]
    pretend_no_half(monkeypatch)
    assert ways(["--precision", "bf16"], capsys) == [("PyTorch", "bf16"), ("optimize: PyTorch", "fp32")]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["hrformer_giant"], "no weights are called 'hrformer_giant'"),
        (["nowhere.pth"], "nowhere.pth"),
        (["--batch", "0"], "--batch must be at least 1"),
        (["--size", "8", "8"], "--size 32 32"),
        (["--threads", "-1"], "must not be negative"),
        (["--precision", "fp16", "--device", "cpu"], "--precision fp16 is for a GPU"),
        (["--device", "tpu"], "no device 'tpu'"),
    ],
)
def test_mistakes_are_one_line(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *options]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said
