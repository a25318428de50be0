"""The script behind the bundled weights runs on a slice of real data, resumes, and writes what `load` reads."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors import safe_open

import hrformer

ROOT = Path(__file__).parents[1]


@pytest.fixture
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("train_nano", ROOT / "examples" / "train_nano.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["train_nano"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def street(data_dir: Path, tmp_path: Path) -> Path:
    """Four training and two validation pictures of CamVid in its own layout."""
    source, target = data_dir / "camvid", tmp_path / "data" / "camvid"
    for split, count in (("train", 4), ("val", 2)):
        for image in sorted((source / "images" / split).glob("*.jpg"))[:count]:
            mask = source / "labels" / split / f"{image.stem}.png"
            for file, kind in ((image, "images"), (mask, "labels")):
                folder = target / kind / split
                folder.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, folder)
    shutil.copy(source / "classes.txt", target)
    return tmp_path / "data"


def test_resumed_run_equals_an_uninterrupted_one(script: ModuleType, street: Path, tmp_path: Path) -> None:
    def args(name: str, epochs: int) -> object:
        return script.Args("camvid", data=street, out=tmp_path / name, phases=((48, 64, epochs, 2),))

    script.main(args("whole", 2))
    half, whole = args("halves", 2), script.train_epoch

    def stop_after_first(*given: object) -> float:
        if given[4] == 1:
            raise KeyboardInterrupt
        return whole(*given)

    script.train_epoch = stop_after_first
    with pytest.raises(KeyboardInterrupt):
        script.main(half)
    script.train_epoch = whole
    script.main(half)
    rows = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    again = [json.loads(line) for line in (tmp_path / "halves" / "metrics.jsonl").read_text().splitlines()]
    assert [row["loss"] for row in rows] == [row["loss"] for row in again]
    assert 0 <= rows[-1]["mIoU"] <= 1
    file = tmp_path / "halves" / "model.safetensors"
    with safe_open(file, "pt") as header:
        assert header.metadata()["score"].startswith("mIoU 0.")
    predictor = hrformer.load(file)
    assert predictor.info.class_names[0] == "sky"
    result = predictor(sorted((street / "camvid" / "images" / "val").glob("*.jpg"))[0])
    assert result.mask.shape == (360, 480)


def test_learning_rate_warms_up_and_ends_at_zero(script: ModuleType) -> None:
    rates = [script.learning_rate(share, 1.0) for share in torch.linspace(0, 1, 101).tolist()]
    assert rates[0] == 0
    assert max(rates) == pytest.approx(1.0)
    assert rates.index(max(rates)) == 5
    assert rates[-1] == pytest.approx(0, abs=1e-12)
