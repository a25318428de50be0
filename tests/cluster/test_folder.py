"""The folder of a job: what counts after a death at any moment, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hrformer.cluster.folder import SMALLEST, ClusterError, JobFolder
from hrformer.cluster.rows import table_of

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

RUN = {"task": "classification", "weights": "a"}


def prepared(folder: JobFolder, names: list[str], *, resume: bool = False, run: dict | None = None) -> int:
    return folder.prepare(run or RUN, iter([names[:7], names[7:]]), names=(), resume=resume, largest=1000)


def write(folder: JobFolder, base: str, ids: list[int], *, checkpoint: str = ".parquet", results: bool = True) -> None:
    """What Ray Data leaves of one file of results."""
    rows = [{"id": i, "uri": f"{i}.jpg", "error": "x" if i == 3 else None} for i in ids]
    folder.results.mkdir(exist_ok=True)
    (folder.finished / "attempt").mkdir(exist_ok=True, parents=True)
    if results:
        pq.write_table(table_of("classification", rows), folder.results / f"{base}-0.parquet")
    if checkpoint:
        pq.write_table(pa.table({"id": pa.array(ids, pa.int64())}), folder.finished / "attempt" / f"{base}{checkpoint}")


def ids_of(folder: JobFolder) -> list[int]:
    return sorted(i for file in folder.results.iterdir() for i in pq.read_table(file)["id"].to_pylist())


@pytest.fixture
def folder(tmp_path: Path) -> JobFolder:
    return JobFolder(tmp_path / "a job")


def test_the_list_is_cut_into_parts_with_numbers(folder: JobFolder) -> None:
    names = [f"{i}.jpg" for i in range(2 * SMALLEST + 3)]
    assert prepared(folder, names) == len(names)
    tables = [pq.read_table(part) for part in sorted(folder.inputs.glob("*.parquet"))]
    assert [len(table) for table in tables] == [SMALLEST, SMALLEST, 3]
    listed = pa.concat_tables(tables)
    assert listed["id"].to_pylist() == list(range(len(names)))
    assert listed["uri"].to_pylist() == names


def test_a_name_of_other_bytes_than_utf8_can_be_listed(folder: JobFolder) -> None:
    prepared(folder, ["a.jpg", "\udcff.jpg"])
    (part,) = folder.inputs.glob("*.parquet")
    assert pq.read_table(part)["uri"].to_pylist() == ["a.jpg", "\\udcff.jpg"]


@pytest.mark.parametrize(
    "left",
    [
        {"checkpoint": ".pending.parquet", "results": False},
        {"checkpoint": ".pending.parquet"},
        {"checkpoint": ""},
        {"results": False},
    ],
    ids=["before the results", "before the commit", "a late worker's results", "results are gone"],
)
def test_what_a_death_leaves_is_removed_and_done_again(folder: JobFolder, left: dict) -> None:
    number = prepared(folder, [f"{i}.jpg" for i in range(SMALLEST + 4)])
    write(folder, "x_000000", list(range(10)))
    write(folder, "x_000001", [10, 11], **left)
    folder.settle()
    assert ids_of(folder) == list(range(10))
    assert folder.done() == 10
    (first, rest), (second, all_of_it) = folder.left(number)
    assert np.flatnonzero(rest).tolist() == list(range(10, SMALLEST))
    assert all_of_it.tolist() == [True] * 4
    assert [first, second] == sorted(folder.inputs.glob("*.parquet"))


def test_a_second_attempt_at_a_file_that_was_cut_off_is_removed_with_the_first(folder: JobFolder) -> None:
    prepared(folder, [f"{i}.jpg" for i in range(4)])
    write(folder, "x_000000", [0, 1])
    write(folder, "x_000001", [2, 3])
    write(folder, "x_000001", [2, 3], checkpoint=".pending.parquet")
    folder.settle()
    assert ids_of(folder) == [0, 1]
    assert folder.done() == 2


def test_parts_that_are_finished_are_not_read_again(folder: JobFolder) -> None:
    number = prepared(folder, [f"{i}.jpg" for i in range(SMALLEST + 1)])
    write(folder, "x_000000", list(range(SMALLEST)))
    assert [part.name for part, _ in folder.left(number)] == [f"{SMALLEST:012}.parquet"]


def test_doubled_rows_of_a_late_worker_are_removed_at_the_end(folder: JobFolder) -> None:
    number = prepared(folder, [f"{i}.jpg" for i in range(6)])
    write(folder, "x_000000", [0, 1, 2, 3])
    write(folder, "y_000000", [2, 3, 4, 5])
    folder.close(number)
    assert ids_of(folder) == list(range(6))
    assert folder.errors(5) == (1, [("3.jpg", "x")])


def test_a_missing_row_is_an_error_at_the_end(folder: JobFolder) -> None:
    number = prepared(folder, [f"{i}.jpg" for i in range(6)])
    write(folder, "x_000000", [0, 1, 2, 5])
    with pytest.raises(ClusterError, match="2 of 6 pictures have no row"):
        folder.close(number)


def test_an_earlier_job_is_neither_replaced_nor_mixed_with_another(folder: JobFolder) -> None:
    prepared(folder, ["a.jpg"])
    with pytest.raises(ValueError, match="--resume"):
        prepared(folder, ["a.jpg"])
    with pytest.raises(ValueError, match=r"weights a, this one has weights b"):
        prepared(folder, ["a.jpg"], resume=True, run=RUN | {"weights": "b"})
    assert prepared(folder, ["not asked for", "b.jpg"], resume=True) == 1
    folder.record.write_text("{")
    with pytest.raises(ValueError, match=r"run\.json"):
        prepared(folder, ["a.jpg"], resume=True)


@pytest.mark.parametrize("name", ["inputs", "results", "finished"])
def test_a_folder_with_something_else_is_left_alone(folder: JobFolder, name: str) -> None:
    picture = folder.folder / name / "a.jpg"
    picture.parent.mkdir(parents=True)
    picture.write_bytes(b"mine")
    with pytest.raises(ValueError, match=f"{name} is there already"):
        prepared(folder, ["a.jpg"])
    assert picture.read_bytes() == b"mine"


def test_an_empty_list_leaves_nothing_behind(folder: JobFolder) -> None:
    folder.folder.mkdir()
    with pytest.raises(ValueError, match="no pictures"):
        prepared(folder, [])
    assert list(folder.folder.iterdir()) == []


def test_one_driver_at_a_time(folder: JobFolder) -> None:
    with folder.locked(), pytest.raises(ValueError, match="in use"), folder.locked():
        pass
    with folder.locked():
        pass
