"""Detected boxes in COCO's results format."""

from __future__ import annotations

import logging
import math
from array import array
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hrformer.data.coco_fields import as_number, read_json, whole
from hrformer.data.coco_lists import Pictures
from hrformer.data.coco_records import People, integers
from hrformer.data.sets import DataError
from hrformer.wording import counted

_log = logging.getLogger(__name__)


def read_detections(
    file: Path, pictures: Pictures, categories: Collection[int], threshold: float, annotations: Path
) -> People:
    """Boxes in single precision, the reference's: with labelled boxes in double its numbers come out bit for bit.

    Args:
        file: a list of ``image_id``, ``bbox``, ``score``, and ``category_id`` where there are several.
        pictures: of the annotations.
        categories: ids of those to take.
        threshold: boxes scored below it are left out.
        annotations: the file with the pictures, for messages.

    Raises:
        DataError: it is not of this form; names file and entry.
    """
    records = read_json(file)
    if not isinstance(records, list):
        raise DataError(f"{file} must hold a list of detections, as COCO's results format has it")
    places, default = pictures.places(), min(categories)
    rows, numbers, kinds, values, unknown = array("q"), array("q"), [], array("d"), 0
    for row, one in enumerate(records):
        category, score, box = _checked(one, f"{file}: detection {row}", default)
        if category not in categories or score < threshold:
            continue
        number = one["image_id"]
        place = places.get(number if type(number) is int else whole(one, "image_id", f"{file}: detection {row}"))
        if place is None:
            unknown += 1
            continue
        rows.append(row)
        numbers.append(place)
        kinds.append(category)
        values.extend((score, *box))
    if unknown:
        text = "%s: %s of pictures that %s does not list; left out"
        _log.warning(text, file, counted(unknown, "detection"), annotations)
    table = np.array(values).reshape(-1, 5)
    return People(
        row=np.array(rows, dtype=np.int64),
        picture=np.array(numbers, dtype=np.int64),
        number=np.full(len(table), -1),
        category=integers(kinds),
        box=table[:, 1:].astype(np.float32),
        area=np.zeros(len(table)),
        score=table[:, 0].copy(),
        keypoints=None,
    )


def _checked(one: Any, where: str, default: int) -> tuple[int, float, list[float]]:
    """Category, score, and box."""
    if isinstance(one, Mapping) and "image_id" in one:
        category, score, box = one.get("category_id"), as_number(one.get("score")), one.get("bbox")
        if type(category) is not int:
            category = whole(one, "category_id", where, default)
        numbers = [as_number(value) for value in box] if isinstance(box, list) and len(box) == 4 else [math.nan]
        if math.isfinite(score) and math.isfinite(sum(numbers)) and min(numbers[2:]) >= 0 and max(numbers[2:]) > 0:
            return category, score, numbers
    raise DataError(
        f"{where} is not of the form {{'image_id': 785, 'category_id': 1, 'bbox': [x, y, width, height], "
        f"'score': 0.9}}: {one!r:.160}"
    )
