from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hrformer.data.inspection.scan import evenly, look_at, pictures_of, read_headers, scan
from hrformer.data.segmentation_sets import open_segmentation
from hrformer.data.set_types import ClassificationSet, SegmentationSet
from hrformer.data.source_config import SegmentationSource


class Numbers(ClassificationSet):
    """Pictures of one grey level each; some cannot be read."""

    name, classes = "numbers", ("even", "odd")

    def __init__(self, count: int, broken: tuple[int, ...] = ()) -> None:
        self.count, self.broken = count, broken
        self.read: list[int] = []

    def __len__(self) -> int:
        return self.count

    def file(self, index: int) -> str:
        return f"{index}.png"

    def pixels(self, index: int) -> np.ndarray:
        self.read.append(index)
        if index in self.broken:
            raise OSError(5, "Input/output error")
        return np.full((4, 6, 3), index, np.uint8)

    def label(self, index: int) -> int:
        return index % 2


def test_looks_are_those_of_the_pictures(data_dir: Path) -> None:
    source = open_segmentation(SegmentationSource(root=data_dir / "camvid"), "val")
    assert isinstance(source, SegmentationSet)
    for look in scan(source, [0, 50], threads=2):
        pixels, mask = source.pixels(look.index), source.mask(look.index)
        assert (look.file, look.size, look.mask_size) == (source.file(look.index), (480, 360), (480, 360))
        assert look.class_pixels == dict(
            zip(*(values.tolist() for values in np.unique(mask, return_counts=True)), strict=True)
        )
        # Every third pixel each way is looked at.
        assert np.allclose(look.mean, pixels.reshape(-1, 3).mean(axis=0) / 255, atol=0.01)
        assert np.allclose(look.square, ((pixels / 255) ** 2).mean(axis=(0, 1)), atol=0.01)


def test_digest_tells_pictures_apart() -> None:
    source = Numbers(3)
    assert look_at(source, 1).digest == look_at(source, 1).digest != look_at(source, 2).digest


def test_errors_become_part_of_the_look() -> None:
    looks = list(scan(Numbers(30, broken=(2, 29)), range(30), threads=3))
    assert [look.index for look in looks] == list(range(30))
    assert [look.index for look in looks if look.problem] == [2, 29]
    assert looks[2].problem == "OSError: [Errno 5] Input/output error"


def test_leaving_early_stops_the_reading() -> None:
    source = Numbers(1000)
    before = set(threading.enumerate())  # libraries keep pools of their own
    for _ in scan(source, range(1000), threads=2):
        break
    assert len(source.read) < 20
    assert not [thread for thread in set(threading.enumerate()) - before if thread.is_alive()]


@pytest.mark.parametrize(("limit", "expected"), [(None, [0, 1, 2, 3, 4, 5]), (9, [0, 1, 2, 3, 4, 5]), (3, [0, 2, 4])])
def test_limit_is_spread(limit: int | None, expected: list[int]) -> None:
    assert evenly(range(6), limit) == expected


def test_items_of_one_picture_belong_together() -> None:
    source = Numbers(4)
    source.picture = lambda index: index // 2  # type: ignore[method-assign]
    assert pictures_of(source) == {0: [0, 1], 1: [2, 3]}


def test_missing_ends_are_found_without_decoding_the_rest(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for kind in ("images", "labels"):
        (tmp_path / kind / "train").mkdir(parents=True)
    for number in range(5):
        Image.fromarray(random.integers(0, 255, (20, 30, 3), np.uint8)).save(tmp_path / f"images/train/{number}.jpg")
        Image.fromarray(random.integers(0, 2, (20, 30), np.uint8)).save(tmp_path / f"labels/train/{number}.png")
    source = open_segmentation(SegmentationSource(root=tmp_path, classes=("ground", "road")), "train")
    picture, mask, odd = (
        tmp_path / name for name in ("images/train/1.jpg", "labels/train/3.png", "images/train/4.jpg")
    )
    for path in (picture, mask):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    # Some cameras leave something behind the end, which is no damage.
    odd.write_bytes(odd.read_bytes() + bytes(10_000))

    told: list[tuple[int, int]] = []
    pixels, broken = read_headers(source, range(5), progress=lambda done, total: told.append((done, total)))
    assert {number: Path(file).name for number, (file, _) in broken.items()} == {1: "1.jpg", 3: "3.png"}
    assert "truncated" in broken[1][1].lower()
    assert pixels >= 4 * 20 * 30
    assert told[-1] == (5, 5)
