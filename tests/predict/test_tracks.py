"""Tracks of a video, and the Parquet file that holds them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hrformer.geometry.skeletons import COCO17
from hrformer.predict.tracks import (
    Source,
    Tracks,
    joined,
    read_source,
    read_tracks,
    stream_tracks,
    tracks_writer,
)

SOURCE = Source(name="clip.mp4", size=(640, 480), names=COCO17.keypoints, skeleton=COCO17, settings={"every": 5})


def tracks_of(people: dict[int, list[int]], frames: int = 6, start: int = 0) -> Tracks:
    """People by frame number, with joints that no two share."""
    rows = [(frame, track) for frame in sorted(people) for track in people[frame]]
    values = np.arange(len(rows) * 17 * 3, dtype=np.float32).reshape(-1, 17, 3) / 7 + start
    return Tracks(
        source=SOURCE,
        numbers=np.arange(start, start + frames),
        times=np.arange(start, start + frames) ** 1.5 / 30,
        frames=np.array([frame for frame, _ in rows], np.int64),
        tracks=np.array([track for _, track in rows], np.int64),
        keypoints=values,
    )


def assert_equal(one: Tracks, other: Tracks) -> None:
    for name in ("numbers", "times", "frames", "tracks", "keypoints"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
        assert getattr(one, name).dtype == getattr(other, name).dtype
    assert one.source == other.source


@pytest.mark.parametrize("people", [{0: [1], 2: [1, 2], 5: [2]}, {}, {3: [7]}, {0: [1, 2, 3], 1: [1, 2, 3]}])
def test_a_file_gives_back_what_was_saved(tmp_path: Path, people: dict[int, list[int]]) -> None:
    tracks = tracks_of(people)
    tracks.save(tmp_path / "tracks.parquet")
    assert_equal(read_tracks(tmp_path / "tracks.parquet"), tracks)
    assert read_source(tmp_path / "tracks.parquet") == SOURCE
    assert [file.name for file in tmp_path.iterdir()] == ["tracks.parquet"]


def test_a_part_of_more_than_a_million_rows_reads_back(tmp_path: Path) -> None:
    """At that number pyarrow begins another group of rows unless it is told not to."""
    count = 2**20 // 17 + 1
    tracks = replace(
        tracks_of({}, frames=count),
        frames=np.arange(count),
        tracks=np.ones(count, np.int64),
        keypoints=np.arange(count * 51, dtype=np.float32).reshape(count, 17, 3),
    )
    tracks.save(tmp_path / "tracks.parquet")
    assert_equal(read_tracks(tmp_path / "tracks.parquet"), tracks)


def test_pandas_sees_one_row_per_joint_and_one_for_an_empty_frame(tmp_path: Path) -> None:
    tracks = tracks_of({0: [1], 2: [1, 2]}, frames=3)
    tracks.save(tmp_path / "tracks.parquet")
    table = pq.read_table(tmp_path / "tracks.parquet").to_pandas()
    assert list(table.columns) == ["frame", "time", "track", "joint", "x", "y", "score"]
    assert table["frame"].tolist() == [0] * 17 + [1] + [2] * 34
    assert table["track"].isna().sum() == 1
    row = table[(table["frame"] == 2) & (table["track"] == 2) & (table["joint"] == "left_knee")].iloc[0]
    x, y, score = tracks.keypoints[2, COCO17.keypoints.index("left_knee")]
    assert (row["x"], row["y"], row["score"], row["time"]) == (x, y, score, tracks.times[2])


def test_parts_that_follow_each_other_are_one(tmp_path: Path) -> None:
    parts = [tracks_of({1: [1]}), tracks_of({7: [1, 3]}, start=6)]
    whole = joined(parts, SOURCE)
    whole.save(tmp_path / "tracks.parquet")
    assert_equal(read_tracks(tmp_path / "tracks.parquet"), whole)
    assert_equal(joined([*stream_tracks(tmp_path / "tracks.parquet")], SOURCE), whole)
    np.testing.assert_array_equal(whole.row_times, whole.times[[1, 7, 7]])
    assert len(joined([], SOURCE)) == 0


def test_other_files_are_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "other.parquet"
    pq.write_table(pa.table({"frame": [1]}), file)
    with pytest.raises(ValueError, match=r"other\.parquet holds no tracks"):
        read_tracks(file)
    file.write_bytes(b"no parquet")
    with pytest.raises(ValueError, match=r"other\.parquet holds no tracks"):
        read_tracks(file)
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_tracks(tmp_path / "absent.parquet")


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="need keypoints"):
        replace(tracks_of({0: [1]}), keypoints=np.zeros((1, 3, 3), np.float32))
    with pytest.raises(AttributeError), tracks_writer(tmp_path / "tracks.parquet", SOURCE) as write:
        write(None)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
