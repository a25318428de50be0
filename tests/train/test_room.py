from __future__ import annotations

import shutil
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import pytest

from hrformer.train.config import ClassificationRun
from hrformer.train.loop import train
from hrformer.train.room import want_of_disk
from training import longer

Usage = namedtuple("Usage", "total used free")


def test_a_full_disk_is_named_before_the_first_update(
    classification_run: ClassificationRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = longer(classification_run, 3)
    # 1,481,301 parameters of 4 bytes: 3 checkpoints of weights and two moments, 2 files of weights, and buffers.
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 10**9, 60_000_000))
    out = tmp_path / "run"
    with pytest.raises(
        ValueError, match=r"run: its disk has 60 MB free, the checkpoints of this run need about 6\d MB"
    ):
        train(config, out)
    assert not out.exists()
    with pytest.raises(ValueError, match=r"need about 8\d MB"):
        train(replace(config, ema_decay=0.9), out)
    monkeypatch.undo()
    train(config, out)
    files = [*out.glob("checkpoints/*"), *out.glob("*.safetensors")]
    held = sum({file.stat().st_ino: file.stat().st_size for file in files}.values())
    # What is there already is replaced.
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 10**9, 30_000_000))
    assert not want_of_disk(out, 30_000_000 + held - 100_000)
    assert want_of_disk(out, 30_000_000 + 2 * held)
