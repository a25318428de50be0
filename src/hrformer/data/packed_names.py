"""Many strings in one block of memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np


class PackedNames:
    """Names of files, read only.

    A million Python strings would be copied into every worker process, since reading one writes its reference count;
    one block stays shared.

    Args:
        names: the strings; undecodable bytes in file names survive.
    """

    def __init__(self, names: Iterable[str]) -> None:
        encoded = [name.encode("utf-8", "surrogateescape") for name in names]
        self._block = b"".join(encoded)
        self._ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> str:
        # A range checks the bounds and counts negative numbers from the end.
        number = range(len(self))[index]
        return self._block[self._ends[number] : self._ends[number + 1]].decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        return (self[number] for number in range(len(self)))
