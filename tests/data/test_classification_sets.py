"""Classes of pictures: a folder per class, found under the names that people give their parts."""

from __future__ import annotations

import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hrformer.data.classification_sets import ImageFolder, open_classification
from hrformer.data.set_types import ClassificationSet, DataError
from hrformer.data.source_config import ClassificationSource


def paint(path: Path, value: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 6, 3), value, np.uint8)).save(path)


def paint_all(root: Path, *names: str) -> None:
    for number, name in enumerate(names):
        paint(root / name, number)


@pytest.mark.parametrize(("split", "per_class"), [("train", 500), ("val", 100)])
def test_cifar10(data_dir: Path, split, per_class: int) -> None:
    data = open_classification(ClassificationSource(root=data_dir / "cifar10"), split)
    assert (data.name, data.task, len(data.classes), len(data)) == ("cifar10", "classification", 10, 10 * per_class)
    labels = [data.label(index) for index in range(len(data))]
    assert labels == sorted(labels)
    assert np.bincount(labels).tolist() == [per_class] * 10
    for index in (0, per_class, len(data) - 1):
        assert Path(data.file(index)).parent.name == data.classes[data.label(index)]
        item = data.item(index, data.pixels(index))
        assert (item["image"].shape, item["label"]) == ((3, 32, 32), data.label(index))


def test_imagenet_layout_nested_folders_and_odd_files(tmp_path: Path) -> None:
    paint(tmp_path / "train" / "n02" / "n02_10.png", 1)
    paint(tmp_path / "train" / "n02" / "deeper" / "still" / "a.png", 2)
    paint(tmp_path / "train" / "n01" / "n01_9.png", 3)
    (tmp_path / "train" / "n01" / "n01_9.png").rename(tmp_path / "train" / "n01" / "n01_9.JPEG")
    (tmp_path / "train" / "n01" / "._n01_9.png").touch()
    (tmp_path / "train" / "n01" / "notes.txt").touch()
    (tmp_path / "train" / ".hidden").mkdir()
    (tmp_path / "train" / "list.txt").touch()
    data = open_classification(ClassificationSource(root=tmp_path), "train")
    assert data.classes == ("n01", "n02")
    names = [Path(data.file(index)).relative_to(tmp_path).as_posix() for index in range(len(data))]
    assert names == ["train/n01/n01_9.JPEG", "train/n02/deeper/still/a.png", "train/n02/n02_10.png"]
    assert [int(data.pixels(index)[0, 0, 0]) for index in range(3)] == [3, 2, 1]
    assert [data.label(index) for index in range(3)] == [0, 1, 1]


def test_links_that_lead_back_add_no_pictures(tmp_path: Path) -> None:
    train = tmp_path / "train"
    for name in ("a/x.png", "b/y.png", "b/deeper/z.png"):
        paint(train / name)
    for link, target in (("a/loop", "a"), ("a/all", "."), ("b/deeper/up", "b"), ("b/again", "b/deeper"), ("c", "../c")):
        (tmp_path / "c").mkdir(exist_ok=True)
        paint(tmp_path / "c/w.png")
        (train / link).symlink_to((train / target).resolve(), target_is_directory=True)
    data = open_classification(ClassificationSource(root=tmp_path), "train")
    names = [Path(data.file(index)).relative_to(train).as_posix() for index in range(len(data))]
    assert names == ["a/x.png", "b/deeper/z.png", "b/y.png", "c/w.png"]


def test_pictures_in_no_class_folder_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("1.png", "2.png", "a/x.png", "b/y.png"):
        paint(tmp_path / "train" / name)
    source = ClassificationSource(root=tmp_path)
    assert len(open_classification(source, "train")) == 2
    said = "2 pictures lie in no class folder and will not be used, such as 1.png: move each to its class"
    assert said in caplog.text
    (tmp_path / "train/a/x.png").unlink()
    with pytest.raises(DataError, match=f"train/a: holds no pictures that can be read; .*{said}"):
        open_classification(source, "train")


def test_a_class_in_other_letters_and_a_test_part_instead_of_validation(tmp_path: Path) -> None:
    for name in ("train/a/x.png", "train/b/y.png", "test/A/z.png", "test/b/w.png"):
        paint(tmp_path / name)
    source = ClassificationSource(root=tmp_path)
    with pytest.raises(DataError, match=r"val: no such folder; .*; or ClassificationSource\.val test scores on"):
        open_classification(source, "val")
    with pytest.raises(DataError, match=r"the classes are a, b\. Small and capital letters differ: rename A as a"):
        open_classification(ClassificationSource(root=tmp_path, val="test"), "val")


def test_order_and_paths_from_a_relative_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paint(tmp_path / "train" / "a" / "x.png", 7)
    monkeypatch.chdir(tmp_path)
    data = pickle.loads(pickle.dumps(open_classification(ClassificationSource(), "train")))
    assert (data.file(0), int(data.pixels(0)[0, 0, 0]), data.name) == ("train/a/x.png", 7, tmp_path.name)
    assert ImageFolder(Path("train")).name == tmp_path.name


def test_a_part_without_some_class_keeps_the_ids(tmp_path: Path) -> None:
    for name in "abc":
        paint(tmp_path / "train" / name / "1.png")
    paint(tmp_path / "val" / "c" / "1.png")
    data = open_classification(ClassificationSource(root=tmp_path), "val")
    assert (data.classes, data.label(0)) == (("a", "b", "c"), 2)


def test_class_list_sets_the_order_and_must_agree(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        paint(tmp_path / "train" / name / "1.png")
    (tmp_path / "classes.txt").write_text("0 dog\n1 cat\n")
    source = ClassificationSource(root=tmp_path)
    data = open_classification(source, "train")
    assert (data.classes, Path(data.file(0)).parent.name) == (("dog", "cat"), "dog")
    (tmp_path / "classes.txt").write_text("0 dog\n1 tiger\n")
    with pytest.raises(DataError, match="1 of 2 classes without a folder, such as tiger"):
        open_classification(source, "train")
    (tmp_path / "classes.txt").write_text("0 dog\n")
    with pytest.raises(DataError, match="1 folder of no class, such as cat; the classes are dog"):
        open_classification(source, "train")


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    source = ClassificationSource(root=tmp_path)
    with pytest.raises(DataError, match="train: no such folder; it must hold one folder of pictures per class"):
        open_classification(source, "train")
    paint(tmp_path / "val" / "ILSVRC2012_val_00000001.png")
    with pytest.raises(DataError, match=r"has no class folders.*must be moved into folders first"):
        open_classification(source, "val")
    (tmp_path / "train" / "empty").mkdir(parents=True)
    with pytest.raises(DataError, match="empty: holds no pictures"):
        open_classification(source, "train")


def test_unreadable_picture_is_named(tmp_path: Path) -> None:
    paint(tmp_path / "train" / "a" / "1.png")
    (tmp_path / "train" / "a" / "0.jpg").write_bytes(b"not a picture")
    data = open_classification(ClassificationSource(root=tmp_path), "train")
    with pytest.raises(ValueError, match=r"0\.jpg: not a picture"):
        data.pixels(0)
    shutil.rmtree(tmp_path / "train")
    with pytest.raises(ValueError, match=r"1\.png: no such file"):
        data.pixels(1)


def test_pictures_that_are_not_read_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    paint(tmp_path / "train" / "a" / "1.png")
    paint(tmp_path / "train" / "__MACOSX" / "a" / "1.png")
    (tmp_path / "train" / "a" / "IMG_2.HEIC").write_bytes(b"from a phone")
    data = open_classification(ClassificationSource(root=tmp_path), "train")
    assert (data.classes, len(data)) == (("a",), 1)
    assert "left out a/IMG_2.HEIC: HEIC is not read here" in caplog.text
    (tmp_path / "train" / "a" / "1.png").unlink()
    with pytest.raises(DataError, match=r"holds no pictures that can be read; a/IMG_2\.HEIC: HEIC is not read here"):
        open_classification(ClassificationSource(root=tmp_path), "train")


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


def files(data: ClassificationSet, root: Path) -> list[str]:
    return [Path(data.file(index)).relative_to(root).as_posix() for index in range(len(data))]


@pytest.mark.parametrize("names", [("train", "val"), ("Training", "Validation"), ("train", "valid"), ("TRAIN", "dev")])
def test_parts_have_usual_names(tmp_path: Path, names: tuple[str, str]) -> None:
    train, val = names
    paint_all(tmp_path, f"{train}/cat/1.png", f"{train}/dog/1.png", f"{train}/train/1.png", f"{val}/train/2.png")
    source = ClassificationSource(root=tmp_path)
    assert files(open_classification(source, "train"), tmp_path) == [
        f"{train}/{c}/1.png" for c in ("cat", "dog", "train")
    ]
    data = open_classification(source, "val")
    assert (files(data, tmp_path), data.classes, data.label(0)) == ([f"{val}/train/2.png"], ("cat", "dog", "train"), 2)
    with pytest.raises(DataError, match=rf"val_share 0\.2 is for sets without .*{val}; set .* or empty"):
        open_classification(replace(source, val_share=0.2), "train")
    paint_all(tmp_path, f"{train}/cat/2.png")
    assert len(open_classification(replace(source, val_share=0.5, val="", train=train), "train")) == 3
    with pytest.raises(DataError, match="parts/val: no such folder"):
        open_classification(replace(source, val="parts/val"), "val")


def test_class_folders_alone_are_split(tmp_path: Path) -> None:
    paint_all(
        tmp_path, *(f"{name}/{number}.png" for name in ("bus", "car", "train") for number in range(5)), "rare/0.png"
    )
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
    paint_all(tmp_path, "bus/5.png")
    assert {*files(open_classification(shared, "val"), tmp_path)} - {"bus/5.png"} <= {*files(val, tmp_path)}


def test_only_a_training_part(tmp_path: Path) -> None:
    paint_all(tmp_path, *(f"train/{name}/{number}.png" for name in ("a", "b") for number in range(4)))
    source = ClassificationSource(root=tmp_path)
    with pytest.raises(DataError, match=r"val: no such folder; .*ClassificationSource\.val_share 0\.2 keeps a fifth"):
        open_classification(source, "val")
    assert len(open_classification(replace(source, val_share=0.25), "val")) == 2


def test_what_cannot_be_split(tmp_path: Path) -> None:
    paint_all(tmp_path, "cats/1.png", "cats/2.png")
    source = ClassificationSource(root=tmp_path, val_share=0.2)
    with pytest.raises(DataError, match="its only folder is cats, and one class cannot be told from others"):
        open_classification(source, "train")
    paint_all(tmp_path, "dogs/1.png")
    (tmp_path / "cats/2.png").unlink()
    with pytest.raises(
        DataError, match=r"needs at least two pictures of some class, one for each part; there are 2 in all"
    ):
        open_classification(source, "train")
    (tmp_path / "train").mkdir()
    paint_all(tmp_path, "training/a/1.png", "Train/a/1.png")
    with pytest.raises(DataError, match="no class folders"):
        open_classification(source, "train")
    (tmp_path / "train").rmdir()
    with pytest.raises(DataError, match=r"several folders may hold the train part: .*Train, .*training; say which"):
        open_classification(source, "train")
