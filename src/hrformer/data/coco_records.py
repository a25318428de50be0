"""People of a file in COCO's keypoint format, put right once for training, scoring and inspection.

Labelling tools differ in how they write numbers, areas, boxes and joints without label; what is meant is taken, and
said once per file. Whatever has no meaning is an error that names file, record and field. N people, K joints.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrformer.data.coco_boxes import boxes_around
from hrformer.data.coco_fields import as_number, flat_joints, number_or_nan, said, shown, whole
from hrformer.data.coco_lists import Pictures
from hrformer.data.sets import DataError, Note
from hrformer.geometry.oks import MASK_SHARE
from hrformer.wording import counted

SMALLEST_SHARE, LARGEST_SHARE = 0.01, 1.5
"""Areas outside of these shares of the box are none of the person's."""

_PLAIN = {int, float}
_UNSAID, _NONSENSE = -1, -2
"""Stand for a ``num_keypoints`` that is missing, and for one that is no count."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class People:
    """N people.

    Attributes:
        row: (N,) place in the file's list, -1 for detections.
        picture: (N,) place of the picture in the file.
        number: (N,) id of the annotation, -1 for detections; of type object where 64 bits do not hold them.
        category: (N,) id of the category, likewise.
        box: (N, 4) (x, y, width, height).
        area: (N,) square pixels.
        score: (N,) 1 for labelled people.
        keypoints: (N, K, 3) x, y, flag 0, 1 or 2; None where nobody has joints.
    """

    row: NDArray[np.int64]
    picture: NDArray[np.int64]
    number: NDArray[Any]
    category: NDArray[Any]
    box: NDArray[np.floating]
    area: NDArray[np.float64]
    score: NDArray[np.float64]
    keypoints: NDArray[np.float64] | None

    def __len__(self) -> int:
        return len(self.picture)

    def take(self, rows: NDArray[np.integer] | NDArray[np.bool_]) -> People:
        """Some of them, in another order."""
        return People(
            row=self.row[rows],
            picture=self.picture[rows],
            number=self.number[rows],
            category=self.category[rows],
            box=self.box[rows],
            area=self.area[rows],
            score=self.score[rows],
            keypoints=None if self.keypoints is None else self.keypoints[rows],
        )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Labels:
    """Everybody of the categories looked at.

    Attributes:
        people: no crowds, with a labelled joint: those that training sees.
        crowds: with joints, all 0 where they have none.
        bare: people without joints; together with the crowds they count neither way in scoring.
        notes: what was put right.
    """

    people: People
    crowds: People
    bare: People
    notes: tuple[Note, ...] = ()


class PeopleReader:
    """Takes in annotations one after another.

    Args:
        pictures: of the file.
        categories: ids of those to look at.
        listed: ids of all categories of the file.
        num_keypoints: K.
        file: what to call it in messages.
    """

    def __init__(
        self, pictures: Pictures, categories: Sequence[int], listed: Sequence[int], num_keypoints: int, file: str
    ) -> None:
        self._places, self._file, self._length = pictures.places(), file, 3 * num_keypoints
        self._taken, self._listed = frozenset(categories), frozenset(listed)
        self._default = min(categories)
        self._people, self._crowds, self._bare = _Columns(), _Columns(), _Columns()
        self._foreign = 0

    def add(self, row: int, one: Any) -> None:
        """Take in the annotation at place ``row`` of the file.

        Raises:
            DataError: it is not as it should be; names the annotation and the field.
        """
        if not isinstance(one, dict) and not isinstance(one, Mapping):
            raise DataError(f"{self._file}: entry {row} of 'annotations' must be an object, got {one!r:.80}")
        category = one.get("category_id")
        if type(category) is not int:
            category = whole(one, "category_id", self._where(row, one), self._default)
        if category not in self._taken:
            self._foreign += category not in self._listed
            return
        flags, crowd = self.joints(row, one), one.get("iscrowd")
        if crowd is not None and crowd is not False and crowd != 0:
            crowd = self._crowd(row, one)
        columns = self._crowds if crowd else self._people if any(flags[2::3]) else self._bare
        place = self._picture(row, one, needed=columns is self._people)
        if place < 0:
            return
        number = one.get("id")
        columns.numbers.append(number if type(number) is int else whole(one, "id", self._where(row, one), row))
        columns.categories.append(category)
        claimed, area = one.get("num_keypoints"), one.get("area")
        claimed = claimed if type(claimed) is int and 0 <= claimed <= self._length else _claimed(claimed)
        columns.integers.extend((row, place, claimed, bool(one.get("segmentation"))))
        try:
            columns.reals.extend(self._box(row, one))
            columns.reals.append(area if type(area) is float else self._area(row, one))
            if columns is not self._bare:
                columns.joints.extend(flags or [0] * self._length)
        except OverflowError:
            raise DataError(f"{self._where(row, one)}: 'bbox', 'area' or 'keypoints' hold too large a number") from None

    def joints(self, row: int, one: Mapping[str, Any]) -> list[Any]:
        """The 3 K numbers of a record, NaN for null; empty where there are none.

        Raises:
            DataError: there are more or fewer, or something else.
        """
        flags = flat_joints(one.get("keypoints"))
        if isinstance(flags, np.ndarray):
            flags = flags.ravel().tolist()
        if flags is None or (isinstance(flags, list | tuple) and not flags):
            return []
        if not isinstance(flags, list | tuple):
            raise DataError(
                f"{self._where(row, one)}: 'keypoints' must be a list of numbers, got {shown(one, 'keypoints')}"
            )
        if len(flags) != self._length:
            if any(isinstance(value, list | tuple | Mapping) for value in flags):
                raise DataError(
                    f"{self._where(row, one)}: 'keypoints' must hold x, y and flag (0 not labelled, 1 hidden, 2 "
                    f"visible) of each of the {self._length // 3} joints, got {shown(one, 'keypoints')}"
                )
            raise DataError(
                f"{self._where(row, one)} has {counted(len(flags), 'number')} in 'keypoints', not 3 x "
                f"{self._length // 3}: x, y and flag of each joint, with 0, 0, 0 for joints without label"
            )
        # Most people of COCO have no joints: 0 throughout.
        if flags.count(0) == self._length or set(map(type, flags)) <= _PLAIN:
            return list(flags) if isinstance(flags, tuple) else flags
        return [self._joint(value, row, one) for value in flags]

    def _joint(self, value: Any, row: int, one: Mapping[str, Any]) -> float:
        found = number_or_nan(value)
        if found is None:
            raise DataError(
                f"{self._where(row, one)}: 'keypoints' must hold numbers, or null for joints without label, "
                f"got {said(value)}"
            )
        return found

    def _crowd(self, row: int, one: Mapping[str, Any]) -> bool:
        return one["iscrowd"] is True or whole(one, "iscrowd", self._where(row, one)) != 0

    def _picture(self, row: int, one: Mapping[str, Any], needed: bool) -> int:
        """Place of the picture; -1 where the file does not list it and nobody misses it."""
        number = one.get("image_id")
        if type(number) is not int:
            number = whole(one, "image_id", self._where(row, one))
        place = self._places.get(number, -1)
        if place < 0 and needed:
            raise DataError(
                f"{self._where(row, one)} is of picture {shown(one, 'image_id')} ('image_id'), which is not among the "
                "file's 'images'; add the picture or remove the annotation"
            )
        return place

    def _box(self, row: int, one: Mapping[str, Any]) -> Sequence[float]:
        """NaN four times where there is none."""
        box = one.get("bbox")
        if box is None or (isinstance(box, list | tuple) and not box):
            return (math.nan,) * 4
        if isinstance(box, list | tuple | np.ndarray) and len(box) == 4:
            values = box if set(map(type, box)) <= _PLAIN else [as_number(value) for value in box]
            # The sum of finite numbers is finite, and sooner found.
            if math.isfinite(sum(values)):
                return values  # type: ignore[return-value]
        raise DataError(
            f"{self._where(row, one)} needs a 'bbox' [x, y, width, height] of four finite numbers in pixels, "
            f"got {shown(one, 'bbox')}"
        )

    def _area(self, row: int, one: Mapping[str, Any]) -> float:
        """NaN where there is none, or a word for none."""
        value = one.get("area")
        if type(value) in _PLAIN:
            return float(value)  # type: ignore[arg-type]
        found = number_or_nan(value)
        if found is None:
            if isinstance(value, str) and not any(map(str.isdigit, value)):
                return math.nan
            raise DataError(
                f"{self._where(row, one)}: 'area' must be a number of square pixels, got {shown(one, 'area')}; leave "
                f"it out, and {MASK_SHARE} x width x height of the box stands in"
            )
        return found

    def _where(self, row: int, one: Mapping[str, Any]) -> str:
        number = one.get("id")
        return f"{self._file}: annotation {f'at place {row}' if number is None else f'{number!s:.40}'}"

    def finish(self) -> Labels:
        """Everybody, put right.

        Raises:
            DataError: joints or flags are out of range; or there is neither a box nor joints that span one.
        """
        joints = self._length // 3
        people, crowds = self._people.table(joints), self._crowds.table(joints)
        bare = replace(self._bare.table(joints), keypoints=None)
        notes: list[Note] = []
        for table in (people, crowds):
            self._clean(table)
        assert people.keypoints is not None
        counts = (people.keypoints[..., 2] > 0).sum(axis=1)
        claimed, outlined = self._people.column(2), self._people.column(3).astype(bool)
        wrong = int(((claimed != _UNSAID) & (claimed != counts)).sum() + (self._bare.column(2) > 0).sum())
        if wrong:
            notes.append(self._note_count(wrong, len(people) + len(bare)))
        bare = _joined(bare, replace(people.take(counts == 0), keypoints=None)) if not counts.all() else bare
        people, outlined = (people.take(counts > 0), outlined[counts > 0]) if not counts.all() else (people, outlined)
        notes += self._put_boxes(people)
        notes += self._put_areas(people, outlined)
        for table in (crowds, bare):
            # A box without extent excuses no result nearby, as if the person were not there.
            table.box[np.isnan(table.box)] = 0
            lacking = ~(np.isfinite(table.area) & (table.area > 0))
            table.area[lacking] = MASK_SHARE * np.prod(np.maximum(table.box[lacking, 2:], 0), axis=1)
        if self._foreign:
            text = f"{self._file}: {counted(self._foreign, 'annotation')} of categories that the file does not list; "
            text += "left out"
            notes.append(Note(kind="unknown-category", text=text))
        return Labels(people=people, crowds=crowds, bare=bare, notes=tuple(notes))

    def _clean(self, table: People) -> None:
        """Take joints that are partly or wholly NaN as not labelled."""
        assert table.keypoints is not None
        finite = np.isfinite(table.keypoints)
        if not finite.all():
            if (endless := np.isinf(table.keypoints).any(axis=(1, 2))).any():
                self._refuse(table, endless, "'keypoints' must be finite numbers of pixels")
            table.keypoints[~finite.all(axis=2)] = 0
        flags = table.keypoints[..., 2]
        wrong = ((flags != 0) & (flags != 1) & (flags != 2)).any(axis=1)
        if wrong.any():
            person = int(np.flatnonzero(wrong)[0])
            flag = next(value for value in flags[person].tolist() if value not in (0, 1, 2))
            what = f"the flags in 'keypoints' must be 0 (not labelled), 1 (hidden) or 2 (visible), got {flag:g}"
            self._refuse(table, wrong, what)

    def _refuse(self, table: People, wrong: Any, what: str) -> None:
        more = int(wrong.sum()) - 1
        others = f" (and {counted(more, 'more annotation')})" if more else ""
        raise DataError(f"{self._file}: annotation {table.number[wrong][0]}: {what}{others}")

    def _note_count(self, wrong: int, everybody: int) -> Note:
        text = (
            f"{self._file}: 'num_keypoints' of {wrong} of {counted(everybody, 'person', 'people')} is not the number "
            "of their labelled joints; the flags in 'keypoints' are counted"
        )
        return Note(kind="num-keypoints", text=text)

    def _put_boxes(self, people: People) -> list[Note]:
        """Give people without a box one around their joints."""
        flat = np.asarray(~(people.box[:, 2:] > 0).all(axis=1))
        if not flat.any():
            return []
        assert people.keypoints is not None
        around = boxes_around(people.keypoints[flat])
        hopeless: NDArray[np.bool_] = flat.copy()
        hopeless[flat] = ~(around[:, 2:] > 0).all(axis=1)
        if hopeless.any():
            self._refuse(
                people,
                hopeless,
                "needs a 'bbox' [x, y, width, height] with a width and height above 0, since the labelled joints do "
                "not span one",
            )
        people.box[flat] = around
        text = (
            f"{self._file}: no 'bbox' with width and height in {int(flat.sum())} of "
            f"{counted(len(people), 'person', 'people')}; the box around their labelled joints, grown by 10 % of its "
            "longer side, stands in"
        )
        return [Note(kind="flat-box", text=text)]

    def _put_areas(self, people: People, outlined: NDArray[np.bool_]) -> list[Note]:
        """Put the usual share of the box in place of areas that are none; masks may be small shares of their boxes."""
        whole_box = np.prod(people.box[:, 2:], axis=1)
        lacking = ~(people.area > 0)
        senseless = (people.area > LARGEST_SHARE * whole_box) | (
            ~outlined & (people.area < SMALLEST_SHARE * whole_box) & ~lacking
        )
        odd = lacking | senseless
        if not odd.any():
            return []
        people.area[odd] = MASK_SHARE * whole_box[odd]
        counts = ((lacking, "without an area above 0"), (senseless, "with an area that does not fit the box"))
        told = ", ".join(f"{int(rows.sum())} {what}" for rows, what in counts if rows.any())
        text = (
            f"{self._file}: 'area' of {int(odd.sum())} of {counted(len(people), 'person', 'people')}: {told}; "
            f"{MASK_SHARE} x width x height of the box stands in, in training and scoring"
        )
        return [Note(kind="no-area", text=text)]


class _Columns:
    """Numbers of people while they are read."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.categories: list[int] = []
        self.integers, self.reals, self.joints = array("q"), array("d"), array("d")

    def column(self, number: int) -> NDArray[np.int64]:
        """One of: row, picture, claimed number of joints, whether there is an outline."""
        return np.array(self.integers, dtype=np.int64).reshape(-1, 4)[:, number]

    def table(self, num_keypoints: int) -> People:
        """Everybody; the joints are not copied, those of COCO are 60 MB."""
        reals = np.array(self.reals).reshape(-1, 5)
        count = len(reals)
        joints = np.asarray(self.joints).reshape(-1, num_keypoints, 3) if len(self.joints) or not count else None
        return People(
            row=self.column(0).copy(),
            picture=self.column(1).copy(),
            number=integers(self.numbers),
            category=integers(self.categories),
            box=reals[:, :4].copy(),
            area=reals[:, 4].copy(),
            score=np.ones(count),
            keypoints=joints,
        )


def _claimed(value: Any) -> int:
    """A number of joints; ``_UNSAID`` or ``_NONSENSE``."""
    if value is None:
        return _UNSAID
    count = as_number(value)
    return int(count) if 0 <= count < 2**31 and count.is_integer() else _NONSENSE


def integers(values: Sequence[int]) -> NDArray[Any]:
    """(N,) int64, or Python's own integers where 64 bits do not hold them."""
    try:
        return np.array(values, dtype=np.int64)
    except OverflowError:
        return np.array(values, dtype=object)


def _joined(one: People, other: People) -> People:
    """Two tables without joints."""
    columns = ("row", "picture", "number", "category", "box", "area", "score")
    both = {name: np.concatenate([getattr(one, name), getattr(other, name)]) for name in columns}
    return People(**both, keypoints=None)
