"""Data looked at before training."""

from __future__ import annotations

import logging
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hrformer.data.set_types import DataError
from hrformer.train import data_check
from hrformer.train.config import ClassificationRun
from hrformer.train.data_check import check_data, left_out
from hrformer.train.loop import train
from hrformer.train.run_folder import ResumeError, checkpoint_path
from hrformer.train.tasks import task_for


@pytest.fixture
def run_with_broken(classification_run: ClassificationRun, tmp_path: Path) -> ClassificationRun:
    """A run whose first training and last validation picture end early."""
    for split in ("train", "val"):
        for file in sorted((classification_run.data.root / split).glob("*/*.jpg")):
            copy = tmp_path / "data" / file.relative_to(classification_run.data.root)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(file.read_bytes())
    for broken in (_files(tmp_path, "train")[0], _files(tmp_path, "val")[-1]):
        broken.write_bytes(broken.read_bytes()[:300])
    return replace(classification_run, data=replace(classification_run.data, root=tmp_path / "data"))


def _files(folder: Path, split: str) -> list[Path]:
    return sorted((folder / "data" / split).glob("*/*.jpg"))


@pytest.mark.parametrize("decoded", [0, data_check.DECODED_PIXELS])
def test_all_broken_files_of_both_parts_are_told_at_once(
    run_with_broken: ClassificationRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoded: int
) -> None:
    # Also where only some pictures are decoded: headers are read of all.
    monkeypatch.setattr(data_check, "DECODED_PIXELS", decoded)
    monkeypatch.setattr(data_check, "_LEAST", 2)
    task = task_for(run_with_broken)
    with pytest.raises(DataError) as raised:
        check_data(run_with_broken, {"train": task.train_set, "val": task.val_set})
    for path in (_files(tmp_path, "train")[0], _files(tmp_path, "val")[-1]):
        assert str(path) in str(raised.value)
    assert "--data.skip-broken" in str(raised.value)


def test_broken_files_are_replaced_in_training_and_left_out_of_validation(
    run_with_broken: ClassificationRun, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = replace(run_with_broken, data=replace(run_with_broken.data, skip_broken=True))
    task = task_for(config)
    before, files = len(task.train_set), _files(tmp_path, "train")
    broken = check_data(config, {"train": task.train_set, "val": task.val_set})
    task.leave_out(broken)
    assert len(task.train_set) == before
    assert [task.train_set.file(index) for index in range(3)] == [str(files[1]), str(files[1]), str(files[2])]
    vals = _files(tmp_path, "val")
    assert [task.val_set.file(index) for index in range(len(task.val_set))] == list(map(str, vals[:-1]))
    with caplog.at_level(logging.WARNING, "hrformer"):
        assert len(left_out(config, task_for(config).val_set, "val")) == len(vals) - 1
    assert str(vals[-1]) in caplog.text


def test_nothing_left_is_an_error(run_with_broken: ClassificationRun, tmp_path: Path) -> None:
    for file in _files(tmp_path, "val"):
        file.write_bytes(b"no picture")
    config = replace(run_with_broken, data=replace(run_with_broken.data, skip_broken=True))
    with pytest.raises(DataError, match="no picture of this part"):
        left_out(config, task_for(config).val_set, "val")


def test_a_class_whose_pictures_are_all_left_out_is_told(
    run_with_broken: ClassificationRun, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lost = _files(tmp_path, "train")[0].parent
    for file in lost.iterdir():
        file.write_bytes(b"")
    config = replace(run_with_broken, data=replace(run_with_broken.data, skip_broken=True))
    task = task_for(config)
    with caplog.at_level(logging.WARNING, "hrformer"):
        check_data(config, {"train": task.train_set, "val": task.val_set})
    assert f"such as: train: 1 class has no picture that can be read ({lost.name})" in caplog.text


def test_a_set_without_faults_passes(classification_run: ClassificationRun) -> None:
    task = task_for(classification_run)
    assert check_data(classification_run, {"train": task.train_set, "val": task.val_set}) == {"train": {}, "val": {}}


def test_a_grey_picture_of_16_bits_is_not_to_be_restored(run_with_broken: ClassificationRun, tmp_path: Path) -> None:
    for split in ("train", "val"):
        for file in _files(tmp_path, split):
            Image.fromarray(np.full((32, 32), 255, np.uint16)).save(file.with_suffix(".png"))
            file.unlink()
    task = task_for(run_with_broken)
    with pytest.raises(DataError) as raised:
        check_data(run_with_broken, {"train": task.train_set, "val": task.val_set})
    said = (
        r"would be black: scale them to 0\.\.65535, or save them with 8 bits .*: put a good file in its place, or leave"
    )
    assert re.search(said, str(raised.value))
    assert "restore" not in str(raised.value)


def test_a_run_whose_data_cannot_be_opened_any_more(run_with_broken: ClassificationRun, tmp_path: Path) -> None:
    last = checkpoint_path(tmp_path / "run")
    last.parent.mkdir(parents=True)
    last.write_bytes(b"")
    shutil.rmtree(tmp_path / "data/val")
    with pytest.raises(
        ResumeError, match=r"goes on only with the data it began with.* wrong now: .*val: no such folder"
    ):
        train(run_with_broken, tmp_path / "run", resume=True)
