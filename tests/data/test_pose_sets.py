"""Reading people: the shared sets, COCO's layouts, what is left out, and what is said of files that are not right."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from hrformer.data.pose_sets import open_pose
from hrformer.data.set_types import DataError
from hrformer.data.source_config import PoseSource
from hrformer.geometry.boxes import box_to_crop
from hrformer.geometry.skeletons import COCO17, LSPET14
from parity import Golden

JOINTS = ["nose", "left_hand", "right_hand"]
TINY = PoseSource(val_annotations="annotations/person_keypoints.json", val_images=("images",))
LSPET = PoseSource(
    train_annotations="annotations/person_keypoints_train.json",
    val_annotations="annotations/person_keypoints_val.json",
)


def person(number: int, picture: int, **changes: Any) -> dict[str, Any]:
    """A labelled person of three joints."""
    record = {"id": number, "image_id": picture, "category_id": 1, "iscrowd": 0, "area": 50.0}
    return {**record, "bbox": [2, 1, 10, 8], "keypoints": [3, 3, 2, 5, 5, 1, 0, 0, 0], **changes}


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., PoseSource]:
    """Writes a set of two pictures of 20 x 16 pixels; returns its source."""

    def write(annotations: list[dict[str, Any]] | None, folder: str = "images/val", **changes: Any) -> PoseSource:
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        for number in (7, 9):
            cv2.imwrite(str(tmp_path / folder / f"{number}.png"), np.full((16, 20, 3), number, np.uint8))
        content: dict[str, Any] = {
            "images": [{"id": n, "file_name": f"{n}.png", "width": 20, "height": 16} for n in (9, 7)],
            "categories": [{"id": 1, "name": "person", "keypoints": JOINTS, "skeleton": [[1, 2], [1, 3]]}],
        }
        content |= {} if annotations is None else {"annotations": annotations}
        (tmp_path / "val.json").write_text(json.dumps(content | changes))
        return PoseSource(root=tmp_path, val_annotations="{split}.json", val_images=("images/{split}",))

    return write


@pytest.mark.parametrize(("split", "count"), [("train", 5000), ("val", 800)])
def test_lspet(data_dir: Path, split: Any, count: int, caplog: pytest.LogCaptureFixture) -> None:
    people = open_pose(replace(LSPET, root=data_dir / "lspet"), split)
    assert (len(people), people.name, people.skeleton) == (count, "lspet", LSPET14)
    assert not caplog.records
    first = people.person(0)
    assert people.file(0).endswith(f"images/{split}/im{first.image_id:05d}.jpg")
    pixels = people.pixels(0)
    item = people.item(0, pixels)
    assert item["image"].shape == (3, *pixels.shape[:2])
    shown = item["keypoints"][item["visible"] > 0]
    assert (shown >= 0).all()
    assert (shown[:, 0] < pixels.shape[1]).all()
    assert (shown[:, 1] < pixels.shape[0]).all()
    content = json.loads((data_dir / "lspet" / "annotations" / f"person_keypoints_{split}.json").read_text())
    assert people.image_ids == tuple(image["id"] for image in content["images"])
    middle = content["annotations"][count // 2]
    np.testing.assert_array_equal(people.person(count // 2).keypoints.ravel(), middle["keypoints"])
    assert (people.person(count // 2).person_id, people.person(count // 2).area) == (middle["id"], middle["area"])


@pytest.mark.parametrize("tag", ["256x192", "384x288"])
@pytest.mark.parametrize("clip", ["official", "mmpose"])
def test_people_of_coco_are_the_references(data_dir: Path, parity_dir: Path, clip: Any, tag: str) -> None:
    golden = Golden.read(parity_dir / "protocol", "geometry")
    people = open_pose(replace(TINY, root=data_dir / "coco_tiny", clip=clip), "val")
    assert (people.skeleton, len(people), people.category_id) == (COCO17, 12, 1)
    want = [box for box in golden.meta["boxes"] if box["source"] == "gt"]
    everyone = [people.person(index) for index in range(12)]
    assert [(one.image_id, one.person_id) for one in everyone] == [(box["image_id"], box["ann_id"]) for box in want]
    np.testing.assert_array_equal([one.keypoints for one in everyone], golden.arrays["gt_joints"])
    height, width = map(int, tag.split("x"))
    centers, sizes = box_to_crop(np.stack([one.box for one in everyone]), width / height)
    if clip == "mmpose":
        np.testing.assert_array_equal(centers, golden.arrays[f"mmpose_center_{tag}"][:12])
        np.testing.assert_array_equal(sizes, golden.arrays[f"mmpose_scale_px_{tag}"][:12])
    else:
        np.testing.assert_allclose(centers, golden.arrays[f"official_center_{tag}"][:12], atol=1e-4)
        np.testing.assert_allclose(sizes, golden.arrays[f"official_scale200_{tag}"][:12] * 200, atol=2e-4)


def test_detections_are_unclipped_and_single(data_dir: Path, parity_dir: Path) -> None:
    golden = Golden.read(parity_dir / "protocol", "geometry")
    source = replace(TINY, root=data_dir / "coco_tiny")
    found = open_pose(source, "val", detections=Path("annotations/person_detections.json"))
    records = json.loads((data_dir / "coco_tiny/annotations/person_detections.json").read_text())
    assert len(found) == len(records) == 118
    everyone = [found.person(index) for index in range(118)]
    assert all(one.box.dtype == np.float32 and one.person_id == -1 and not one.keypoints.any() for one in everyone)
    assert found.annotations == data_dir / "coco_tiny/annotations/person_keypoints.json"
    rows = [row for row, box in enumerate(golden.meta["boxes"]) if box["source"] != "gt"]
    places = {one.score: index for index, one in enumerate(everyone)}
    for row, record in zip(rows, sorted(records, key=lambda record: -record["score"])[:20], strict=True):
        one = everyone[places[record["score"]]]
        assert one.image_id == golden.meta["boxes"][row]["image_id"]
        centers, sizes = box_to_crop(one.box[None], 192 / 256)
        np.testing.assert_array_equal(centers[0], golden.arrays["mmpose_center_256x192"][row])
        np.testing.assert_array_equal(sizes[0], golden.arrays["mmpose_scale_px_256x192"][row])
    sure = open_pose(source, "val", detections=data_dir / "coco_tiny/annotations/person_detections.json")
    assert len(sure) == 118
    sure = open_pose(source, "val", detections=Path("annotations/person_detections.json"), box_threshold=0.9)
    assert len(sure) == sum(record["score"] >= 0.9 for record in records)


def test_who_is_left_out(write) -> None:
    people = [
        *(person(1, 7, iscrowd=1), person(4, 7), person(5, 7, keypoints=[1, 1, 0] * 3), person(6, 9)),
        *(person(7, 7, keypoints=[]), person(8, 7, category_id=2)),
        *(person(9, 7, bbox=[30, 1, 5, 5], keypoints=[30, 3, 2, 33, 5, 2, 0, 0, 0]), person(10, 7, area=None)),
    ]
    found = open_pose(write(people), "val")
    # By picture in the order of the file, where 9 comes first.
    assert [found.person(index).person_id for index in range(len(found))] == [6, 4, 10]
    assert [found.picture(index) for index in range(len(found))] == [0, 1, 1]
    assert found.image_ids == (9, 7)


@pytest.mark.parametrize(
    ("clip", "box"), [("official", [0, 1, 9, 7]), ("mmpose", [0, 1, 8, 8]), ("none", [-2, 1, 10, 8])]
)
def test_boxes_are_clipped_by_the_rule(write, clip: Any, box: list[int]) -> None:
    source = replace(write([person(1, 7, bbox=[-2, 1, 10, 8]), person(2, 9)]), clip=clip)
    people = open_pose(source, "val")
    assert people.person(1).box.tolist() == box
    assert people.person(1).box.dtype == np.float64


def test_pixels_belong_to_the_picture(write) -> None:
    people = open_pose(write([person(1, 7), person(2, 9), person(3, 7)]), "val")
    assert [int(people.pixels(index)[0, 0, 0]) for index in (0, 1, 2, 0)] == [9, 7, 7, 9]
    assert people.pixels(2) is people.pixels(1)
    again = pickle.loads(pickle.dumps(people))
    assert (len(again), again.person(1).person_id, again.file(1)) == (3, 1, people.file(1))
    # What is handed out may be changed without changing the set.
    people.person(0).keypoints[:] = -5
    assert people.person(0).keypoints[0].tolist() == [3, 3, 2]


@pytest.mark.parametrize("folder", ["val2017", "images/val2017"])
def test_both_layouts_of_coco(tmp_path: Path, data_dir: Path, folder: str) -> None:
    (tmp_path / "annotations").mkdir()
    (tmp_path / folder).parent.mkdir(exist_ok=True)
    (tmp_path / "annotations" / "person_keypoints_val2017.json").symlink_to(
        data_dir / "coco_tiny" / "annotations" / "person_keypoints.json"
    )
    (tmp_path / folder).symlink_to(data_dir / "coco_tiny" / "images", target_is_directory=True)
    people = open_pose(PoseSource(root=tmp_path), "val")
    assert len(people) == 12
    assert people.pixels(0).shape == (425, 640, 3)


def test_a_list_of_pictures_needs_detections(write, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = write(None, categories=[{"id": 3, "name": "dog"}, {"id": 1, "name": "person"}])
    source = replace(source, test_annotations="val.json", test_images=("images/val",))
    with pytest.raises(DataError, match=r"val\.json lists pictures without labels: .* PoseSource\.detections"):
        open_pose(source, "test")
    boxes = [{"image_id": 7, "category_id": n, "bbox": [1, 2, 30, 40], "score": 0.5} for n in (1, 3)]
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    found = open_pose(replace(source, detections=Path("boxes.json")), "test")
    assert (len(found), found.annotations, found.image_ids, found.skeleton) == (1, None, (9, 7), COCO17)
    assert found.person(0).box.tolist() == [1, 2, 30, 40]
    assert "COCO's 17 are assumed" in caplog.text


def test_detections_of_other_pictures_are_reported(write, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    boxes = [{"image_id": n, "bbox": [1, 2, 30, 40], "score": 0.5} for n in (7, 8, 9)]
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    found = open_pose(write([]), "val", detections=tmp_path / "boxes.json")
    assert [found.person(index).image_id for index in range(len(found))] == [9, 7]
    assert "1 detection of pictures" in caplog.text


def test_categories(write) -> None:
    category = {"id": 5, "name": "cat", "keypoints": JOINTS, "skeleton": [[1, 2]]}
    categories = [{"id": 2, "name": "car"}, category, {**category, "id": 6, "name": "dog"}]
    people = open_pose(write([person(n, 7, category_id=n) for n in (2, 5, 6)], categories=categories), "val")
    assert [people.person(index).category_id for index in range(len(people))] == [5, 6]
    assert people.category_id == 5
    categories[2]["keypoints"] = JOINTS[:2]
    with pytest.raises(DataError, match="cat, dog have different joints"):
        open_pose(write([person(1, 7)], categories=categories), "val")


def test_joints_without_names(write, caplog: pytest.LogCaptureFixture) -> None:
    nameless = [{"id": 1, "name": "person"}]
    assert open_pose(write([person(1, 7, keypoints=[1, 1, 2] * 17)], categories=nameless), "val").skeleton is COCO17
    assert "does not name its joints" in caplog.text
    with pytest.raises(DataError, match=r"does not name its joints; add .* or set PoseSource\.skeleton"):
        open_pose(write([person(1, 7)], categories=nameless), "val")
    source = replace(write([person(1, 7, keypoints=[1, 1, 2] * 14)], categories=nameless), skeleton=LSPET14)
    assert open_pose(source, "val").skeleton is LSPET14


@pytest.mark.parametrize(
    ("people", "changes", "message"),
    [
        ([person(4, 8)], {}, r"annotation 4: 'image_id' is 8, which is not among the file's 'images'"),
        ([person(4, 7, bbox=[1, 2, 3])], {}, r"annotation 4: needs a 'bbox'"),
        ([person(4, 7, bbox=[1, 2, 3, "b"])], {}, r"annotation 4: needs a 'bbox' .* of four finite numbers"),
        ([person(4, 7, bbox=[1, 2, 3, float("nan")])], {}, r"annotation 4: needs a 'bbox' .* of four finite numbers"),
        ([person(4, 7)], {"images": []}, r"at least one picture"),
        (
            [person(4, 7)],
            {"images": [{"id": "x", "file_name": "7.png"}]},
            r"0 of 'images': 'id' must be a whole number",
        ),
        ([person(4, 7)], {"images": [{"id": 7}]}, r"entry 0 of 'images': 'file_name' must be a name, got nothing"),
        ([person(4, 7)], {"images": [{"id": 7, "file_name": "7.png"}] * 2}, r"an id of its own, 7 occurs more than"),
        ([person(4, 7)], {"images": {}}, r"not in COCO's format"),
        ([person(4, 7)], {"categories": [{"name": "person"}]}, r"entry 0 of 'categories': 'id' must be a whole number"),
    ],
)
def test_wrong_files_are_named(write, people, changes, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        open_pose(write(people, **changes), "val")
    assert "val.json" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": 1}, "must hold a list of detections"),
        ([{"image_id": 7, "score": 0.5}], "detection 0: must be of the form"),
        ([{"image_id": 7, "bbox": [1, 2, 0, 0], "score": 0.5}], "detection 0: must be of the form"),
        ([{"image_id": 7, "bbox": [1, 2, 3], "score": 0.5}], "detection 0: must be of the form"),
        ([{"image_id": 7, "bbox": [1, 2, 3, 4], "score": 0.5}, 3], "detection 1: must be of the form"),
        ([{"image_id": 7, "category_id": 2, "bbox": [1, 2, 3, 4], "score": 0.5}], "nobody is left"),
    ],
)
def test_wrong_detections_are_named(write, tmp_path: Path, content: Any, message: str) -> None:
    (tmp_path / "boxes.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=message) as caught:
        open_pose(write([]), "val", detections=Path("boxes.json"))
    assert "boxes.json" in str(caught.value)


def test_missing_files_and_pictures(write, tmp_path: Path) -> None:
    source = write([person(1, 7), person(2, 9)])
    with pytest.raises(DataError, match=r"no labels of the test part.* name the file in PoseSource\.test_annotations"):
        open_pose(source, "test")
    with pytest.raises(DataError, match=r"none\.json: no such file"):
        open_pose(replace(source, val_annotations="none.json"), "val")
    with pytest.raises(DataError, match=r"absent\.json: no such file"):
        open_pose(source, "val", detections=Path("absent.json"))
    (tmp_path / "images" / "val" / "7.png").unlink()
    with pytest.raises(DataError, match=r"7\.png, which is in none of .*elsewhere"):
        open_pose(replace(source, val_images=("elsewhere",)), "val")
    with pytest.raises(DataError, match=r"lacks 1 of the 2 pictures of .*val\.json, such as 7\.png"):
        open_pose(source, "val")
    # A picture without people is not missed.
    assert len(open_pose(write([person(2, 9)]), "val")) == 1
    (tmp_path / "val.json").write_text("{")
    with pytest.raises(DataError, match=r"val\.json is not JSON"):
        open_pose(source, "val")
