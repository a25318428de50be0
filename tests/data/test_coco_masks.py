"""Masks drawn from COCO's instances files, in the forms and folders in which tools write them."""

from __future__ import annotations

import json
import logging
import pickle
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from hrformer.data.fingerprint import changes, fingerprint
from hrformer.data.inspection.parts import Part, told_once
from hrformer.data.segmentation_sets import open_segmentation
from hrformer.data.set_types import DataError, SegmentationSet
from hrformer.data.source_config import SegmentationSource

W, H = 20, 12
SQUARE = [[2, 3, 8, 3, 8, 9, 2, 9]]
"""Rows 3..8, columns 2..7: 36 pixels."""
LEAF = [{"id": 1, "name": "leaf"}]


def opened(root: Path, split: str = "train", **options: object) -> SegmentationSet:
    return open_segmentation(SegmentationSource(root=root, **options), split)  # type: ignore[arg-type]


def thing(outline: Any = SQUARE, **fields: Any) -> dict[str, Any]:
    return {"id": 7, "image_id": 1, "category_id": 1, "iscrowd": 0, "segmentation": outline, **fields}


def write(root: Path, *things: dict[str, Any], file: str = "annotations/instances_train.json", **tables: Any) -> Path:
    """An annotation file of two pictures, and these in ``images/train``."""
    for name in ("a.jpg", "b.jpg"):
        picture = root / "images/train" / name
        picture.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(picture), np.zeros((H, W, 3), np.uint8))
    images = [{"id": key, "file_name": name, "width": W, "height": H} for key, name in ((2, "b.jpg"), (1, "a.jpg"))]
    content = {"images": images, "annotations": [*things], "categories": LEAF, **tables}
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    (root / file).write_text(json.dumps(content), encoding="utf-8-sig")
    return root / file


def square(value: int = 1, rest: int = 0) -> np.ndarray:
    mask = np.full((H, W), rest, np.uint8)
    mask[3:9, 2:8] = value
    return mask


def test_polygons_in_place_of_masks(tmp_path: Path) -> None:
    file = write(tmp_path, thing())
    source = opened(tmp_path)
    assert (source.classes, len(source), source.labelled) == (("background", "leaf"), 2, True)
    assert [Path(source.file(index)).name for index in range(2)] == ["a.jpg", "b.jpg"]
    assert np.array_equal(source.mask(0), square())
    # A picture without objects is all background.
    assert not source.mask(1).any()
    assert source.mask_file(1) == f"{file}::image 2"
    assert source.item(0, source.pixels(0))["mask"].shape == (H, W)
    assert np.array_equal(pickle.loads(pickle.dumps(source)).mask(0), square())


@pytest.mark.parametrize(
    "outline",
    [
        [["2", "3.0", 8, 3, 8, 9, 2, 9]],
        SQUARE[0],
        [[[2, 3], [8, 3], [8, 9], [2, 9]]],
        [[2, 3, 5, 3, 5, 9, 2, 9], [5, 3, 8, 3, 8, 9, 5, 9]],
        {"size": [H, W], "counts": [2 * H + 3, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 12 * H - 3 - 6 + 6]},
    ],
)
def test_forms_of_an_outline(tmp_path: Path, outline: Any) -> None:
    if isinstance(outline, dict):
        flat = square().T.ravel()
        ends = np.flatnonzero(np.diff(flat)) + 1
        outline["counts"] = np.diff([0, *ends, flat.size]).tolist()
    write(tmp_path, thing(outline))
    assert np.array_equal(opened(tmp_path).mask(0), square())


@pytest.mark.parametrize("seed", range(4))
def test_compressed_run_lengths_are_those_of_cocos_own_code(tmp_path: Path, seed: int) -> None:
    coder = pytest.importorskip("faster_coco_eval.core.mask")
    random = np.random.default_rng(seed)
    wanted = cv2.resize(random.integers(0, 2, (4, 5), np.uint8), (W, H), interpolation=cv2.INTER_NEAREST)
    wanted[random.random((H, W)) < 0.02] ^= 1
    encoded = coder.encode(np.asfortranarray(wanted))
    counts = encoded["counts"]
    text = counts.decode() if isinstance(counts, bytes) else counts
    write(tmp_path, thing({"size": [H, W], "counts": text}))
    assert np.array_equal(opened(tmp_path).mask(0), wanted)


@pytest.mark.parametrize("seed", range(8))
def test_polygons_cover_what_cocos_own_code_says(tmp_path: Path, seed: int) -> None:
    coder = pytest.importorskip("faster_coco_eval.core.mask")
    random = np.random.default_rng(seed)
    polygons = [random.uniform(-3, 22, 2 * number).round(2).tolist() for number in (3, 5, 9)[: 1 + seed % 3]]
    write(tmp_path, thing(polygons))
    wanted = coder.decode(coder.merge(coder.frPyObjects(polygons, H, W)))
    assert np.array_equal(opened(tmp_path).mask(0), wanted)


def test_several_categories_crowds_and_overlaps(tmp_path: Path) -> None:
    categories = [{"id": 90, "name": "vein"}, {"id": "3.0", "name": "leaf"}, {"id": 5, "name": "Ignore"}]
    write(
        tmp_path,
        # The smaller one is on top, whichever comes first.
        thing([[4, 5, 6, 5, 6, 7, 4, 7]], category_id=90),
        thing(category_id=3.0),
        thing([[0, 0, 20, 0, 20, 4, 0, 4]], category_id=3, iscrowd=1),
        thing([[10, 6, 12, 6, 12, 8, 10, 8]], category_id=5),
        categories=categories,
    )
    source = opened(tmp_path)
    assert source.classes == ("background", "leaf", "vein")
    expected = square()
    expected[5:7, 4:6] = 2
    expected[6:8, 10:12] = 255
    expected[0:4][expected[0:4] == 0] = 255
    assert np.array_equal(source.mask(0), expected)
    assert opened(tmp_path, ignore=(90,)).classes == ("background", "leaf")
    assert opened(tmp_path, ignore=(0,)).mask(0)[11, 19] == 255


def test_a_background_of_the_files_own(tmp_path: Path) -> None:
    write(tmp_path, thing(), thing(category_id=4), categories=[*LEAF, {"id": 4, "name": "_background_"}])
    assert opened(tmp_path).classes == ("_background_", "leaf")


def test_the_group_that_roboflow_lists_is_no_class(tmp_path: Path) -> None:
    categories = [
        {"id": 0, "name": "plants", "supercategory": "none"},
        {"id": 1, "name": "leaf", "supercategory": "plants"},
    ]
    for part in ("train", "valid"):
        write(tmp_path / part, thing(), file="_annotations.coco.json", categories=categories)
        for picture in (tmp_path / part / "images/train").iterdir():
            picture.rename(tmp_path / part / picture.name)
        shutil.rmtree(tmp_path / part / "images")
    for split in ("train", "val"):
        source = opened(tmp_path, split)
        assert source.classes == ("background", "leaf")
        assert np.array_equal(source.mask(0), square())
    # With an object of its own in any part it is a class in all of them.
    file = tmp_path / "valid/_annotations.coco.json"
    content = json.loads(file.read_text("utf-8-sig"))
    content["annotations"][0]["category_id"] = 0
    file.write_text(json.dumps(content))
    assert opened(tmp_path).classes == opened(tmp_path, "val").classes == ("background", "plants", "leaf")


@pytest.mark.parametrize(
    ("file", "names"),
    [
        ("annotations/train.json", None),
        ("annotations/instances_train2017.json", None),
        ("annotations/instances_Train.json", None),
        ("annotations/instances_default.json", None),
        ("result.json", ["images\\train\\b.jpg", "..\\..\\upload\\1\\a.jpg"]),
        ("train.json", ["train/b.jpg", "/data/upload/1/a.jpg"]),
    ],
)
def test_files_are_found(tmp_path: Path, file: str, names: list[str] | None) -> None:
    images = [
        {"id": 2 - place, "file_name": name, "width": W, "height": H}
        for place, name in enumerate(names or ["b.jpg", "a.jpg"])
    ]
    write(tmp_path, thing(), file=file, images=images)
    # Keypoints of the same pictures are another matter.
    write(tmp_path, thing(), file="annotations/person_keypoints_train.json")
    source = opened(tmp_path)
    assert sorted(Path(source.file(index)).name for index in range(2)) == ["a.jpg", "b.jpg"]
    index = [Path(source.file(index)).name for index in range(2)].index("a.jpg")
    assert np.array_equal(source.mask(index), square())
    named = opened(tmp_path, format="coco", masks=file)
    assert np.array_equal(named.mask(index), square())


@pytest.mark.parametrize("file", ["annotations/instances_monday.json", "monday/labels.json", "result.json"])
def test_files_of_parts_with_names_of_their_own(tmp_path: Path, file: str) -> None:
    write(tmp_path, thing(), file=file)
    for other in ("annotations/instances_train.json", "annotations/captions_monday.json"):
        write(tmp_path, file=other)
    source = opened(tmp_path, train="monday", images="images/train")
    assert source.mask_file(0) == f"{tmp_path / file}::image 1"


@pytest.mark.parametrize("folders", [("Train", "Validation"), ("train2017", "val2017"), ("train", "valid")])
def test_pictures_are_found_in_folders_of_parts(tmp_path: Path, folders: tuple[str, str]) -> None:
    for folder, split in zip(folders, ("train", "val"), strict=True):
        write(tmp_path, thing(), file=f"annotations/instances_{folder}.json")
        (tmp_path / "images/train").rename(tmp_path / "pictures")
        (tmp_path / "images").rmdir()
        (tmp_path / f"set/images/{folder}").parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "pictures").rename(tmp_path / f"set/images/{folder}")
        (tmp_path / "set/annotations").mkdir(exist_ok=True)
        (tmp_path / f"annotations/instances_{folder}.json").rename(
            tmp_path / f"set/annotations/instances_{folder}.json"
        )
        source = opened(tmp_path / "set", split)
        assert Path(source.file(0)) == tmp_path / f"set/images/{folder}/a.jpg"


def test_files_that_are_not_found(tmp_path: Path) -> None:
    write(tmp_path, thing(), file="annotations/instances_default.json")
    with pytest.raises(
        DataError, match=r"no labels of the validation part, only .*instances_default\.json; .*\.val_share"
    ):
        opened(tmp_path, "val")
    write(tmp_path, thing(), file="annotations/train_1.json")
    write(tmp_path, thing(), file="annotations/train_2.json")
    with pytest.raises(DataError, match=r"several files .*annotations/train_1\.json, .*SegmentationSource\.masks"):
        opened(tmp_path)
    (tmp_path / "images/train/a.jpg").unlink()
    with pytest.raises(
        DataError, match=r"pictures of .*train_1\.json, such as a\.jpg, which is in none of .*images/train"
    ):
        opened(tmp_path, format="coco", masks="annotations/{split}_1.json")


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (thing([]), r"1 annotation and no outline in 'segmentation', only boxes"),
        (thing([], bbox=None), r"annotation 7: 'segmentation' is \[\]: it must be polygons"),
        (thing([[1, 2, 3, 4, 5]]), r"annotation 7: 'segmentation' must be polygons .* in pairs, got \[1, 2, 3, 4, 5\]"),
        (thing([[1, 2, "x", 4, 5, 6]]), r"annotation 7: 'segmentation' must be polygons"),
        (thing([[1, 2, 10**400, 4, 5, 6]]), r"annotation 7: 'segmentation' must be polygons"),
        (thing("text"), r"annotation 7: 'segmentation' must be polygons"),
        (
            thing([[0, 0, 9e9, 0, 5, 5]]),
            r"annotation 7: 'segmentation': a polygon reaches from 0 to 9e\+09, far outside",
        ),
        (thing([[0.1, 0.1, 0.5, 0.1, 0.5, 0.9]]), r"all polygons lie between 0 and 1; they must be in pixels"),
        (thing({"size": [W, H], "counts": [W * H]}), r"'size' \[height, width\] is \[20, 12\], but .* 12 and 20"),
        (thing({"size": [H, W], "counts": [5]}), r"whose sum is height x width = 240, got a sum of 5"),
        (thing({"size": [H, W], "counts": "~~~"}), r"whose sum is height x width = 240"),
        (thing({"size": [H, W], "counts": None}), r"'counts' must be a list of whole numbers or a compressed text"),
        (thing({"counts": [240]}), r"'size' must be \[height, width\], got None"),
        (thing(image_id=9), r"annotation 7: 'image_id' 9 is not among the images"),
        (thing(category_id=9), r"annotation 7: 'category_id' 9 is not among the categories of the file: 1"),
        (thing(category_id="x"), r"annotation 7: 'category_id' must be a whole number, got 'x'"),
        (thing(iscrowd="x"), r"annotation 7: 'iscrowd' must be a whole number"),
    ],
)
def test_bad_records_are_named(tmp_path: Path, record: dict[str, Any], message: str) -> None:
    file = write(tmp_path, {"bbox": [1, 1, 3, 3], **record})
    with pytest.raises(DataError, match=message) as caught:
        opened(tmp_path, format="coco")
    assert str(caught.value).startswith(str(file))


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"images": []}, "'images' must hold at least one picture"),
        ({"images": [{"id": 1}]}, "entry 0 of 'images': 'file_name' must be a name, got nothing"),
        ({"images": [{"id": 1, "file_name": "a.jpg"}] * 2}, "an id of its own, 1 occurs more than once"),
        ({"annotations": None}, "'annotations' must be a list, got None"),
        ({"annotations": [7]}, "entry 0 of 'annotations' must be an object such as .*, got 7"),
        ({"categories": [{"id": 1, "name": ""}]}, r"categories\[0\]: every category needs an id and a 'name'"),
        ({"categories": [{"id": 1, "name": "background"}]}, "1 to 254 categories beside the background, got 0"),
    ],
)
def test_bad_tables_are_named(tmp_path: Path, tables: dict[str, Any], message: str) -> None:
    write(tmp_path, **tables)
    with pytest.raises(DataError, match=message):
        opened(tmp_path, format="coco", masks="annotations/instances_train.json")


def test_changed_outlines_are_changed_labels(tmp_path: Path) -> None:
    write(tmp_path, thing())
    before = fingerprint(opened(tmp_path), [tmp_path])
    assert not changes(before, fingerprint(opened(tmp_path), [tmp_path]))
    write(tmp_path, thing([[2, 3, 8, 3, 8, 7, 2, 9]]))
    assert "1 file changed (annotations/instances_train.json)" in changes(
        before, fingerprint(opened(tmp_path), [tmp_path])
    )


@pytest.mark.parametrize(
    ("things", "said"),
    [
        ([], "no annotations"),
        ([thing(iscrowd=1)], "none of 1 annotation gives pixels of a class (1 with iscrowd 1: crowds count as void)"),
        (
            [thing([[1, 1, 2, 2]]), thing([], bbox=[1, 1, 4, 4])],
            "none of 2 annotations gives pixels of a class (1 with a box and no outline, 1 with a polygon of fewer "
            "than three points)",
        ),
    ],
)
def test_outlines_of_nothing(tmp_path: Path, things: list[dict[str, Any]], said: str) -> None:
    write(tmp_path, thing(), file="annotations/instances_val.json")
    file = write(tmp_path, *things)
    shutil.copytree(tmp_path / "images/train", tmp_path / "images/val")
    part = Part(opened(tmp_path), "train", crop=(8, 8))
    part.look_through()
    found = [one for one in told_once(part.findings(), False) if one.kind != "copies"]
    assert [(one.severity, one.kind, one.what) for one in found] == [("error", "one-class", f"{file}: {said}")]
    assert found[0].fix == "outline the objects of this part; those that are no crowds need iscrowd 0"


def test_some_boxes_among_outlines_are_void(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, thing(), thing([], bbox=[6, 6.5, 6, 4]), thing([[1, 1, 2, 2]]))
    with caplog.at_level(logging.WARNING):
        source = opened(tmp_path)
    expected = square()
    expected[6:11, 6:12][expected[6:11, 6:12] == 0] = 255
    assert np.array_equal(source.mask(0), expected)
    assert "a box and no outline in 'segmentation' of 1 of 3 objects;" in caplog.text
    assert "1 polygon of fewer than three points; left out" in caplog.text


def test_sizes_missing_from_the_file_are_those_of_the_pictures(tmp_path: Path) -> None:
    write(tmp_path, thing(), images=[{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg", "width": 0}])
    assert np.array_equal(opened(tmp_path).mask(0), square())


def test_outlines_on_the_stored_pixels_are_turned(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, thing())
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (W, H)).save(tmp_path / "images/train/a.jpg", exif=exif)
    with caplog.at_level(logging.WARNING):
        source = opened(tmp_path)
    assert source.pixels(0).shape == (W, H, 3)
    # Orientation 6: the top of the stored picture is on the right.
    assert np.array_equal(source.mask(0), np.rot90(square(), -1))
    assert "EXIF orientation: 1 picture lies turned" in caplog.text
    stored = opened(tmp_path, exif="ignore")
    assert stored.pixels(0).shape == (H, W, 3)
    assert np.array_equal(stored.mask(0), square())


def test_masks_in_a_folder_go_before_outlines(tmp_path: Path) -> None:
    write(tmp_path, thing())
    (tmp_path / "classes.txt").write_text("0 other\n1 leaf\n")
    for name in ("a.png", "b.png"):
        (tmp_path / "labels/train").mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / "labels/train" / name), np.ones((H, W), np.uint8))
    assert opened(tmp_path).classes == ("other", "leaf")


@pytest.mark.parametrize("size", [(2 * W, 2 * H), (H - 1, W)])
def test_sizes_of_another_picture(tmp_path: Path, size: tuple[int, int]) -> None:
    names = ("a.jpg", "b.jpg")
    images = [{"id": k, "file_name": n, "width": size[0], "height": size[1]} for k, n in enumerate(names, 1)]
    file = write(tmp_path, thing(), images=images)
    with pytest.raises(
        DataError, match=r"image 1: 'width' and 'height' are .* but the picture .*a\.jpg is 20 x 12"
    ) as caught:
        opened(tmp_path)
    assert str(caught.value).startswith(str(file))


def test_one_file_is_split_by_picture(tmp_path: Path) -> None:
    images = [{"id": key, "file_name": f"x\\1a2b3c4d-{key}.JPG", "width": W, "height": H} for key in range(10)]
    for key in range(10):
        write(tmp_path)
        (tmp_path / "images/train/a.jpg").rename(tmp_path / f"images/train/{key}.jpg")
    write(tmp_path, thing(), file="result.json", images=images)
    (tmp_path / "annotations/instances_train.json").unlink()
    train, val = opened(tmp_path, "train", val_share=0.2), opened(tmp_path, "val", val_share=0.2)
    assert (len(train), len(val)) == (8, 2)
    assert {train.file(n) for n in range(8)} | {val.file(n) for n in range(2)} == {
        str(tmp_path / f"images/train/{key}.jpg") for key in range(10)
    }
    file = write(tmp_path, file="annotations/instances_val.json")
    with pytest.raises(DataError, match=rf"val_share 0\.2 is for sets without .*here is one, {file}; set"):
        opened(tmp_path, "train", val_share=0.2)


@pytest.mark.parametrize("sized", [True, False])
def test_missing_pictures_may_be_left_out(tmp_path: Path, sized: bool) -> None:
    size = {"width": W, "height": H} if sized else {}
    write(tmp_path, thing(), images=[{"id": key, "file_name": f"{name}.jpg", **size} for key, name in enumerate("ab")])
    (tmp_path / "images/train/b.jpg").unlink()
    with pytest.raises(DataError, match=r"leave them out with SegmentationSource\.skip_broken"):
        opened(tmp_path)
    source = opened(tmp_path, skip_broken=True)
    assert source.file(1) == str(tmp_path / "images/train/b.jpg")
    assert source.mask(0).shape == (H, W)
