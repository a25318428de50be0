"""Sets that bring their own classes: two folders, or VOC's lists."""

from __future__ import annotations

import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from hrformer.data.segmentation_sets import open_segmentation
from hrformer.data.set_types import DataError, SegmentationSet
from hrformer.data.source_config import SegmentationSource
from mask_trees import mask_of, write_mask, write_picture, write_text, write_two_pairs


def opened(root: Path, split: str = "train", **options: object) -> SegmentationSet:
    return open_segmentation(SegmentationSource(root=root, **options), split)  # type: ignore[arg-type]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return write_two_pairs(tmp_path)


def test_camvid_needs_no_settings(data_dir: Path) -> None:
    train, val = (opened(data_dir / "camvid", split) for split in ("train", "val"))
    assert (train.name, len(train), len(val)) == ("camvid", 367, 101)
    assert (train.classes[0], train.classes[6], train.classes[10]) == ("sky", "sign_symbol", "bicyclist")
    assert train.palette[4] == (60, 40, 222)
    files = [val.file(index) for index in range(len(val))]
    assert files == sorted(files)
    for index in (0, 50, 100):
        item = val.item(index, val.pixels(index))
        assert item["image"].shape == (3, 360, 480)
        assert Path(val.mask_file(index)).stem == Path(files[index]).stem
        assert np.array_equal(item["mask"], np.asarray(Image.open(val.mask_file(index))))
    again = pickle.loads(pickle.dumps(val))
    assert np.array_equal(again.mask(3), val.mask(3))


def test_folders_below_and_order(tree: Path) -> None:
    source = opened(tree)
    assert source.classes == ("sky", "road", "traffic light")
    assert source.palette == ()
    assert [source.file(i) for i in range(2)] == [str(tree / "images/train" / name) for name in ("a/c.jpg", "b.jpg")]
    assert source.mask(1).flatten()[:4].tolist() == [0, 1, 2, 255]
    assert source.mask_file(0) == str(tree / "labels/train/a/c.png")


def test_folders_of_other_names(tree: Path) -> None:
    (tree / "images/train").rename(tree / "x")
    (tree / "labels").rename(tree / "masks of")
    assert len(opened(tree, images="x", masks="masks of/{split}")) == 2


def test_test_part_may_have_no_masks(tree: Path) -> None:
    write_picture(tree / "images/hidden/a.jpg")
    source = opened(tree, "test", test="hidden")
    assert not source.labelled
    assert source.classes[1] == "road"
    assert source.mask_file(0) == source.file(0)
    # Where there are masks, they are read, and must be complete.
    assert opened(tree, "test", test="train").labelled
    write_mask(tree / "labels/hidden/b.png", [0])
    with pytest.raises(DataError, match=r"hidden/a\.jpg: this picture has no mask: no file of the name a in"):
        opened(tree, "test", test="hidden")


def test_pictures_and_masks_must_pair_up(tree: Path) -> None:
    write_mask(tree / "labels/train/d.png", [0])
    with pytest.raises(
        DataError,
        match=r"labels/train/d\.png: this mask has no picture: no file of the name d in .*images/train, which holds "
        r"2 pictures such as c\.jpg; 1 of 3 masks .* without one.*SegmentationSource.skip_broken leaves out",
    ):
        opened(tree)
    write_picture(tree / "images/train/d.jpg")
    write_picture(tree / "images/train/d.png")
    with pytest.raises(DataError, match=r"d\.jpg and .*d\.png: two files of one name"):
        opened(tree)


def test_sizes_must_agree(tree: Path) -> None:
    assert cv2.imwrite(str(tree / "labels/train/b.png"), np.zeros((6, 9), np.uint8))
    source = opened(tree)
    with pytest.raises(DataError, match=r"b\.png: the mask is 9 x 6 pixels, its picture .*b\.jpg is 8 x 6"):
        source.item(1, source.pixels(1))


def test_missing_folders_say_what_is_there(tree: Path) -> None:
    with pytest.raises(
        DataError,
        match=r"no pictures here; looked for the folder images/val, found train/ in .*/images\. "
        r"Expected layout: images/val/NAME.jpg and labels/val/NAME.png",
    ):
        opened(tree, "val")
    write_picture(tree / "images/val/a.jpg")
    with pytest.raises(DataError, match="no masks here; looked for the folder labels/val"):
        opened(tree, "val")
    write_text(tree / "labels/val/a.txt", "")
    with pytest.raises(DataError, match=r"labels/val: no masks here \(.*\.png.*\); found a\.txt"):
        opened(tree, "val")
    write_picture(tree / "labels/val/a.jpg")
    with pytest.raises(DataError, match=r"labels/val/a\.jpg: JPEG changes values .*save them as PNG"):
        opened(tree, "val")
    (tree / "classes.txt").unlink()
    with pytest.raises(
        DataError, match=r"classes\.txt: no such file. SegmentationSource\.classes .*'id name R G B' per line"
    ):
        opened(tree)


def test_ids_without_a_class(tree: Path) -> None:
    write_mask(tree / "labels/train/b.png", [0, 3, 9, 9])
    with pytest.raises(
        DataError, match=r"b\.png: 3 of \d+ pixels hold the ids 3, 9, .*0..2 for classes; 255 for none.*ignore"
    ):
        opened(tree).mask(1)
    assert opened(tree, ignore=(3, 9)).mask(1).flatten()[:5].tolist() == [0, 255, 255, 255, 0]


def test_masks_beside_pictures_as_roboflow_writes_them(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_picture(tmp_path / "train" / f"{name}.jpg")
        write_mask(tmp_path / "train" / f"{name}_mask.png", [0, 2, 1])
    write_text(tmp_path / "train/_classes.csv", "Pixel Value, Class\n0, background\n1, leaf\n2, root hair\n")
    source = opened(tmp_path)
    assert source.classes == ("background", "leaf", "root hair")
    assert source.mask(0).flatten()[:3].tolist() == [0, 2, 1]


def test_masks_and_label_map_of_cvat(voc: Path) -> None:
    write_text(
        voc / "labelmap.txt",
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\nleaf:128,0,0::\nroot hair:0,128,0::\n",
    )
    lookup = np.array([(0, 0, 0), (128, 0, 0), (0, 128, 0)], np.uint8)
    for number in range(2):
        Image.fromarray(lookup[mask_of([0, 2, 1])]).save(voc / "SegmentationClass" / f"2007_{number}.png")
    source = opened(voc, format="voc")
    assert source.classes == ("background", "leaf", "root hair")
    assert source.palette == tuple(map(tuple, lookup.tolist()))
    assert source.mask(0).flatten()[:3].tolist() == [0, 2, 1]
    # An export without parts: one list, of which a share is kept.
    (voc / "ImageSets/Segmentation/train.txt").rename(voc / "ImageSets/Segmentation/default.txt")
    shares = [opened(voc, split, format="voc", train="default", val_share=0.5) for split in ("train", "val")]
    assert [len(share) for share in shares] == [1, 1]


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    """Three pictures, of which two are in the training list and have masks."""
    for number in range(3):
        write_picture(tmp_path / "JPEGImages" / f"2007_{number}.jpg")
    palette = [(7 * number + channel) % 256 for number in range(256) for channel in range(3)]
    (tmp_path / "SegmentationClass").mkdir()
    for number in range(2):
        image = Image.fromarray(mask_of([0, 20, 255, number]))
        image.putpalette(palette)
        image.save(tmp_path / "SegmentationClass" / f"2007_{number}.png")
    write_text(tmp_path / "ImageSets/Segmentation/train.txt", "2007_1\n2007_0\n")
    write_text(tmp_path / "ImageSets/Segmentation/test.txt", "2007_2\n")
    return tmp_path


def test_voc_without_settings(voc: Path) -> None:
    source = opened(voc, format="voc")
    assert (source.name, len(source), source.classes[20]) == ("PASCAL VOC", 2, "tvmonitor")
    assert source.palette[15] == (192, 128, 128)
    assert Path(source.file(1)).name == "2007_1.jpg"
    assert source.mask(1).flatten()[:4].tolist() == [0, 20, 255, 1]
    without_background = opened(voc, format="voc", ignore=(0,))
    assert len(without_background.classes) == 20
    assert without_background.mask(1).flatten()[:4].tolist() == [255, 19, 255, 0]
    assert not opened(voc, "test", format="voc", test="test").labelled


def test_voc_lists_of_another_set(voc: Path) -> None:
    (voc / "SegmentationClass").rename(voc / "ids")
    write_text(voc / "parts/mine.txt", "2007_0.jpg\n")
    write_text(voc / "classes.txt", "0 nothing\n1 something\n20 else\n")
    source = opened(voc, format="voc", train="mine", lists="parts/{split}.txt", masks="ids")
    assert (source.name, len(source)) == (voc.name, 1)
    assert source.mask(0).flatten()[:3].tolist() == [0, 2, 255]


def test_incomplete_voc(voc: Path) -> None:
    with pytest.raises(
        DataError, match=r"val\.txt: No such file .*one name per line. Beside it: test\.txt, train\.txt"
    ):
        opened(voc, "val", format="voc")
    write_text(voc / "ImageSets/Segmentation/val.txt", "2007_0\n2007_2\n")
    with pytest.raises(DataError, match=r"the mask 2007_2, listed in .*val\.txt, is not here, one of 1 missing"):
        opened(voc, "val", format="voc")
    write_text(voc / "ImageSets/Segmentation/val.txt", "2007_9\n2007_8\n2007_0\n")
    with pytest.raises(
        DataError, match=r"the picture 2007_9, .*one of 2 missing; there are 3 pictures, such as 2007_0"
    ):
        opened(voc, "val", format="voc")
    write_text(voc / "ImageSets/Segmentation/val.txt", "2007_0\n2007_0\n")
    with pytest.raises(DataError, match=r"2007_0 is listed twice"):
        opened(voc, "val", format="voc")
    write_text(voc / "ImageSets/Segmentation/val.txt", "\n")
    with pytest.raises(DataError, match="the list is empty"):
        opened(voc, "val", format="voc")


@pytest.mark.parametrize("layout", ["folders", "voc"])
def test_what_is_alone_may_be_left_out(tree: Path, layout: str, caplog: pytest.LogCaptureFixture) -> None:
    options: dict[str, object] = {"format": layout}
    if layout == "voc":
        (tree / "images/train").rename(tree / "JPEGImages")
        (tree / "labels/train").rename(tree / "SegmentationClass")
        write_text(tree / "ImageSets/Segmentation/train.txt", "b\na/c\n")
    (mask := next(tree.glob("*/**/c.png"))).unlink()
    write_mask(mask.with_name("alone.png"), [0])
    with pytest.raises(DataError, match=r"SegmentationSource\.skip_broken leaves out"):
        opened(tree, **options)
    source = opened(tree, **options, skip_broken=True)
    assert [Path(source.file(index)).name for index in range(2)] == ["c.jpg", "b.jpg"]
    assert source.mask_file(0) == str(mask)
    with pytest.raises(DataError, match="No such file"):
        source.mask(0)
    assert ("left out 1 mask without a picture" in caplog.text) == (layout == "folders")


def test_pictures_of_phones_are_named_with_the_remedy(tree: Path, caplog: pytest.LogCaptureFixture) -> None:
    said = r"b\.HEIC: HEIC is not read here; save such pictures as JPEG"
    (tree / "images/train/b.HEIC").write_bytes(b"")
    assert len(opened(tree)) == 2
    assert "b.HEIC: HEIC is not read here" in caplog.text
    (tree / "images/train/b.jpg").unlink()
    with pytest.raises(DataError, match=rf"b\.png: this mask has no picture.*{said}"):
        opened(tree)
    (tree / "images/train/a/c.jpg").unlink()
    for options in ({}, {"images": "other/{split}"}):
        with pytest.raises(DataError, match=said):
            opened(tree, **options)


def cvat(root: Path, *parts: str) -> Path:
    """What CVAT exports as "Segmentation mask 1.1": masks of colours, a list per part."""
    for number in range(4):
        write_picture(root / f"JPEGImages/{number}.jpg")
        for kind in ("Class", "Object"):
            colours = np.full((8, 8, 3), (128, 64, 128), np.uint8)
            colours[:4] = 0
            path = root / f"Segmentation{kind}/{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(colours).save(path)
    for part in parts:
        write_text(root / f"ImageSets/Segmentation/{part}.txt", "0\n1\n2\n3\n")
    write_text(root / "labelmap.txt", "# label:color_rgb:parts:actions\nbackground:0,0,0::\nroad:128,64,128::\n")
    return root


def test_segmentation_masks_of_cvat_need_no_settings(tmp_path: Path) -> None:
    root = cvat(tmp_path, "default")
    train, val = (opened(root, split, val_share=0.25) for split in ("train", "val"))
    assert (train.classes, len(train), len(val)) == (("background", "road"), 3, 1)
    assert np.unique(train.mask(0), return_counts=True)[1].tolist() == [32, 32]
    with pytest.raises(DataError, match=r"only default; SegmentationSource\.val_share 0\.2 keeps"):
        opened(root, "val")


def test_lists_of_cvat_are_found_by_their_words(tmp_path: Path) -> None:
    root = cvat(tmp_path, "Train", "Validation")
    assert [len(opened(root, split)) for split in ("train", "val")] == [4, 4]
    with pytest.raises(DataError, match=r"is for sets without a validation part, and here is one, .*Validation\.txt"):
        opened(root, val_share=0.25)
