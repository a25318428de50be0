from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hrformer.data.segmentation_sets import open_segmentation
from hrformer.data.sets import DataError, SegmentationSet
from hrformer.data.sources import SegmentationSource

datasets = pytest.importorskip("datasets", reason="needs the package datasets")

CLASSES = ("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


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
