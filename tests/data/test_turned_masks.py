"""Masks on the stored pixels of pictures that an EXIF orientation turns."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hrformer.data import turned_masks
from hrformer.data.inspection.parts import Part
from hrformer.data.segmentation_sets import open_segmentation
from hrformer.data.set_types import DataError, SegmentationSet
from hrformer.data.source_config import SegmentationSource
from hrformer.geometry.orientation import swaps_sides, upright_pixels

ORIENTATION = 0x0112


def opened(root: Path, **options: object) -> SegmentationSet:
    return open_segmentation(SegmentationSource(root=root, **options), "train")  # type: ignore[arg-type]


def write(
    root: Path, orientation: int, name: str = "a", *, size: tuple[int, int] = (16, 8), upright: bool = False
) -> None:
    """A picture of a white top left corner, stored turned, and the mask of that corner, as stored or upright."""
    width, height = size
    stored = np.zeros((height, width), np.uint8)
    stored[: height // 2, : width // 2] = 1
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
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
    write(tmp_path, orientation, upright=upright)
    with caplog.at_level(logging.WARNING):
        source = opened(tmp_path)
    assert source.pixels(0).shape == (16, 8, 3)
    assert fits(source)
    told = "EXIF orientation: 1 picture lies turned" in caplog.text
    assert told != upright
    assert ("SegmentationSource.exif ignore|apply" in caplog.text) != upright
    found = {one.kind: one for one in Part(source, "train", crop=(8, 8)).findings()}
    assert ("exif-turned" in found) != upright
    assert fits(opened(tmp_path, exif="apply"))
    assert [note.kind for note in opened(tmp_path, exif="ignore").notes] == ["exif-ignored"]
    if not upright:
        assert opened(tmp_path, exif="ignore").pixels(0).shape == (8, 16, 3)
        assert fits(opened(tmp_path, exif="ignore"))


@pytest.mark.parametrize(("orientation", "size"), [(3, (16, 8)), (2, (16, 8)), (6, (8, 8))])
def test_what_sizes_cannot_tell_follows_the_others(
    tmp_path: Path, orientation: int, size: tuple[int, int], caplog: pytest.LogCaptureFixture
) -> None:
    assert size[0] == size[1] or not swaps_sides(orientation)
    write(tmp_path, orientation, size=size)
    with caplog.at_level(logging.WARNING):
        assert not fits(opened(tmp_path))
    assert "does not tell whether their masks do; there are no others to go by, so they were left" in caplog.text
    assert fits(opened(tmp_path, exif="apply"))
    assert fits(opened(tmp_path, exif="ignore"))
    caplog.clear()
    write(tmp_path, 6, "b")
    with caplog.at_level(logging.WARNING):
        source = opened(tmp_path)
    assert fits(source, 0)
    assert fits(source, 1)
    assert "EXIF orientation: 2 pictures" in caplog.text
    write(tmp_path, 6, "c", upright=True)
    source = opened(tmp_path)
    assert [fits(source, index) for index in range(3)] == [False, True, True]


def test_large_sets_are_sampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turned_masks, "MOST_HEADERS", 2)
    for number in range(5):
        write(tmp_path, 6 if number != 1 else 1, str(number))
    source = opened(tmp_path)
    assert all(fits(source, index) for index in range(5))


def test_formats_without_the_option(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"SegmentationSource\.exif is for the formats folders, voc and coco; ade20k"):
        opened(tmp_path, format="ade20k", exif="apply")


def test_broken_pictures_are_left_to_those_who_read_them(tmp_path: Path) -> None:
    write(tmp_path, 6)
    write(tmp_path, 6, "b")
    (tmp_path / "images/train/b.jpg").write_bytes(b"broken")
    assert fits(opened(tmp_path))
