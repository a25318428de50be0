"""Headers of a set's files."""

from pathlib import Path

import numpy as np
from PIL import Image

from hrformer.data.inspection.files import read_headers
from hrformer.data.segmentation_sets import open_folders
from hrformer.data.sources import SegmentationSource


def test_missing_ends_are_found_without_decoding_the_rest(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for kind in ("images", "labels"):
        (tmp_path / kind / "train").mkdir(parents=True)
    for number in range(5):
        Image.fromarray(random.integers(0, 255, (20, 30, 3), np.uint8)).save(tmp_path / f"images/train/{number}.jpg")
        Image.fromarray(random.integers(0, 2, (20, 30), np.uint8)).save(tmp_path / f"labels/train/{number}.png")
    source = open_folders(SegmentationSource(root=tmp_path, classes=("ground", "road")), "train")
    picture, mask, odd = (
        tmp_path / name for name in ("images/train/1.jpg", "labels/train/3.png", "images/train/4.jpg")
    )
    for path in (picture, mask):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    # Some cameras leave something behind the end, which is no damage.
    odd.write_bytes(odd.read_bytes() + bytes(10_000))

    told: list[tuple[int, int]] = []
    headers = read_headers(source, range(5), progress=lambda done, total: told.append((done, total)))
    assert {number: Path(file).name for number, (file, _) in headers.broken.items()} == {1: "1.jpg", 3: "3.png"}
    assert "truncated" in headers.broken[1][1].lower()
    assert headers.pixels >= 4 * 20 * 30
    assert told[-1] == (5, 5)
