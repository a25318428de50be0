"""Folders as labelling tools leave them: the commands look at them, train on them and say what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import tool_labels
from hrformer.__main__ import main
from hrformer.geometry.skeletons import LSPET14
from tool_labels import Labelled, picture
from training import WEIGHTS

CLASSES = ("person", "dog")
SHORT = (
    *("--schedule.updates", "2", "--schedule.warmup-epochs", "0", "--schedule.warmup-updates", "0"),
    *("--batch.total", "4", "--runtime.cpu", "--runtime.workers", "0", "--log.trackers"),
    *("--model.name", "hrformer_nano", "--augment.size", "64", "64", "--data.val-share", "0.25"),
)
POSE = (*SHORT, "--model.init", str(WEIGHTS / "hrformer_nano_lspet.safetensors"))
MASKS = (
    *SHORT,
    *("--model.init", str(WEIGHTS / "hrformer_nano_camvid.safetensors")),
    *("--augment.short-side", "64", "--evaluation.short-side", "64"),
)


def labelled(count: int) -> list[Labelled]:
    """Pictures of 72 x 96 pixels with a person of LSPET's joints and a dog each."""
    rng, found = np.random.default_rng(0), []
    for number in range(count):
        places = rng.uniform((12, 14), (50, 80), (14, 2)).round(2)
        named = zip(LSPET14.keypoints, places.tolist(), strict=True)
        joints = {name: (x, y, 1 + place % 2) for place, (name, (x, y)) in enumerate(named)}
        dog = [(8.0 + number, 60.0), (60.0, 60.0), (40.0, 90.0)]
        found.append(Labelled(f"{number}.png", (72, 96), [(joints, (8.0, 8.0, 50.0, 80.0))], [("dog", dog)]))
    return found


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    code = main(list(words))
    captured = capsys.readouterr()
    text = " ".join((captured.out + captured.err).split())
    assert "Traceback" not in text
    return code, text


@pytest.mark.slow
def test_joints_of_cvat_are_trained_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, some = tmp_path / "set", labelled(8)
    tool_labels.cvat(root / "annotations.xml", some, LSPET14.keypoints)
    for one in some:
        picture(root / "images" / one.name, one.size)
    code, text = run(capsys, "train", "finetune_pose", *POSE, "--data.root", str(root), "--out", str(tmp_path / "run"))
    assert code == 0, text
    assert "annotations.xml: taken for the labels of the train part" in text
    assert "6 pictures to train on, 2 to validate on" in text
    assert (tmp_path / "run" / "best.safetensors").is_file()


@pytest.mark.slow
def test_outlines_of_labelme_are_trained_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, some = tmp_path / "set", labelled(8)
    for one in some:
        one.people.clear()
        picture(root / one.name, one.size)
    tool_labels.labelme(root, some)
    code, text = run(
        capsys, "train", "finetune_segmentation", *MASKS, "--data.root", str(root), "--out", str(tmp_path / "run")
    )
    assert code == 0, text
    assert (tmp_path / "run" / "best.safetensors").is_file()


@pytest.mark.slow
def test_inspect_looks_at_labels_of_tools(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tool_labels.yolo(tmp_path / "set", {"train": labelled(3), "valid": labelled(2)}, LSPET14.keypoints, CLASSES)
    command = ("inspect", "data", "finetune_pose", "--data.root", str(tmp_path / "set"), "--samples", "0")
    for folder in ("train", "valid"):
        for file in (tmp_path / "set" / folder / "labels").iterdir():
            file.write_text(file.read_text().splitlines()[0])
    code, text = run(capsys, *command, "--batch.total", "2", "--out", str(tmp_path / "look"))
    assert code == 0, text
    assert "annotations in the file: 3, of them 0 crowds, 0 without joints" in text
    (tmp_path / "set/valid/labels/0.txt").write_text("0 0.5 0.5 0.5")
    code, text = run(capsys, *command, "--out", str(tmp_path / "look"))
    assert code == 1
    assert "valid/labels/0.txt: line 1: must have 5 numbers" in text
