from __future__ import annotations

import io
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hrformer.data.classification_sets import open_classification
from hrformer.data.huggingface import cell_pixels, open_table
from hrformer.data.images import load_image
from hrformer.data.segmentation_sets import open_segmentation
from hrformer.data.set_types import DataError, SegmentationSet
from hrformer.data.source_config import ClassificationSource, SegmentationSource

datasets = pytest.importorskip("datasets", reason="needs the package datasets")

CLASSES = ("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist")


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


def opened(root: Path, split: str = "train", **options: object) -> SegmentationSet:
    options = {"classes": CLASSES} | options
    source = SegmentationSource(root=root, format="huggingface", **options)  # type: ignore[arg-type]
    return open_segmentation(source, split)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def saved(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three pictures of CamVid in the forms that datasets writes, a colour mask and one without a class among them."""
    root = tmp_path_factory.mktemp("saved")
    files = sorted((data_dir / "camvid/images/val").iterdir())[:3]
    masks = [data_dir / "camvid/labels/val" / f"{file.stem}.png" for file in files]
    ids = np.asarray(Image.open(masks[0]))
    odd = [Image.fromarray(np.where(ids == 0, 11, ids).astype(np.uint8)), Image.fromarray(np.stack([ids] * 3, 2))]
    rows = {"image": list(map(str, files)), "annotation": list(map(str, masks)), "number": [0, 1, 2]}
    picture = datasets.Image()
    features = datasets.Features({"image": picture, "annotation": picture, "number": datasets.Value("int64")})
    table = datasets.Dataset.from_dict(rows, features=features)
    columns = {"image": rows["image"][:2], "annotation": [as_bytes(image) for image in odd], "number": [0, 1]}
    broken = datasets.Dataset.from_dict(columns, features=features)
    datasets.DatasetDict({"train": table, "val": broken, "test": table.remove_columns("annotation")}).save_to_disk(root)
    table.to_parquet(root / "data" / "train-00000-of-00001.parquet")
    return root


def as_bytes(image: Image.Image) -> dict[str, object]:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return {"bytes": stream.getvalue(), "path": None}


@pytest.mark.parametrize("part", ["train", "data/train-*.parquet"])
def test_pictures_and_masks(saved: Path, part: str, data_dir: Path, tmp_path: Path) -> None:
    root = saved
    if part.endswith("parquet"):
        root = tmp_path
        (root / "data").mkdir()
        (root / "data/train-0.parquet").write_bytes((saved / "data/train-00000-of-00001.parquet").read_bytes())
    source = opened(root, train=part)
    assert (source.name, len(source), source.classes) == (root.name, 3, CLASSES)
    for index, file in enumerate(sorted((data_dir / "camvid/labels/val").iterdir())[:3]):
        item = source.item(index, source.pixels(index))
        assert item["image"].shape == (3, 360, 480)
        assert np.array_equal(item["mask"], np.asarray(Image.open(file)))
    assert source.file(1) == f"{root}::{part}[1]"
    assert source.mask_file(1) == f"{root}::{part}[1].annotation"


def test_ids_and_colours_that_do_not_fit_name_the_row(saved: Path) -> None:
    source = opened(saved, "val")
    with pytest.raises(DataError, match=r"::val\[0\]\.annotation: \d+ of \d+ pixels hold the id 11, "):
        source.mask(0)
    with pytest.raises(DataError, match=r"::val\[1\]\.annotation: the mask is a picture of colours"):
        source.mask(1)


def test_test_part_without_masks(saved: Path) -> None:
    source = opened(saved, "test", test="test")
    assert not source.labelled
    assert list(source.item(0, source.pixels(0))) == ["image"]
    with pytest.raises(DataError, match=r"this part of .* has no masks"):
        source.mask(0)


def test_wrong_columns_and_classes(saved: Path) -> None:
    with pytest.raises(DataError, match="has no column 'label'; it has 'image', 'annotation', 'number'"):
        opened(saved, mask_column="label")
    with pytest.raises(DataError, match="column 'number' holds no pictures"):
        opened(saved, mask_column="number")
    with pytest.raises(DataError, match=r"classes\.txt: no such file"):
        opened(saved, classes="classes.txt")
