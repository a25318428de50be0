"""Pictures and masks are found and paired in the layouts of tools, and never by guess."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from hrformer.data.mask_search import names_of_pictures
from hrformer.data.segmentation_sets import open_segmentation
from hrformer.data.set_types import DataError, SegmentationSet
from hrformer.data.source_config import SegmentationSource, Split
from mask_trees import write_mask, write_picture, write_text

CLASSES = ("road", "sky")


def opened(root: Path, split: Split, share: float = 0.0) -> SegmentationSet:
    return open_segmentation(SegmentationSource(root=root, classes=CLASSES, val_share=share), split)


def files(source: SegmentationSet, root: Path) -> list[tuple[str, str]]:
    pairs = [(source.file(index), source.mask_file(index)) for index in range(len(source))]
    return sorted((Path(a).relative_to(root).as_posix(), Path(b).relative_to(root).as_posix()) for a, b in pairs)


LAYOUTS = {
    "ours": ("images/train/{}.jpg", "labels/train/{}.png", "images/val/{}.jpg", "labels/val/{}.png"),
    "masks": ("images/train/{}.jpg", "masks/train/{}.png", "images/val/{}.jpg", "masks/val/{}.png"),
    "part first": ("train/images/{}.jpg", "train/labels/{}.png", "valid/images/{}.jpg", "valid/labels/{}.png"),
    "supervisely": ("Train/img/{}.jpg", "Train/ann/{}.jpg.png", "Validation/img/{}.jpg", "Validation/ann/{}.jpg.png"),
    "suffix": ("training/images/{}.jpg", "training/masks/{}_mask.png", "dev/images/{}.jpg", "dev/masks/{}_mask.png"),
    "joined": ("train_images/{}.jpg", "train_masks/mask_{}.png", "val_images/{}.jpg", "val_masks/mask_{}.png"),
    "pictures unnamed": ("train/{}.jpg", "train_labels/{}_L.png", "val/{}.jpg", "val_labels/{}_L.png"),
    "roboflow": ("train/{}.jpg", "train/{}_mask.png", "valid/{}.jpg", "valid/{}_mask.png"),
    "beside": ("train/{}.jpg", "train/{}.png", "val/{}.jpg", "val/{}.png"),
    "both named": ("train/images/{}_img.jpg", "train/gt/{}-gt.png", "val/images/{}_img.jpg", "val/gt/{}-gt.png"),
    "one deeper": (
        "set/images/train/{}.jpg",
        "set/masks/train/{}.png",
        "set/images/val/{}.jpg",
        "set/masks/val/{}.png",
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_parts_of_tools(tmp_path: Path, layout: str) -> None:
    train, train_masks, val, val_masks = LAYOUTS[layout]
    names = ("street 1", "street 10", "street 2")
    for pictures, masks, wanted in ((train, train_masks, names), (val, val_masks, names[:2])):
        for number, name in enumerate(wanted):
            write_picture(tmp_path / pictures.format(name), number)
            write_mask(tmp_path / masks.format(name), [number % 2])
    assert files(opened(tmp_path, "train"), tmp_path) == sorted((train.format(n), train_masks.format(n)) for n in names)
    assert files(opened(tmp_path, "val"), tmp_path) == sorted((val.format(n), val_masks.format(n)) for n in names[:2])
    assert sum(int(opened(tmp_path, "train").mask(number).max()) for number in range(3)) == 1
    with pytest.raises(DataError, match=r"val_share 0\.2 is for sets without a validation part, and here is one, .*"):
        opened(tmp_path, "train", 0.2)


def test_links_that_lead_back_add_no_pairs(tmp_path: Path) -> None:
    for folder in ("images/train", "labels/train"):
        write_mask(tmp_path / folder / "a.png", [0])
        (tmp_path / folder / "loop").symlink_to(tmp_path / folder, target_is_directory=True)
    assert files(opened(tmp_path, "train"), tmp_path) == [("images/train/a.png", "labels/train/a.png")]


@pytest.mark.parametrize(("pictures", "masks"), [("images", "masks"), ("img", "ann"), ("Images/train", "Masks/train")])
def test_one_part_is_split(tmp_path: Path, pictures: str, masks: str) -> None:
    for number in range(10):
        write_picture(tmp_path / pictures / f"{number}.jpg", number)
        write_mask(tmp_path / masks / f"{number}_label.png", [number % 2])
    with pytest.raises(DataError, match=rf"SegmentationSource\.val_share 0\.2 keeps a fifth .*{pictures}"):
        opened(tmp_path, "val")
    whole, train, val = opened(tmp_path, "train"), opened(tmp_path, "train", 0.2), opened(tmp_path, "val", 0.2)
    assert (len(whole), len(train), len(val)) == (10, 8, 2)
    assert sorted(files(train, tmp_path) + files(val, tmp_path)) == files(whole, tmp_path)
    assert all(int(Path(val.file(n)).stem) % 2 == val.mask(n).max() for n in range(2))


def test_a_validation_part_is_not_mixed_in(tmp_path: Path) -> None:
    for part in ("train", "val"):
        for number in range(4):
            write_picture(tmp_path / f"images/{part}/{number}.jpg", number)
            write_mask(tmp_path / f"labels/{part}/{number}.png", [0])
    source = SegmentationSource(root=tmp_path, classes=CLASSES, val_share=0.25)
    with pytest.raises(DataError, match=r"here is one, .*images/val; set"):
        open_segmentation(source, "val")
    source = replace(source, images="images/train", masks="labels/train")
    assert len(open_segmentation(source, "val")) == 1


def test_named_folders_are_never_replaced(tmp_path: Path) -> None:
    write_picture(tmp_path / "train/images/a.jpg")
    write_mask(tmp_path / "train/labels/a.png", [0])
    source = SegmentationSource(root=tmp_path, classes=CLASSES)
    with pytest.raises(DataError, match="looked for the folder pictures/train"):
        open_segmentation(replace(source, images="pictures/{split}"), "train")
    with pytest.raises(DataError, match="looked for the folder outlines/train"):
        open_segmentation(replace(source, masks="outlines/{split}"), "train")
    with pytest.raises(DataError, match="looked for the folder images/teach"):
        open_segmentation(replace(source, train="teach"), "train")


def test_several_folders_are_named(tmp_path: Path) -> None:
    write_picture(tmp_path / "train/images/a.jpg")
    for folder in ("masks", "labels"):
        write_mask(tmp_path / f"train/{folder}/a.png", [0])
    with pytest.raises(
        DataError, match=r"several folders may hold the masks of the train part: .*train/labels, .*masks; "
    ):
        opened(tmp_path, "train")
    (tmp_path / "train/labels/a.png").unlink()
    write_text(tmp_path / "train/labels/a.txt", "0 0.5 0.5 0.1 0.1")
    assert files(opened(tmp_path, "train"), tmp_path) == [("train/images/a.jpg", "train/masks/a.png")]


def names(pictures: str, masks: str) -> dict[str, str]:
    found = names_of_pictures({name: Path(name) for name in pictures.split()}, {m: Path(m) for m in masks.split()})
    return {name: str(path) for name, path in found.items()}


def test_names_of_masks() -> None:
    assert names("a b", "a b") == {"a": "a", "b": "b"}
    # A mask is missing or too many: errors shall speak of that one alone.
    assert names("a b c", "a_gt b_gt") == {"a": "a_gt", "b": "b_gt"}
    assert names("a b", "a_gt b_gt c_gt") == {"a": "a_gt", "b": "b_gt", "c_gt": "c_gt"}
    assert names("x/1 y/1", "x/1-seg y/1-seg") == {"x/1": "x/1-seg", "y/1": "y/1-seg"}
    assert names("image_1 image_2", "mask_1 mask_2") == {"image_1": "mask_1", "image_2": "mask_2"}
    assert names("k_leftImg8bit l_leftImg8bit", "k_ids l_ids") == {"k_leftImg8bit": "k_ids", "l_leftImg8bit": "l_ids"}
    assert names("a b", "a_mask b_mask a_color b_color")["a"] == "a_mask"
    with pytest.raises(DataError, match=r"a_(one|two) and a_(one|two) may both be the mask of a"):
        names("a b", "a_one b_one a_two b_two")


@pytest.mark.parametrize(("pictures", "masks"), [("1 2 3", "11 12 13"), ("a", "b"), ("a1 a2", "b1 b2"), ("a", "a1")])
def test_other_names_are_no_pairs(pictures: str, masks: str) -> None:
    assert names(pictures, masks) == {name: name for name in masks.split()}


def test_jpeg_masks_are_told_wherever_they_lie(tmp_path: Path) -> None:
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
        Image.new("L", (8, 6)).save(tmp_path / folder / "a.jpg")
    source = SegmentationSource(root=tmp_path, classes=("ground", "road"), val_share=0.5)
    with pytest.raises(DataError, match=r"labels/a\.jpg: JPEG changes values and colours"):
        open_segmentation(source, "train")
