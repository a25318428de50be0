"""Views of sets: several joined to one, their items one after the other so that each set weighs by its size, and some
items of a set.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from hrformer.data.sets import ClassificationSet, DataError, ImageSet, Person, PoseSet, SegmentationSet


class _Source(Protocol):
    root: Path
    more_roots: tuple[Path, ...]


AnySource = TypeVar("AnySource", bound=Any)
AnySet = TypeVar("AnySet", bound=ImageSet)


def open_joined(source: AnySource, open_one: Callable[[AnySource], AnySet]) -> AnySet:
    """Open a part of a source, joined where the source names several roots.

    Raises:
        DataError: a set is not as it should be, or the sets differ in their classes or joints.
    """
    roots = (source.root, *source.more_roots)
    return joined([open_one(replace(source, root=root, more_roots=())) for root in roots], roots)


def joined(sets: Sequence[AnySet], roots: Sequence[Path]) -> AnySet:
    """Sets of the same classes or joints as one; a single set as it is.

    Args:
        sets: at least one.
        roots: of the sets, for messages.

    Raises:
        DataError: they differ in their classes or joints.
    """
    first = sets[0]
    if len(sets) == 1:
        return first
    names = [one.skeleton.keypoints if isinstance(one, PoseSet) else one.classes for one in sets]  # type: ignore[attr-defined]
    for root, found in zip(roots, names, strict=True):
        if found != names[0]:
            kind = "joints" if isinstance(first, PoseSet) else "classes"
            raise DataError(
                f"{root} has other {kind} than {roots[0]}, so the two cannot be joined: {', '.join(found)} instead of "
                f"{', '.join(names[0])}"
            )
    return _view(sets)


def taken(source: AnySet, items: Sequence[int]) -> AnySet:
    """Some items of a set in the order given; one may come several times."""
    return _view([source], items)


def without(source: AnySet, broken: Collection[int]) -> AnySet:
    """The items of all pictures but these, given by their numbers; the set itself where there are none.

    Raises:
        DataError: nothing is left.
    """
    return taken(source, _sound(source, broken)) if broken else source


def replaced(source: AnySet, broken: Collection[int]) -> AnySet:
    """The set with the next item in place of each whose picture is among these.

    So the number of items and the order of all others stay, and a run can go on in which a file broke.

    Raises:
        DataError: all are broken.
    """
    if not broken:
        return source
    sound = _sound(source, broken)
    places = np.searchsorted(sound, range(len(source))) % len(sound)
    return taken(source, np.asarray(sound)[places].tolist())


def _sound(source: ImageSet, broken: Collection[int]) -> list[int]:
    items = [index for index in range(len(source)) if source.picture(index) not in broken]
    if not items:
        raise DataError(f"{source.name}: none of the {len(broken)} pictures of this part can be read")
    return items


def _view(sets: Sequence[AnySet], items: Sequence[int] | None = None) -> AnySet:
    kinds = {PoseSet: _PoseView, SegmentationSet: _MaskView, ClassificationSet: _ClassView}
    return next(make(sets, items) for kind, make in kinds.items() if isinstance(sets[0], kind))


class _View(ImageSet):
    """Items of all sets, in the order of the sets, or those of them that ``items`` names."""

    def __init__(self, sets: Sequence[Any], items: Sequence[int] | None = None) -> None:
        self.sets, self._items = sets, None if items is None else np.asarray(items, dtype=np.int64)
        self.name = " + ".join(dict.fromkeys(one.name for one in sets))
        self._starts = [0, *accumulate(len(one) for one in sets)]
        # Numbers of pictures may leave gaps.
        ends = [max((one.picture(index) for index in range(len(one))), default=-1) + 1 for one in sets]
        self._first_pictures = [0, *accumulate(ends)]

    def __len__(self) -> int:
        return self._starts[-1] if self._items is None else len(self._items)

    def place(self, index: int) -> tuple[int, int]:
        """Number of the set, and of the item in it."""
        index = index if self._items is None else int(self._items[index])
        number = bisect_right(self._starts, index) - 1
        return number, index - self._starts[number]

    def at(self, index: int) -> tuple[Any, int]:
        """The set, and the number of the item in it."""
        number, inside = self.place(index)
        return self.sets[number], inside

    def file(self, index: int) -> str:
        one, inside = self.at(index)
        return one.file(inside)

    def pixels(self, index: int) -> NDArray[np.uint8]:
        one, inside = self.at(index)
        return one.pixels(inside)

    def picture(self, index: int) -> int:
        number, inside = self.place(index)
        return self._first_pictures[number] + self.sets[number].picture(inside)


class _ClassView(_View, ClassificationSet):
    def __init__(self, sets: Sequence[ClassificationSet], items: Sequence[int] | None = None) -> None:
        super().__init__(sets, items)
        self.classes = sets[0].classes

    def label(self, index: int) -> int:
        one, inside = self.at(index)
        return one.label(inside)


class _MaskView(_View, SegmentationSet):
    def __init__(self, sets: Sequence[SegmentationSet], items: Sequence[int] | None = None) -> None:
        super().__init__(sets, items)
        self.classes, self.palette = sets[0].classes, sets[0].palette
        self.labelled = all(one.labelled for one in sets)

    def mask(self, index: int) -> NDArray[np.uint8]:
        one, inside = self.at(index)
        return one.mask(inside)

    def mask_file(self, index: int) -> str:
        one, inside = self.at(index)
        return one.mask_file(inside)


class _PoseView(_View, PoseSet):
    """Pictures get new numbers, 0, 1, 2 ... in the order of the sets, since those of two files may be the same."""

    def __init__(self, sets: Sequence[PoseSet], items: Sequence[int] | None = None) -> None:
        super().__init__(sets, items)
        self.skeleton = sets[0].skeleton

    def person(self, index: int) -> Person:
        one, inside = self.at(index)
        return one.person(inside)
