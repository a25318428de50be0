"""The labels of a part are found in the layouts that tools write, or the message says which files there are."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from hrformer.data.annotation_files import labels_file
from hrformer.data.pose_sets import open_pose
from hrformer.data.set_types import DataError
from hrformer.data.source_config import PoseSource
from hrformer.recipes.finetune import finetune_pose

FIND = finetune_pose().data
CATEGORY = {"id": 1, "name": "person", "keypoints": ["nose", "tail"], "skeleton": [[1, 2]]}


def picture(path: Path, value: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((16, 20, 3), value, np.uint8))


def labels(path: Path, *names: str, **changes: Any) -> None:
    """A file of pictures with one person each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    numbers = range(1, len(names) + 1)
    images = [{"id": n, "file_name": name, "width": 20, "height": 16} for n, name in zip(numbers, names, strict=True)]
    person = {"category_id": 1, "iscrowd": 0, "area": 50, "bbox": [2, 1, 10, 8], "keypoints": [3, 3, 2, 5, 5, 1]}
    people = [{"id": n, "image_id": n, **person} for n in numbers]
    path.write_text(json.dumps({"images": images, "annotations": people, "categories": [CATEGORY], **changes}))


LAYOUTS = {
    "ours": ("annotations/train.json", "annotations/val.json", "images/train/{}", "images/val/{}", "{}"),
    "coco": (
        *("annotations/person_keypoints_train2017.json", "annotations/person_keypoints_val2017.json"),
        *("train2017/{}", "val2017/{}", "{}"),
    ),
    "root": ("train.json", "val.json", "images/{}", "images/{}", "{}"),
    "labels": ("labels/person_keypoints_train.json", "labels/person_keypoints_val.json", "{}", "{}", "{}"),
    "roboflow": (
        *("train/_annotations.coco.json", "valid/_annotations.coco.json"),
        *("train/{}", "valid/{}", "{}"),
    ),
    "cvat project": (
        *("annotations/person_keypoints_Train.json", "annotations/person_keypoints_Validation.json"),
        *("images/Train/{}", "images/Validation/{}", "{}"),
    ),
    "cvat tasks": (
        *("TRAINING/annotations/person_keypoints_default.json", "dev/annotations/person_keypoints_default.json"),
        *("TRAINING/images/default/{}", "dev/images/default/{}", "{}"),
    ),
    "two folders deep": (
        *("birds/annotations/train.json", "birds/annotations/valid.json"),
        *("birds/images/train/{}", "birds/images/valid/{}", "images/{}"),
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("same_names", [False, True])
def test_parts_of_tools(tmp_path: Path, layout: str, same_names: bool, caplog: pytest.LogCaptureFixture) -> None:
    train_file, val_file, train_at, val_at, written = LAYOUTS[layout]
    # One folder holds a name once.
    names = {"train": ["a.jpg", "b.jpg"], "val": ["a.jpg" if same_names and train_at != val_at else "c.jpg"]}
    for split, file, at in (("train", train_file, train_at), ("val", val_file, val_at)):
        labels(tmp_path / file, *(written.format(name) for name in names[split]))
        for name in names[split]:
            picture(tmp_path / at.format(name), 255 if split == "val" else 0)
    source = replace(FIND, root=tmp_path)
    with caplog.at_level(logging.INFO, "hrformer"):
        train, val = open_pose(source, "train"), open_pose(source, "val")
    assert (train.annotations, val.annotations) == (tmp_path / train_file, tmp_path / val_file)
    assert [Path(train.file(n)).relative_to(tmp_path).as_posix() for n in (0, 1)] == [
        train_at.format("a.jpg"),
        train_at.format("b.jpg"),
    ]
    assert Path(val.file(0)).relative_to(tmp_path).as_posix() == val_at.format(names["val"][0])
    assert ("taken for the labels" in caplog.text) == (layout != "ours")
    with pytest.raises(DataError, match=r"no labels of the test part.*The JSON files there are "):
        open_pose(source, "test")


ONE_FILE = {
    "cvat": ("annotations/person_keypoints_default.json", "images/{}"),
    "cvat with subset": ("annotations/person_keypoints_default.json", "images/default/{}"),
    "label studio": ("result.json", "images/{}"),
    "labelme2coco": ("annotations.json", "{}"),
    "coco annotator": ("birds-3.json", "birds/{}"),
}


@pytest.mark.parametrize("layout", ONE_FILE)
def test_one_file_for_everything(tmp_path: Path, layout: str) -> None:
    file, at = ONE_FILE[layout]
    names = [f"{number}.jpg" for number in range(10)]
    labels(tmp_path / file, *names)
    for name in names:
        picture(tmp_path / at.format(name))
    source = replace(FIND, root=tmp_path)
    with pytest.raises(
        DataError, match=rf"no labels of the validation part, only .*{file}; PoseSource\.val_share 0\.2"
    ):
        open_pose(source, "val")
    assert len(open_pose(source, "train")) == 10
    shared = replace(source, val_share=0.2)
    train, val = open_pose(shared, "train"), open_pose(shared, "val")
    assert (len(train), len(val)) == (8, 2)
    assert {train.file(n) for n in range(8)} | {val.file(n) for n in range(2)} == {
        str(tmp_path / at.format(name)) for name in names
    }
    assert val.image_ids == tuple(val.person(n).image_id for n in range(2))
    assert train.annotations == val.annotations == tmp_path / file


def test_people_of_one_picture_stay_together(tmp_path: Path, coco_people: dict[str, Any], coco_images) -> None:
    (tmp_path / "images").symlink_to(coco_images[0].parent, target_is_directory=True)
    (tmp_path / "all.json").write_text(json.dumps(coco_people))
    source = PoseSource(root=tmp_path, train_annotations="all.json", val_annotations="", val_share=0.3)
    train, val = open_pose(source, "train"), open_pose(source, "val")
    assert len(train) + len(val) == 12
    assert {train.file(n) for n in range(len(train))}.isdisjoint(val.file(n) for n in range(len(val)))
    assert train.image_ids is not None
    assert val.image_ids is not None
    assert sorted(train.image_ids + val.image_ids) == sorted(image["id"] for image in coco_people["images"])
    # A file with another picture, in another order, keeps the split.
    coco_people["images"].reverse()
    (tmp_path / "all.json").write_text(json.dumps(coco_people))
    assert sorted(open_pose(source, "val").image_ids or ()) == sorted(val.image_ids)


def test_named_files_are_never_replaced(tmp_path: Path) -> None:
    labels(tmp_path / "train/_annotations.coco.json", "a.jpg")
    labels(tmp_path / "valid/_annotations.coco.json", "b.jpg")
    for typed in ("annotations/train.json", "annotations/person_keypoints_val2017.json"):
        with pytest.raises(DataError, match=rf"{typed}: no such file; PoseSource\.train_annotations is {typed}"):
            open_pose(replace(FIND, root=tmp_path, train_annotations=typed), "train")
    assert labels_file(PoseSource(root=tmp_path), "val").parent.name == "valid"


def test_several_or_no_files(tmp_path: Path) -> None:
    source = replace(FIND, root=tmp_path)
    with pytest.raises(
        DataError, match=r"no labels of the train part.*There are no JSON files.*_annotations\.coco\.json"
    ):
        open_pose(source, "train")
    for name in ("a.json", "b.json"):
        (tmp_path / name).write_text(json.dumps({"version": "5.0", "shapes": [], "images": 1, "annotations": 2}))
    with pytest.raises(DataError, match=r"The JSON files there are a\.json, b\.json, none of them in COCO's format"):
        open_pose(source, "train")
    labels(tmp_path / "x" / "train.json", "a.jpg")
    labels(tmp_path / "y" / "training.json", "a.jpg")
    with pytest.raises(
        DataError, match=r"several files may hold .*x/train\.json, .*y/training\.json; name one of them in "
    ):
        open_pose(source, "train")
    labels(tmp_path / "annotations/train.json", "a.jpg")
    assert labels_file(source, "train") == tmp_path / "annotations/train.json"


def test_a_part_for_the_root(tmp_path: Path) -> None:
    for part in ("train", "valid"):
        labels(tmp_path / part / "_annotations.coco.json", "a.jpg")
    with pytest.raises(DataError, match=rf"PoseSource\.root should be {tmp_path}, the folder that holds valid too"):
        open_pose(replace(FIND, root=tmp_path / "train"), "val")


@pytest.mark.parametrize("neighbour", ["train_dogs/train.json", "val_dogs/val.json", "test_dogs/test.json"])
def test_sets_beside_a_set_are_no_parts_of_it(tmp_path: Path, neighbour: str) -> None:
    labels(tmp_path / "birds_val/annotations/train.json", "a.jpg")
    labels(tmp_path / neighbour, "a.jpg")
    with pytest.raises(DataError) as caught:
        open_pose(replace(FIND, root=tmp_path / "birds_val"), "val")
    assert "PoseSource.root" not in str(caught.value)
    assert "PoseSource.val_share 0.2" in str(caught.value)


def test_files_without_joints_give_way(tmp_path: Path) -> None:
    labels(tmp_path / "person_keypoints_default.json", "a.jpg")
    labels(tmp_path / "instances_default.json", "a.jpg", annotations=[], categories=[{"id": 1, "name": "person"}])
    assert labels_file(replace(FIND, root=tmp_path), "train").name == "person_keypoints_default.json"


def test_a_share_needs_a_set_without_a_validation_part(tmp_path: Path) -> None:
    labels(tmp_path / "train.json", "a.jpg", "b.jpg", "c.jpg")
    labels(tmp_path / "valid.json", "d.jpg")
    for letter in "abc":
        picture(tmp_path / f"{letter}.jpg")
    source = replace(FIND, root=tmp_path, val_share=0.3)
    for split in ("train", "val"):
        with pytest.raises(DataError, match=r"PoseSource\.val_share 0\.3 is for sets without .*valid\.json; set"):
            open_pose(source, split)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"here is one, mine\.json; set"):
        open_pose(replace(source, val_annotations="mine.json"), "val")
    assert len(open_pose(replace(source, train_annotations="train.json"), "val")) == 1


def test_a_part_needs_labels(tmp_path: Path) -> None:
    labels(tmp_path / "all.json", "a.jpg")
    picture(tmp_path / "a.jpg")
    source = replace(FIND, root=tmp_path, val_share=0.2)
    with pytest.raises(DataError, match="needs at least two pictures, one for each part; there are 1 in all"):
        open_pose(source, "train")
    content = json.loads((tmp_path / "all.json").read_text())
    content["images"] += [{"id": n, "file_name": f"{n}.jpg", "width": 20, "height": 16} for n in range(2, 30)]
    (tmp_path / "all.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"PoseSource\.val_share 0\.2 leaves the (train|val) part without labels"):
        _ = open_pose(source, "train"), open_pose(source, "val")
