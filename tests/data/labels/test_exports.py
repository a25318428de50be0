"""Recorded exports of the tools themselves are read as they are meant."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hrformer.data.coco_masks import draw, read_outline
from hrformer.data.labels import search
from hrformer.data.labels.content import Content, LabelSet
from hrformer.data.labels.shapes import mask_of
from hrformer.data.pose_sets import open_pose
from hrformer.data.segmentation_sets import open_segmentation
from hrformer.data.set_types import DataError
from hrformer.data.source_config import SegmentationSource
from hrformer.recipes.finetune import finetune_pose
from tool_labels import picture

EXPORTS = Path(__file__).parent / "exports"
FIND = replace(finetune_pose().data, clip="none")


def read(path: Path) -> LabelSet:
    """Everything in a file or folder of exports."""
    form = search.form_of(path)
    assert form is not None
    founds = search.found_labels(path) if path.is_dir() else search.parts_of(path, form, path.parent)
    return search.read_all(form, founds, path if path.is_dir() else path.parent)


def only(path: Path) -> Content:
    (content,) = read(path).contents.values()
    return content


def named(content: Content, label: str) -> list[dict]:
    """Records of a category."""
    number = next(one["id"] for one in content["categories"] if one["name"] == label)
    return [one for one in content["annotations"] if one["category_id"] == number]


def joints(content: Content, label: str) -> list[str]:
    found: list[str] = next(one for one in content["categories"] if one["name"] == label)["keypoints"]
    return found


def test_cvat_images() -> None:
    read_set = read(EXPORTS / "cvat" / "images.xml")
    (content,) = read_set.contents.values()
    assert content["images"] == [{"id": 1, "file_name": "filename000.jpg", "width": 1600, "height": 1200}]
    # In the order of the labels, those that nothing is called by left out.
    assert [one["name"] for one in content["categories"]] == ["car", "wheel", "plate", "s1"]
    skeleton = next(one for one in content["categories"] if one["name"] == "s1")
    assert (skeleton["keypoints"], skeleton["skeleton"]) == (["1", "2", "3"], [[2, 3], [1, 2]])
    (person,) = named(content, "s1")
    assert person["keypoints"] == [54.47, 94.81, 2, 68.02, 162.34, 2, 125.87, 62.85, 2]
    assert "bbox" not in person
    (plate,) = named(content, "plate")
    np.testing.assert_allclose(plate["bbox"], [797.33, 870.92, 168.19, 58.02])
    polygon, mask = named(content, "car")
    assert len(polygon["segmentation"][0]) == 2 * 69
    # A round brush of 13 x 15 pixels: 3 off, 5 on, 5 + 2 off, 7 on.
    pixels = mask_of(mask["segmentation"])
    assert mask["bbox"] == [707, 888, 13, 15]
    assert pixels.sum() == mask["area"] == 149
    assert np.flatnonzero(pixels[888]).tolist() == [*range(710, 715)]
    assert np.flatnonzero(pixels[889]).tolist() == [*range(709, 716)]
    assert any("2 x polyline" in note and "1 x tag" in note for note in read_set.notes)


def test_cvat_video_leaves_out_what_is_outside() -> None:
    content = only(EXPORTS / "cvat" / "video.xml")
    assert [one["file_name"] for one in content["images"]] == [f"frame_{n:06d}.png" for n in (0, 6, 13)]
    assert {(one["width"], one["height"]) for one in content["images"]} == {(640, 480)}
    assert [len(named(content, label)) for label in ("car", "s1")] == [3, 3]
    assert named(content, "s1")[1]["keypoints"] == [120.07, 270.59, 2, 140.87, 350.23, 2, 210.37, 260.27, 2]


def test_label_studio() -> None:
    content = only(EXPORTS / "label_studio" / "people.json")
    assert [(one["width"], one["height"]) for one in content["images"]] == [(120, 80), (60, 90)]
    assert joints(content, "person") == ["left_hand", "nose"]
    first, second, turned = named(content, "person")
    np.testing.assert_allclose(first["bbox"], [12, 10, 36, 50])
    np.testing.assert_allclose(first["keypoints"], [18.5, 25, 2, 30, 16, 1], atol=1e-4)
    np.testing.assert_allclose(second["keypoints"], [0, 0, 0, 84, 16, 2])
    # Turned by 90 degrees about its corner at (30, 18): 12 x 9 pixels become 9 x 12 to its left.
    np.testing.assert_allclose(turned["bbox"], [21, 18, 9, 12])
    (dog,), (ball,), (grass,) = (named(content, label) for label in ("dog", "ball", "grass"))
    np.testing.assert_allclose(dog["segmentation"], [[6, 9, 30, 9, 30, 36, 6, 36]])
    np.testing.assert_allclose(ball["bbox"], [18, 54, 24, 18], atol=1e-9)
    expected = np.zeros((80, 120), bool)
    expected[60:70, 10:30] = True
    expected[62:66, 12:15] = False
    assert (mask_of(grass["segmentation"]) == expected).all()


def test_label_studio_min_tells_joints_by_boxes() -> None:
    whole, read_set = only(EXPORTS / "label_studio" / "people.json"), read(EXPORTS / "label_studio" / "people_min.json")
    (content,) = read_set.contents.values()
    for a, b in zip(named(whole, "person"), named(content, "person"), strict=True):
        np.testing.assert_allclose(a["bbox"], b["bbox"])
        # It does not say what is hidden.
        np.testing.assert_allclose(np.where(np.array(a["keypoints"]) == 1, 2, a["keypoints"]), b["keypoints"])
    assert any("which are hidden" in note for note in read_set.notes)


def test_labelme() -> None:
    read_set = read(EXPORTS / "labelme")
    (content,) = read_set.contents.values()
    assert [one["file_name"] for one in content["images"]] == ["a.jpg", "../pictures/b.png"]
    assert joints(content, "person") == ["left_hand", "nose", "right_hand"]
    first, second = named(content, "person")
    assert first["keypoints"] == [18.5, 25.25, 2, 30, 16, 1, 0, 0, 0]
    assert second["keypoints"] == [0, 0, 0, 84, 16, 2, 100, 30, 2]
    assert (first["bbox"], "segmentation" in first) == ([12, 10, 36, 50], False)
    assert [len(one["segmentation"]) for one in named(content, "dog")] == [1, 2]
    (ball,), (box,), (grass,) = (named(content, label) for label in ("ball", "box", "grass"))
    np.testing.assert_allclose(ball["bbox"], [20, 50, 20, 20], atol=1e-9)
    assert box["segmentation"] == [[40, 60, 50, 60, 50, 80, 40, 80]]
    assert (mask_of(grass["segmentation"]).sum(), grass["bbox"]) == (7 * 15, [7, 77, 15, 7])
    assert any("1 x line" in note for note in read_set.notes)


def test_yolo_pose_of_label_studio(tmp_path: Path) -> None:
    shutil.copytree(EXPORTS / "yolo" / "pose", tmp_path / "set")
    for file in (tmp_path / "set/train/labels").iterdir():
        size = (120, 80) if "yard" in file.name else (60, 90)
        picture(tmp_path / "set/train/images" / f"{file.stem}.png", size)
    people = open_pose(replace(FIND, root=tmp_path / "set"), "train")
    assert people.skeleton.keypoints == ("nose", "left_hand", "right_hand")
    assert people.skeleton.flip_pairs == ((1, 2),)
    assert len(people) == 2
    whole = only(EXPORTS / "label_studio" / "people.json")
    for index, one in enumerate(named(whole, "person")[:2]):
        person = people.person(index)
        np.testing.assert_allclose(person.box, one["bbox"])
        left, nose = np.reshape(one["keypoints"], (2, 3))
        np.testing.assert_allclose(person.keypoints[:2, :2], [nose[:2], left[:2]], atol=1e-4)
    with pytest.raises(DataError, match=r"val_share 0\.2"):
        open_pose(replace(FIND, root=tmp_path / "set"), "val")


def test_yolo_outlines_of_supervision(tmp_path: Path) -> None:
    shutil.copytree(EXPORTS / "yolo" / "outlines", tmp_path / "set")
    picture(tmp_path / "set/images/yard.png", (120, 80))
    picture(tmp_path / "set/images/street.png", (60, 90))
    opened = open_segmentation(SegmentationSource(root=tmp_path / "set"), "train")
    assert opened.classes == ("background", "dog", "ball")
    yard = next(n for n in range(2) if "yard" in opened.file(n))
    # So that a change of it is noticed.
    assert opened.mask_file(yard).startswith(str(tmp_path / "set/labels/yard.txt::"))
    mask = opened.mask(yard)
    # supervision writes the outermost pixels' middles, so that a pixel may be lost on a side.
    assert abs(int((mask == 1).sum()) - 30 * 40) <= 70
    assert abs(int((mask == 2).sum()) - 1257) <= 70
    assert (mask[12:38, 22:58] == 1).all()
    assert not opened.mask(1 - yard).any()


def test_masks_of_exports_are_drawn_as_the_set_reader_draws_them() -> None:
    content = only(EXPORTS / "labelme")
    (ball,) = named(content, "ball")
    outline = read_outline(ball["segmentation"], (60, 90))
    mask = draw([(1, outline)], (60, 90), 0)
    assert abs(int(mask.sum()) - np.pi * 100) < 12
