"""Boxes in another spelling than (x, y, width, height), told by their people's joints, and labels that are right."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hrformer.data.coco_boxes import misread
from hrformer.data.pose_sets import open_pose
from hrformer.data.set_types import DataError
from hrformer.data.source_config import PoseSource

FILES = {
    "lspet": "lspet/annotations/person_keypoints_train.json",
    "photos": "people17/annotations/person_keypoints_val_photos.json",
    "joined": "people17/annotations/person_keypoints_val.json",
    "coco": "coco_tiny/annotations/person_keypoints.json",
}
CORNERS, MIDDLE = "corners [x1, y1, x2, y2]", "middle and size [cx, cy, width, height]"


def table(file: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes, joints and sizes of the pictures of everybody with joints."""
    content = json.loads(file.read_text())
    sizes = {image["id"]: (image["width"], image["height"]) for image in content["images"]}
    rows = [one for one in content["annotations"] if any(one["keypoints"][2::3])]
    joints = np.array([one["keypoints"] for one in rows], float).reshape(len(rows), -1, 3)
    return np.array([one["bbox"] for one in rows], float), joints, np.array([sizes[one["image_id"]] for one in rows])


def as_corners(boxes: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def as_middle(boxes: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes[:, :2] + boxes[:, 2:] / 2, boxes[:, 2:]], axis=1)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("larger", [1, 3])
def test_spellings_of_whole_files(data_dir: Path, name: str, larger: int) -> None:
    """LSPET's and people17's people fill their pictures; in larger ones all are near the left upper corner."""
    boxes, joints, sizes = table(data_dir / FILES[name])
    sizes = sizes * larger
    assert list(misread(boxes, joints, sizes)) == []
    for write, spelling, share in ((as_corners, CORNERS, 0.9), (as_middle, MIDDLE, 1.0)):
        (found,) = misread(write(boxes), joints, sizes)
        assert (found.spelling, found.everywhere) == (spelling, True)
        assert len(found.rows) >= share * len(boxes)


@pytest.mark.parametrize(("name", "fewest"), [("lspet", 80), ("photos", 75), ("coco", 11)])
def test_one_odd_box_among_twenty(data_dir: Path, name: str, fewest: int) -> None:
    """Not told are corners that move the crop by less than a fiftieth of the box."""
    boxes, joints, sizes = table(data_dir / FILES[name])
    told = {CORNERS: 0, MIDDLE: 0}
    for first in range(min(len(boxes), 100)):
        rows = (first + np.arange(min(len(boxes), 20))) % len(boxes)
        for write, spelling in ((as_corners, CORNERS), (as_middle, MIDDLE)):
            some = boxes[rows]
            some[:1] = write(some[:1])
            for found in misread(some, joints[rows], sizes[rows]):
                assert (found.spelling, found.rows.tolist(), found.everywhere) == (spelling, [0], False)
                told[spelling] += 1
    assert told[MIDDLE] == min(len(boxes), 100)
    assert told[CORNERS] >= fewest


def test_few_joints_say_little(data_dir: Path) -> None:
    """Nose and eyes are far from the middle of a right box."""
    boxes, joints, sizes = table(data_dir / FILES["photos"])
    joints[:, 3:] = 0
    seen = (joints[..., 2] > 0).any(axis=1)
    assert list(misread(boxes[seen], joints[seen], sizes[seen])) == []


@pytest.fixture
def people(tmp_path: Path, data_dir: Path) -> Callable[..., PoseSource]:
    """Ten people of LSPET, with some of their boxes changed."""

    def write(changed: Callable[[np.ndarray], np.ndarray], count: int) -> PoseSource:
        content = json.loads((data_dir / FILES["lspet"]).read_text())
        content["images"], content["annotations"] = content["images"][:10], content["annotations"][:10]
        (tmp_path / "images").mkdir()
        for image in content["images"]:
            Image.new("RGB", (image["width"], image["height"])).save(tmp_path / "images" / image["file_name"])
        for one in content["annotations"][:count]:
            one["bbox"] = changed(np.array([one["bbox"]])).tolist()[0]
        (tmp_path / "val.json").write_text(json.dumps(content))
        return PoseSource(root=tmp_path, val_annotations="val.json", val_images=("images",))

    return write


@pytest.mark.parametrize(
    ("changed", "said", "remedy"),
    [
        (as_corners, "fits as corners [x1, y1, x2, y2], such as [", "; write [x1, y1, x2 - x1, y2 - y1]"),
        (as_middle, "fits as middle and size [cx", "; write [cx - width / 2, cy - height / 2, width, height]"),
    ],
)
def test_most_are_an_error_and_one_a_warning(people: Any, changed: Any, said: str, remedy: str, tmp_path: Path) -> None:
    source = people(changed, 10)
    with pytest.raises(DataError) as caught:
        open_pose(source, "val")
    text = str(caught.value)
    assert text.startswith(f"{tmp_path}/val.json: 'bbox' of ")
    assert " of 10 people does not suit their joints as [x, y, width, height], and " + said in text
    assert text.endswith(remedy)


def test_the_odd_one_is_named(people: Any) -> None:
    (note,) = open_pose(people(as_middle, 1), "val").notes
    assert note.kind == "box-spelling"
    assert "'bbox' of 1 of 10 people" in note.text
    assert note.text.endswith(
        "; write [cx - width / 2, cy - height / 2, width, height] in 1 annotation: 1; taken as it stands"
    )


POINTS = ((0.2, 0.3), (0.5, 0.5), (0.6, 0.7))


def birds(root: Path, size: tuple[int, int], boxes: list[list[float]], joints: list[list[float]]) -> PoseSource:
    """Pictures of one bird of three joints each."""
    Image.new("RGB", size).save(root / "a.png")
    image, bird = {"file_name": "a.png", "width": size[0], "height": size[1]}, {"category_id": 1, "area": 500.0}
    content = {
        "images": [{"id": n, **image} for n in range(len(boxes))],
        "annotations": [
            {"id": n, "image_id": n, "bbox": box, "keypoints": values, **bird}
            for n, (box, values) in enumerate(zip(boxes, joints, strict=True))
        ],
        "categories": [{"id": 1, "name": "bird", "keypoints": ["nose", "left_hand", "right_hand"]}],
    }
    (root / "val.json").write_text(json.dumps(content))
    return PoseSource(root=root, val_annotations="val.json", val_images=(".",), clip="none")


@pytest.mark.parametrize("number", [5, 2])
@pytest.mark.parametrize("boxes", [1, 100, "pixels"])
@pytest.mark.parametrize("middle", [False, True])
@pytest.mark.parametrize("joints", [1, 100, "pixels"])
def test_joints_and_boxes_are_told_apart(tmp_path: Path, boxes: Any, joints: Any, middle: bool, number: int) -> None:
    """Each in its own unit, boxes also as YOLO has them, with one joint a little beyond the edge."""
    scales = [(400, 300) if one == "pixels" else (one, one) for one in (boxes, joints)]
    box = [0.58, 0.5, 0.84, 0.6] if middle else [0.15, 0.2, 0.85, 0.6]
    box = [value * side for value, side in zip(box, scales[0] * 2, strict=True)]
    people = [[value for x, y in POINTS for value in (x * scales[1][0], y * scales[1][1], 2)] for _ in range(number)]
    people[0][6] = 1.0002 * scales[1][0]
    source = birds(tmp_path, (400, 300), [box] * number, people)
    told = [name for name, unit in {"keypoints": joints, "bbox": boxes}.items() if unit != "pixels"]
    if boxes == joints == 100 and number == 2:
        return  # two people in a corner may be there indeed
    if boxes != 1 == joints:
        return  # the inspection's
    try:
        open_pose(source, "val")
        text = ""
    except DataError as error:
        text = str(error)
    if not told:
        assert ("fits as middle" in text) == middle
        return
    told = ["bbox"] if boxes == 1 != joints else told
    unit = {1: "shares", 100: "percent"}[boxes if "bbox" in told else joints]
    assert f"val.json: {' and '.join(map(repr, told))} of all {number} people end at " in text
    assert f": {unit} of the picture instead of pixels. Multiply x" in text
    assert (" and width by" in text) == ("bbox" in told)


def test_boxes_as_corners_are_told(tmp_path: Path) -> None:
    joints = [[30, 10, 2, 12, 25, 2, 40, 30, 2]] * 4
    with pytest.raises(
        DataError, match=r"'bbox' of 4 of 4 people .* fits as corners .*\[10, 8, 44, 34\] of annotation 0"
    ):
        open_pose(birds(tmp_path, (60, 40), [[10, 8, 44, 34]] * 4, joints), "val")
    # People near a corner of the picture, whose boxes may be either, and boxes cut off by the picture are none.
    boxes = [[2.0, 1, 50, 38], [9, 7, 60, 50], [8, 6, 36, 28], [8, 6, 36, 28]]
    assert len(open_pose(birds(tmp_path, (60, 40), boxes, joints), "val")) == 4


@pytest.mark.parametrize("part", ["train", "val"])
def test_published_labels_are_left_alone(data_dir: Path, part: Any) -> None:
    for name in ("lspet", "people17"):
        source = PoseSource(
            root=data_dir / name,
            clip="none",
            **{f"{split}_annotations": f"annotations/person_keypoints_{split}.json" for split in ("train", "val")},
        )
        people = open_pose(source, part)
        assert people.notes == ()
        content = json.loads((data_dir / name / f"annotations/person_keypoints_{part}.json").read_text())
        rows = sorted(content["annotations"], key=lambda row: row["id"])
        found = sorted(people.truth()["annotations"], key=lambda row: row["id"])
        fields = ("id", "image_id", "bbox", "area", "keypoints", "num_keypoints")
        assert [[row[field] for field in fields] for row in found] == [[row[field] for field in fields] for row in rows]
