"""Where people are: boxes handed over, read from a file, found by a detector, or the whole picture."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import repeat
from pathlib import Path, PurePath
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from hrformer.data.images import LoadedImage
from hrformer.geometry.boxes import clip_boxes_official
from hrformer.wording import shortened

PERSON = 1  # COCO's category id of a person, and torchvision's label
WHOLE = "picture"  # where a detector is named: the whole picture is one person

Detections: TypeAlias = "str | os.PathLike[str] | Iterable[Mapping[str, Any]] | DetectionTable"


class Detector(Protocol):
    """Finds people in one picture; any callable of this form, with arrays, lists or tensors of any number type."""

    def __call__(self, pixels: NDArray[np.uint8]) -> tuple[Any, Any]:
        """(H, W, 3) uint8 RGB -> boxes (N, 4) as (x, y, width, height) in pixels, scores (N,)."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PersonBoxes:
    """Boxes of one picture."""

    # (N, 4) (x, y, width, height) in picture pixels. float32 from detections, as mmpose computes with
    boxes: NDArray[np.floating]
    scores: NDArray[np.floating]  # (N,) in [0, 1]
    compete: bool  # several boxes may lie on one person, so that suppression is called for

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

    A picture is matched by its file name (with or without folder or suffix), or by the number in it, the way COCO
    names files: ``000000000785.jpg`` is image 785.

    Args:
        records: mappings with ``bbox`` [x, y, width, height], ``score``, ``category_id`` (1 = person, others are
            left out; may be absent), and ``image_id`` or ``file_name``; else ValueError.
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
            people = self._by_key.setdefault(key, [])  # the picture is known, even if nobody is in it
            if record.get("category_id", PERSON) == PERSON:
                people.append((box, score))

    @classmethod
    def of(cls, detections: Detections) -> DetectionTable:
        """A table as it is, or one made from a file or records."""
        if isinstance(detections, DetectionTable):
            return detections
        return cls.read(detections) if isinstance(detections, str | os.PathLike) else cls(detections)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> DetectionTable:
        """Read a JSON file: a list of records, or a COCO data set with ``images`` and ``annotations``.

        Labelled boxes are clipped to pictures of known size by ``clip_boxes_official``, as ``PoseSource`` does.
        ValueError if the file is not JSON or not of either form.
        """
        try:
            content = json.loads(Path(path).expanduser().read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{os.fspath(path)} is not JSON: {error}") from error
        if isinstance(content, dict) and "annotations" in content:
            pictures = {image["id"]: image for image in content.get("images", [])}
            content = [_labelled(record, pictures.get(record.get("image_id"), {})) for record in content["annotations"]]
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

    def find(self, name: str | None, threshold: float = 0.0) -> PersonBoxes:
        """Boxes of the picture ``name`` scored ``threshold`` or more; none where the file has none."""
        if name is None:
            raise ValueError("detections are matched by file name: give pictures as paths or URLs, or use boxes")
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
    array = _numbers(boxes, "boxes")
    array = array if array.size else array.reshape(0, 4)
    values = np.ones(len(array)) if scores is None else _numbers(scores, "box_scores").astype(np.float64)
    return PersonBoxes(boxes=array, scores=values, compete=False)


def found_boxes(answer: Any, threshold: float) -> PersonBoxes:
    """What a detector answered for a picture, scored ``threshold`` or more; ValueError if it is not a pair of these."""
    if not isinstance(answer, tuple | list) or len(answer) != 2:
        raise ValueError(
            f"a detector must return a pair: boxes (N, 4) as (x, y, width, height) and scores, got {_shortened(answer)}"
        )
    boxes, scores = _numbers(answer[0], "a detector's boxes"), _numbers(answer[1], "a detector's scores")
    found = PersonBoxes(boxes=boxes if boxes.size else boxes.reshape(0, 4), scores=scores, compete=True)
    kept = scores >= threshold
    return replace(found, boxes=found.boxes[kept], scores=scores[kept])


def _numbers(values: Any, name: str) -> NDArray[np.floating]:
    """Array of a tensor, an array, or rows of either or of numbers; float32 stays so, other types become float64."""
    try:
        if isinstance(values, Tensor):
            values = (values if values.dtype == torch.float32 else values.double()).detach().cpu().numpy()
        elif not isinstance(values, np.ndarray):
            values = np.asarray([row.detach().cpu().double() if isinstance(row, Tensor) else row for row in values])
        array: NDArray[np.floating] = values if values.dtype == np.float32 else values.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be rows of numbers, got {_shortened(values)}") from error
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite, got {_shortened(values)}")
    return array


def pair_with_images(
    images: Iterable[LoadedImage], boxes: Iterable[Any] | None, scores: Iterable[Any] | None
) -> Iterator[tuple[LoadedImage, PersonBoxes]]:
    """Pictures with the caller's boxes for each; ValueError if there are more or fewer entries than pictures."""
    count = 0
    box_rows = repeat(None) if boxes is None else iter(boxes)
    score_rows = repeat(None) if scores is None else iter(scores)
    for image in images:
        try:
            yield image, given_boxes(next(box_rows), next(score_rows), image)
        except StopIteration:
            raise ValueError(f"boxes and box_scores must have one entry per picture; they end after {count}") from None
        count += 1
    for given, rows, name in ((boxes, box_rows, "boxes"), (scores, score_rows, "box_scores")):
        if given is not None and any(True for _ in rows):
            raise ValueError(f"{name} must have one entry per picture: more than {count} for {count}")


def _read_record(record: Mapping[str, Any]) -> tuple[str, list[float], float]:
    name = record.get("file_name")
    key = str(name) if name is not None else str(int(record["image_id"]))
    box = [float(value) for value in record["bbox"]]
    if len(box) != 4 or not np.isfinite(box).all() or min(box[2:]) < 0 or max(box[2:]) <= 0:
        raise ValueError("bbox")
    return key, box, float(record["score"])


def _labelled(record: Mapping[str, Any], picture: Mapping[str, Any]) -> dict[str, Any]:
    """A labelled person as a detection."""
    found = {"score": 1.0, "file_name": picture.get("file_name"), **record}
    try:
        box = clip_boxes_official([record["bbox"]], (picture["width"], picture["height"]))[0].tolist()
    except (KeyError, TypeError, ValueError):
        return found  # no size, or a box that is reported where all are checked
    return found | ({"bbox": box} if max(box[2:]) > 0 else {})


def _keys_of(name: str) -> list[str]:
    """What a record may call the picture, most specific first."""
    path = PurePath(name)
    keys = [name, path.as_posix(), path.name, path.stem]
    digits = path.stem.rpartition("_")[2]
    return [*keys, str(int(digits))] if digits.isdecimal() else keys


def _shortened(value: object) -> str:
    return shortened(repr(value), 160)
