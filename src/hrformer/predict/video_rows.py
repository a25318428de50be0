"""Results of a video's frames as rows of a table, one per frame, which later steps read back."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from hrformer.data.draw import draw_classification, draw_keypoints, draw_segmentation
from hrformer.files import replacing
from hrformer.geometry.skeletons import Skeleton
from hrformer.models.model import ModelInfo
from hrformer.predict.pose import PosePredictor
from hrformer.predict.predictors import AnyPredictor
from hrformer.predict.results import Classification, Keypoints, Result, encode_picture
from hrformer.predict.tracks import KIND, Source, Tracks, arrow
from hrformer.predict.video import Follower, VideoFrame
from hrformer.video.reading import Video
from hrformer.video.smoothing import in_windows, zero_phase

RESULTS = b"hrformer.video"
"""Key of a Parquet file's metadata under which notes stand as JSON: a part's state, or what a table is about."""

COLUMNS: dict[str, dict[str, str]] = {
    "pose": {"boxes": "float64", "box_scores": "float64", "scores": "float64", "joints": "float32"},
    "segmentation": {"class_ids": "int32", "shares": "float64", "mask": "binary"},
    "classification": {"class_ids": "int32", "probabilities": "float64"},
}
"""Columns beside frame and time by task: lists of numbers, or bytes."""


def row_of(number: int, time: float, result: Result) -> dict[str, Any]:
    """The result of one frame, of its number and seconds, as a row."""
    row: dict[str, Any] = {"frame": number, "time": time}
    if isinstance(result, Keypoints):
        values = {"boxes": result.boxes, "box_scores": result.box_scores, "scores": result.scores}
        return row | {name: array.ravel() for name, array in values.items()} | {"joints": result.keypoints.ravel()}
    if isinstance(result, Classification):
        return row | {"class_ids": result.class_ids, "probabilities": result.probabilities}
    shares = result.shares()
    return row | {"class_ids": [*shares], "shares": [*shares.values()], "mask": encode_picture(result.mask, ".png")}


def tracks_of(parts: Iterable[list[dict[str, Any]]], follower: Follower, source: Source) -> Iterator[Tracks]:
    """Tracks of the rows of pose, part by part."""
    joints = len(source.names)
    for rows in parts:
        frames, numbers, points = [], [], []
        for row in rows:
            people = np.asarray(row["joints"], np.float32).reshape(-1, joints, 3)
            boxes = np.asarray(row["boxes"], np.float64).reshape(-1, 4)
            found, _, smooth = follower.follow(row["time"], people, boxes, np.asarray(row["scores"], np.float64))
            frames.append(np.full(len(found), row["frame"], np.int64))
            numbers.append(found)
            points.append(smooth)
        yield Tracks(
            source=source,
            numbers=np.array([row["frame"] for row in rows], np.int64),
            times=np.array([row["time"] for row in rows], np.float64),
            frames=np.concatenate([np.empty(0, np.int64), *frames]),
            tracks=np.concatenate([np.empty(0, np.int64), *numbers]),
            keypoints=np.concatenate([np.empty((0, joints, 3), np.float32), *points]),
        )


def tracks_of_frames(frames: Sequence[VideoFrame[Keypoints]], source: Source) -> Tracks:
    """Results of frames that follow each other as one part."""
    joints = len(source.names)
    counts = [len(frame.tracks) for frame in frames]
    numbers = np.array([frame.number for frame in frames], np.int64)
    return Tracks(
        source=source,
        numbers=numbers,
        times=np.array([frame.time for frame in frames], np.float64),
        frames=np.repeat(numbers, counts),
        tracks=np.concatenate([np.empty(0, np.int64), *(frame.tracks for frame in frames)]),
        keypoints=np.concatenate([np.empty((0, joints, 3), np.float32), *(frame.result.keypoints for frame in frames)]),
    )


def without_tremble(parts: Iterable[Tracks], cutoff: float) -> Iterator[Tracks]:
    """The tracks of a video through :func:`zero_phase`, part by part; ``cutoff`` in Hz."""
    # After 12 / cutoff seconds the filter has forgotten all but 1e-20 of what was.
    for window, place in in_windows(iter(parts), max(2.0, 12 / cutoff)):
        part, begin = window[place], sum(len(one) for one in window[:place])
        times, points, tracks = (
            np.concatenate([getattr(one, name) for one in window]) for name in ("row_times", "keypoints", "tracks")
        )
        smooth = zero_phase(times, points, tracks, cutoff)
        yield part.with_keypoints(smooth[begin : begin + len(part)])


def draw_tracks(pixels: Any, tracks: Tracks, number: int) -> Any:
    """The people of one frame of a part with their numbers, drawn in a new picture; see ``draw_keypoints``."""
    low, high = np.searchsorted(tracks.frames, [number, number + 1])
    source = tracks.source
    return _draw_people(pixels, tracks.keypoints[low:high], tracks.tracks[low:high], source.names, source.skeleton)


def draw_frame(frame: VideoFrame[Any]) -> Any:
    """The result of a frame drawn in a new picture, people with their numbers."""
    result = frame.result
    if not isinstance(result, Keypoints):
        return result.draw()
    return _draw_people(result.image, result.keypoints, frame.tracks, result.names, result.skeleton)


def _draw_people(pixels: Any, points: Any, numbers: Any, names: Sequence[str], skeleton: Skeleton | None) -> Any:
    # The caption stands at the corner of the joints.
    places = points[..., :2].min(axis=1)
    options: dict[str, Any] = {"names": names, "skeleton": skeleton, "captions": [str(one) for one in numbers]}
    return draw_keypoints(pixels, points, np.ones(len(points)), places, min_score=0, **options)


def draw_row(pixels: Any, row: dict[str, Any], info: ModelInfo) -> Any:
    """The row of a mask or of classes, drawn in a new picture as the results of pictures are."""
    if "mask" in row:
        mask = cv2.imdecode(np.frombuffer(row["mask"], np.uint8), cv2.IMREAD_UNCHANGED)
        return draw_segmentation(pixels, np.asarray(mask), class_names=info.class_names, palette=info.palette)
    names = [info.class_names[i] if i < len(info.class_names) else str(i) for i in row["class_ids"]]
    return draw_classification(pixels, names, row["probabilities"])


@contextmanager
def rows_writer(
    path: Path, predictor: AnyPredictor, video: Video, run: dict[str, Any]
) -> Iterator[Callable[[list[dict[str, Any]]], None]]:
    """A function that appends rows of frames to a Parquet file."""
    (pa, pq), info = arrow(), predictor.info
    names = {"video": video.name, "class_names": info.class_names, "palette": info.palette, "run": run}
    schema = schema_of(predictor.task, names)
    with replacing(path) as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
        yield lambda rows: writer.write_table(pa.Table.from_pylist(rows, schema=schema))


def schema_of(task: str, notes: dict[str, Any]) -> Any:
    """The ``pyarrow.Schema`` of a task's rows, with notes that are JSON."""
    pa = arrow()[0]
    fields = [("frame", pa.int64()), ("time", pa.float64())]
    for name, kind in COLUMNS[task].items():
        fields.append((name, pa.binary() if kind == "binary" else pa.list_(getattr(pa, kind)())))
    return pa.schema(fields, metadata={RESULTS: json.dumps(notes).encode()})


def rows_of(file: Path) -> Iterator[list[dict[str, Any]]]:
    """Rows of a table, as they were written."""
    table = arrow()[1].ParquetFile(file)
    return (table.read_row_group(number).to_pylist() for number in range(table.num_row_groups))


def notes_of(file: Path) -> dict[str, Any]:
    """The notes of a file's schema; ValueError or an error of pyarrow where it has none."""
    metadata = arrow()[1].read_schema(file).metadata or {}
    if RESULTS not in metadata:
        raise ValueError(f"{file} holds no results of a video")
    notes: dict[str, Any] = json.loads(metadata[RESULTS])
    return notes


def run_of(file: Path) -> dict[str, Any] | None:
    """What the results of a video in a file depend on, joints or not; None for whatever else the file is."""
    pa, pq = arrow()
    try:
        metadata = pq.read_schema(file).metadata or {}
        found = Source.from_json(metadata[KIND]).settings if KIND in metadata else json.loads(metadata[RESULTS])["run"]
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError):
        return None
    return dict(found or {})


def source_of(predictor: PosePredictor, video: Video, settings: dict[str, Any]) -> Source:
    """What the tracks of a video are about."""
    return Source(
        name=video.name,
        size=video.size,
        names=predictor.joint_names,
        skeleton=predictor.info.skeleton,
        settings=settings | {"rate": video.rate},
    )
