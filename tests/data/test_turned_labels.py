"""Labels on the stored pixels of pictures that an EXIF orientation turns, and sizes in COCO's file that are wrong."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from hrformer.data import turned_labels
from hrformer.data.inspection.parts import Part
from hrformer.data.pose_sets import open_pose
from hrformer.data.segmentation_sets import open_segmentation
from hrformer.data.set_types import DataError, SegmentationSet
from hrformer.data.source_config import PoseSource, SegmentationSource
from hrformer.evaluate.files import evaluate_keypoint_file
from hrformer.geometry.orientation import swaps_sides, upright_pixels

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
    monkeypatch.setattr(turned_labels, "MOST_HEADERS", 4)
    monkeypatch.setattr(turned_labels, "SAMPLED", 2)
    read: list[str] = []
    header = turned_labels.read_header
    monkeypatch.setattr(turned_labels, "read_header", lambda path: read.append(path) or header(path))
    assert len(open_pose(write(*[(WIDE, 1, WIDE)] * 6), "val")) == 6
    assert len(read) == 2
    people = open_pose(write((WIDE, 6, WIDE), *[(WIDE, 1, WIDE)] * 4, (WIDE, 6, WIDE)), "val")
    assert hits(people) == [True] * 6


def opened_masks(root: Path, **options: object) -> SegmentationSet:
    return open_segmentation(SegmentationSource(root=root, **options), "train")  # type: ignore[arg-type]


def write_mask(
    root: Path, orientation: int, name: str = "a", *, size: tuple[int, int] = (16, 8), upright: bool = False
) -> None:
    """A picture of a white top left corner, stored turned, and the mask of that corner, as stored or upright."""
    width, height = size
    stored = np.zeros((height, width), np.uint8)
    stored[: height // 2, : width // 2] = 1
    exif = Image.Exif()
    exif[0x0112] = orientation
    for kind in ("images/train", "labels/train"):
        (root / kind).mkdir(parents=True, exist_ok=True)
    Image.fromarray(stored * 255).convert("RGB").save(root / f"images/train/{name}.jpg", exif=exif, quality=100)
    mask = upright_pixels(stored, orientation) if upright else stored
    Image.fromarray(mask).save(root / f"labels/train/{name}.png")
    (root / "classes.txt").write_text("0 other\n1 corner\n")


def fits(source: SegmentationSet, index: int = 0) -> bool:
    """Whether picture and mask show the same."""
    item = source.item(index, source.pixels(index))
    return bool(((item["image"][0] > 127) == (item["mask"] == 1)).all())


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
@pytest.mark.parametrize("upright", [False, True])
def test_sizes_tell(tmp_path: Path, orientation: int, upright: bool, caplog: pytest.LogCaptureFixture) -> None:
    write_mask(tmp_path, orientation, upright=upright)
    with caplog.at_level(logging.WARNING):
        source = opened_masks(tmp_path)
    assert source.pixels(0).shape == (16, 8, 3)
    assert fits(source)
    told = "EXIF orientation: 1 picture (" in caplog.text
    assert told != upright
    assert ("SegmentationSource.exif ignore|apply" in caplog.text) != upright
    found = {one.kind: one for one in Part(source, "train", crop=(8, 8)).findings()}
    assert ("exif-turned" in found) != upright
    assert fits(opened_masks(tmp_path, exif="apply"))
    assert [note.kind for note in opened_masks(tmp_path, exif="ignore").notes] == ["exif-ignored"]
    if not upright:
        assert opened_masks(tmp_path, exif="ignore").pixels(0).shape == (8, 16, 3)
        assert fits(opened_masks(tmp_path, exif="ignore"))


@pytest.mark.parametrize(("orientation", "size"), [(3, (16, 8)), (2, (16, 8)), (6, (8, 8))])
def test_what_sizes_cannot_tell_follows_the_others(
    tmp_path: Path, orientation: int, size: tuple[int, int], caplog: pytest.LogCaptureFixture
) -> None:
    assert size[0] == size[1] or not swaps_sides(orientation)
    write_mask(tmp_path, orientation, size=size)
    with caplog.at_level(logging.WARNING):
        assert not fits(opened_masks(tmp_path))
    assert "whose size does not tell whether masks are for the stored" in caplog.text
    assert "taken as upright, since there are no others to go by" in caplog.text
    applied = opened_masks(tmp_path, exif="apply")
    assert fits(applied)
    assert [note.kind for note in applied.notes] == ["exif-unknown"]
    assert fits(opened_masks(tmp_path, exif="ignore"))
    caplog.clear()
    write_mask(tmp_path, 6, "b")
    with caplog.at_level(logging.WARNING):
        source = opened_masks(tmp_path)
    assert fits(source, 0)
    assert fits(source, 1)
    assert "labelled on the stored pixels, as the sizes tell; masks were turned upright" in caplog.text
    assert "taken as lying on the stored pixels and turned upright" in caplog.text
    write_mask(tmp_path, 6, "c", upright=True)
    source = opened_masks(tmp_path)
    assert [fits(source, index) for index in range(3)] == [False, True, True]


def test_large_sets_are_sampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turned_labels, "MOST_HEADERS", 2)
    for number in range(5):
        write_mask(tmp_path, 6 if number != 1 else 1, str(number))
    source = opened_masks(tmp_path)
    assert all(fits(source, index) for index in range(5))


def test_formats_without_the_option(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"SegmentationSource\.exif is for the formats folders, voc and coco; ade20k"):
        opened_masks(tmp_path, format="ade20k", exif="apply")


def test_broken_pictures_are_left_to_those_who_read_them(tmp_path: Path) -> None:
    write_mask(tmp_path, 6)
    write_mask(tmp_path, 6, "b")
    (tmp_path / "images/train/b.jpg").write_bytes(b"broken")
    assert fits(opened_masks(tmp_path))
