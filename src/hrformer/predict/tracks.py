"""People over time: what a video's joints are kept as, and the Parquet file that holds them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrformer.files import replacing
from hrformer.geometry.skeletons import Skeleton

KIND = b"hrformer.tracks"
"""Key of the Parquet file's metadata under which everything beside the rows stands, as JSON."""

COLUMNS = ("frame", "time", "track", "joint", "x", "y", "score")
ROWS_AT_ONCE = 1 << 16  # People per group of rows, so that writing takes little memory


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """Where joints come from.

    Attributes:
        name: of the video file.
        size: (width, height) of an upright frame in pixels.
        names: K joint names.
        skeleton: limbs, mirror pairs and sigmas; None where the weights do not say.
        settings: what the joints depend on, such as weights and smoothing; plain JSON.
    """

    name: str
    size: tuple[int, int]
    names: tuple[str, ...]
    skeleton: Skeleton | None = None
    settings: dict[str, Any] | None = None

    def to_json(self) -> str:
        """``from_json`` reads it back."""
        values = {"name": self.name, "size": list(self.size), "names": list(self.names), "settings": self.settings}
        return json.dumps(values | {"skeleton": self.skeleton.to_dict() if self.skeleton else None})

    @classmethod
    def from_json(cls, text: str | bytes) -> Source:
        """Rebuild from ``to_json``; ValueError or KeyError for another text."""
        values = json.loads(text)
        skeleton, (width, height) = values["skeleton"], values["size"]
        return cls(
            name=str(values["name"]),
            size=(int(width), int(height)),
            names=tuple(values["names"]),
            skeleton=Skeleton.from_dict(skeleton) if skeleton else None,
            settings=values["settings"],
        )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Tracks:
    """The joints of one video. F frames; N rows, each one person in one frame, by frame, then track; K joints.

    Attributes:
        source: what the video and its joints are.
        numbers: (F,) int64 numbers of the frames, from 0, rising.
        times: (F,) float64 seconds, also of frames without people.
        frames: (N,) int64 number of the frame.
        tracks: (N,) int64 the same number for the same person, from 1.
        keypoints: (N, K, 3) float32: x, y in pixels of the upright frame (integers are pixel centres), and the
            joint's score, a maximum of a heatmap: near 1 when sure, not a probability, and it can be negative.

    Raises:
        ValueError: shapes do not fit together.
    """

    source: Source
    numbers: NDArray[np.int64]
    times: NDArray[np.float64]
    frames: NDArray[np.int64]
    tracks: NDArray[np.int64]
    keypoints: NDArray[np.float32]

    def __post_init__(self) -> None:
        joints, rows = len(self.source.names), len(self.frames)
        if self.numbers.shape != self.times.shape or self.tracks.shape != (rows,):
            raise ValueError(
                f"a time per frame and a track per row: {self.numbers.shape}, {self.times.shape}, {self.tracks.shape}"
            )
        if self.keypoints.shape != (rows, joints, 3):
            raise ValueError(f"{rows} rows of {joints} joints need keypoints (N, K, 3), got {self.keypoints.shape}")

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def row_times(self) -> NDArray[np.float64]:
        """(N,) seconds of each row's frame."""
        return self.times[np.searchsorted(self.numbers, self.frames)]

    def with_keypoints(self, keypoints: NDArray[np.float32]) -> Tracks:
        """The same rows with other joints, such as smoothed ones."""
        return replace(self, keypoints=keypoints)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a Parquet file; ImportError without pyarrow."""
        with tracks_writer(Path(path), self.source) as write:
            for part in self.parts(ROWS_AT_ONCE):
                write(part)

    def parts(self, size: int) -> Iterator[Tracks]:
        """Tracks that follow each other, of ``size`` frames each, so that what is made of them takes little memory."""
        for start in range(0, len(self.numbers), size):
            numbers = self.numbers[start : start + size]
            low, high = np.searchsorted(self.frames, [numbers[0], numbers[-1] + 1])
            rows = slice(int(low), int(high))
            yield replace(
                self,
                numbers=numbers,
                times=self.times[start : start + size],
                frames=self.frames[rows],
                tracks=self.tracks[rows],
                keypoints=self.keypoints[rows],
            )


def joined(parts: Sequence[Tracks], source: Source) -> Tracks:
    """Parts that follow each other as one."""
    joints = len(source.names)
    return Tracks(
        source=source,
        numbers=np.concatenate([np.empty(0, np.int64), *(part.numbers for part in parts)]),
        times=np.concatenate([np.empty(0), *(part.times for part in parts)]),
        frames=np.concatenate([np.empty(0, np.int64), *(part.frames for part in parts)]),
        tracks=np.concatenate([np.empty(0, np.int64), *(part.tracks for part in parts)]),
        keypoints=np.concatenate([np.empty((0, joints, 3), np.float32), *(part.keypoints for part in parts)]),
    )


@contextmanager
def tracks_writer(path: Path, source: Source) -> Iterator[Callable[[Tracks], None]]:
    """A function that appends to a Parquet file, which is there when the context ends without an error.

    One row per joint, with the columns frame, time (s), track, joint (its name), x, y (pixels), score; a frame without
    people is one row whose other columns are null. ImportError without pyarrow.
    """
    pa, pq = arrow()
    schema = _schema(pa, source)
    with replacing(path) as part, pq.ParquetWriter(part, schema, compression="zstd") as writer:

        def write(tracks: Tracks) -> None:
            table = _table(pa, schema, tracks)
            # Else pyarrow begins another group after 1,048,576 rows, in the middle of a person.
            writer.write_table(table, row_group_size=max(table.num_rows, 1))

        yield write


def as_table(tracks: Tracks) -> Any:
    """``pyarrow.Table`` with the rows and columns of the Parquet file; ImportError without pyarrow."""
    pa, _ = arrow()
    return _table(pa, _schema(pa, tracks.source), tracks)


def _schema(pa: Any, source: Source) -> Any:
    fields = [("frame", pa.int64()), ("time", pa.float64()), ("track", pa.int64())]
    fields += [
        ("joint", pa.dictionary(pa.int32(), pa.string())),
        *((name, pa.float32()) for name in ("x", "y", "score")),
    ]
    return pa.schema(fields, metadata={KIND: source.to_json().encode()})


def _table(pa: Any, schema: Any, tracks: Tracks) -> Any:
    """Rows of the Parquet file, by frame, track and joint."""
    joints = len(tracks.source.names)
    frames = np.repeat(tracks.frames, joints)
    empty = np.setdiff1d(tracks.numbers, tracks.frames)
    order = np.argsort(np.concatenate([frames, empty]), kind="stable")
    null = order >= len(frames)
    place = np.where(null, 0, order)
    numbers = np.concatenate([frames, empty])[order]
    values = tracks.keypoints.reshape(-1, 3) if len(frames) else np.zeros((1, 3), np.float32)
    track = np.repeat(tracks.tracks, joints) if len(frames) else np.zeros(1, np.int64)
    joint = pa.array((place % joints).astype(np.int32), mask=null)
    columns = [
        pa.array(numbers),
        pa.array(tracks.times[np.searchsorted(tracks.numbers, numbers)]),
        pa.array(track[place], mask=null),
        pa.DictionaryArray.from_arrays(joint, pa.array(tracks.source.names, pa.string())),
        *(pa.array(values[place, column], mask=null) for column in range(3)),
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def read_tracks(path: str | os.PathLike[str]) -> Tracks:
    """Read what ``Tracks.save`` and ``hrformer predict pose VIDEO`` write.

    Raises:
        ValueError: the file is not of this kind.
        FileNotFoundError: there is no such file.
        ImportError: pyarrow is not installed.
    """
    source, groups = _open(Path(path))
    return joined(list(groups), source)


def stream_tracks(path: str | os.PathLike[str]) -> Iterator[Tracks]:
    """Like :func:`read_tracks`, in parts as they were written, so that a long video needs little memory."""
    return _open(Path(path))[1]


def read_source(path: str | os.PathLike[str]) -> Source:
    """What a file of tracks is about, without its rows; errors as of :func:`read_tracks`."""
    return _open(Path(path))[0]


def _open(path: Path) -> tuple[Source, Iterator[Tracks]]:
    pa, pq = arrow()
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        file = pq.ParquetFile(path)
        source = Source.from_json(file.schema_arrow.metadata[KIND])
        missing = sorted({*COLUMNS} - {*file.schema_arrow.names})
    except (pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} holds no tracks: it must be a Parquet file that hrformer predict pose wrote of a video"
        ) from error
    if missing:
        raise ValueError(f"{path} holds no tracks: it lacks the columns {', '.join(missing)}")
    return source, (_from_table(path, source, file.read_row_group(i)) for i in range(file.num_row_groups))


def _from_table(path: Path, source: Source, table: Any) -> Tracks:
    joints = len(source.names)
    frame, time = (table[name].to_numpy() for name in ("frame", "time"))
    numbers, first = np.unique(frame, return_index=True)
    people = table.filter(table["track"].is_valid())
    if not _complete(people["joint"], source.names):
        raise ValueError(f"{path}: every person must have the joints {', '.join(source.names)} in this order")
    values = np.stack([people[name].to_numpy() for name in ("x", "y", "score")], axis=1)
    return Tracks(
        source=source,
        numbers=numbers.astype(np.int64),
        times=time[first].astype(np.float64),
        frames=people["frame"].to_numpy()[::joints].astype(np.int64),
        tracks=people["track"].to_numpy()[::joints].astype(np.int64),
        keypoints=values.astype(np.float32).reshape(-1, joints, 3),
    )


def _complete(column: Any, names: Sequence[str]) -> bool:
    """Whether a column of text holds all names in their order again and again."""
    encoded = column.dictionary_encode().unify_dictionaries().combine_chunks()
    place = {name: number for number, name in enumerate(encoded.dictionary.to_pylist())}
    found = encoded.indices.to_numpy()
    order = np.array([place.get(name, -1) for name in names])
    return len(found) % len(names) == 0 and bool((found.reshape(-1, len(names)) == order).all())


def arrow() -> tuple[Any, Any]:
    """pyarrow and its module of Parquet files, an optional package; ImportError without it."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError("files of tracks need pyarrow: pip install 'hrformer[video]'") from error
    return pyarrow, pyarrow.parquet
