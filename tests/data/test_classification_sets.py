from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hrformer.data.classification_sets import open_classification
from hrformer.data.sets import ClassificationSet, DataError
from hrformer.data.sources import ClassificationSource


def test_parts_have_their_own_root(data_dir: Path, tmp_path: Path) -> None:
    source = ClassificationSource(root=tmp_path, train="x", val="val", val_root=data_dir / "cifar10", test="")
    assert len(open_classification(source, "val")) == 1000
    with pytest.raises(DataError, match=r"the set has no part 'test': ClassificationSource\.test is empty"):
        open_classification(source, "test")


@pytest.mark.parametrize("layout", ["folders", "webdataset", "huggingface"])
def test_absent_root(layout, tmp_path: Path) -> None:
    if layout == "huggingface":
        pytest.importorskip("datasets")
    with pytest.raises(DataError, match="absent: no such folder"):
        open_classification(ClassificationSource(root=tmp_path / "absent", format=layout), "train")


def paint(root: Path, *names: str) -> None:
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 6, 3), number, np.uint8)).save(root / name)


def files(data: ClassificationSet, root: Path) -> list[str]:
    return [Path(data.file(index)).relative_to(root).as_posix() for index in range(len(data))]


@pytest.mark.parametrize("names", [("train", "val"), ("Training", "Validation"), ("train", "valid"), ("TRAIN", "dev")])
def test_parts_have_usual_names(tmp_path: Path, names: tuple[str, str]) -> None:
    train, val = names
    paint(tmp_path, f"{train}/cat/1.png", f"{train}/dog/1.png", f"{train}/train/1.png", f"{val}/train/2.png")
    source = ClassificationSource(root=tmp_path)
    assert files(open_classification(source, "train"), tmp_path) == [
        f"{train}/{c}/1.png" for c in ("cat", "dog", "train")
    ]
    data = open_classification(source, "val")
    assert (files(data, tmp_path), data.classes, data.label(0)) == ([f"{val}/train/2.png"], ("cat", "dog", "train"), 2)
    with pytest.raises(DataError, match=rf"val_share 0\.2 is for sets without .*{val}; set .* or empty"):
        open_classification(replace(source, val_share=0.2), "train")
    paint(tmp_path, f"{train}/cat/2.png")
    assert len(open_classification(replace(source, val_share=0.5, val="", train=train), "train")) == 3
    with pytest.raises(DataError, match="parts/val: no such folder"):
        open_classification(replace(source, val="parts/val"), "val")


def test_class_folders_alone_are_split(tmp_path: Path) -> None:
    paint(tmp_path, *(f"{name}/{number}.png" for name in ("bus", "car", "train") for number in range(5)), "rare/0.png")
    source = ClassificationSource(root=tmp_path)
    remedy = r"holds the class folders themselves, .*ClassificationSource\.val_share 0\.2 keeps a fifth of each class"
    with pytest.raises(DataError, match=remedy):
        open_classification(source, "val")
    whole = open_classification(source, "train")
    assert (len(whole), whole.classes) == (16, ("bus", "car", "rare", "train"))
    shared = replace(source, val_share=0.2)
    train, val = open_classification(shared, "train"), open_classification(shared, "val")
    assert [val.classes[val.label(index)] for index in range(len(val))] == ["bus", "car", "train"]
    assert train.classes == val.classes == whole.classes
    assert sorted(files(train, tmp_path) + files(val, tmp_path)) == sorted(files(whole, tmp_path))
    # Another picture moves no other.
    paint(tmp_path, "bus/5.png")
    assert {*files(open_classification(shared, "val"), tmp_path)} - {"bus/5.png"} <= {*files(val, tmp_path)}


def test_only_a_training_part(tmp_path: Path) -> None:
    paint(tmp_path, *(f"train/{name}/{number}.png" for name in ("a", "b") for number in range(4)))
    source = ClassificationSource(root=tmp_path)
    with pytest.raises(DataError, match=r"val: no such folder; .*ClassificationSource\.val_share 0\.2 keeps a fifth"):
        open_classification(source, "val")
    assert len(open_classification(replace(source, val_share=0.25), "val")) == 2


def test_what_cannot_be_split(tmp_path: Path) -> None:
    paint(tmp_path, "cats/1.png", "cats/2.png")
    source = ClassificationSource(root=tmp_path, val_share=0.2)
    with pytest.raises(DataError, match="its only folder is cats, and one class cannot be told from others"):
        open_classification(source, "train")
    paint(tmp_path, "dogs/1.png")
    (tmp_path / "cats/2.png").unlink()
    with pytest.raises(
        DataError, match=r"needs at least two pictures of some class, one for each part; there are 2 in all"
    ):
        open_classification(source, "train")
    (tmp_path / "train").mkdir()
    paint(tmp_path, "training/a/1.png", "Train/a/1.png")
    with pytest.raises(DataError, match="no class folders"):
        open_classification(source, "train")
    (tmp_path / "train").rmdir()
    with pytest.raises(DataError, match=r"several folders may hold the train part: .*Train, .*training; say which"):
        open_classification(source, "train")
