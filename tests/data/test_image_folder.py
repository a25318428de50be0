from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hrformer.data.classification_sets import open_classification
from hrformer.data.image_folder import ImageFolder
from hrformer.data.sets import DataError
from hrformer.data.sources import ClassificationSource


def paint(path: Path, value: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 6, 3), value, np.uint8)).save(path)


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
