"""Pictures listed in object stores and in manifests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hrformer.data.picture_lists import find_pictures, manifest_rows

fsspec = pytest.importorskip("fsspec")
pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


@pytest.fixture
def bucket() -> Iterator[str]:
    files = fsspec.filesystem("memory")
    for name in ("b.JPG", "a/c.png", "a/notes.txt", "unnamed"):
        files.pipe_file(f"/listed/{name}", b"x")
    yield "memory://listed"
    files.rm("/listed", recursive=True)


def test_folders_patterns_and_single_pictures(bucket: str) -> None:
    assert [name.rpartition("listed/")[2] for name in find_pictures(bucket)] == ["a/c.png", "b.JPG"]
    assert [name.rpartition("listed/")[2] for name in find_pictures(f"{bucket}/*.JPG")] == ["b.JPG"]
    assert find_pictures(f"{bucket}/absent.jpg") == [f"{bucket}/absent.jpg"]
    assert find_pictures(f"{bucket}/unnamed") == [f"{bucket}/unnamed"]
    assert find_pictures(f"{bucket}/none/") == []
    assert all(name.startswith("memory://") for name in find_pictures(bucket))


@pytest.mark.parametrize("column", ["path", "uri"])
def test_rows_keep_their_order_and_relative_paths_start_at_the_manifest(tmp_path: Path, column: str) -> None:
    rows = ["b.jpg", "/a/a.jpg", "s3://x/y.jpg", None, "b.jpg"]
    pq.write_table(pa.table({column: rows, "label": range(5)}), tmp_path / "m.parquet")
    (some,) = manifest_rows(str(tmp_path / "m.parquet"))
    assert some == [f"{tmp_path}/b.jpg", "/a/a.jpg", "s3://x/y.jpg", "", f"{tmp_path}/b.jpg"]


def test_a_manifest_behind_an_address(tmp_path: Path) -> None:
    pq.write_table(pa.table({"uri": pa.array(["a.jpg"]).dictionary_encode()}), tmp_path / "m.parquet")
    files = fsspec.filesystem("memory")
    files.pipe_file("/lists/m.parquet", (tmp_path / "m.parquet").read_bytes())
    assert list(manifest_rows("memory://lists/m.parquet")) == [["memory://lists/a.jpg"]]


@pytest.mark.parametrize(
    "columns",
    [{"file": ["a.jpg"]}, {"path": ["a.jpg"], "uri": ["a.jpg"]}, {"uri": [1]}],
    ids=["neither", "both", "numbers"],
)
def test_a_manifest_of_another_form_is_refused_with_its_columns(tmp_path: Path, columns: dict[str, list]) -> None:
    pq.write_table(pa.table(columns), tmp_path / "m.parquet")
    with pytest.raises(ValueError, match=r"m\.parquet: .*path or uri.*(file|path|uri) \("):
        list(manifest_rows(str(tmp_path / "m.parquet")))


def test_what_is_no_parquet_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.parquet").write_text("path\na.jpg\n")
    with pytest.raises(ValueError, match=r"m\.parquet: .*Parquet"):
        list(manifest_rows(str(tmp_path / "m.parquet")))
    with pytest.raises(FileNotFoundError):
        list(manifest_rows(str(tmp_path / "absent.parquet")))
