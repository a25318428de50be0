"""The published sets, each in a tiny tree of its own layout."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hrformer.data.segmentation_sets import open_segmentation
from hrformer.data.set_types import DataError, SegmentationSet
from hrformer.data.source_config import SegmentationSource
from mask_trees import SIZE, mask_of, write_mask, write_picture, write_text


def opened(root: Path, kind: str, split: str = "val", **options: object) -> SegmentationSet:
    return open_segmentation(SegmentationSource(root=root, format=kind, **options), split)  # type: ignore[arg-type]


def beginning(source: SegmentationSet, count: int, index: int = 0) -> list[int]:
    """First values of a mask, which also must fit its picture."""
    item = source.item(index, source.pixels(index))
    assert item["image"].shape == (3, *SIZE)
    assert item["mask"].shape == SIZE
    return item["mask"].flatten()[:count].tolist()


def cityscapes(root: Path, kinds: dict[str, list[int]], part: str = "val") -> None:
    for city, number in (("ulm", 0), ("aachen", 1), ("aachen", 0)):
        name = f"{part}/{city}/{city}_00000{number}_000019"
        write_picture(root / "leftImg8bit" / f"{name}_leftImg8bit.png", number)
        for kind, values in kinds.items():
            write_mask(root / "gtFine" / f"{name}_gtFine_{kind}.png", values)
        write_text(root / "gtFine" / f"{name}_gtFine_polygons.json", "{}")


def test_cityscapes_by_label_ids(tmp_path: Path) -> None:
    # Colours and instances lie beside the ids; the prepared masks hold something else, to see which are read.
    cityscapes(tmp_path, {"labelIds": [7, 8, 26, 33, 0, 4, 29], "labelTrainIds": [5], "instanceIds": [0]})
    for root in (tmp_path, tmp_path.parent):
        if root != tmp_path:
            tmp_path.rename(root / "cityscapes")
        source = opened(root, "cityscapes")
        assert (source.name, len(source), len(source.classes)) == ("Cityscapes", 3, 19)
        assert source.palette[13] == (0, 0, 142)
        assert beginning(source, 7) == [0, 1, 13, 18, 255, 255, 255]
        names = [Path(source.file(i)).name[:13] for i in range(3)]
        assert names == ["aachen_000000", "aachen_000001", "ulm_000000_00"]
        assert source.mask_file(2).endswith("ulm/ulm_000000_000019_gtFine_labelIds.png")


def test_cityscapes_by_train_ids(tmp_path: Path) -> None:
    cityscapes(tmp_path, {"labelTrainIds": [0, 18, 255]})
    assert beginning(opened(tmp_path, "cityscapes"), 3) == [0, 18, 255]
    cityscapes(tmp_path, {"labelTrainIds": [19]}, "train")
    with pytest.raises(DataError, match=r"aachen_000000_000019_gtFine_labelTrainIds\.png: .* 0..18 and 255"):
        opened(tmp_path, "cityscapes", "train").mask(0)


def test_cityscapes_test_part_has_no_labels(tmp_path: Path) -> None:
    cityscapes(tmp_path, {"labelIds": [0]}, "test")
    source = opened(tmp_path, "cityscapes", "test", test="test")
    assert not source.labelled
    assert "mask" not in source.item(0, source.pixels(0))
    with pytest.raises(DataError, match="has no masks"):
        source.mask(0)


def test_incomplete_cityscapes(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no pictures here; looked for the folder leftImg8bit/val, found an empty"):
        opened(tmp_path, "cityscapes")
    cityscapes(tmp_path, {"instanceIds": [0]})
    with pytest.raises(DataError, match=r"no files \*_gtFine_labelIds.png or \*_gtFine_labelTrainIds.png"):
        opened(tmp_path, "cityscapes")
    cityscapes(tmp_path, {"labelIds": [7]})
    (tmp_path / "gtFine/val/ulm/ulm_000000_000019_gtFine_labelIds.png").unlink()
    with pytest.raises(DataError, match=r"ulm_000000_000019_leftImg8bit\.png: this picture has no mask"):
        opened(tmp_path, "cityscapes")


@pytest.mark.parametrize("above", ["", "ADEChallengeData2016", "ade/ADEChallengeData2016"])
def test_ade20k(tmp_path: Path, above: str) -> None:
    for part, folder in (("train", "training"), ("val", "validation")):
        write_picture(tmp_path / above / "images" / folder / f"ADE_{part}_1.jpg")
        write_mask(tmp_path / above / "annotations" / folder / f"ADE_{part}_1.png", [0, 1, 13, 150])
    for split in ("train", "val"):
        source = opened(tmp_path, "ade20k", split)
        assert (source.name, len(source), len(source.classes)) == ("ADE20K", 1, 150)
        assert beginning(source, 4) == [255, 0, 12, 149]
    write_picture(tmp_path / above / "images" / "testing" / "ADE_test_1.jpg")
    assert not opened(tmp_path, "ade20k", "test", test="test").labelled


def context(root: Path, write: Callable[[str], None], count: int = 2) -> None:
    names = [f"2008_00000{number}" for number in range(count)]
    for name in names:
        write_picture(root / "JPEGImages" / f"{name}.jpg")
        write(name)
    write_picture(root / "JPEGImages" / "2008_999999.jpg")
    write_text(root / "ImageSets/SegmentationContext/val.txt", "\n".join(reversed(names)) + "\n")


@pytest.mark.parametrize("above", ["", "VOC2010", "VOCdevkit/VOC2010"])
def test_pascal_context_as_prepared(tmp_path: Path, above: str) -> None:
    folder = tmp_path / above
    context(folder, lambda name: write_mask(folder / "SegmentationClassContext" / f"{name}.png", [0, 1, 59]))
    source = opened(tmp_path, "pascal_context")
    assert (source.name, len(source), len(source.classes)) == ("PASCAL-Context", 2, 59)
    assert beginning(source, 3) == [255, 0, 58]
    assert Path(source.file(0)).name == "2008_000000.jpg"


def test_pascal_context_with_all_labels(tmp_path: Path) -> None:
    ids = [2, 458, 284, 255, 1, 0, 459]
    expected = [0, 58, 36, 255, 255, 255, 255]
    wide = tmp_path / "wide"
    context(wide, lambda name: write_mask(wide / "SegmentationClassContext" / f"{name}.png", ids, np.uint16))
    assert beginning(opened(wide, "pascal_context"), 7) == expected
    savemat = pytest.importorskip("scipy.io").savemat
    (tmp_path / "raw/trainval").mkdir(parents=True)
    context(
        tmp_path / "raw",
        lambda name: savemat(tmp_path / "raw/trainval" / f"{name}.mat", {"LabelMap": mask_of(ids, np.uint16)}),
    )
    assert beginning(opened(tmp_path / "raw", "pascal_context"), 7) == expected


def test_incomplete_pascal_context(tmp_path: Path) -> None:
    context(tmp_path, lambda name: None)
    (tmp_path / "trainval_merged.json").write_text("{}")
    with pytest.raises(DataError, match=r"no masks here.* trainval_merged.json alone .* 'detail'.* PNG"):
        opened(tmp_path, "pascal_context")
    with pytest.raises(DataError, match=r"train\.txt: No such file"):
        opened(tmp_path, "pascal_context", "train")
    write_mask(tmp_path / "SegmentationClassContext" / "2008_000000.png", [1])
    with pytest.raises(DataError, match=r"the mask 2008_000001, listed in .*val\.txt, is not here"):
        opened(tmp_path, "pascal_context")


@pytest.mark.parametrize("lists", ["imageLists", "imagesLists"])
def test_coco_stuff_10k_as_published(tmp_path: Path, lists: str) -> None:
    savemat = pytest.importorskip("scipy.io").savemat
    root = tmp_path / "coco_stuff10k"
    (root / "annotations").mkdir(parents=True)
    for number, ids in enumerate(([0, 1, 13, 182], [92, 90, 25, 27])):
        write_picture(root / "images" / f"COCO_train2014_{number}.jpg")
        savemat(root / "annotations" / f"COCO_train2014_{number}.mat", {"S": mask_of(ids)})
    write_text(root / lists / "train.txt", "COCO_train2014_0\n")
    write_text(root / lists / "test.txt", "COCO_train2014_1\n")
    train, val = (opened(tmp_path, "coco_stuff_10k", split) for split in ("train", "val"))
    assert (train.name, len(train), len(val), len(train.classes)) == ("COCO-Stuff-10K", 1, 1, 171)
    # Wood, 182, is the last class and is not lost.
    assert beginning(train, 4) == [255, 0, 11, 170]
    assert train.classes[170] == "wood"
    assert beginning(val, 4) == [80, 79, 23, 24]


def test_coco_stuff_10k_of_mmsegmentation(tmp_path: Path) -> None:
    for part, values in (("train2014", [0, 1, 12, 171]), ("test2014", [171])):
        write_picture(tmp_path / "images" / part / "COCO_1.jpg")
        write_mask(tmp_path / "annotations" / part / "COCO_1_labelTrainIds.png", values)
    assert beginning(opened(tmp_path, "coco_stuff_10k", "train"), 4) == [255, 0, 11, 170]
    assert beginning(opened(tmp_path, "coco_stuff_10k", "val"), 1) == [170]


def test_coco_stuff_164k(tmp_path: Path) -> None:
    root = tmp_path / "coco_stuff164k"
    for part in ("train2017", "val2017"):
        write_picture(root / "images" / part / "000000000009.jpg")
    write_mask(root / "annotations/train2017/000000000009.png", [255, 0, 12, 181])
    # The converted mask beside the published one holds something else, to see which is read.
    write_mask(root / "annotations/train2017/000000000009_labelTrainIds.png", [7])
    write_mask(root / "annotations/val2017/000000000009_labelTrainIds.png", [255, 0, 11, 170])
    for split in ("train", "val"):
        source = opened(tmp_path, "coco_stuff_164k", split)
        assert (source.name, len(source), len(source.classes)) == ("COCO-Stuff-164k", 1, 171)
        assert beginning(source, 4) == [255, 0, 11, 170]
    write_mask(root / "annotations/train2017/000000000009.png", [0, 182])
    with pytest.raises(DataError, match=r"the id 182.*format coco_stuff_10k"):
        opened(tmp_path, "coco_stuff_164k", "train").mask(0)


@pytest.mark.parametrize(
    ("dataset", "written", "read"),
    [
        ("cityscapes", [7, 33, 0, 29, 255], [0, 18, 255, 255, 255]),
        ("pascal_context", [0, 1, 59, 255], [255, 0, 58, 255]),
        ("coco_stuff_10k", [0, 1, 13, 182, 255], [255, 0, 11, 170, 255]),
        ("ade20k", [0, 1, 150, 255], [255, 0, 149, 255]),
    ],
)
def test_layout_of_the_hrformer_repository(tmp_path: Path, dataset: str, written: list[int], read: list[int]) -> None:
    # COCO-Stuff's script writes "images" where the others write "image".
    images = "images" if dataset == "coco_stuff_10k" else "image"
    for split in ("train", "val"):
        write_picture(tmp_path / dataset / split / images / "a.jpg")
        write_mask(tmp_path / dataset / split / "label" / "a.png", written)
    for root in (tmp_path, tmp_path / dataset):
        source = opened(root, "official", dataset=dataset)
        assert beginning(source, len(read)) == read
        assert len(source) == 1
    assert opened(tmp_path, "official", "train", dataset=dataset).classes == source.classes


def test_incomplete_official_layout(tmp_path: Path) -> None:
    write_picture(tmp_path / "ade20k/val/pictures/a.jpg")
    message = (
        r"folders val/image and val/images, found pictures/ in .*/ade20k/val\. Expected layout: ade20k/\{train,val\}"
    )
    with pytest.raises(DataError, match=message):
        opened(tmp_path, "official", dataset="ade20k")
    with pytest.raises(DataError, match=r"dataset must be one of cityscapes, .*got 'voc'"):
        opened(tmp_path, "official", dataset="voc")


def test_sources_that_name_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone: no such folder; SegmentationSource\.root is that of the set"):
        opened(tmp_path / "gone", "ade20k")
    with pytest.raises(DataError, match=r"names no test part; set SegmentationSource.test"):
        opened(tmp_path, "ade20k", "test")
    with pytest.raises(DataError, match=r"format must be one of folders, voc, coco, .*got 'yolo'"):
        opened(tmp_path, "yolo")
