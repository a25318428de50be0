"""People of a file in COCO's keypoint format, put right once for training, scoring and inspection.

Labelling tools differ in how they write numbers, areas, boxes and joints without label; what is meant is taken, and
said once per file. Whatever has no meaning is an error that names record and field. N people, K joints.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrformer.data.coco_boxes import boxes_around
from hrformer.data.coco_fields import as_number, flat_joints, number_or_nan, said, shown, whole
from hrformer.data.coco_lists import Pictures
from hrformer.data.set_types import DataError, Note
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
    keypoints: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.picture)

    def take(self, rows: NDArray[np.integer] | NDArray[np.bool_]) -> People:
        """Some of them, in another order."""
        columns: dict[str, Any] = {column.name: getattr(self, column.name) for column in fields(self)}
        columns = {name: None if values is None else values[rows] for name, values in columns.items()}
        return People(**columns)

    def joined(self, other: People) -> People:
        """Both, none of whom has joints."""
        names = [column.name for column in fields(self) if column.name != "keypoints"]
        return People(**{name: np.concatenate([getattr(self, name), getattr(other, name)]) for name in names})

    @property
    def joints(self) -> NDArray[np.float64]:
        """The joints of people who have them."""
        assert self.keypoints is not None
        return self.keypoints


def integers(values: Sequence[int]) -> NDArray[Any]:
    """(N,) int64, or Python's own integers where 64 bits do not hold them."""
    try:
        return np.array(values, dtype=np.int64)
    except OverflowError:
        return np.array(values, dtype=object)


class _Group:
    """Some of the people while they are read."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.categories: list[int] = []
        self.rows: list[tuple[float, ...]] = []
        """Place in the file, picture, claimed number of joints, whether there is an outline, area and box of each."""
        self.joints = array("d")

    def people(self, num_keypoints: int) -> tuple[People, NDArray[np.int64], NDArray[np.bool_]]:
        """Everybody, the number of joints that each claims, and who has an outline.

        The joints are not copied, those of COCO are 60 MB.
        """
        table = np.array(self.rows, dtype=np.float64).reshape(-1, 9)
        row, picture, claimed, outlined = table[:, :4].T.astype(np.int64)
        people = People(
            row=row,
            picture=picture,
            number=integers(self.numbers),
            category=integers(self.categories),
            box=table[:, 5:].copy(),
            area=table[:, 4].copy(),
            score=np.ones(len(row)),
            keypoints=np.asarray(self.joints).reshape(-1, num_keypoints, 3),
        )
        return people, claimed, outlined.astype(bool)


class PeopleReader:
    """Takes in annotations, and puts right what they say.

    Args:
        pictures: of the file.
        categories: ids of those to look at.
        known: ids of all categories of the file.
        num_keypoints: K.
    """

    def __init__(
        self, pictures: Pictures, categories: Collection[int], known: Collection[int], num_keypoints: int
    ) -> None:
        self._places, self._length = pictures.places(), 3 * num_keypoints
        self._taken, self._known, self._default = frozenset(categories), frozenset(known), min(categories)
        self._people, self._crowds, self._bare = _Group(), _Group(), _Group()
        self._foreign = 0

    def read(self, records: Sequence[Mapping[str, Any]]) -> tuple[People, People, People, list[Note]]:
        """Everybody in ``annotations``, put right.

        Returns:
            People with a labelled joint, whom training sees; crowds, with joints, all 0 where they have none; people
            without joints, who like crowds count neither way in scoring; and what was put right.

        Raises:
            DataError: an annotation is not as it should be; names the annotation and the field.
        """
        for row, one in enumerate(records):
            try:
                self._add(row, one)
            except (DataError, OverflowError) as error:
                number = one.get("id")
                where = f"at place {row}" if number is None else f"{number!s:.40}"
                what = error if isinstance(error, DataError) else "'bbox' or 'keypoints' hold too large a number"
                raise DataError(f"annotation {where}: {what}") from error
        return self._put_right()

    def _add(self, row: int, one: Mapping[str, Any]) -> None:
        category = whole(one, "category_id", default=self._default)
        if category not in self._taken:
            self._foreign += category not in self._known
            return
        joints, crowd = self._joints(one), one.get("iscrowd")
        crowd = crowd if isinstance(crowd, bool) else whole(one, "iscrowd", default=0) != 0
        group = self._crowds if crowd else self._people if any(joints[2::3]) else self._bare
        picture = self._places.get(whole(one, "image_id"))
        if picture is None and group is self._people:
            raise DataError(
                f"'image_id' is {shown(one, 'image_id')}, which is not among the file's 'images'; add the picture or "
                "remove the annotation"
            )
        if picture is None:
            return  # nobody misses crowds, or people without joints
        group.numbers.append(whole(one, "id", default=row))
        group.categories.append(category)
        group.rows.append((row, picture, _claimed(one), bool(one.get("segmentation")), _area(one), *_box(one)))
        if group is not self._bare:
            group.joints.extend(joints or [0] * self._length)

    def _joints(self, one: Mapping[str, Any]) -> Sequence[float]:
        """The 3 K numbers of a record, NaN for null; empty where there are none."""
        values, joints = flat_joints(one.get("keypoints")), self._length // 3
        if values is None:
            return []
        if isinstance(values, np.ndarray):
            values = values.ravel().tolist()
        if not isinstance(values, (list, tuple)):
            raise DataError(f"'keypoints' must be a list of numbers, got {shown(one, 'keypoints')}")
        if len(values) not in (0, self._length):
            if any(isinstance(value, list | tuple | Mapping) for value in values):
                raise DataError(
                    "'keypoints' must hold x, y and flag (0 not labelled, 1 hidden, 2 visible) of each of the "
                    f"{joints} joints, got {shown(one, 'keypoints')}"
                )
            raise DataError(
                f"'keypoints' has {counted(len(values), 'number')}, not 3 x {joints}: x, y and flag of each joint, "
                "with 0, 0, 0 for joints without label"
            )
        # Most people of COCO have no joints: 0 throughout.
        if values.count(0) == len(values) or {*map(type, values)} <= _PLAIN:
            return values
        numbers = [number_or_nan(value) for value in values]
        if None in numbers:
            odd = said(values[numbers.index(None)])
            raise DataError(f"'keypoints' must hold numbers, or null for joints without label, got {odd}")
        return numbers  # type: ignore[return-value]

    def _put_right(self) -> tuple[People, People, People, list[Note]]:
        joints = self._length // 3
        (people, claimed, outlined), (crowds, *_), (bare, claimed_bare, _) = (
            group.people(joints) for group in (self._people, self._crowds, self._bare)
        )
        for table in (people, crowds):
            _clean(table)
        everybody, bare = len(people) + len(bare), replace(bare, keypoints=None)
        counts = (people.joints[..., 2] > 0).sum(axis=1)
        wrong = int(((claimed != _UNSAID) & (claimed != counts)).sum() + (claimed_bare > 0).sum())
        if not counts.all():
            bare = bare.joined(replace(people.take(counts == 0), keypoints=None))
            people, outlined = people.take(counts > 0), outlined[counts > 0]
        notes = [*_put_boxes(people), *_put_areas(people, outlined)]
        for table in (crowds, bare):
            # A box without extent excuses no result nearby, as if the person were not there.
            table.box[np.isnan(table.box)] = 0
            lacking = ~(np.isfinite(table.area) & (table.area > 0))
            table.area[lacking] = MASK_SHARE * np.prod(np.maximum(table.box[lacking, 2:], 0), axis=1)
        if wrong:
            text = (
                f"'num_keypoints' of {wrong} of {counted(everybody, 'person', 'people')} is not the "
                "number of their labelled joints; the flags in 'keypoints' are counted"
            )
            notes.insert(0, Note(kind="num-keypoints", text=text))
        if self._foreign:
            what = counted(self._foreign, "annotation")
            text = f"{what} of categories that the file does not list; left out"
            notes.append(Note(kind="unknown-category", text=text))
        return people, crowds, bare, notes


def _claimed(one: Mapping[str, Any]) -> int:
    """The number of joints that a record claims; ``_UNSAID`` or ``_NONSENSE``."""
    value = one.get("num_keypoints")
    if value is None:
        return _UNSAID
    count = as_number(value)
    return int(count) if 0 <= count < 2**31 and count.is_integer() else _NONSENSE


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


def _refuse(people: People, wrong: Any, what: str) -> None:
    """Name the first of those that are wrong, and how many more there are; nothing where none is."""
    if wrong.any():
        more = int(wrong.sum()) - 1
        others = f" (and {counted(more, 'more annotation')})" if more else ""
        raise DataError(f"annotation {people.number[wrong][0]}: {what}{others}")


def _clean(people: People) -> None:
    """Take joints that are partly or wholly NaN as not labelled."""
    finite = np.isfinite(people.joints)
    if not finite.all():
        endless = np.isinf(people.joints).any(axis=(1, 2))
        _refuse(people, endless, "'keypoints' must be finite numbers of pixels")
        people.joints[~finite.all(axis=2)] = 0
    odd = ~np.isin(people.joints[..., 2], (0, 1, 2))
    if odd.any():
        flag = people.joints[..., 2][odd][0]
        what = f"the flags in 'keypoints' must be 0 (not labelled), 1 (hidden) or 2 (visible), got {flag:g}"
        _refuse(people, odd.any(axis=1), what)


def _put_boxes(people: People) -> list[Note]:
    """Give people without a box one around their joints."""
    flat = ~(people.box[:, 2:] > 0).all(axis=1)
    if not flat.any():
        return []
    people.box[flat] = boxes_around(people.joints[flat])
    remedy = "needs a 'bbox' [x, y, width, height] with a width and height above 0, since the labelled joints do not "
    _refuse(people, ~(people.box[:, 2:] > 0).all(axis=1), f"{remedy}span one")
    text = (
        f"no 'bbox' with width and height in {int(flat.sum())} of {counted(len(people), 'person', 'people')}; "
        "the box around their labelled joints, grown by 10 % of its longer side, stands in"
    )
    return [Note(kind="flat-box", text=text)]


def _put_areas(people: People, outlined: NDArray[np.bool_]) -> list[Note]:
    """Put the usual share of the box in place of areas that are none; masks may be small shares of their boxes."""
    whole_box = np.prod(people.box[:, 2:], axis=1)
    lacking = ~(people.area > 0)
    small = ~lacking & ~outlined & (people.area < SMALLEST_SHARE * whole_box)
    senseless = small | (people.area > LARGEST_SHARE * whole_box)
    odd = lacking | senseless
    if not odd.any():
        return []
    people.area[odd] = MASK_SHARE * whole_box[odd]
    counts = ((lacking, "without an area above 0"), (senseless, "with an area that does not fit the box"))
    told = ", ".join(f"{int(rows.sum())} {what}" for rows, what in counts if rows.any())
    text = (
        f"'area' of {int(odd.sum())} of {counted(len(people), 'person', 'people')}: {told}; {MASK_SHARE} x "
        "width x height of the box stands in, in training and scoring"
    )
    return [Note(kind="no-area", text=text)]
