"""Sizes in the file against the pictures' own, EXIF orientations, and boxes that are corners."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from hrformer.data import coco_sizes
from hrformer.data.pose_sets import open_pose
from hrformer.data.set_types import DataError
from hrformer.data.source_config import PoseSource
from hrformer.evaluate.files import evaluate_keypoint_file

WIDE, SQUARE = (60, 40), (48, 48)
JOINTS = {"nose": (30, 10), "left_hand": (12, 25), "right_hand": (40, 30)}
BOX = (8.0, 6.0, 36.0, 28.0)


def marked(size: tuple[int, int], joints: list[list[float]]) -> Image.Image:
    """Dark with a bright pixel at each joint, so that a joint finds its pixel again however the picture is turned."""
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    for x, y in joints:
        pixels[int(y), int(x)] = 255
    return Image.fromarray(pixels)


def save(path: Path, image: Image.Image, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(path, exif=exif)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., PoseSource]:
    """Writes pictures, each (stored size, orientation, size in the file); labels lie on the stored pixels."""

    def write(*pictures: tuple[Any, int, Any], suffix: str = "png") -> PoseSource:
        (tmp_path / "images").mkdir(exist_ok=True)
        points = [list(place) for place in JOINTS.values()]
        images, people = [], []
        for number, (stored, orientation, given) in enumerate(pictures):
            save(tmp_path / "images" / f"{number}.{suffix}", marked(stored, points), orientation)
            record = {"id": number, "file_name": f"{number}.{suffix}"}
            images.append(record if given is None else {**record, "width": given[0], "height": given[1]})
            row = {"id": number, "image_id": number, "category_id": 1, "bbox": list(BOX), "area": 500.0}
            people.append({**row, "keypoints": [value for x, y in points for value in (x, y, 2)]})
        category = {"id": 1, "name": "bird", "keypoints": list(JOINTS)}
        content = {"images": images, "annotations": people, "categories": [category]}
        (tmp_path / "val.json").write_text(json.dumps(content))
        return PoseSource(root=tmp_path, val_annotations="val.json", val_images=("images",), clip="none")

    return write


def hits(people: Any) -> list[bool]:
    """Of each person, whether all joints lie on their bright pixels."""
    found = []
    for index in range(len(people)):
        pixels, points = people.pixels(index), people.person(index).keypoints[:, :2].astype(int)
        inside = (points < (pixels.shape[1], pixels.shape[0])).all()
        found.append(bool(inside and (pixels[points[:, 1], points[:, 0]] == 255).all()))
    return found


def kinds(people: Any) -> list[str]:
    return [note.kind for note in people.notes]


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_labels_on_stored_pixels_are_turned(write, orientation: int, suffix: str, tmp_path: Path) -> None:
    people = open_pose(write((WIDE, orientation, WIDE), (WIDE, 1, WIDE), suffix=suffix), "val")
    assert people.pixels(0).shape == (60, 40, 3)
    assert hits(people) == [True, True]
    assert kinds(people) == ["exif-turned"]
    assert "EXIF orientation: 1 picture (0.p" in people.notes[0].text.replace("0.tiff", "0.p")
    assert "PoseSource.exif ignore|apply" in people.notes[0].text
    # The box goes with them: around the same pixels.
    x, y, width, height = people.person(0).box
    stored = np.zeros((40, 60), np.uint8)
    stored[6:34, 8:44] = 255
    image = Image.fromarray(stored)
    image.getexif()[0x0112] = orientation
    upright = np.asarray(ImageOps.exif_transpose(image))
    assert (upright[int(y) : int(y + height), int(x) : int(x + width)] == 255).all()
    assert (width * height, int((upright == 255).sum())) == (36 * 28, 36 * 28)
    # The scores see the same people.
    rows = [
        {"image_id": one.image_id, "score": 1.0, "keypoints": one.keypoints.ravel().tolist()}
        for one in map(people.person, range(2))
    ]
    (tmp_path / "results.json").write_text(json.dumps(rows))
    assert evaluate_keypoint_file(tmp_path / "results.json", people, people.skeleton).value == 1.0


def test_clipping_is_by_the_turned_size(write) -> None:
    people = open_pose(replace(write((WIDE, 6, WIDE)), clip="official"), "val")
    assert people.person(0).box.tolist() == [6, 8, 27, 35]
    assert [(image["width"], image["height"]) for image in people.truth()["images"]] == [(40, 60)]


def test_labels_on_the_upright_picture_stay(write) -> None:
    source = write((WIDE, 6, WIDE[::-1]), (WIDE, 1, WIDE))
    for exif in ("auto", "apply"):
        people = open_pose(replace(source, exif=exif), "val")
        assert people.notes == ()
        assert people.person(0).box.tolist() == list(BOX)


@pytest.mark.parametrize("unknown", [(SQUARE, 6, SQUARE), (WIDE, 3, WIDE), (WIDE, 2, WIDE), (WIDE, 8, None)])
def test_where_the_size_cannot_tell(write, unknown: tuple[Any, int, Any]) -> None:
    alone = write(unknown)
    people = open_pose(alone, "val")
    assert (kinds(people), hits(people)) == (["exif-unknown"], [False])
    assert "EXIF orientation" in people.notes[0].text
    assert "taken as upright" in people.notes[0].text
    applied = open_pose(replace(alone, exif="apply"), "val")
    assert (kinds(applied), hits(applied)) == (["exif-unknown"], [True])
    ignored = open_pose(replace(alone, exif="ignore"), "val")
    assert (kinds(ignored), hits(ignored)) == (["exif-ignored"], [True])
    # The other pictures of the file prove it.
    proven = open_pose(write(unknown, (WIDE, 6, WIDE)), "val")
    assert (kinds(proven), hits(proven)) == (["exif-turned", "exif-unknown"], [True, True])
    mixed = open_pose(write(unknown, (WIDE, 6, WIDE), (WIDE, 6, WIDE[::-1])), "val")
    assert hits(mixed) == [False, True, False]


@pytest.mark.parametrize("suffix", ["png", "jpg", "tiff", "webp"])
@pytest.mark.parametrize("orientation", [2, 3, 4, 5, 6, 7, 8])
def test_ignored_orientations_are_read_as_stored(write, suffix: str, orientation: int) -> None:
    people = open_pose(replace(write((WIDE, orientation, WIDE), suffix=suffix), exif="ignore"), "val")
    assert people.pixels(0).shape == (40, 60, 3)
    assert people.person(0).box.tolist() == list(BOX)
    assert kinds(people) == ["exif-ignored"]
    assert hits(people) == [True] or suffix in ("jpg", "webp")  # which blur
    with pytest.raises(DataError, match=r"turned by its EXIF orientation, so set PoseSource\.exif auto"):
        open_pose(replace(write((WIDE, 6, WIDE[::-1])), exif="ignore"), "val")


@pytest.mark.parametrize("given", [None, (0, 0), (60, 0)])
def test_missing_sizes_are_the_pictures_own(write, given: Any) -> None:
    people = open_pose(replace(write((WIDE, 1, given)), clip="mmpose"), "val")
    assert people.truth()["images"] == [{"id": 0, "file_name": "0.png", "width": 60, "height": 40}]
    assert people.notes == ()


@pytest.mark.parametrize(
    ("given", "advice"),
    [
        ((120, 80), r"write 60 x 40; else .*multiply boxes and joints by 0\.5 and areas by 0\.25"),
        ((40, 60), r"if the labels fit the picture as it is, write 60 x 40; else turn the picture back"),
        ((61, 40), r"write 60 x 40; else bring back the one that was labelled"),
    ],
)
@pytest.mark.parametrize("exif", ["auto", "ignore"])
def test_wrong_sizes_are_named(write, given: tuple[int, int], advice: str, exif: Any) -> None:
    source = replace(write((WIDE, 1, WIDE), (WIDE, 1, given)), exif=exif)
    message = rf"val\.json: 'width' and 'height' of 1\.png are {given[0]} x {given[1]}, but .*1\.png is 60 x 40 pixels"
    with pytest.raises(DataError, match=rf"{message} \(1 of 2 .*{advice}") as caught:
        open_pose(source, "val")
    assert "resize" not in str(caught.value)


def test_broken_pictures_are_left_to_who_decodes_them(write, tmp_path: Path) -> None:
    source = write((WIDE, 1, None), (WIDE, 1, WIDE))
    (tmp_path / "images" / "0.png").write_bytes(b"no picture")
    assert len(open_pose(replace(source, clip="official"), "val")) == 2


def test_large_sets_are_sampled_until_something_is_odd(write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coco_sizes, "MOST_READ", 4)
    monkeypatch.setattr(coco_sizes, "SAMPLED", 2)
    read: list[str] = []
    header = coco_sizes.read_header
    monkeypatch.setattr(coco_sizes, "read_header", lambda path: read.append(path) or header(path))
    assert len(open_pose(write(*[(WIDE, 1, WIDE)] * 6), "val")) == 6
    assert len(read) == 2
    people = open_pose(write((WIDE, 6, WIDE), *[(WIDE, 1, WIDE)] * 4, (WIDE, 6, WIDE)), "val")
    assert hits(people) == [True] * 6


POINTS = ((0.2, 0.3), (0.5, 0.5), (0.6, 0.7))


@pytest.mark.parametrize("number", [5, 2])
@pytest.mark.parametrize("boxes", [1, 100, "pixels"])
@pytest.mark.parametrize("middle", [False, True])
@pytest.mark.parametrize("joints", [1, 100, "pixels"])
def test_joints_and_boxes_are_told_apart(write, tmp_path: Path, boxes, joints, middle: bool, number: int) -> None:
    """Each in its own unit, boxes also as YOLO has them, with one joint a little beyond the edge."""
    source = write(*[((400, 300), 1, (400, 300))] * number)
    content = json.loads((tmp_path / "val.json").read_text())
    scales = [(400, 300) if one == "pixels" else (one, one) for one in (boxes, joints)]
    for row in content["annotations"]:
        box = [0.58, 0.5, 0.84, 0.6] if middle else [0.15, 0.2, 0.85, 0.6]
        row["bbox"] = [value * side for value, side in zip(box, scales[0] * 2, strict=True)]
        row["keypoints"] = [value for x, y in POINTS for value in (x * scales[1][0], y * scales[1][1], 2)]
    content["annotations"][0]["keypoints"][6] = 1.0002 * scales[1][0]
    (tmp_path / "val.json").write_text(json.dumps(content))
    fields = {"keypoints": joints, "bbox": boxes}
    told = [name for name, unit in fields.items() if unit != "pixels"]
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


def test_boxes_as_corners_are_told(write, tmp_path: Path) -> None:
    source = write(*[(WIDE, 1, WIDE)] * 4)
    content = json.loads((tmp_path / "val.json").read_text())
    for row in content["annotations"]:
        row["bbox"] = [10, 8, 44, 34]
    (tmp_path / "val.json").write_text(json.dumps(content))
    with pytest.raises(
        DataError, match=r"'bbox' of 4 of 4 people .* fits as corners .*\[10, 8, 44, 34\] of annotation 0"
    ):
        open_pose(source, "val")
    # People near a corner of the picture, whose boxes may be either, and boxes cut off by the picture are none.
    for row, box in zip(content["annotations"], ([2, 1, 50, 38], [9, 7, 60, 50], BOX, BOX), strict=True):
        row["bbox"] = list(box)
    (tmp_path / "val.json").write_text(json.dumps(content))
    assert len(open_pose(source, "val")) == 4


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
