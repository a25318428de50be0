from __future__ import annotations

from pathlib import Path

import pytest

from hrformer.data.part_patterns import expand_braces, part_files
from hrformer.data.set_types import DataError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("train-00.tar", "train-01.tar", "set-train_b.tar", "retrain-0.tar", "val.tar", "data/train-9.tar"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "b.tar").touch()
    (tmp_path / "test" / "a.tar").touch()
    (tmp_path / "test" / "a.txt").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ("train", ["set-train_b.tar", "train-00.tar", "train-01.tar", "data/train-9.tar"]),
        ("val", ["val.tar"]),
        ("test", ["test/a.tar", "test/b.tar"]),
        ("train-*.tar", ["train-00.tar", "train-01.tar"]),
        ("data/train-9.tar", ["data/train-9.tar"]),
        ("{train-{01..00},val}.tar", None),
        ("{val,train-01}.tar", ["val.tar", "train-01.tar"]),
        ("train-{00..01}.tar", ["train-00.tar", "train-01.tar"]),
        ("{train,retrain}-*.tar", ["train-00.tar", "train-01.tar", "retrain-0.tar"]),
    ],
)
def test_parts_are_found(root: Path, part: str, expected: list[str] | None) -> None:
    if expected is None:
        with pytest.raises(DataError):
            part_files(root, part, (".tar",))
    else:
        assert [path.relative_to(root).as_posix() for path in part_files(root, part, (".tar",))] == expected


def test_missing_files_are_named(root: Path) -> None:
    with pytest.raises(DataError, match=r"train-02\.tar: no such file"):
        part_files(root, "train-{00..02}.tar", (".tar",))
    with pytest.raises(DataError, match=r"no \.tar files for 'dev'; there must be a folder"):
        part_files(root, "dev", (".tar",))


def test_braces_expand_as_in_a_shell() -> None:
    assert list(expand_braces("a-{098..101}{x,y}")) == [f"a-{n}{c}" for n in ("098", "099", "100", "101") for c in "xy"]
    assert list(expand_braces("plain")) == ["plain"]
    with pytest.raises(DataError, match="runs backwards"):
        list(expand_braces("a{3..1}"))
    with pytest.raises(DataError, match="do not pair up"):
        list(expand_braces("a{1..3"))
