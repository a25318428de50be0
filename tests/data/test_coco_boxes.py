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
