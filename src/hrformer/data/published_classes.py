"""Classes, colours and ids of the published segmentation sets: what the numbers in their mask files mean, and what
their test servers take.

``classes/*.txt`` beside this file lists them in the order of the ids, in the form of the classes.txt of a set of one's
own. They are those of the sets' own documents, the layouts of prepared masks those of the HRFormer repository and of
mmsegmentation.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hrformer.data.class_lists import Palette, numbered_rows
from hrformer.data.label_ids import LabelTable, label_table, some_ids
from hrformer.data.set_types import IGNORE

_PREPARED_BY = "Were these masks prepared with another list of classes?"


class KnownSet(NamedTuple):
    """A published set: what to call it, its classes, their ids and, where it has official ones, their colours."""

    title: str
    classes: tuple[str, ...]
    ids: tuple[int, ...]
    palette: Palette = ()


_SETS = {
    "cityscapes": ("Cityscapes", "cityscapes.txt"),
    "pascal_context": ("PASCAL-Context", "pascal_context.txt"),
    "coco_stuff_10k": ("COCO-Stuff-10K", "coco_stuff.txt"),
    "coco_stuff_164k": ("COCO-Stuff-164k", "coco_stuff.txt"),
    "ade20k": ("ADE20K", "ade20k.txt"),
    "pascal_voc": ("PASCAL VOC", "pascal_voc.txt"),
}


@cache
def known_set(name: str) -> KnownSet:
    """A set by the name that ``SegmentationSource`` has for it, or "pascal_voc"; ids are those in its documents."""
    title, file = _SETS[name]
    rows = numbered_rows(Path(__file__).parent / "classes" / file)
    palette = tuple(colour for _, colour in rows.values() if colour is not None)
    if name == "pascal_voc":
        palette = voc_palette(len(rows))
    return KnownSet(title, tuple(name for name, _ in rows.values()), tuple(rows), palette)


def voc_palette(count: int) -> Palette:
    """The colours of PASCAL VOC: the bits of the id, taken three at a time, fill R, G and B from the top down."""

    def channel(number: int, first: int) -> int:
        return sum((number >> (3 * place + first) & 1) << (7 - place) for place in range(8))

    return tuple((channel(number, 0), channel(number, 1), channel(number, 2)) for number in range(count))


def train_ids(count: int) -> LabelTable:
    """Masks that hold class numbers already: 0..count - 1, 255 for none (``labelTrainIds``)."""
    return label_table(range(count), (), meaning=f"class numbers 0..{count - 1} and 255 for none", advice=_PREPARED_BY)


def one_based(count: int) -> LabelTable:
    """Masks with 0 for no class and 1..count for the classes (ADE20K, prepared PASCAL-Context and COCO-Stuff-10K)."""
    meaning = f"0 for none, 1..{count} for the classes, and 255 for none"
    return label_table(range(1, count + 1), (0,), meaning=meaning, advice=_PREPARED_BY)


def pascal_context_full() -> LabelTable:
    """The original 459 labels, of which 59 are classes."""
    meaning, advice = "PASCAL-Context's 0..459", "Take the maps LabelMap as published."
    return label_table(known_set("pascal_context").ids, range(460), meaning=meaning, advice=advice)


def _cityscapes() -> LabelTable:
    """``*_gtFine_labelIds.png``: 34 labels, 19 of them classes."""
    advice = "Take the files *_gtFine_labelIds.png, not *_color.png or *_instanceIds.png."
    meaning = "Cityscapes' label ids 0..33"
    return label_table(known_set("cityscapes").ids, range(34), meaning=meaning, advice=advice)


def _coco_stuff(less: int) -> LabelTable:
    """Masks of the 10k set, 0 unlabelled, 1..182 with gaps; or of the 164k set, ``less`` by 1, 255 unlabelled."""
    ids = known_set("coco_stuff_10k").ids
    gaps = ", ".join(str(number - less) for number in range(1, 183) if number not in ids)
    meaning = f"0..181 without {gaps}, and 255" if less else f"COCO-Stuff's 0..182 without {gaps}"
    advice = (
        "The masks of the 10k set hold ids that are higher by 1: read them with the format coco_stuff_10k."
        if less
        else "The masks of the 164k set hold these ids minus 1: read them with the format coco_stuff_164k."
    )
    return label_table([number - less for number in ids], () if less else (0,), meaning=meaning, advice=advice)


PUBLISHED_TABLES: dict[str, Callable[[], LabelTable]] = {
    "cityscapes": _cityscapes,
    "pascal_context": lambda: one_based(59),
    "coco_stuff_10k": lambda: _coco_stuff(0),
    "coco_stuff_164k": lambda: _coco_stuff(1),
    "ade20k": lambda: one_based(150),
}
"""What the masks of each published set hold, and the masks of its prepared form and of its results."""


@cache
def server_ids(dataset: str) -> NDArray[np.uint8]:
    """What to write into result files, by class number: (256,) uint8, read only, the inverse of the reading.

    Cityscapes: label ids, as its server expects. ADE20K and PASCAL-Context: class number plus 1, 0 for none.
    COCO-Stuff: the ids of its masks.

    Raises:
        ValueError: the set is none of ``PUBLISHED_TABLES``.
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
        raise ValueError(f"{dataset} has the classes 0..{count - 1}; the mask holds {some_ids(wrong.tolist())}")
    return table[mask]
