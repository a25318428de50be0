"""Reading files of predictions: names with and without folders, and tables of classes in JSON and CSV."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hrformer.evaluate.files import entries_for, read_class_file

CLASSES = ("cat", "dog", "owl")


@pytest.mark.parametrize(
    ("entries", "files", "expected"),
    [
        ([("b.png", 2), ("a", 1), ("sub/c.tif", 3)], ["set/val/a.jpg", "set/val/b.jpg", "set/val/c.jpg"], [1, 2, 3]),
        # Folders decide between equal names.
        (
            [("cat/1.png", 1), ("dog/1.png", 2), ("x/train/dog/2.png", 3), ("val/dog/2.png", 4)],
            ["v/dog/1.jpg", "v/cat/1.jpg", "val/dog/2.jpg"],
            [2, 1, 4],
        ),
        # Members of archives.
        (
            [("x.parquet::0", 0), ("x.parquet::1", 1), ("s.tar/b.jpg", 2)],
            ["d/x.parquet::1", "d/x.parquet::0", "d/s.tar::b.jpg"],
            [1, 0, 2],
        ),
        # The very name goes before one with another ending.
        ([("v/a.jpg", 1), ("v/a.png", 2)], ["v/a.jpg"], [1]),
    ],
)
def test_entries_are_found_by_name(entries: list[tuple[str, int]], files: list[str], expected: list[int]) -> None:
    assert entries_for(files, entries, "mask", "out") == expected


@pytest.mark.parametrize(
    ("entries", "files", "message"),
    [
        (
            ["a.png"],
            ["a.jpg", *(f"v/{number}.jpg" for number in range(7))],
            r"^out: 7 of 8 pictures have no mask: v/0.jpg, .*v/4.jpg and 2 more$",
        ),
        (["a.png", "a.png"], [], "two entries for a"),
        (["x/a.png", "y/a.png"], ["val/a.jpg"], "2 masks may belong to val/a"),
        (["1.png"], ["cat/1.jpg", "dog/1.jpg"], r"one mask would belong to both cat/1\.jpg and dog/1\.jpg"),
        # An entry belongs to the picture that it agrees with.
        (["cat/1.png"], ["cat/1.jpg", "dog/1.jpg"], r"1 of 2 pictures have no mask: dog/1\.jpg"),
    ],
)
def test_missing_and_doubtful_names(entries: list[str], files: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        entries_for(files, [(name, 0) for name in entries], "mask", "out")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", {"x.jpg": 2, "d/y.jpg": [0, 1]}),
        ("b.json", {"x.jpg": "owl", "d/y.jpg": ["cat", "dog"]}),
        ("c.json", [{"file": "x.jpg", "class_id": 2}, {"file_name": "d/y.jpg", "class_ids": [0, 1]}]),
        ("d.json", [{"path": "x.jpg", "label": "owl"}, {"image": "d/y.jpg", "labels": ["cat", 1]}]),
        ("e.json", [{"file_name": "x.jpg", "predictions": [{"class_id": 2}]}, {"file": "d/y.jpg", "classes": [0, 1]}]),
        ("f.csv", "x.jpg,2\nd/y.jpg,0,1\n"),
        ("g.csv", "file,score,class_1,class_2\nx.jpg,0.5,owl,\nd/y.jpg,0.2,cat,dog\n"),
    ],
)
def test_forms(tmp_path: Path, name: str, content: Any) -> None:
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    assert list(read_class_file(path, CLASSES)) == [("x.jpg", [2]), ("d/y.jpg", [0, 1])]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"x.jpg": 3}, r"entry 0 \(x.jpg\): 3 is neither a class name nor a number in 0..2"),
        ({"x.jpg": "cow"}, "'cow' is neither"),
        ({"x.jpg": True}, "True is neither"),
        ({"x.jpg": []}, "at least one"),
        ({"x.jpg": [1, 1]}, "different classes"),
        ([{"file": "x.jpg"}], "entry 0: needs a file name and classes"),
        ([3], "entry 0: needs a file name and classes"),
    ],
)
def test_what_is_no_class(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "classes.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        list(read_class_file(path, CLASSES))


def test_files_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        list(read_class_file(tmp_path / "a.json", CLASSES))
    (tmp_path / "b.csv").write_text("file,score\nx.jpg,0.5\n")
    with pytest.raises(ValueError, match="no column begins with class"):
        list(read_class_file(tmp_path / "b.csv", CLASSES))
    with pytest.raises(FileNotFoundError):
        list(read_class_file(tmp_path / "c.json", CLASSES))
