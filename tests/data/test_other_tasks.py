"""Sets of another task than the one asked for are named, with the recipe that is for them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hrformer.data.classification_sets import open_classification
from hrformer.data.pose_sets import open_pose
from hrformer.data.segmentation_sets import open_segmentation
from hrformer.data.set_types import DataError
from hrformer.data.source_config import ClassificationSource, PoseSource, SegmentationSource
from mask_trees import write_mask, write_picture, write_text

OPENERS: dict[str, Callable[..., Any]] = {
    "classification": lambda root, split="train", **more: open_classification(
        ClassificationSource(root=root, **more), split
    ),
    "pose": lambda root, split="train", **more: open_pose(PoseSource(root=root, **more), split),
    "segmentation": lambda root, split="train", **more: open_segmentation(SegmentationSource(root=root, **more), split),
}


def classes(root: Path) -> None:
    for part in ("train", "val"):
        for name in ("cat", "with_mask"):
            write_picture(root / part / name / f"{part}.jpg")


def classes_without_parts(root: Path) -> None:
    for name in ("cat", "dog"):
        write_picture(root / name / "1.jpg")


def masks(root: Path) -> None:
    for part in ("train", "val"):
        write_picture(root / f"images/{part}/a.jpg")
        write_mask(root / f"labels/{part}/a.png", [0, 1])
    write_text(root / "classes.txt", "0 sky\n1 road\n")


def masks_below_parts(root: Path) -> None:
    for part in ("train", "val"):
        write_picture(root / part / "img/a.jpg")
        write_mask(root / part / "masks/a_mask.png", [0, 1])
    write_text(root / "classes.txt", "0 sky\n1 road\n")


def keypoints(root: Path) -> None:
    for part in ("train", "val"):
        write_picture(root / f"images/{part}/a.jpg")
        person = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 9, 9], "keypoints": [3, 3, 2, 5, 5, 2]}
        content = {
            "images": [{"id": 1, "file_name": "a.jpg"}],
            "annotations": [{**person, "iscrowd": 0, "area": 40, "segmentation": []}],
            "categories": [{"id": 1, "name": "fish", "keypoints": ["head", "tail"]}],
        }
        write_text(root / f"annotations/{part}.json", json.dumps(content))


SETS = {
    classes: "classification",
    classes_without_parts: "classification",
    masks: "segmentation",
    masks_below_parts: "segmentation",
    keypoints: "pose",
}


@pytest.mark.parametrize("share", [0.0, 0.5])
@pytest.mark.parametrize("task", list(OPENERS))
@pytest.mark.parametrize("make", list(SETS))
def test_each_set_opens_for_its_task_and_names_it_for_the_others(
    tmp_path: Path, make: Callable[[Path], None], task: str, share: float
) -> None:
    make(tmp_path)
    if task == SETS[make]:
        assert len(OPENERS[task](tmp_path)) > 0
        return
    with pytest.raises(
        DataError, match=rf"looks like .*`hrformer train finetune_{SETS[make]}` is for\. Not for {task}"
    ):
        OPENERS[task](tmp_path, val_share=share)


def test_nothing_is_said_where_the_set_is_of_the_task_or_of_none(tmp_path: Path) -> None:
    for open_one in OPENERS.values():
        with pytest.raises(DataError) as raised:
            open_one(tmp_path)
        assert "looks like" not in str(raised.value)
    masks(tmp_path)
    (tmp_path / "labels/train/a.png").unlink()
    with pytest.raises(DataError, match="no masks here") as raised:
        OPENERS["segmentation"](tmp_path)
    assert "looks like" not in str(raised.value)


@pytest.mark.parametrize("make", list(SETS))
def test_of_joined_sets_one_needs_a_validation_part(
    tmp_path: Path, make: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("one", "two"):
        make(tmp_path / name)
        for place in sorted((tmp_path / name).rglob("val*"), reverse=True):
            if name == "two" or make is classes_without_parts:
                shutil.rmtree(place) if place.is_dir() else place.unlink()
    open_one, roots = OPENERS[SETS[make]], {"more_roots": (tmp_path / "two",)}
    if make is classes_without_parts:
        with pytest.raises(DataError, match="no validation part"):
            open_one(tmp_path / "one", "val", **roots)
        return
    alone = len(open_one(tmp_path / "one", "val"))
    assert len(open_one(tmp_path / "one", **roots)) == 2 * len(open_one(tmp_path / "one"))
    assert len(open_one(tmp_path / "one", "val", **roots)) == alone
    assert "two has no validation part: it is only trained on" in caplog.text
