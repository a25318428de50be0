"""Where the members of a tar file lie, found by reading its headers only."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from hrformer.data.sets import DataError

BLOCK = 512
_READ_AHEAD = 4096
"""Bytes per read: takes in a small member and the header behind it."""

_WITHOUT_CONTENTS = frozenset(b"123456")
"""Types of links, devices and folders, whose size field says nothing."""

_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


class Member(NamedTuple):
    """One file in a tar.

    Attributes:
        name: path in the archive.
        start: of its contents, in bytes from the archive's beginning.
        size: of its contents in bytes.
    """

    name: str
    start: int
    size: int


class TarReader:
    """Walks through the headers of an uncompressed tar file: ustar, GNU and pax; reads members on the way.

    Args:
        path: of the file.

    Raises:
        DataError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file: BinaryIO = path.open("rb", buffering=0)
            self._length = path.stat().st_size
        except OSError as error:
            raise DataError(f"{path}: {error.strerror}") from error
        self._window, self._window_start = b"", 0

    def __enter__(self) -> TarReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self, start: int, size: int) -> bytes:
        """``size`` bytes from ``start``, fewer at the end of the file."""
        inside = start - self._window_start
        if not 0 <= inside <= len(self._window) - size:
            self._file.seek(start)
            self._window, self._window_start, inside = self._file.read(max(size, _READ_AHEAD)), start, 0
        return self._window[inside : inside + size]

    def members(self) -> Iterator[Member]:
        """Regular files in the order of the archive.

        Raises:
            DataError: it is no tar file, is compressed, damaged or cut short.
        """
        position, name, size_override = 0, "", -1
        while len(header := self.read(position, BLOCK)) == BLOCK and header[0]:
            self._check(header, position)
            kind, start = header[156:157], position + BLOCK
            try:
                size = _number(header[124:136]) if size_override < 0 else size_override
            except ValueError:
                raise DataError(f"{self._path}: damaged: the header at byte {position} gives no size") from None
            size = 0 if header[156] in _WITHOUT_CONTENTS else size
            if start + size > self._length:
                raise DataError(f"{self._path}: cut short: a member at byte {position} ends behind the end of the file")
            position = start + -(-size // BLOCK) * BLOCK
            if kind == b"L":
                name = _text(self.read(start, size))
            elif kind == b"x":
                data = self.read(start, size)
                # Most hold only a date with fractions of a second.
                if b" path=" in data or b" size=" in data:
                    records = _pax_records(data)
                    name, size_override = records.get("path", name), int(records.get("size", -1))
            elif kind != b"g":
                if kind in (b"\0", b"0", b"7"):
                    yield Member(name or _name(header), start, size)
                name, size_override = "", -1
        if not position and self._length:
            raise DataError(f"{self._path}: not a tar file")
        if any(header) and len(header) < BLOCK:
            raise DataError(f"{self._path}: cut short: the file ends within the header at byte {position}")

    def _check(self, header: bytes, position: int) -> None:
        if header[257:262] == b"ustar":
            return
        # Archives older than POSIX have no magic word, but a checksum, for which its own field counts as spaces.
        total = sum(header) - sum(header[148:156]) + 8 * ord(" ")
        if header[148:154].strip(b" \0").isdigit() and int(header[148:154].strip(b" \0"), 8) == total:
            return
        if position:
            raise DataError(f"{self._path}: damaged: there is no member's header at byte {position}")
        packed = next((name for magic, name in _COMPRESSED.items() if header.startswith(magic)), None)
        if packed:
            raise DataError(f"{self._path}: compressed by {packed}; unpack it once, for access in any order")
        raise DataError(f"{self._path}: not a tar file")


def _number(field: bytes) -> int:
    """Octal digits, or a big-endian number behind a byte with its highest bit set (GNU, beyond 8 GiB)."""
    if field[0] & 0x80:
        return int.from_bytes(field[1:], "big")
    return int(field.strip(b" \0") or b"0", 8)


def _name(header: bytes) -> str:
    name = _text(header[:100])
    # GNU's variant ends its magic word with a space, and keeps other things where POSIX has the prefix.
    prefix = _text(header[345:500]) if header[257:263] == b"ustar\0" else ""
    return f"{prefix}/{name}" if prefix else name


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


def _pax_records(data: bytes) -> dict[str, str]:
    """Records ``<length> <key>=<value>\\n`` of a pax header; the length counts the whole record."""
    records: dict[str, str] = {}
    while data[:1].isdigit():
        length = int(data.split(b" ", 1)[0])
        key, _, value = data[:length].split(b" ", 1)[1].rstrip(b"\n").partition(b"=")
        records[key.decode("utf-8", "surrogateescape")] = value.decode("utf-8", "surrogateescape")
        data = data[length:]
    return records
