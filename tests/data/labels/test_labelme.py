"""What labelme's JSON may hold beside people in boxes, and what is said where it is not as it should be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hrformer.data.labels import search
from hrformer.data.labels.content import Content
from hrformer.data.set_types import DataError


def read(folder: Path, *shapes: Any, **more: Any) -> Content:
    """Content of a folder with one file."""
    content = {"version": "5.2", "shapes": list(shapes), "imagePath": "a.png", "imageWidth": 40, "imageHeight": 30}
    (folder / "a.json").write_text(json.dumps(content | more))
    return search.read_labels(folder, "train", folder, outlines=True)


def shape(kind: str, *points: list[float], label: str = "nose", **more: Any) -> dict[str, Any]:
    return {"label": label, "points": list(points), "shape_type": kind, "group_id": None, **more}


@pytest.mark.parametrize(
    ("more", "flag"),
    [
        ({}, 2),
        ({"flags": {"Occluded": True}}, 1),
        ({"flags": {"hidden": False}}, 2),
        ({"flags": {"visible": False}}, 1),
        ({"flags": {"blurred": True}}, 2),
        ({"difficult": True}, 1),
    ],
)
def test_flags_of_labels_say_what_is_hidden(tmp_path: Path, more: dict[str, Any], flag: int) -> None:
    (person,) = read(tmp_path, shape("point", [4, 5], **more))["annotations"]
    assert person["keypoints"] == [4, 5, flag]


def test_a_polygon_of_the_group_is_the_outline_of_the_person(tmp_path: Path) -> None:
    outline = shape("polygon", [1, 1], [9, 1], [9, 21], label="person", group_id=1)
    (person,) = read(tmp_path, shape("point", [4, 5], group_id=1), outline)["annotations"]
    assert person["segmentation"] == [[1, 1, 9, 1, 9, 21]]
    assert (person["bbox"], person["area"], person["num_keypoints"]) == ([1, 1, 8, 20], 80, 1)


def test_names_of_pictures_are_relative_to_the_set(tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    read(tmp_path / "labels", shape("point", [4, 5]), imagePath="..\\images\\b.png")
    content = search.read_labels(tmp_path, "train", tmp_path)
    assert content["images"][0]["file_name"] == "images/b.png"


@pytest.mark.parametrize(
    ("shapes", "more", "said"),
    [
        ([{"points": [[1, 1]]}], {}, r"shape 0: 'label' must be a name, got None"),
        ([shape("point", [1, 1], [2, 2])], {}, r"shape 0 \(nose\): a point has one place in 'points', got 2"),
        ([shape("polygon", [1, "x"])], {}, r"shape 0 \(nose\): 'points' must be \[\[x, y\], \.\.\.\] in pixels"),
        ([shape("circle", [1, 1])], {}, r"shape 0 \(nose\): a circle has its middle and a point"),
        ([shape("star", [1, 1])], {}, r"shape 0 \(nose\): 'shape_type' must be polygon,.* got 'star'"),
        ([shape("mask", [1, 1], [2, 2], mask="no")], {}, r"shape 0 \(nose\): 'mask' must be a PNG in base64"),
        ([shape("point", [1, 1]) | {"group_id": [1]}], {}, r"shape 0 \(nose\): 'group_id' must be a number"),
        ([], {"shapes": 3}, r"'shapes' must be a list"),
        ([], {"imagePath": None}, r"'imagePath' must be the picture's name"),
        ([], {"imageWidth": None}, r"'imageWidth' and 'imageHeight' must be whole numbers of pixels"),
        (
            [shape("point", [1, 1]), shape("point", [2, 2])],
            {},
            r"shape 1 \(nose\): a person has the joint 'nose' twice",
        ),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, shapes: list[Any], more: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=rf"a\.json: {said}"):
        read(tmp_path, *shapes, **more)


@pytest.mark.parametrize(
    ("drawn", "said"),
    [
        (shape("polygon", [1, 2], [3, 4]), "a polygon called 'nose' has 2 points, and takes three"),
        (shape("polygon", [1, 2], [3, 4], [1e308, 5]), r"something called 'nose' lies at 1e\+308 pixels"),
        (shape("rectangle", [1, 2], [-2e6, 5]), r"something called 'nose' lies at -2e\+06 pixels"),
        (shape("point", [1, 1e300]), r"something called 'nose' lies at 1e\+300 pixels"),
    ],
)
def test_what_cannot_have_been_drawn_is_refused(tmp_path: Path, drawn: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        read(tmp_path, drawn)
