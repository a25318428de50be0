"""What YOLO's YAML and text files may hold, and what is said where they are not as they should be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hrformer.data.labels import search
from hrformer.data.labels.content import Content
from hrformer.data.labels.yolo import label_file
from hrformer.data.pose_sets import open_pose
from hrformer.data.set_types import DataError
from hrformer.geometry.skeletons import COCO17
from hrformer.recipes.finetune import finetune_pose
from tool_labels import picture

POSE = "names: [person]\nkpt_shape: [2, 3]\nkpt_names: [nose, tail]\n"
LINE = "0 0.5 0.5 0.5 0.5 0.5 0.25 1 0 0 0"
MIRROR = "[0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15]"


def write(root: Path, yaml: str, line: str = LINE, at: str = "images/train") -> Path:
    """A set of one picture of 40 x 20 pixels."""
    picture(root / at / "a.png", (40, 20))
    labels = label_file(root / at / "a.png")
    labels.parent.mkdir(parents=True, exist_ok=True)
    labels.write_text(line)
    (root / "data.yaml").write_text(yaml)
    return root / "data.yaml"


def read(root: Path, yaml: str = f"{POSE}train: images/train\n", line: str = LINE) -> Content:
    return search.read_labels(write(root, yaml, line), "train", root, outlines=True)


def test_labels_lie_in_place_of_the_last_images() -> None:
    assert label_file(Path("images/x/images/train/a.jpg")) == Path("images/x/labels/train/a.txt")
    assert label_file(Path("set/train/a.b.jpg")) == Path("set/train/a.b.txt")


def test_labels_may_lie_beside_pictures_below_a_folder_called_images(tmp_path: Path) -> None:
    root = tmp_path / "images" / "set"
    file = write(root, f"{POSE}train: train\n", at="train")
    (tmp_path / "labels/set/train/a.txt").rename(root / "train/a.txt")
    assert len(search.read_labels(file, "train", root)["annotations"]) == 1


@pytest.mark.parametrize(
    ("train", "at"),
    [
        ("images/train", "images/train"),
        ("../train/images", "train/images"),
        ("[images/train]", "images/train"),
        ("train.txt", "images/train"),
        ("images/train/a.png", "images/train"),
        ("images/train\npath: nowhere/birds", "images/train"),
        ("images/train\npath: birds", "birds/images/train"),
        ("pictures", "pictures"),
    ],
)
def test_parts_are_folders_lists_or_pictures(tmp_path: Path, train: str, at: str) -> None:
    (tmp_path / "train.txt").write_text("./images/train/a.png\n\n")
    file = write(tmp_path, f"{POSE}train: {train}\n", at=at)
    content = search.read_labels(file, "train", tmp_path)
    assert [one["file_name"] for one in content["images"]] == [f"{at}/a.png"]
    (person,) = content["annotations"]
    assert person["keypoints"] == [20, 5, 1, 0, 0, 0]
    assert person["bbox"] == [10, 5, 20, 10]


def test_pictures_without_labels_are_empty(tmp_path: Path) -> None:
    file = write(tmp_path, f"{POSE}train: images/train\n")
    picture(tmp_path / "images/train/b.png", (8, 8))
    content = search.read_labels(file, "train", tmp_path)
    assert [one["image_id"] for one in content["annotations"]] == [1]
    assert len(content["images"]) == 2


@pytest.mark.parametrize(
    ("keys", "names", "pairs"),
    [
        ("kpt_shape: [17, 2]", COCO17.keypoints, None),
        (f"kpt_shape: [17, 2]\nflip_idx: {MIRROR}", COCO17.keypoints, COCO17.flip_pairs),
        (f"kpt_shape: [17, 2]\nflip_idx: {[*range(17)]}", COCO17.keypoints, None),
        ("kpt_shape: [3, 2]\nflip_idx: [1, 0, 2]", ("joint_0", "joint_1", "joint_2"), ((0, 1),)),
        ("kpt_shape: [2, 2]\nkpt_names:\n  0: [beak, tail]", ("beak", "tail"), None),
    ],
)
def test_names_of_joints(tmp_path: Path, keys: str, names: tuple[str, ...], pairs: tuple | None) -> None:
    line = "0 0.5 0.5 0.5 0.5" + " 0.5 0.5" * len(names)
    (category,) = read(tmp_path, f"names: [bird]\n{keys}\ntrain: images/train\n", line)["categories"]
    assert tuple(category["keypoints"]) == names
    found = category.get("flip_pairs")
    assert pairs == (None if found is None else tuple((names.index(a), names.index(b)) for a, b in found))


def test_joints_without_names_are_refused_unless_a_skeleton_says_them(tmp_path: Path, caplog) -> None:
    write(tmp_path, "names: [bird]\nkpt_shape: [3, 2]\ntrain: images/train\n", "0 0.5 0.5 0.5 0.5 .3 .3 .5 .5 .6 .6")
    source = replace(finetune_pose().data, root=tmp_path)
    with pytest.raises(DataError, match=r"data\.yaml does not name its joints.*PoseSource\.skeleton"):
        open_pose(source, "train")
    assert "kpt_names" in caplog.text
    three = replace(COCO17, keypoints=("a", "b", "c"), flip_pairs=(), edges=(), sigmas=(0.1,) * 3, upper_body=())
    opened = open_pose(replace(source, skeleton=three), "train")
    np.testing.assert_allclose(opened.person(0).keypoints, [[12, 6, 2], [20, 10, 2], [24, 12, 2]])


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("0 0.5 0.5 0.5", r"must have 5 numbers \(class and box\), or with 2 joints of 3 numbers each 11, got 4"),
        (f"{LINE} 0.5", r"got 12"),
        ("1 0.5 0.5 0.5 0.5", r"the class must be a number from 0 to 0, as 'names' has them, got 1"),
        ("0 0,5 0.5 0.5 0.5", r"must be numbers with spaces between them"),
        ("0 20 10 20 10", r"places must be shares of the picture's width and height, 0 to 1, got 20"),
        ("0 0.5 0.5 0.5 0.5 0.5 0.25 3 0 0 0", r"the flag of joint nose must be 0 .*, got 3"),
        ("0 0.5 0.5 0.5 0.5 9 0.25 2 0 0 0", r"joint nose: places must be shares"),
    ],
)
def test_wrong_lines_are_named(tmp_path: Path, line: str, said: str) -> None:
    with pytest.raises(DataError, match=rf"labels/train/a\.txt: line 2.*{said}"):
        read(tmp_path, line=f"{LINE}\n{line}")


def test_lines_of_outlines(tmp_path: Path) -> None:
    yaml = "names: {0: dog, 1: ball}\ntrain: images/train\n"
    content = read(tmp_path, yaml, "1 0.25 0.5 0.75 0.5 0.75 1\n0 0.5 0.5 0.5 0.5\n")
    ball, dog = content["annotations"]
    assert ball["segmentation"] == [[10, 10, 30, 10, 30, 20]]
    assert (ball["category_id"], ball["area"], "segmentation" in dog) == (2, 100, False)
    with pytest.raises(DataError, match=r"line 1: must have 5 numbers.*three points or more, got 6.*'kpt_shape'"):
        read(tmp_path, yaml, "1 0.25 0.5 0.75 0.5 0.75")


@pytest.mark.parametrize(
    ("yaml", "said"),
    [
        ("names: person", r"'names' must be different names of classes"),
        ("names: {1: person}", r"'names' must be different names of classes"),
        ("names: [person]\nkpt_shape: 17", r"'kpt_shape' must be \[number of joints, 2 or 3\], got 17"),
        ("names: [person]\nkpt_shape: [2, 3]\nkpt_names: [a]", r"'kpt_names' must be 2 different names"),
        ("names: [person]\nkpt_shape: [2, 3]\nflip_idx: [1, 2]", r"'flip_idx' must have each number from 0 to 1 once"),
        ("names: [person]\nx: [", r"is not YAML that can be read"),
        ("names: [bird]\nkpt_shape: [1000000000000, 3]\n", "'kpt_shape' must be"),
    ],
)
def test_wrong_yaml_is_named(tmp_path: Path, yaml: str, said: str) -> None:
    with pytest.raises(DataError, match=rf"data\.yaml:? {said}"):
        read(tmp_path, f"{yaml}\ntrain: images/train\n")


def test_missing_folders_labels_and_broken_pictures_are_named(tmp_path: Path) -> None:
    source = replace(finetune_pose().data, root=tmp_path)
    file = write(tmp_path, f"{POSE}train: images/other\n")
    with pytest.raises(DataError, match=r"data\.yaml: train is images/other, and there is no .*images/other"):
        open_pose(source, "train")
    file.write_text(f"{POSE}train: images/train\n")
    (tmp_path / "images/train/b.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"b\.png"):
        open_pose(source, "train")
    assert len(open_pose(replace(source, skip_broken=True), "train")) == 1
    (tmp_path / "labels/train/a.txt").unlink()
    with pytest.raises(DataError, match=r"no picture of the train part has its labels, such as .*labels/train/a\.txt"):
        open_pose(replace(source, skip_broken=True), "train")
