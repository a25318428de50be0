"""Lists of the classes of pictures; those of masks are in ``test_folders.py``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hrformer.data.class_lists import classes_of_ids, listed_classes
from hrformer.data.sets import DataError


def test_cifar_classes(data_dir: Path) -> None:
    names = listed_classes(data_dir / "cifar10", ())
    assert (names[0], names[9], len(names)) == ("airplane", "truck", 10)
    assert listed_classes(data_dir / "cifar10", ["a", "b"]) == ("a", "b")
    assert listed_classes(data_dir, ()) == ()


def test_ids_give_the_order_and_names_may_have_spaces(tmp_path: Path) -> None:
    file = tmp_path / "classes.txt"
    file.write_text("\ufeff# id name\n1\ttraffic light\n\n0  car\n", encoding="utf-8")
    assert listed_classes(tmp_path, ()) == ("car", "traffic light")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cat\ndog\n", r"classes\.txt:1: expected 'id name' such as '0 cat', got 'cat'"),
        ("0 cat\n0 dog\n", r"classes\.txt:2: an id occurs once"),
        ("0 cat\n2 dog\n", r"without a gap, got \[0, 2\]"),
        ("0 cat\n1 cat\n", "two classes have the same name"),
        ("# nothing\n", "without a gap"),
    ],
)
def test_odd_class_files_are_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        listed_classes(tmp_path, ())


def test_numbers_stand_for_missing_names() -> None:
    labels = np.array([0, 2, 1])
    assert classes_of_ids(labels, (), "x") == ("0", "1", "2")
    assert classes_of_ids(labels, ("a", "b", "c", "d"), "x") == ("a", "b", "c", "d")
    with pytest.raises(DataError, match="x: item 1 has the label 2, but there are only 2 class names"):
        classes_of_ids(labels, ("a", "b"), "x")
    with pytest.raises(DataError, match="item 2 has the label -1; labels count from 0"):
        classes_of_ids(np.array([0, 2, -1]), (), "x")
    with pytest.raises(DataError, match="holds no pictures"):
        classes_of_ids(np.array([], dtype=np.int64), (), "x")
