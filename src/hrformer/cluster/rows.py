"""Results as rows of Parquet files: small, without the picture, with an error where there is no result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hrformer.predict.results import Classification, Keypoints, Result, encode_picture

ID = "id"
"""Column with the number of a picture in the list of inputs, from 0."""

MOST_ROWS = {"classification": 16_384, "pose": 4_096, "segmentation": 1_024}
"""Rows in a file of results, some megabytes: they go through the object store as one."""


def schema_of(task: str) -> Any:
    """The ``pyarrow.Schema`` of a task's rows.

    All have ``id`` (int64), ``uri`` (as listed), ``width`` and ``height`` (int32, pixels of the upright picture, null
    where it could not be read) and ``error`` (null where there is a result). Then come, null beside an error:

    - classification: ``class_ids``, ``labels``, ``probabilities``, lists of equal length, best first.
    - pose: ``keypoints``, per person 3 K float32, x, y in pixels and score by joint; ``scores``, ``boxes`` (x, y,
      width, height in pixels) and ``box_scores`` of the people, see ``hrformer.predict.results.Keypoints``.
    - segmentation: ``class_ids``, ``labels``, ``shares`` of the classes that occur, largest first, and ``mask``, a PNG
      file of class ids.

    ImportError without pyarrow.
    """
    import pyarrow as pa

    names, scores = pa.list_(pa.string()), pa.list_(pa.float64())
    of_task = {
        "classification": [("class_ids", pa.list_(pa.int32())), ("labels", names), ("probabilities", scores)],
        "pose": [
            ("keypoints", pa.list_(pa.list_(pa.float32()))),
            ("scores", scores),
            ("boxes", pa.list_(pa.list_(pa.float64()))),
            ("box_scores", scores),
        ],
        "segmentation": [
            ("class_ids", pa.list_(pa.int32())),
            ("labels", names),
            ("shares", scores),
            ("mask", pa.binary()),
        ],
    }[task]
    common = [(ID, pa.int64()), ("uri", pa.string()), ("width", pa.int32()), ("height", pa.int32())]
    return pa.schema([*common, ("error", pa.string()), *of_task])


def row_of(result: Result) -> dict[str, Any]:
    """A result as the values of a row, ``id`` and ``uri`` aside; ValueError if a mask cannot be written as PNG."""
    height, width = result.image.shape[:2]
    row: dict[str, Any] = {"width": width, "height": height, "error": None}
    if isinstance(result, Classification):
        return row | {
            "class_ids": list(result.class_ids),
            "labels": list(result.labels),
            "probabilities": list(result.probabilities),
        }
    if isinstance(result, Keypoints):
        people = len(result)
        return row | {
            "keypoints": list(result.keypoints.reshape(people, int(np.prod(result.keypoints.shape[1:])))),
            "scores": result.scores,
            "boxes": list(result.boxes),
            "box_scores": result.box_scores,
        }
    shares = result.shares()
    return row | {
        "class_ids": [*shares],
        "labels": [result.name_of(class_id) for class_id in shares],
        "shares": [*shares.values()],
        "mask": encode_picture(result.mask, ".png"),
    }


def table_of(task: str, rows: Sequence[Mapping[str, Any]]) -> Any:
    """A ``pyarrow.Table`` of rows; columns that a row lacks are null in it."""
    import pyarrow as pa

    schema = schema_of(task)
    columns = [pa.array([row.get(name) for row in rows], schema.field(name).type) for name in schema.names]
    return pa.Table.from_arrays(columns, schema=schema)
