from __future__ import annotations

import pickle
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hrformer.data.classification_sets import open_classification
from hrformer.data.huggingface import cell_pixels, open_table
from hrformer.data.images import load_image
from hrformer.data.sets import DataError
from hrformer.data.sources import ClassificationSource

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


@pytest.fixture(scope="module")
def files(data_dir: Path) -> list[Path]:
    """Two real pictures of each class."""
    return [f for folder in sorted((data_dir / "cifar10" / "val").iterdir()) for f in sorted(folder.iterdir())[:2]]


@pytest.fixture
def rows(files: list[Path]) -> Any:
    """A set in memory with named classes."""
    names = sorted({file.parent.name for file in files})
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    images = [{"bytes": file.read_bytes(), "path": file.name} for file in files]
    labels = [names.index(file.parent.name) for file in files]
    return datasets.Dataset.from_dict({"image": images, "label": labels}, features=features)


def require_files(data: Any, files: list[Path]) -> None:
    assert len(data) == len(files)
    for index, file in enumerate(files):
        assert np.array_equal(data.pixels(index), load_image(file).pixels)
        assert data.classes[data.label(index)] == file.parent.name


def test_cifar10_full_with_its_validation_folders(data_dir: Path) -> None:
    source = ClassificationSource(
        root=data_dir / "cifar10_full", format="huggingface", val_root=data_dir / "cifar10", val_format="folders"
    )
    train, val = open_classification(source, "train"), open_classification(source, "val")
    assert (len(train), len(val)) == (49_000, 1000)
    assert train.classes == val.classes
    assert (train.name, val.name) == ("cifar10_full", "cifar10")
    counts = np.bincount([train.label(index) for index in range(len(train))])
    assert counts.tolist() == [4900] * 10
    assert train.pixels(0).shape == (32, 32, 3)
    assert train.file(7) == f"{data_dir / 'cifar10_full'}::train[7]"
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(train.pixels, range(40)))
    assert all(np.array_equal(train.pixels(index), pixels) for index, pixels in enumerate(together))


def test_every_layout_gives_the_same_items(rows: Any, files: list[Path], tmp_path: Path) -> None:
    halves = [rows.select(range(10)), rows.select(range(10, 20))]
    (tmp_path / "parquet" / "data").mkdir(parents=True)
    (tmp_path / "arrow" / "train").mkdir(parents=True)
    for number, half in enumerate(halves):
        half.to_parquet(tmp_path / "parquet" / "data" / f"train-{number}-of-2.parquet")
        half.save_to_disk(tmp_path / "scratch")
        next((tmp_path / "scratch").glob("*.arrow")).rename(tmp_path / "arrow" / "train" / f"{number}.arrow")
    rows.shuffle(seed=1).to_parquet(tmp_path / "parquet" / "data" / "test.parquet")
    datasets.DatasetDict({"train": rows, "validation": halves[0]}).save_to_disk(tmp_path / "parts")
    rows.save_to_disk(tmp_path / "single")
    for root, part in (("parquet", "train"), ("arrow", "train"), ("parts", "train"), ("single", ".")):
        source = ClassificationSource(root=tmp_path / root, format="huggingface", train=part, val="validation")
        require_files(pickle.loads(pickle.dumps(open_classification(source, "train"))), files)
    source = ClassificationSource(root=tmp_path / "parts", format="huggingface", val="validation")
    require_files(open_classification(source, "val"), files[:10])
    with pytest.raises(DataError, match=r"has no part 'val'; it has \['train', 'validation'\]"):
        open_classification(replace(source, val="val"), "val")
    with pytest.raises(DataError, match=r"is one saved set without parts; name it by the part '\.'"):
        open_classification(replace(source, root=tmp_path / "single"), "train")


def test_pictures_may_be_paths_and_columns_have_other_names(files: list[Path], tmp_path: Path) -> None:
    table = datasets.Dataset.from_dict({"img": [str(file) for file in files], "fine": [f.parent.name for f in files]})
    table.save_to_disk(tmp_path / "set")
    source = ClassificationSource(
        root=tmp_path / "set", format="huggingface", train=".", image_column="img", label_column="fine"
    )
    with pytest.raises(DataError, match="the labels are texts such as 'airplane'"):
        open_classification(source, "train")
    names = tuple(sorted({file.parent.name for file in files}))
    require_files(open_classification(replace(source, classes=names), "train"), files)
    with pytest.raises(DataError, match="the label 'truck' is not among the classes"):
        open_classification(replace(source, classes=names[:-1]), "train")
    with pytest.raises(DataError, match="has no column 'image'; it has 'img', 'fine'"):
        open_classification(replace(source, image_column="image"), "train")
    with pytest.raises(DataError, match="has no column 'label'; it has 'img', 'fine'"):
        open_classification(replace(source, label_column="label"), "train")


def test_labels_without_names(files: list[Path], tmp_path: Path) -> None:
    images = [str(file) for file in files[:3]]
    source = ClassificationSource(root=tmp_path, format="huggingface")

    def save(labels: list[Any]) -> None:
        datasets.Dataset.from_dict({"image": images, "label": labels}).save_to_disk(tmp_path / "train")

    save([0, 2, 1])
    assert open_classification(source, "train").classes == ("0", "1", "2")
    assert open_classification(replace(source, classes=("a", "b", "c")), "train").classes == ("a", "b", "c")
    for labels, message in (
        ([0, -1, 1], "item 1 has the label -1; labels count from 0, and a test part has none"),
        ([0, None, 1], "row 1 has no label"),
        ([0.5, 1.0, 2.0], "column 'label' must hold numbers or texts, got float"),
    ):
        save(labels)
        with pytest.raises(DataError, match=message):
            open_classification(source, "train")


def test_contradicting_names_are_refused(rows: Any, tmp_path: Path) -> None:
    rows.save_to_disk(tmp_path / "train")
    source = ClassificationSource(root=tmp_path, format="huggingface", classes=("a", "b"))
    with pytest.raises(DataError, match=r"the classes are \('airplane'.*but \('a', 'b'\) were given"):
        open_classification(source, "train")


def test_columns_without_pictures(rows: Any, tmp_path: Path) -> None:
    rows.save_to_disk(tmp_path / "train")
    with pytest.raises(DataError, match="column 'label' holds no pictures but ClassLabel"):
        open_table(tmp_path, "train", ("label",))
    with pytest.raises(DataError, match="x: the row has no picture"):
        cell_pixels(None, "x")
    with pytest.raises(ValueError, match="x: not a picture"):
        cell_pixels({"bytes": b"abc", "path": "y"}, "x")


def test_absent_sets(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no \.parquet or \.arrow files for 'train'"):
        open_table(tmp_path, "train", ())
    with pytest.raises(DataError, match="absent: no such folder"):
        open_table(tmp_path / "absent", "train", ())
    with pytest.raises(DataError, match=r"owner/no-such-set, part 'train': .*Hub"):
        open_table(Path("owner/no-such-set"), "train", ())
    (tmp_path / "train.parquet").write_bytes(b"broken")
    with pytest.raises(DataError, match="part 'train': "):
        open_table(tmp_path, "train", ())


def test_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match="pip install datasets"):
        open_table(tmp_path, "train", ())
