"""Pictures: the folder that ``hrformer predict pose`` wrote as tracks, and what is known about each picture.

A picture is a frame, in the order of ``images.json``. The people of each are numbered from 1, in their order there:
number 1 of two pictures need not be the same person.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrformer.geometry.skeletons import Skeleton, skeleton_for
from hrformer.predict.tracks import Source, Tracks
from hrformer.wording import listed

PICTURES = "pictures"
"""Key of ``Source.settings`` under which the pictures of the frames stand."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """The picture of a frame: its id in COCO files, its file name, and its size in pixels."""

    id: int
    file_name: str
    width: int
    height: int


def pictures_of(tracks: Tracks) -> list[Picture]:
    """F pictures, one per frame of ``numbers``.

    A folder's are those that were predicted on. A video's are called by its name and the number of the frame, from 0,
    as ``ffmpeg -i clip.mp4 -start_number 0 clip_%012d.jpg`` would write them; the number is the id, too.
    """
    known = (tracks.source.settings or {}).get(PICTURES)
    if known is not None:
        return [Picture(**known[number]) for number in tracks.numbers.tolist()]
    stem, (width, height) = Path(tracks.source.name).stem, tracks.source.size
    names = {number: f"{stem}_{number:012d}.jpg" for number in tracks.numbers.tolist()}
    return [Picture(id=number, file_name=name, width=width, height=height) for number, name in names.items()]


def read_pictures(folder: str | os.PathLike[str], rate: float = 1.0) -> Tracks:
    """Read the folder that ``hrformer predict pose`` wrote of pictures.

    Args:
        folder: with ``images.json`` and ``predictions.json``.
        rate: pictures per second, above 0: frame n is at n / rate seconds.

    Raises:
        FileNotFoundError: a file is absent.
        ValueError: the folder holds results of another task, a record is damaged, or the names of the joints are
            neither in ``images.json`` nor known by their number.
    """
    if not 0 < rate < math.inf:
        raise ValueError(f"rate must be a positive number of pictures per second, got {rate}")
    folder = Path(folder)
    videos = sorted(file.name for file in folder.glob("*.parquet"))
    if videos and not (folder / "images.json").exists():
        raise FileNotFoundError(f"{folder} holds no results of pictures; name a file of tracks in it: {listed(videos)}")
    index = _load(folder / "images.json")
    try:
        task, rows = index["run"]["task"], index["images"]
        pictures = [
            Picture(id=int(r["id"]), file_name=str(r["file_name"]), width=int(r["width"]), height=int(r["height"]))
            for r in rows
        ]
        joints = index.get("joints") or {}
        skeleton = Skeleton.from_dict(joints["skeleton"]) if joints.get("skeleton") else None
        names = tuple(joints.get("names", ()))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{folder / 'images.json'} is not as hrformer predict writes it ({error!r})") from error
    if task != "pose":
        raise ValueError(f"{folder} holds results of the task {task}, which have no joints")
    frames, keypoints = _people(folder / "predictions.json", [picture.id for picture in pictures], len(names))
    if not names:
        skeleton, names = _guessed(folder, keypoints.shape[1])
    firsts = np.searchsorted(frames, frames)
    source = Source(
        name=folder.resolve().name,
        size=(max((one.width for one in pictures), default=0), max((one.height for one in pictures), default=0)),
        names=names,
        skeleton=skeleton,
        settings={PICTURES: [asdict(picture) for picture in pictures], "run": index["run"]},
    )
    numbers = np.arange(len(pictures), dtype=np.int64)
    tracks = np.arange(1, len(frames) + 1, dtype=np.int64) - firsts
    return Tracks(
        source=source, numbers=numbers, times=numbers / rate, frames=frames, tracks=tracks, keypoints=keypoints
    )


def _people(file: Path, ids: Sequence[int], joints: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Frame and joints of each person, by frame; ``joints`` is 0 where their number is not known."""
    frame_of = {image_id: frame for frame, image_id in enumerate(ids)}
    records = _load(file)
    frames, values = [], []
    for place, record in enumerate(records):
        try:
            frame, one = frame_of[record["image_id"]], record["keypoints"]
            person = np.array(one, np.float32)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{file}: record {place} needs image_id, one of images.json, and keypoints ({error!r})"
            ) from error
        joints = joints or len(person) // 3
        if person.shape != (3 * joints,) or not joints or not np.isfinite(person).all():
            raise ValueError(
                f"{file}: record {place}: keypoints must be finite x, y, score of {joints or 'some'} joints"
            )
        frames.append(frame)
        values.append(person)
    order = np.argsort(np.array(frames, np.int64), kind="stable")
    keypoints = np.array(values, np.float32).reshape(len(values), joints, 3)
    return np.array(frames, np.int64)[order], keypoints[order]


def _guessed(folder: Path, joints: int) -> tuple[Skeleton, tuple[str, ...]]:
    """Joints by their number, for folders that were written before the names stood there."""
    skeleton = skeleton_for(joints)
    if skeleton is None:
        raise ValueError(f"{folder / 'images.json'} does not name its {joints} joints; predict again with this version")
    return skeleton, skeleton.keypoints


def _load(file: Path) -> Any:
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file; IN must be a folder that hrformer predict pose wrote")
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is no JSON ({error})") from error
