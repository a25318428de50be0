"""``hrformer export``: from the command line to a scored file, its proof again, and messages."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from hrformer.__main__ import main

WEIGHTS = Path(__file__).parent / "weights" / "hrformer_nano_cifar10.safetensors"


@pytest.mark.slow
def test_export_score_verify_predict(data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "small"
    data = ["--data", "cifar10_5k_tiny", "--data-root", str(data_dir), "--limit", "60"]
    assert main(["export", str(WEIGHTS), "--out", str(out), "--precision", "int8", *data]) == 0
    said = capsys.readouterr()
    assert "before" in said.out
    assert str(out / "model.onnx") in said.out
    scores = json.loads((out / "report.json").read_text())["scores"]
    assert scores["items"] == 60
    assert scores["before"] > 0.5
    assert abs(scores["before"] - scores["after"]) < 0.2
    file = out / "model.onnx"
    assert main(["predict", "classify", str(data_dir / "cifar10/val/cat"), "--weights", str(file), "--no-pictures",
                 "--out", str(tmp_path / "results")]) == 0  # fmt: skip
    # The weights are not found by the name of the file alone; those of another model are not taken.
    assert main(["export", "--verify", str(file)]) == 2
    assert "name the weights" in capsys.readouterr().err
    assert main(["export", "hrformer_tiny_things", "--verify", str(file)]) == 2
    assert "other weights" in capsys.readouterr().err
    assert main(["export", str(WEIGHTS), "--verify", str(file)]) == 0
    assert "answers as hrformer_nano_cifar10.safetensors does" in capsys.readouterr().out
    shutil.copy(file, tmp_path / "model.onnx")
    damaged = bytearray((tmp_path / "model.onnx").read_bytes())
    damaged[len(damaged) // 2 :] = b""
    (tmp_path / "model.onnx").write_bytes(damaged)
    assert main(["export", str(WEIGHTS), "--verify", str(tmp_path / "model.onnx")]) == 2
    assert "cannot be opened" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ([], "name the weights first"),
        (["hrformer_tiny_things", "--precision", "bf16"], "no bf16"),
        (["hrformer_tiny_things", "--short-side", "64"], "for segmentation"),
        (["hrformer_tiny_things", "--graph", "network", "--flip", "True"], "part of --graph pipeline"),
        (["hrformer_tiny_things", "--limit", "5"], "need --data"),
        (["hrformer_tiny_things", "--data", "things_tiny", "--to", "torch"], "--data scores"),
        (["no_such_model"], "no_such_model"),
        (["--verify", "nowhere.onnx"], "no exported file"),
    ],
)
def test_mistakes_are_named(
    typed: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", *typed, "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said
    assert not (tmp_path / "out").exists()
