"""COCO: a list of results, and a file of labels in which each person has a ``track_id``.

Both are written in parts, so that a long video needs little memory. Pixels, y down; thousandths of a pixel and
millionths of a score are kept.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from hrformer.files import replacing
from hrformer.formats.pictures import pictures_of
from hrformer.geometry.oks import JOINT_SCORE_THRESHOLD, rescore
from hrformer.geometry.skeletons import of_people
from hrformer.predict.tracks import Source, Tracks

CATEGORY = 1
VISIBLE = 2
"""COCO's mark of a joint that is labelled and visible; 0 stands for one that is not there, with x and y 0."""

AT_ONCE = 1 << 12  # People that are numbers and text at the same time


def write_coco(tracks: Tracks, path: Path) -> None:
    """Write COCO's results format: a JSON list with image_id, category_id, keypoints and score of each person.

    The K joints are x, y and their own score. A person's score is the mean of the joints' scores above 0.2
    (:func:`hrformer.geometry.oks.rescore`). Ids of images are those of :func:`~hrformer.formats.pictures.pictures_of`;
    track numbers have no place. OSError where the file cannot be written.
    """
    ids = np.array([picture.id for picture in pictures_of(tracks)], np.int64)
    with replacing(path) as part, part.open("w", encoding="utf-8") as file:
        file.write("[")
        _write_items(file, _results(tracks, ids))
        file.write("]\n")


def write_coco_tracks(tracks: Tracks, path: Path) -> None:
    """Write a COCO file of labels: images with ``frame_id`` and ``time``, people with ``track_id``, joints and limbs.

    A joint is visible (2) where its score is above 0.2, else it is ``0, 0, 0``. The box encloses the visible joints,
    area is the box's, score that of the results. As in PoseTrack18 ``frame_id`` is the frame's number, here from 0; ids
    of people count from 1. OSError where the file cannot be written.
    """
    pictures = pictures_of(tracks)
    ids = np.array([picture.id for picture in pictures], np.int64)
    seconds, numbers = tracks.times.tolist(), tracks.numbers.tolist()
    images = [
        asdict(picture) | {"frame_id": number, "time": time}
        for picture, number, time in zip(pictures, numbers, seconds, strict=True)
    ]
    head = {
        "info": {"description": tracks.source.name},
        "categories": [_category(tracks.source)],
        "images": images,
    }
    with replacing(path) as part, part.open("w", encoding="utf-8") as file:
        # The last bracket is left off: the people follow, in parts.
        file.write(_text(head)[:-1] + ',"annotations":[')
        _write_items(file, _labels(tracks, ids))
        file.write("]}\n")


def _results(tracks: Tracks, ids: NDArray[np.int64]) -> Iterator[dict[str, Any]]:
    for part in _parts(tracks):
        values = tracks.keypoints[part]
        scores = np.round(rescore(1.0, values[..., 2]).astype(np.float64), 6).tolist()
        images = ids[np.searchsorted(tracks.numbers, tracks.frames[part])].tolist()
        for image, joints, score in zip(images, _flat(values), scores, strict=True):
            yield {"image_id": image, "category_id": CATEGORY, "keypoints": joints, "score": score}


def _labels(tracks: Tracks, ids: NDArray[np.int64]) -> Iterator[dict[str, Any]]:
    for part in _parts(tracks):
        values = tracks.keypoints[part]
        visible = values[..., 2] > np.float32(JOINT_SCORE_THRESHOLD)
        shown = np.where(visible[..., None], values, 0)
        marks = np.where(visible, VISIBLE, 0).tolist()
        boxes = _boxes(values, visible)
        scores = np.round(rescore(1.0, values[..., 2]).astype(np.float64), 6).tolist()
        images = ids[np.searchsorted(tracks.numbers, tracks.frames[part])].tolist()
        people = zip(images, tracks.tracks[part].tolist(), _flat(shown), marks, boxes.tolist(), scores, strict=True)
        for number, (image, track, joints, mark, box, score) in enumerate(people, start=part.start + 1):
            joints[2::3] = mark
            yield {
                "id": number,
                "image_id": image,
                "category_id": CATEGORY,
                "track_id": track,
                "keypoints": joints,
                "num_keypoints": sum(map(bool, mark)),
                "bbox": box,
                "area": round(box[2] * box[3], 3),
                "iscrowd": 0,
                "score": score,
            }


def _boxes(values: NDArray[np.float32], visible: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(N, 4) x, y, width, height around the visible joints; zeros for a person without any."""
    xy = values[..., :2].astype(np.float64)
    low = np.where(visible[..., None], xy, np.inf).min(axis=1, initial=np.inf)
    high = np.where(visible[..., None], xy, -np.inf).max(axis=1, initial=-np.inf)
    anybody = visible.any(axis=1, keepdims=True)
    low, high = np.where(anybody, low, 0.0), np.where(anybody, high, 0.0)
    return np.round(np.concatenate([low, high - low], axis=1), 3)


def _category(source: Source) -> dict[str, Any]:
    skeleton = source.skeleton
    name = "person" if of_people(skeleton) else skeleton.name if skeleton else "object"
    limbs = [[first + 1, second + 1] for first, second in skeleton.edges] if skeleton else []  # COCO counts from 1
    return {"id": CATEGORY, "name": name, "keypoints": list(source.names), "skeleton": limbs}


def _parts(tracks: Tracks) -> Iterator[slice]:
    return (slice(start, min(start + AT_ONCE, len(tracks))) for start in range(0, len(tracks), AT_ONCE))


def _flat(values: NDArray[np.float32]) -> list[list[Any]]:
    """3 K numbers for each person, without the digits that mean nothing."""
    exact = values.astype(np.float64)
    rounded = np.concatenate([np.round(exact[..., :2], 3), np.round(exact[..., 2:], 6)], axis=-1)
    flat: list[list[Any]] = rounded.reshape(len(values), 3 * values.shape[1]).tolist()
    return flat


def _write_items(file: TextIO, items: Iterator[dict[str, Any]]) -> None:
    """Items of a JSON list, one per line."""
    for place, item in enumerate(items):
        file.write(("," if place else "") + "\n" + _text(item))


def _text(value: Any) -> str:
    """JSON without spaces, in ASCII, since names of files need not be UTF-8."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False)
