"""Pictures in archives, read in any order without unpacking: webdataset's tar shards, and zip files with a list.

The members are found once, by their headers. After that an item is an offset and a size. Files are opened anew for
each picture: that costs microseconds, and needs no thought about processes, threads and the limit on open files.
"""

from __future__ import annotations

import json
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from hrformer.data.class_lists import classes_of_ids
from hrformer.data.images import SUFFIXES, decode
from hrformer.data.set_types import ClassificationSet, DataError, PackedNames

_THREADS = 16
"""Shards that are indexed at once: waiting for the disk or the network takes much of the time."""

_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}

_OCTAL = re.compile(rb"[0-7]+")

_LOCAL_HEADER = struct.Struct("<4s22xHH")
"""Of a zip's member: signature, then lengths of name and extra field (section 4.3.7 of the format's APPNOTE)."""


class _TarHeader(tarfile.TarInfo):
    """Reads headers of plain files four times as fast as ``tarfile``, which reads all others; sets have millions."""

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> _TarHeader:
        file: Any = tar.fileobj
        start = file.tell()
        block = file.read(tarfile.BLOCKSIZE)
        kind, digits = block[156:157], block[124:135]
        # GNU's variant ends its magic word with a space; POSIX's may have the beginning of the name elsewhere.
        if block[257:263] == b"ustar " or (block[257:263] == b"ustar\0" and block[345:346] == b"\0"):
            size = int(digits, 8) if _OCTAL.fullmatch(digits) else -1
            length = -(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
            if kind == tarfile.REGTYPE and size >= 0:
                header = cls(block[:100].split(b"\0", 1)[0].decode("utf-8", "surrogateescape"))
                header.size, header.offset_data = size, start + tarfile.BLOCKSIZE
                tar.offset = header.offset_data + length
                return header
            # Most of these hold only a date with fractions of a second.
            if kind == tarfile.XHDTYPE and b" path=" not in (records := file.read(length)) and b"size=" not in records:
                return cls.fromtarfile(tar)
        file.seek(start)
        return super().fromtarfile(tar)


def tar_members(path: Path, file: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """Regular files of an uncompressed tar, in its order; ``file`` may be read from between two of them.

    Raises:
        DataError: it is no tar file, is compressed, damaged or cut short.
    """
    begins = file.read(len(max(_COMPRESSED, key=len)))
    if packed := next((name for magic, name in _COMPRESSED.items() if begins.startswith(magic)), None):
        raise DataError(f"{path}: compressed by {packed}; unpack it once, for access in any order")
    file.seek(0)
    try:
        with tarfile.open(fileobj=file, mode="r:", tarinfo=_TarHeader) as tar:
            yield from (member for member in tar if member.isreg())
            # tarfile takes a header that it cannot read for the end of the archive.
            file.seek(tar.offset)
            rest = file.read(tarfile.BLOCKSIZE)
    except tarfile.ReadError as error:
        if file.tell() <= tarfile.BLOCKSIZE:
            raise DataError(f"{path}: not a tar file: {error}") from error
        raise DataError(f"{path}: cut short or damaged: {error}") from error
    if any(rest):
        raise DataError(f"{path}: cut short or damaged: no whole member begins at byte {tar.offset}")


class TarShards(ClassificationSet):
    """Samples of tar shards: members whose names agree up to the first dot.

    Each has one picture and a label: a member ``.cls`` or ``.<label_key>`` with a number as text, else the entry
    ``label_key`` of a ``.json`` member. Other members do not matter. The items come in the order of the shards.

    Raises:
        DataError: a shard is compressed or damaged, or a sample lacks picture or label or has two of them.
    """

    def __init__(
        self, shards: Sequence[Path], classes: Sequence[str] = (), *, label_key: str = "label", name: str = ""
    ) -> None:
        if not shards:
            raise DataError("no shards were given")
        with ThreadPoolExecutor(min(_THREADS, len(shards))) as pool:
            indexed = list(pool.map(lambda path: _samples(path, label_key), shards))
        samples = [sample for shard in indexed for sample in shard]
        self.name = name or shards[0].resolve().parent.name
        self._shards = tuple(shards)
        self._shard_of = np.repeat(np.arange(len(shards), dtype=np.int32), [len(shard) for shard in indexed])
        self._names = PackedNames(name for name, *_ in samples)
        self._places = np.array([place for _, *place, _ in samples], np.int64).reshape(-1, 2)
        self._labels = np.array([label for *_, label in samples], np.int64)
        origin = str(shards[0]) + f" and {len(shards) - 1} more" * (len(shards) > 1)
        self.classes = classes_of_ids(self._labels, classes, origin)

    def file(self, index: int) -> str:
        return f"{self._shards[self._shard_of[index]]}::{self._names[index]}"

    def pixels(self, index: int) -> NDArray[np.uint8]:
        start, size = map(int, self._places[index])
        with self._shards[self._shard_of[index]].open("rb", buffering=0) as shard:
            shard.seek(start)
            data = shard.read(size)
        if len(data) != size:
            raise DataError(f"{self.file(index)}: the shard has become shorter since it was opened")
        return decode(data, self.file(index))


def _samples(path: Path, label_key: str) -> list[tuple[str, int, int, int]]:
    """Name, start, size and label of each picture of a shard."""
    samples: dict[str, dict[str, tarfile.TarInfo]] = {}
    labels: dict[str, int | None] = {}
    try:
        file = path.open("rb")
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error
    with file:

        def read(member: tarfile.TarInfo) -> bytes:
            file.seek(member.offset_data)
            return file.read(member.size)

        for member in tar_members(path, file):
            place, slash, base = member.name.rpartition("/")
            stem, _, ending = base.partition(".")
            if not stem or stem.startswith("__"):
                continue
            sample = samples.setdefault(key := f"{place}{slash}{stem}", {})
            if ending in ("cls", label_key):
                text = read(member)
                try:
                    labels[key] = int(text)
                except ValueError:
                    where = f"{path}::{member.name}"
                    raise DataError(f"{where}: must hold a class id as text, got {text[:40]!r}") from None
            elif ending == "json":
                sample["json"] = member
            elif f".{ending.lower()}" in SUFFIXES:
                if "picture" in sample:
                    raise DataError(f"{path}: {member.name} and {sample['picture'].name} are pictures of one sample")
                sample["picture"] = member
        found = []
        for key, sample in samples.items():
            if (picture := sample.get("picture")) is None:
                raise DataError(f"{path}: sample {key!r} has no picture; one member must be {key}.jpg or the like")
            if key not in labels and "json" in sample:
                labels[key] = _noted(read(sample["json"]), label_key, f"{path}::{key}.json")
            if (label := labels.get(key)) is None:
                raise DataError(f"{path}: sample {key!r} has no label; there must be {key}.cls, or {key}.json with it")
            found.append((picture.name, picture.offset_data, picture.size, label))
    return found


def _noted(text: bytes, label_key: str, where: str) -> int | None:
    """The label in a ``.json`` member; None where it has none."""
    try:
        notes = json.loads(text)
    except ValueError as error:
        raise DataError(f"{where}: {error}") from error
    label = notes.get(label_key) if isinstance(notes, dict) else None
    if label is not None and (not isinstance(label, int) or isinstance(label, bool)):
        raise DataError(f"{where}: {label_key!r} must be a class id, got {label!r}")
    return label


class ZipPictures(ClassificationSet):
    """Pictures in ``train.zip``, stored or deflated, listed in ``train_map.txt`` as ``path<tab>label``, in its order.

    This is how the HRFormer repository's own script can read ImageNet. Without ``classes`` these are the folders in
    ``train_map.txt`` beside the archive, if each label has its own, else the labels as text.

    Raises:
        DataError: archive or list is absent or damaged, or they do not fit together.
    """

    def __init__(self, archive: Path, classes: Sequence[str] = (), name: str = "") -> None:
        self.name = name or archive.resolve().parent.name
        self._archive = archive
        listing = archive.with_name(f"{archive.stem}_map.txt")
        names, self._labels = _read_map(listing)
        if not classes:
            training = archive.with_name("train_map.txt")
            classes = _folder_names(*(_read_map(training) if training.is_file() else (names, self._labels)))
        self.classes = classes_of_ids(self._labels, classes, str(listing))
        self._names = PackedNames(names)
        try:
            with zipfile.ZipFile(archive) as opened:
                found = {one.filename: one for one in opened.infolist()}
        except (OSError, zipfile.BadZipFile) as error:
            raise DataError(f"{archive}: cannot be read as a zip archive: {error}") from error
        self._places = np.zeros((len(names), 3), np.int64)
        for place, name in enumerate(names):
            if (member := found.get(name)) is None:
                raise DataError(f"{archive}: has no member {name!r}, which {listing} lists")
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise DataError(f"{archive}::{name}: neither stored nor deflated; pack the pictures uncompressed")
            self._places[place] = member.header_offset, member.compress_size, member.compress_type

    def file(self, index: int) -> str:
        return f"{self._archive}::{self._names[index]}"

    def pixels(self, index: int) -> NDArray[np.uint8]:
        header, size, method = map(int, self._places[index])
        with self._archive.open("rb", buffering=0) as file:
            file.seek(header)
            signature, name_length, extra_length = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
            file.seek(name_length + extra_length, 1)
            data = file.read(size)
        if signature != b"PK\x03\x04" or len(data) != size:
            raise DataError(f"{self.file(index)}: the archive is damaged or has changed since it was opened")
        try:
            data = data if method == zipfile.ZIP_STORED else zlib.decompress(data, -zlib.MAX_WBITS)
        except zlib.error as error:
            raise DataError(f"{self.file(index)}: {error}") from error
        return decode(data, self.file(index))


def _read_map(path: Path) -> tuple[list[str], NDArray[np.int64]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; beside a zip of pictures must lie its list of labels") from None
    rows = [line.partition("\t") for line in lines]
    for number, (_, _, label) in enumerate(rows, start=1):
        if not label.strip().isdecimal():
            raise DataError(f"{path}, line {number}: must be a path, a tab and a class id, got {lines[number - 1]!r}")
    return [name for name, _, _ in rows], np.array([int(label) for _, _, label in rows], np.int64)


def _folder_names(names: Sequence[str], labels: NDArray[np.int64]) -> tuple[str, ...]:
    """The classes' folders, or nothing where labels and folders do not pair up."""
    pairs = sorted({(int(label), name.rpartition("/")[0]) for label, name in zip(labels, names, strict=True)})
    folders = tuple(folder for _, folder in pairs)
    paired = [label for label, _ in pairs] == list(range(len(pairs))) and len(set(folders)) == len(folders)
    return folders if paired and all(folders) else ()
