"""Some pictures of a set, seen as a set of their own: one part of a split, or all but the broken ones."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from hrformer.data.sets import ClassificationSet, DataError, ImageSet, Person, PoseSet, SegmentationSet

Source = TypeVar("Source", bound=ImageSet)


def chosen(source: Source, pictures: Collection[int]) -> Source:
    """The items on some pictures of a set.

    Args:
        source: the set, or a view of one.
        pictures: their numbers, as :meth:`ImageSet.picture` gives them; of a pose set also of pictures without people,
            which then count in the scores.

    Returns:
        A view that keeps the order of the items and tells the same of each; pictures are numbered anew from 0. Public
        attributes are those of ``source``, but ``image_ids`` are of these pictures only.

    Raises:
        DataError: no item is on any of them.
        TypeError: the set is of no known task.
    """
    for kind, view in _VIEWS:
        if isinstance(source, kind):
            found: Source = view(source, pictures)
            return found
    raise TypeError(f"{type(source).__name__} is neither a classification, nor a pose, nor a segmentation set")


class _View(ImageSet, Generic[Source]):
    """What the views of all tasks share."""

    def __init__(self, source: Source, pictures: Collection[int]) -> None:
        vars(self).update({name: value for name, value in vars(source).items() if not name.startswith("_")})
        self._source = source
        kept = np.unique(np.fromiter(pictures, np.int64))
        numbers = np.fromiter((source.picture(index) for index in range(len(source))), np.int64, len(source))
        self._items: NDArray[np.int64] = np.flatnonzero(np.isin(numbers, kept))
        self._numbers: NDArray[np.int64] = np.searchsorted(kept, numbers[self._items])
        if not len(self._items):
            raise DataError(f"{source.name}: none of the chosen {len(kept)} pictures has an item on it")

    def __len__(self) -> int:
        return len(self._items)

    def _at(self, index: int) -> int:
        return int(self._items[index])

    def file(self, index: int) -> str:
        """As in the whole set."""
        return self._source.file(self._at(index))

    def pixels(self, index: int) -> NDArray[np.uint8]:
        """As in the whole set."""
        return self._source.pixels(self._at(index))

    def item(self, index: int, pixels: NDArray[np.uint8]) -> dict[str, Any]:
        """As in the whole set."""
        return self._source.item(self._at(index), pixels)

    def picture(self, index: int) -> int:
        """Place of the picture among the chosen ones."""
        return int(self._numbers[index])


class _ChosenPictures(_View[ClassificationSet], ClassificationSet):
    def label(self, index: int) -> int:
        """As in the whole set."""
        return self._source.label(self._at(index))


class _ChosenPeople(_View[PoseSet], PoseSet):
    def __init__(self, source: PoseSet, pictures: Collection[int]) -> None:
        super().__init__(source, pictures)
        if source.image_ids is not None:
            self.image_ids = tuple(source.image_ids[number] for number in sorted(set(pictures)))

    def person(self, index: int) -> Person:
        """As in the whole set."""
        return self._source.person(self._at(index))


class _ChosenMasks(_View[SegmentationSet], SegmentationSet):
    def mask(self, index: int) -> NDArray[np.uint8]:
        """As in the whole set."""
        return self._source.mask(self._at(index))

    def mask_file(self, index: int) -> str:
        """As in the whole set."""
        return self._source.mask_file(self._at(index))


_VIEWS: tuple[tuple[type[ImageSet], Any], ...] = (
    (ClassificationSet, _ChosenPictures),
    (PoseSet, _ChosenPeople),
    (SegmentationSet, _ChosenMasks),
)
