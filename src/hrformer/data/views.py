"""Views of sets: some pictures as a set of their own, and several sets as one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from hrformer.data.set_types import (
    ClassificationSet,
    DataError,
    ImageSet,
    NoPartError,
    Person,
    PoseSet,
    SegmentationSet,
    names_of,
)
from hrformer.data.source_config import Source

_log = logging.getLogger(__name__)

AnySource = TypeVar("AnySource", bound=Source)
AnySet = TypeVar("AnySet", bound=ImageSet)


def open_joined(source: AnySource, open_one: Callable[[AnySource], AnySet]) -> AnySet:
    """Open a part of every root of a source, as one set: their items one after the other, so each weighs by its size.

    Roots without a validation part are only trained on, if another one has one. ``open_one`` opens the part of a source
    with one root.

    Raises:
        DataError: a set is not as it should be, none has the part, or the sets differ in their classes or joints.
    """
    opened: dict[Path, AnySet] = {}
    lacking: dict[Path, NoPartError] = {}
    for root in (source.root, *source.more_roots):
        try:
            opened[root] = open_one(replace(source, root=root, more_roots=()))
        except NoPartError as error:
            lacking[root] = error
    if not opened:
        raise next(iter(lacking.values()))
    for root in lacking:
        _log.warning("%s has no validation part: it is only trained on", root)
    first = next(iter(opened))
    expected = names_of(opened[first])
    for root, one in opened.items():
        if (found := names_of(one)) != expected:
            kind = "joints" if isinstance(one, PoseSet) else "classes"
            raise DataError(
                f"{root} has other {kind} than {first}, so the two cannot be joined: {', '.join(found)} instead of "
                f"{', '.join(expected)}"
            )
    sets = list(opened.values())
    return _view(sets, [np.arange(len(one)) for one in sets], [_pictures(one) for one in sets])


def chosen(source: AnySet, pictures: Collection[int]) -> AnySet:
    """The items on some pictures of a set, whose numbers are as :meth:`ImageSet.picture` gives them.

    Of a pose set these may be pictures without people too, which then count in the scores.

    Returns:
        A view that keeps the order of the items and tells the same of each; pictures are numbered anew from 0. Public
        attributes are those of ``source``, but ``image_ids`` are of these pictures only.

    Raises:
        DataError: no item is on any of them.
    """
    kept = np.unique(np.fromiter(pictures, np.int64))
    items = np.flatnonzero(np.isin(_numbers(source), kept))
    if not len(items):
        raise DataError(f"{source.name}: no item is on any of the pictures chosen ({len(kept)})")
    return _view([source], [items], [kept])


def without(source: AnySet, broken: Collection[int]) -> AnySet:
    """The items of all pictures but these, given by their numbers; the set itself where there are none.

    Raises:
        DataError: nothing is left.
    """
    if not broken:
        return source
    _sound(source, broken)
    return chosen(source, np.setdiff1d(_pictures(source), [*broken]).tolist())


def replaced(source: AnySet, broken: Collection[int]) -> AnySet:
    """The set with the next item in place of each whose picture is among these.

    So the number of items and the order of all others stay, and a run can go on in which a file broke.

    Raises:
        DataError: all are broken.
    """
    if not broken:
        return source
    sound = _sound(source, broken)
    places = np.searchsorted(sound, np.arange(len(source))) % len(sound)
    return _view([source], [sound[places]], [_pictures(source)])


def _sound(source: ImageSet, broken: Collection[int]) -> NDArray[np.int64]:
    """Items whose picture is not broken."""
    items = np.flatnonzero(~np.isin(_numbers(source), list(broken)))
    if not len(items):
        raise DataError(f"{source.name}: no picture of this part can be read ({len(broken)} in all)")
    return items


def _numbers(source: ImageSet) -> NDArray[np.int64]:
    """Number of each item's picture."""
    return np.fromiter((source.picture(index) for index in range(len(source))), np.int64, len(source))


def _pictures(source: ImageSet) -> NDArray[np.int64]:
    """Numbers of all pictures, those without people too, ascending."""
    ids = getattr(source, "image_ids", None)
    return np.unique(_numbers(source)) if ids is None else np.arange(len(ids))


def _view(sets: Sequence[AnySet], items: Sequence[NDArray[np.int64]], pictures: Sequence[NDArray[np.int64]]) -> AnySet:
    kinds = {ClassificationSet: _Classes, PoseSet: _People, SegmentationSet: _Masks}
    view: Any = next(view for kind, view in kinds.items() if isinstance(sets[0], kind))
    return view(sets, items, pictures)


def _same(name: str) -> Any:
    """A method that asks the set from which an item comes."""

    def method(self: _View, index: int, *rest: Any) -> Any:
        source, item = self._at(index)
        return getattr(source, name)(item, *rest)

    return method


class _View(ImageSet):
    """Items of one or more sets of one task, with the same labels.

    ``items`` are those of each set that are seen, in their order; ``pictures`` the numbers of the pictures of each set
    that are seen, ascending.
    """

    def __init__(self, sets: Sequence[Any], items: Sequence[NDArray[np.int64]], pictures: Sequence[NDArray[np.int64]]):
        vars(self).update({name: value for name, value in vars(sets[0]).items() if not name.startswith("_")})
        self.name = " + ".join(dict.fromkeys(one.name for one in sets))
        self._sets = sets
        self._set_of = np.repeat(np.arange(len(sets)), [len(rows) for rows in items])
        self._item_of = np.concatenate(items)
        self._first = [0, *accumulate(len(numbers) for numbers in pictures)]
        seen = zip(self._first, sets, items, pictures, strict=False)
        places = (first + np.searchsorted(numbers, _numbers(one)[rows]) for first, one, rows, numbers in seen)
        self._picture_of = np.concatenate([*places])

    def __len__(self) -> int:
        return len(self._item_of)

    def _at(self, index: int) -> tuple[Any, int]:
        """The set, and the number of the item in it."""
        if not 0 <= index < len(self):
            raise IndexError(f"{self.name} has the items 0..{len(self) - 1}, not {index}")
        return self._sets[self._set_of[index]], int(self._item_of[index])

    file, pixels, item = _same("file"), _same("pixels"), _same("item")

    def picture(self, index: int) -> int:
        """Place of the picture among those seen."""
        return int(self._picture_of[index])


class _Classes(_View, ClassificationSet):
    label = _same("label")


class _Masks(_View, SegmentationSet):
    mask, mask_file = _same("mask"), _same("mask_file")


class _People(_View, PoseSet):
    """Where several files are joined, their pictures get new numbers, 0, 1, 2 ...: two files may use the same ones."""

    def __init__(self, sets: Sequence[Any], items: Sequence[NDArray[np.int64]], pictures: Sequence[NDArray[np.int64]]):
        super().__init__(sets, items, pictures)
        if len(sets) > 1:
            self.image_ids = tuple(range(self._first[-1]))
            self.annotations = None
        elif sets[0].image_ids is not None:
            self.image_ids = tuple(sets[0].image_ids[number] for number in pictures[0].tolist())

    def person(self, index: int) -> Person:
        """As in the whole set, but for new numbers of joined pictures."""
        source, item = self._at(index)
        person: Person = source.person(item)
        if len(self._sets) == 1:
            return person
        return replace(person, image_id=self.picture(index), category_id=self._sets[0].person(0).category_id)

    def truth(self) -> Path | Mapping[str, Any] | None:
        """As of the whole set, of which ``image_ids`` names the pictures; of joined sets all together."""
        contents: list[Any] = [one.truth() for one in self._sets]
        if len(contents) == 1:
            return contents[0]
        if not all(isinstance(content, Mapping) for content in contents):
            return None
        together: dict[str, Any] = {"images": [], "annotations": [], "categories": contents[0]["categories"]}
        category = self._sets[0].person(0).category_id
        for content, first in zip(contents, self._first, strict=False):
            numbers = {image["id"]: first + place for place, image in enumerate(content["images"])}
            together["images"] += [{**image, "id": numbers[image["id"]]} for image in content["images"]]
            together["annotations"] += [
                {**one, "image_id": numbers[one["image_id"]], "category_id": category} for one in content["annotations"]
            ]
        return together
