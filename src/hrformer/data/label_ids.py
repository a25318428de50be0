"""What the numbers in mask files mean: from ids to class numbers 0..C - 1; pixels of no class are ``IGNORE``."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from hrformer.data.set_types import IGNORE, DataError
from hrformer.wording import listed

_HIGHEST_ID = 65535


class UnknownIds(DataError):
    """A mask holds ids that no class has.

    Args:
        message: as of every ``DataError``.
        unknown: ids of the mask that no class has, ascending; ``found`` all of them, ``listed`` those of the classes.
    """

    def __init__(
        self, message: str, unknown: Sequence[int] = (), found: Sequence[int] = (), listed: Sequence[int] = ()
    ) -> None:
        super().__init__(message)
        self.unknown, self.found, self.listed = tuple(unknown), tuple(found), tuple(listed)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LabelTable:
    """Class number of every id.

    Attributes:
        classes: (65536,) uint8, class number or ``IGNORE``.
        unknown: (65536,) uint8, 1 for ids that must not occur.
        meaning: which ids may occur, for messages.
        advice: what to do about others, for messages.
        advice_on_zero: what to do where 0 is the only one, if that is something else.
    """

    classes: NDArray[np.uint8]
    unknown: NDArray[np.uint8]
    meaning: str
    advice: str
    advice_on_zero: str = ""

    def convert(self, ids: NDArray[np.uint8] | NDArray[np.uint16], name: str) -> NDArray[np.uint8]:
        """Class numbers of a mask of ids, (H, W) as in the file; ``name`` of the file is for messages.

        Raises:
            UnknownIds: an id that must not occur.
        """
        if ids.dtype == np.uint8:
            # Several times faster than numpy's indexing.
            wrong = cv2.countNonZero(cv2.LUT(ids, self.unknown[:256]))
            classes = np.asarray(cv2.LUT(ids, self.classes[:256]), dtype=np.uint8)
        else:
            wrong = int(np.count_nonzero(self.unknown[ids]))
            classes = self.classes[ids]
        if wrong:
            found = np.unique(ids).tolist()
            unknown = [value for value in found if self.unknown[value]]
            advice = self.advice_on_zero if unknown == [0] and self.advice_on_zero else self.advice
            raise UnknownIds(
                f"{name}: {wrong} of {ids.size} pixels hold {some_ids(unknown)}, but the ids here are {self.meaning}. "
                f"{advice}",
                unknown,
                found,
                np.flatnonzero(self.classes != IGNORE).tolist(),
            )
        return classes


def label_table(
    ids: Sequence[int],
    ignored: Collection[int],
    *,
    meaning: str,
    advice: str,
    advice_on_zero: str = "",
    void: Collection[int] = (IGNORE,),
) -> LabelTable:
    """Table that turns ``ids`` into 0, 1, 2 ... in the order given, and ``ignored`` and ``void`` into ``IGNORE``.

    An id in both is a class; this concerns 255 in sets with more than 255 labels.

    Raises:
        ValueError: there are more than 255 classes, an id occurs twice, or one does not fit into 16 bits.
    """
    if not 1 <= len(ids) <= IGNORE:
        raise ValueError(f"there must be 1 to {IGNORE} classes, got {len(ids)}")
    if len(set(ids)) < len(ids):
        raise ValueError(f"every class needs an id of its own, got {list(ids)}")
    if outside := [number for number in (*ids, *ignored) if not 0 <= number <= _HIGHEST_ID]:
        raise ValueError(f"ids must lie in 0..{_HIGHEST_ID}, got {outside}")
    classes = np.full(_HIGHEST_ID + 1, IGNORE, np.uint8)
    unknown = np.ones(_HIGHEST_ID + 1, np.uint8)
    classes[list(ids)] = np.arange(len(ids))
    unknown[[*ids, *ignored, *void]] = 0
    return LabelTable(classes=classes, unknown=unknown, meaning=meaning, advice=advice, advice_on_zero=advice_on_zero)


def some_ids(numbers: Sequence[int]) -> str:
    """The first of some ids, for messages."""
    return f"the id{'s' if len(numbers) > 1 else ''} {listed(numbers, 8)}"
