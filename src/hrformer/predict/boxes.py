"""Where people are: boxes handed over, read from a detections file, or the whole picture."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path, PurePath
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hrformer.data.images import LoadedImage

PERSON = 1
"""COCO's category id of a person."""


class Detector(Protocol):
    """Finds people in one picture; any callable of this form will do."""

    def __call__(self, pixels: NDArray[np.uint8]) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        """(H, W, 3) uint8 RGB -> boxes (N, 4) as (x, y, width, height) in pixels, scores (N,)."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PersonBoxes:
    """Boxes of one picture.

    Attributes:
        boxes: (N, 4) (x, y, width, height) in picture pixels. float32 from detections, as mmpose computes with.
        scores: (N,) in [0, 1].
        compete: several boxes may lie on one person, so that suppression is called for.
    """

    boxes: NDArray[np.floating]
    scores: NDArray[np.floating]
    compete: bool

    def __post_init__(self) -> None:
        if self.boxes.ndim != 2 or self.boxes.shape[1] != 4:
            raise ValueError(
                f"boxes of a picture must have shape (N, 4) as (x, y, width, height), got {self.boxes.shape}; "
                "give one such array per picture"
            )
        if self.scores.shape != (len(self.boxes),):
            raise ValueError(f"{len(self.boxes)} boxes need as many scores, got shape {self.scores.shape}")


class DetectionTable:
    """Person boxes by picture, from the COCO results format.

    Args:
        records: mappings with ``bbox`` [x, y, width, height], ``score``, ``category_id`` (1 = person, others are
            left out; may be absent), and ``image_id`` or ``file_name``.

    A picture is matched by its file name (with or without folder or suffix), or by the number in it, the way COCO
    names files: ``000000000785.jpg`` is image 785.

    Raises:
        ValueError: a record lacks a field or has a wrong one.
    """

    def __init__(self, records: Iterable[Mapping[str, Any]]) -> None:
        self._by_key: dict[str, list[tuple[list[float], float]]] = {}
        for number, record in enumerate(records):
            try:
                key, box, score = _read_record(record)
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                raise ValueError(
                    f"detection {number} is not of the form {{'image_id': 785, 'category_id': 1, "
                    f"'bbox': [x, y, width, height], 'score': 0.9}}: {_shortened(record)}"
                ) from error
            if record.get("category_id", PERSON) == PERSON:
                self._by_key.setdefault(key, []).append((box, score))
            else:
                # The picture is known, though nobody is in it.
                self._by_key.setdefault(key, [])

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> DetectionTable:
        """Read a JSON file: a list of records, or a COCO data set with ``images`` and ``annotations``.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is not JSON or not of either form.
        """
        try:
            content = json.loads(Path(path).expanduser().read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{os.fspath(path)} is not JSON: {error}") from error
        if isinstance(content, dict) and "annotations" in content:
            names = {image["id"]: image["file_name"] for image in content.get("images", [])}
            content = [
                {"score": 1.0, "file_name": names.get(record.get("image_id")), **record}
                for record in content["annotations"]
            ]
        if not isinstance(content, list):
            raise ValueError(f"{os.fspath(path)} must hold a list of detections, found {type(content).__name__}")
        try:
            return cls(content)
        except ValueError as error:
            raise ValueError(f"{os.fspath(path)}: {error}") from error

    def __len__(self) -> int:
        return len(self._by_key)

    def has(self, name: str) -> bool:
        """Whether the file mentions this picture."""
        return any(key in self._by_key for key in _keys_of(name))

    def find(self, name: str, threshold: float = 0.0) -> PersonBoxes:
        """Boxes of the picture ``name`` scored ``threshold`` or more; none where the file has none."""
        rows = next((self._by_key[key] for key in _keys_of(name) if key in self._by_key), [])
        kept = [(box, score) for box, score in rows if score >= threshold]
        return PersonBoxes(
            boxes=np.array([box for box, _ in kept], dtype=np.float32).reshape(-1, 4),
            scores=np.array([score for _, score in kept], dtype=np.float32),
            compete=True,
        )


def given_boxes(boxes: ArrayLike | None, scores: ArrayLike | None, image: LoadedImage) -> PersonBoxes:
    """Boxes from the caller, with score 1 unless scores come along; None means the whole picture."""
    if boxes is None:
        width, height = image.size
        boxes, scores = [[0.0, 0.0, width, height]], None
    array = np.asarray(boxes)
    if array.size == 0:
        array = array.reshape(0, 4)
    if not np.issubdtype(array.dtype, np.floating):
        array = array.astype(np.float64)
    values = np.ones(len(array)) if scores is None else np.asarray(scores, dtype=np.float64)
    return PersonBoxes(boxes=array, scores=values, compete=False)


def pair_with_images(
    images: Iterable[LoadedImage], boxes: Sequence[Any] | None, scores: Sequence[Any] | None
) -> Iterator[tuple[LoadedImage, PersonBoxes]]:
    """Pictures with the caller's boxes for each.

    Raises:
        ValueError: there are more or fewer entries than pictures.
    """
    count = 0
    box_rows = repeat(None) if boxes is None else iter(boxes)
    score_rows = repeat(None) if scores is None else iter(scores)
    for image in images:
        try:
            yield image, given_boxes(next(box_rows), next(score_rows), image)
        except StopIteration:
            raise ValueError(f"boxes and box_scores must have one entry per picture; they end after {count}") from None
        count += 1
    if boxes is not None and len(boxes) != count:
        raise ValueError(f"boxes must have one entry per picture: {len(boxes)} for {count}")


def _read_record(record: Mapping[str, Any]) -> tuple[str, list[float], float]:
    name = record.get("file_name")
    key = str(name) if name is not None else str(int(record["image_id"]))
    box = [float(value) for value in record["bbox"]]
    if len(box) != 4 or not np.isfinite(box).all() or min(box[2:]) < 0 or max(box[2:]) <= 0:
        raise ValueError("bbox")
    return key, box, float(record["score"])


def _keys_of(name: str) -> list[str]:
    """What a record may call the picture, most specific first."""
    path = PurePath(name)
    keys = [name, path.as_posix(), path.name, path.stem]
    digits = path.stem.rpartition("_")[2]
    return [*keys, str(int(digits))] if digits.isdecimal() else keys


def _shortened(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 160 else text[:157] + "..."
