"""ImageNet in zip archives with a list of labels, as the HRFormer repository's own script can read it."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hrformer.data.images import decode
from hrformer.data.label_names import classes_of_ids
from hrformer.data.packed_names import PackedNames
from hrformer.data.sets import ClassificationSet, DataError

_LOCAL_HEADER = struct.Struct("<4s22xHH")
"""Signature, then lengths of name and extra field (section 4.3.7 of the format's APPNOTE)."""


class ZipPictures(ClassificationSet):
    """Pictures in ``train.zip``, listed in ``train_map.txt`` as ``path<tab>label``, in the order of the list.

    Args:
        archive: the zip file; its members are stored or deflated.
        classes: names in the order of their ids. Default: the folders in ``train_map.txt`` beside the archive, if each
            label has its own, else the labels as text.
        name: of the data set; default the name of the folder.

    Raises:
        DataError: archive or list is absent or damaged, or they do not fit together.
    """

    def __init__(self, archive: Path, classes: Sequence[str] = (), name: str = "") -> None:
        self.name = name or archive.resolve().parent.name
        self._archive = archive
        listing = _list_of(archive)
        names, labels = read_map(listing)
        if not classes:
            training = _list_of(archive.with_name("train.zip"))
            classes = _folder_names(*(read_map(training) if training.is_file() else (names, labels)))
        self.classes = classes_of_ids(labels, classes, str(listing))
        self._names, self._labels = PackedNames(names), labels
        self._places = _find_members(archive, listing, names)

    def __len__(self) -> int:
        return len(self._names)

    def file(self, index: int) -> str:
        """``<archive>::<member>``."""
        return f"{self._archive}::{self._names[index]}"

    def pixels(self, index: int) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB."""
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

    def label(self, index: int) -> int:
        """Class id."""
        return int(self._labels[index])


def read_map(path: Path) -> tuple[list[str], NDArray[np.int64]]:
    """Members and class ids from lines ``path<tab>label``.

    Raises:
        DataError: there is no such file, or a line has another form.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; beside a zip of pictures must lie its list of labels") from None
    names: list[str] = []
    labels: list[int] = []
    for number, line in enumerate(lines, start=1):
        name, _, label = line.partition("\t")
        if not label.strip().isdecimal():
            raise DataError(f"{path}, line {number}: must be a path, a tab and a class id, got {line!r}")
        names.append(name)
        labels.append(int(label))
    return names, np.asarray(labels, dtype=np.int64)


def _list_of(archive: Path) -> Path:
    return archive.with_name(f"{archive.stem}_map.txt")


def _folder_names(names: Sequence[str], labels: NDArray[np.int64]) -> tuple[str, ...]:
    """The classes' folders, or nothing where labels and folders do not pair up."""
    pairs = {(int(label), name.rpartition("/")[0]) for label, name in zip(labels, names, strict=True)}
    folders = tuple(folder for _, folder in sorted(pairs))
    paired = [label for label, _ in sorted(pairs)] == list(range(len(pairs))) and len(set(folders)) == len(folders)
    return folders if paired and all(folders) else ()


def _find_members(archive: Path, listing: Path, names: Sequence[str]) -> NDArray[np.int64]:
    """(N, 3): where each member's header begins, its stored size, its compression."""
    try:
        with zipfile.ZipFile(archive) as opened:
            found = {
                one.filename: (one.header_offset, one.compress_size, one.compress_type) for one in opened.infolist()
            }
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{archive}: cannot be read as a zip archive: {error}") from error
    if absent := next((name for name in names if name not in found), None):
        raise DataError(f"{archive}: has no member {absent!r}, which {listing} lists")
    places = np.asarray([found[name] for name in names], dtype=np.int64).reshape(-1, 3)
    odd = ~np.isin(places[:, 2], (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    if odd.any():
        name = names[int(odd.argmax())]
        raise DataError(f"{archive}::{name}: neither stored nor deflated; pack the pictures without compression")
    return places
