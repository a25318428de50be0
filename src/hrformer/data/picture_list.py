"""Pictures without labels, such as the test part of ImageNet."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hrformer.data.images import load_image
from hrformer.data.packed_names import PackedNames
from hrformer.data.sets import ClassificationSet, DataError


class PictureList(ClassificationSet):
    """Picture files in the order given, whose classes nobody told.

    Args:
        files: the pictures.
        classes: names that a model's outputs stand for.
        name: of the set.

    Raises:
        DataError: there are no files.
    """

    def __init__(self, files: Iterable[Path], classes: Sequence[str], name: str = "pictures") -> None:
        self.name, self.classes = name, tuple(classes)
        self._files = PackedNames(str(file) for file in files)
        if not len(self._files):
            raise DataError(f"{name}: there are no pictures")

    def __len__(self) -> int:
        return len(self._files)

    def file(self, index: int) -> str:
        """Path of the picture."""
        return self._files[index]

    def pixels(self, index: int) -> NDArray[np.uint8]:
        """The decoded picture."""
        return load_image(self._files[index]).pixels

    def label(self, index: int) -> int:
        """Always -1: not known."""
        return -1
