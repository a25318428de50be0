"""Tables of classes in JSON and CSV."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hrformer.evaluate.class_files import read_class_file, write_class_table, write_top_classes

CLASSES = ("cat", "dog", "owl")


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


def test_round_trip(tmp_path: Path) -> None:
    names, rows = ["a, b.jpg", "é.jpg"], [[2, 0], [1, 2]]
    write_class_table(tmp_path / "t.csv", names, rows)
    assert list(read_class_file(tmp_path / "t.csv", CLASSES)) == list(zip(names, rows, strict=True))


def test_lines_for_the_server(tmp_path: Path) -> None:
    write_top_classes(tmp_path / "t.txt", [[2, 0], [1, 2]])
    assert (tmp_path / "t.txt").read_text() == "2 0\n1 2\n"
    write_top_classes(tmp_path / "t.txt", [[2, 0], [1, 2]], ids=[11, 12, 13])
    assert (tmp_path / "t.txt").read_text() == "13 11\n12 13\n"
    with pytest.raises(ValueError, match="server ids for 2 classes, but class 2"):
        write_top_classes(tmp_path / "t.txt", [[2, 0]], ids=[11, 12])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t.txt"]
