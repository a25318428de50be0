"""Files behind addresses, in fsspec's memory, and kinds of addresses that cannot be read here."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from hrformer.data.addresses import fetch, file_system
from hrformer.data.images import ImageError, is_url, is_web, load_image

fsspec = pytest.importorskip("fsspec")


@pytest.fixture
def bucket(skier) -> Iterator[str]:
    """A folder in memory with one picture and one text."""
    from hrformer.predict.results import encode_picture

    files = fsspec.filesystem("memory")
    files.pipe_file("/bucket/a/skier.png", encode_picture(skier.pixels, ".png"))
    files.pipe_file("/bucket/notes.txt", b"no picture")
    yield "memory://bucket"
    files.rm("/bucket", recursive=True)


def test_pictures_are_read_by_address(bucket: str, skier) -> None:
    address = f"{bucket}/a/skier.png"
    found = load_image(address)
    assert found.path == address
    assert np.array_equal(found.pixels, skier.pixels)
    assert fetch(f"{bucket}/notes.txt") == b"no picture"


def test_a_file_address_is_the_file(coco_images: list[Path]) -> None:
    assert np.array_equal(load_image(coco_images[0].as_uri()).pixels, load_image(coco_images[0]).pixels)


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("memory://bucket/absent.jpg", "no such file"),
        ("memory://bucket/notes.txt", "not a picture"),
        ("nowhere://bucket/a.jpg", "nowhere"),
    ],
)
def test_what_cannot_be_read_is_named(bucket: str, address: str, reason: str) -> None:
    with pytest.raises(ImageError, match=reason) as caught:
        load_image(address)
    assert str(caught.value).startswith(f"{address}: ")
    assert str(caught.value).count(address) == 1


def test_an_absent_package_is_named_with_its_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("s3fs", "gcsfs"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"s3://bucket/a\.jpg: pip install s3fs"):
        file_system("s3://bucket/a.jpg")
    with pytest.raises(ImageError, match="pip install gcsfs"):
        load_image("gs://bucket/a.jpg")


def test_addresses_and_paths_are_told_apart() -> None:
    assert all(map(is_url, ("s3://b/a", "HTTP://h/a", "hf://datasets/a/b")))
    assert not any(map(is_url, ("a/b.jpg", "/a//b.jpg", "C:\\a.jpg", "c://a.jpg", "a.b")))
    assert [is_web(name) for name in ("https://h/a", "s3://b/a")] == [True, False]
