"""Names of files, with and without folders."""

from __future__ import annotations

import pytest

from hrformer.evaluate.file_matching import NamedEntries
from hrformer.wording import listed


def test_names_without_folders_and_endings() -> None:
    found = NamedEntries([("b.png", 2), ("a", 1), ("sub/c.tif", 3)], "mask", "out")
    assert found.for_files(["set/val/a.jpg", "set/val/b.jpg", "set/val/c.jpg"]) == [1, 2, 3]


def test_folders_decide_between_equal_names() -> None:
    found = NamedEntries(
        [("cat/1.png", 1), ("dog/1.png", 2), ("x/train/dog/2.png", 3), ("val/dog/2.png", 4)], "mask", "o"
    )
    assert found.for_files(["v/dog/1.jpg", "v/cat/1.jpg", "val/dog/2.jpg"]) == [2, 1, 4]


def test_members_of_archives() -> None:
    found = NamedEntries([("x.parquet::0", 0), ("x.parquet::1", 1), ("s.tar/b.jpg", 2)], "entry", "out")
    assert found.for_files(["d/x.parquet::1", "d/x.parquet::0", "d/s.tar::b.jpg"]) == [1, 0, 2]


def test_missing_names_are_counted_and_listed() -> None:
    found = NamedEntries([("a.png", 1)], "mask", "out/masks")
    files = ["a.jpg", *(f"v/{number}.jpg" for number in range(7))]
    with pytest.raises(ValueError, match=r"^out/masks: 7 of 8 pictures have no mask: v/0.jpg, .*v/4.jpg and 2 more$"):
        found.for_files(files)


def test_doubtful_names() -> None:
    with pytest.raises(ValueError, match="two entries for a"):
        NamedEntries([("a.png", 1), ("a.png", 2)], "mask", "out")
    found = NamedEntries([("x/a.png", 1), ("y/a.png", 2)], "mask", "out")
    with pytest.raises(ValueError, match="2 masks may belong to val/a"):
        found.for_files(["val/a.jpg"])
    with pytest.raises(ValueError, match=r"one mask would belong to both cat/1\.jpg and dog/1\.jpg"):
        NamedEntries([("1.png", 1)], "mask", "out").for_files(["cat/1.jpg", "dog/1.jpg"])


def test_an_entry_belongs_to_the_picture_it_agrees_with() -> None:
    found = NamedEntries([("cat/1.png", 1)], "mask", "out")
    with pytest.raises(ValueError, match=r"1 of 2 pictures have no mask: dog/1\.jpg"):
        found.for_files(["cat/1.jpg", "dog/1.jpg"])


def test_shortened() -> None:
    assert listed([1, 2]) == "1, 2"
    assert listed(list(range(8))) == "0, 1, 2, 3, 4 and 3 more"
