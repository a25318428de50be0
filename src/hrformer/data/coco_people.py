"""People of a file in COCO's keypoint format as arrays, from records in whatever way labelling tools write them.

Whatever has no meaning is an error that names record and field. N people, K joints.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrformer.data.coco_file import Pictures, as_number, flat_joints, number_or_nan, said, shown, whole
from hrformer.data.set_types import DataError
from hrformer.geometry.oks import MASK_SHARE
from hrformer.wording import counted

PERSON, CROWD, BARE, OUTSIDE = range(4)
"""Kinds of annotations: people with a labelled joint, whom training sees; crowds; people without joints, who like
crowds count neither way in scoring; and people outside of their picture, who are left out."""

_PLAIN = {int, float}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class People:
    """N people.

    Attributes:
        picture: (N,) place of the picture in the file.
        category: (N,) id of the category; of type object where 64 bits do not hold them.
        box: (N, 4) (x, y, width, height).
        number: (N,) id of the annotation, likewise; -1 for detections.
        row: (N,) place of the annotation in the file's list.
        kind: (N,) ``PERSON``, ``CROWD``, ``BARE`` or ``OUTSIDE``.
        area: (N,) square pixels.
        score: (N,) of detections, 1 for labelled people.
        keypoints: (N, K, 3) x, y, flag 0, 1 or 2; 0 throughout where there are none.
    """

    picture: NDArray[np.int64]
    category: NDArray[Any]
    box: NDArray[np.floating]
    number: NDArray[Any]
    row: NDArray[np.int64]
    kind: NDArray[np.int64]
    area: NDArray[np.float64]
    score: NDArray[np.float64]
    keypoints: NDArray[Any]

    def __len__(self) -> int:
        return len(self.picture)

    def take(self, rows: NDArray[np.bool_]) -> People:
        """Some of them."""
        return People(**{column.name: getattr(self, column.name)[rows] for column in fields(self)})


def integers(values: Sequence[int]) -> NDArray[Any]:
    """(N,) int64, or Python's own integers where 64 bits do not hold them."""
    try:
        return np.array(values, dtype=np.int64)
    except OverflowError:
        return np.array(values, dtype=object)


def read_people(
    records: Sequence[Mapping[str, Any]], pictures: Pictures, categories: set[int], known: set[int], num_keypoints: int
) -> tuple[People, NDArray[np.float64], NDArray[np.bool_], int]:
    """Take in ``annotations`` of some categories, of which ``known`` are all in the file.

    Returns:
        Everybody, how many joints each claims (NaN where it does not say), who has an outline, and how many annotations
        are of unknown categories.

    Raises:
        DataError: an annotation is not as it should be; names the annotation and the field.
    """
    places, default, foreign = pictures.places(), min(categories), 0
    numbers: list[int] = []
    kinds: list[int] = []
    rows: list[tuple[float, ...]] = []
    joints = array("d")
    for row, one in enumerate(records):
        try:
            category = whole(one, "category_id", default=default)
            if category not in categories:
                foreign += category not in known
                continue
            values, crowd = _joints(one, num_keypoints), one.get("iscrowd")
            crowd = crowd if isinstance(crowd, bool) else whole(one, "iscrowd", default=0) != 0
            kind = CROWD if crowd else PERSON if any(values[2::3]) else BARE
            picture = places.get(whole(one, "image_id"))
            if picture is None and kind == PERSON:
                raise DataError(
                    f"'image_id' is {shown(one, 'image_id')}, which is not among the file's 'images'; add the picture "
                    "or remove the annotation"
                )
            if picture is None:
                continue  # nobody misses crowds, or people without joints
            numbers.append(whole(one, "id", default=row))
            rows.append((picture, row, kind, _claimed(one), bool(one.get("segmentation")), _area(one), *_box(one)))
            kinds.append(category)
            joints.extend(values if values and kind != BARE else [0] * (3 * num_keypoints))
        except (DataError, OverflowError) as error:
            where = f"at place {row}" if one.get("id") is None else f"{one['id']!s:.40}"
            what = error if isinstance(error, DataError) else "'bbox' or 'keypoints' hold too large a number"
            raise DataError(f"annotation {where}: {what}") from error
    table = np.array(rows, dtype=np.float64).reshape(-1, 10)
    picture_places, places_in_file, kind_of_each = table[:, :3].T.astype(np.int64)
    people = People(
        picture=picture_places,
        category=integers(kinds),
        box=table[:, 6:].copy(),
        number=integers(numbers),
        row=places_in_file,
        kind=kind_of_each,
        area=table[:, 5].copy(),
        score=np.ones(len(rows)),
        # Not copied: those of COCO are 100 MB.
        keypoints=np.asarray(joints).reshape(-1, num_keypoints, 3),
    )
    return people, table[:, 3], table[:, 4] > 0, foreign


def _joints(one: Mapping[str, Any], joints: int) -> Sequence[float]:
    """The 3 K numbers of a record, NaN for null; empty where there are none."""
    values = flat_joints(one.get("keypoints"))
    if values is None:
        return []
    if isinstance(values, np.ndarray):
        values = values.ravel().tolist()
    if not isinstance(values, (list, tuple)):
        raise DataError(f"'keypoints' must be a list of numbers, got {shown(one, 'keypoints')}")
    if len(values) not in (0, 3 * joints):
        if any(isinstance(value, list | tuple | Mapping) for value in values):
            raise DataError(
                f"'keypoints' must hold x, y and flag (0 not labelled, 1 hidden, 2 visible) of each of the {joints} "
                f"joints, got {shown(one, 'keypoints')}"
            )
        raise DataError(
            f"'keypoints' has {counted(len(values), 'number')}, not 3 x {joints}: x, y and flag of each joint, with 0, "
            "0, 0 for joints without label"
        )
    # Most people of COCO have no joints: 0 throughout.
    if values.count(0) == len(values) or {*map(type, values)} <= _PLAIN:
        return values
    numbers = [number_or_nan(value) for value in values]
    if None in numbers:
        odd = said(values[numbers.index(None)])
        raise DataError(f"'keypoints' must hold numbers, or null for joints without label, got {odd}")
    return numbers  # type: ignore[return-value]


def _claimed(one: Mapping[str, Any]) -> float:
    """The number of joints that a record claims; NaN where it does not say, -1 for what is no count."""
    value = one.get("num_keypoints")
    count = math.nan if value is None else as_number(value)
    return count if value is None or (0 <= count < 2**31 and count.is_integer()) else -1


def _box(one: Mapping[str, Any]) -> Sequence[float]:
    """NaN four times where there is none."""
    box = one.get("bbox")
    if box is None or (isinstance(box, (list, tuple)) and not box):
        return (math.nan,) * 4
    if isinstance(box, (list, tuple, np.ndarray)) and len(box) == 4:
        values = box if {*map(type, box)} <= _PLAIN else [as_number(value) for value in box]
        # The sum of finite numbers is finite, and sooner found.
        if math.isfinite(sum(values)):
            return values  # type: ignore[return-value]
    raise DataError(f"needs a 'bbox' [x, y, width, height] of four finite numbers in pixels, got {shown(one, 'bbox')}")


def _area(one: Mapping[str, Any]) -> float:
    """NaN where there is none, or a word for none."""
    value = one.get("area")
    found = value if type(value) is float else number_or_nan(value)
    if found is not None:
        return found
    if isinstance(value, str) and not any(map(str.isdigit, value)):
        return math.nan
    raise DataError(
        f"'area' must be a number of square pixels, got {shown(one, 'area')}; leave it out, and {MASK_SHARE} x width x "
        "height of the box stands in"
    )
