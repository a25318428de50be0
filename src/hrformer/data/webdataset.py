"""Tar shards in webdataset's layout, read in any order.

The members are found once, by their headers. After that an item is a shard, an offset and a size, so that shuffling,
sharing among processes and taking up a run are as exact as with single files.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hrformer.data.images import SUFFIXES, decode
from hrformer.data.label_names import classes_of_ids
from hrformer.data.packed_names import PackedNames
from hrformer.data.sets import ClassificationSet, DataError
from hrformer.data.tar_index import Member, TarReader

_THREADS = 16
"""Shards that are indexed at once: waiting for the disk or the network, not computing, takes the time."""


@dataclass(slots=True)
class _Sample:
    picture: Member | None = None
    label: int | None = None
    notes: Member | None = None


@dataclass(kw_only=True, slots=True)
class _Shard:
    """Pictures of one shard."""

    names: list[str] = field(default_factory=list)
    places: list[tuple[int, int]] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)


class TarShards(ClassificationSet):
    """Samples of tar shards: members whose names agree up to the first dot.

    Each has one picture and a label: a member ``.cls`` or ``.<label_key>`` with a number as text, else the entry
    ``label_key`` of a ``.json`` member. Other members do not matter.

    Args:
        shards: tar files, uncompressed; the items come in this order.
        classes: names in the order of their ids; default "0", "1" … up to the highest label.
        label_key: see above.
        name: of the data set; default the name of the folder.

    Raises:
        DataError: a shard is damaged, or a sample lacks picture or label or has two of them.
    """

    def __init__(
        self, shards: Sequence[Path], classes: Sequence[str] = (), *, label_key: str = "label", name: str = ""
    ) -> None:
        if not shards:
            raise DataError("no shards were given")
        with ThreadPoolExecutor(min(_THREADS, len(shards))) as pool:
            indexed = list(pool.map(lambda path: index_shard(path, label_key), shards))
        self.name = name or shards[0].resolve().parent.name
        self._shards = tuple(shards)
        self._names = PackedNames(name for shard in indexed for name in shard.names)
        self._shard_of: NDArray[np.int32] = np.repeat(
            np.arange(len(shards), dtype=np.int32), [len(shard.names) for shard in indexed]
        )
        self._places = np.asarray([place for shard in indexed for place in shard.places], np.int64).reshape(-1, 2)
        self._labels = np.asarray([label for shard in indexed for label in shard.labels], np.int64)
        self.classes = classes_of_ids(
            self._labels, classes, str(shards[0]) + f" and {len(shards) - 1} more" * (len(shards) > 1)
        )

    def __len__(self) -> int:
        return len(self._labels)

    def file(self, index: int) -> str:
        """``<shard>::<member>``."""
        return f"{self._shards[self._shard_of[index]]}::{self._names[index]}"

    def pixels(self, index: int) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB."""
        start, size = map(int, self._places[index])
        # Opening anew costs microseconds and needs no thought about processes, threads and the limit on open files.
        with self._shards[self._shard_of[index]].open("rb", buffering=0) as shard:
            shard.seek(start)
            data = shard.read(size)
        if len(data) != size:
            raise DataError(f"{self.file(index)}: the shard has become shorter since it was opened")
        return decode(data, self.file(index))

    def label(self, index: int) -> int:
        """Class id."""
        return int(self._labels[index])


def index_shard(path: Path, label_key: str) -> _Shard:
    """Find the pictures and read the labels of one shard.

    Raises:
        DataError: see :class:`TarShards`.
    """
    samples: dict[str, _Sample] = {}
    with TarReader(path) as tar:
        for member in tar.members():
            place, _, base = member.name.rpartition("/")
            stem, _, ending = base.partition(".")
            if not stem or stem.startswith("__"):
                continue
            sample = samples.setdefault(f"{place}/{stem}" if place else stem, _Sample())
            if ending in ("cls", label_key):
                sample.label = _number(tar.read(member.start, member.size), path, member.name)
            elif ending == "json":
                sample.notes = member
            elif f".{ending.lower()}" in SUFFIXES:
                if sample.picture is not None:
                    raise DataError(f"{path}: {member.name} and {sample.picture.name} are pictures of one sample")
                sample.picture = member
        shard = _Shard()
        for key, sample in samples.items():
            if sample.picture is None:
                raise DataError(f"{path}: sample {key!r} has no picture; one member must be {key}.jpg or the like")
            if sample.label is None and sample.notes is not None:
                sample.label = _noted(tar.read(sample.notes.start, sample.notes.size), label_key, path, key)
            if sample.label is None:
                raise DataError(f"{path}: sample {key!r} has no label; there must be {key}.cls, or {key}.json with it")
            shard.names.append(sample.picture.name)
            shard.places.append((sample.picture.start, sample.picture.size))
            shard.labels.append(sample.label)
    return shard


def _number(text: bytes, path: Path, name: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise DataError(f"{path}::{name}: must hold a class id as text, got {text[:40]!r}") from None


def _noted(text: bytes, label_key: str, path: Path, key: str) -> int | None:
    try:
        notes = json.loads(text)
    except ValueError as error:
        raise DataError(f"{path}::{key}.json: {error}") from error
    label = notes.get(label_key) if isinstance(notes, dict) else None
    if label is not None and (not isinstance(label, int) or isinstance(label, bool)):
        raise DataError(f"{path}::{key}.json: {label_key!r} must be a class id, got {label!r}")
    return label
