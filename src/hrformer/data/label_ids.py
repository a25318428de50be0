"""What the numbers in mask files mean: from the ids of each data set to class numbers, and back for test servers.

Class numbers are 0..C - 1 in ascending order of the ids; pixels of no class are ``IGNORE``. The ids are those of the
sets' own documents, the layouts of prepared masks those of the HRFormer repository and of mmsegmentation.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from hrformer.data.set_types import IGNORE, DataError
from hrformer.wording import listed

CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""Label ids of the 19 classes that are scored; 34 labels exist."""

PASCAL_CONTEXT_IDS = (
    2, 9, 18, 19, 22, 23, 25, 31, 33, 34, 44, 45, 46, 59, 65, 68, 72, 80, 85, 98, 104, 105, 113, 115, 144, 158, 159,
    162, 187, 189, 207, 220, 232, 258, 259, 260, 284, 295, 296, 308, 324, 326, 347, 349, 354, 355, 360, 366, 368, 397,
    415, 416, 420, 424, 427, 440, 445, 454, 458,
)  # fmt: skip
"""Ids of the 59 most frequent of 459 labels."""

_COCO_STUFF_GAPS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)

COCO_STUFF_IDS = tuple(number for number in range(1, 183) if number not in _COCO_STUFF_GAPS)
"""Ids of the 171 classes of COCO-Stuff; 0 is unlabelled, eleven ids of COCO never occur."""

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
                f"{name}: {wrong} of {ids.size} pixels hold {_ids(unknown)}, but the ids here are {self.meaning}. "
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


def train_ids(count: int) -> LabelTable:
    """Masks that hold class numbers already: 0..count - 1, 255 for none (``labelTrainIds``)."""
    return label_table(
        range(count),
        (),
        meaning=f"class numbers 0..{count - 1} and 255 for none",
        advice="Were these masks prepared with another list of classes?",
    )


def one_based(count: int) -> LabelTable:
    """Masks with 0 for no class and 1..count for the classes (ADE20K, prepared PASCAL-Context and COCO-Stuff-10K)."""
    return label_table(
        range(1, count + 1),
        (0,),
        meaning=f"0 for none, 1..{count} for the classes, and 255 for none",
        advice="Were these masks prepared with another list of classes?",
    )


def pascal_context_full() -> LabelTable:
    """The original 459 labels, of which 59 are classes."""
    return label_table(
        PASCAL_CONTEXT_IDS, range(460), meaning="PASCAL-Context's 0..459", advice="Take the maps LabelMap as published."
    )


PUBLISHED_TABLES: dict[str, Callable[[], LabelTable]] = {
    # *_gtFine_labelIds.png: 34 labels, 19 of them classes.
    "cityscapes": lambda: label_table(
        CITYSCAPES_IDS,
        range(34),
        meaning="Cityscapes' label ids 0..33",
        advice="Take the files *_gtFine_labelIds.png, not *_color.png or *_instanceIds.png.",
    ),
    "pascal_context": lambda: one_based(len(PASCAL_CONTEXT_IDS)),
    # S of the 10k set, and masks made from it: 0 unlabelled, 1..182 with gaps.
    "coco_stuff_10k": lambda: label_table(
        COCO_STUFF_IDS,
        (0,),
        meaning="COCO-Stuff's 0..182 without " + ", ".join(map(str, _COCO_STUFF_GAPS)),
        advice="The masks of the 164k set hold these ids minus 1: read them with the format coco_stuff_164k.",
    ),
    # The ids of the 10k set minus 1; 255 unlabelled.
    "coco_stuff_164k": lambda: label_table(
        [number - 1 for number in COCO_STUFF_IDS],
        (),
        meaning="0..181 without " + ", ".join(str(number - 1) for number in _COCO_STUFF_GAPS) + ", and 255",
        advice="The masks of the 10k set hold ids that are higher by 1: read them with the format coco_stuff_10k.",
    ),
    "ade20k": lambda: one_based(150),
}
"""What the masks of each published set hold, and the masks of its prepared form and of its results."""


@cache
def server_ids(dataset: str) -> NDArray[np.uint8]:
    """What to write into result files, by class number: (256,) uint8, read only, the inverse of the reading.

    Cityscapes: label ids, as its server expects. ADE20K and PASCAL-Context: class number plus 1, 0 for none.
    COCO-Stuff: the ids of its masks.

    Args:
        dataset: cityscapes, pascal_context, coco_stuff_10k, coco_stuff_164k or ade20k.

    Raises:
        ValueError: the set is none of these.
    """
    if dataset not in PUBLISHED_TABLES:
        raise ValueError(f"no result ids are known for {dataset!r}; known: {', '.join(PUBLISHED_TABLES)}")
    classes = PUBLISHED_TABLES[dataset]().classes
    ids = np.flatnonzero(classes != IGNORE)
    # The ids of a table ascend with the class numbers; 0 says nothing where it is no class.
    table = np.full(256, 0 if classes[0] == IGNORE else IGNORE, np.uint8)
    table[: len(ids)] = ids
    table.flags.writeable = False
    return table


def to_server_ids(dataset: str, mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Turn a predicted mask, (H, W) class numbers or ``IGNORE``, into the ids of :func:`server_ids`.

    Raises:
        ValueError: the set is unknown, or the mask holds numbers that are no class of it.
    """
    table = server_ids(dataset)
    count = int(np.count_nonzero(table != table[IGNORE]))
    wrong = np.unique(mask[(mask >= count) & (mask != IGNORE)])
    if wrong.size:
        raise ValueError(f"{dataset} has the classes 0..{count - 1}; the mask holds {_ids(wrong.tolist())}")
    return table[mask]


def _ids(numbers: Sequence[int]) -> str:
    return f"the id{'s' if len(numbers) > 1 else ''} {listed(numbers, 8)}"
