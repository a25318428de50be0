from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import pytest

from hrformer.data.sets import DataError
from hrformer.data.tar_index import TarReader

MEMBERS = {
    "a.txt": b"short",
    "folder/b.bin": bytes(range(256)) * 40,
    "long/" + "n" * 150 + "/c.txt": b"x" * 512,
    "very-long-" + "o" * 300 + ".txt": b"",
    "größe.txt": b"\0" * 513,
}


def pack(path: Path, tar_format: int) -> None:
    with tarfile.open(path, "w", format=tar_format) as tar:
        for name, data in MEMBERS.items():
            if tar_format == tarfile.USTAR_FORMAT and len(name) > 250:
                continue
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), 12.5
            tar.addfile(info, io.BytesIO(data))
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "x" * 200 if tar_format != tarfile.USTAR_FORMAT else "a.txt"
        tar.addfile(link)
        last = tarfile.TarInfo("last.txt")
        last.size = 3
        tar.addfile(last, io.BytesIO(b"end"))


@pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_finds_what_tarfile_finds(tar_format: int, tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    pack(path, tar_format)
    with tarfile.open(path) as tar:
        expected = [(info.name, info.offset_data, info.size) for info in tar if info.isreg()]
    with TarReader(path) as reader:
        found = list(reader.members())
        assert [tuple(member) for member in found] == expected
        assert len(found) == len(MEMBERS) + (0 if tar_format == tarfile.USTAR_FORMAT else 1)
        for member in found:
            data = reader.read(member.start, member.size)
            assert data == path.read_bytes()[member.start : member.start + member.size]
            assert data == (MEMBERS | {"last.txt": b"end"})[member.name]


def test_archives_without_magic_word_have_their_checksum(tmp_path: Path) -> None:
    path = tmp_path / "old.tar"
    pack(path, tarfile.GNU_FORMAT)
    data = bytearray(path.read_bytes()[:1024])
    data[257:265] = bytes(8)
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    path.write_bytes(bytes(data) + bytes(1024))
    with TarReader(path) as reader:
        assert [member.name for member in reader.members()] == ["a.txt"]


def test_sizes_beyond_octal(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    pack(path, tarfile.GNU_FORMAT)
    data = bytearray(path.read_bytes())
    data[124:136] = b"\x80" + (5).to_bytes(11, "big")
    path.write_bytes(data)
    with TarReader(path) as reader:
        assert next(reader.members()).size == 5


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    whole = tmp_path / "x.tar"
    pack(whole, tarfile.GNU_FORMAT)
    data = whole.read_bytes()
    for content, message in (
        (data[:6000], "cut short: a member at byte 1024 ends behind the end"),
        (gzip.compress(data), "compressed by gzip; unpack it once"),
        (b"hello " * 200, "not a tar file"),
        (data[:1024] + b"\x07" * 1024, "damaged: there is no member's header at byte 1024"),
        (data[:124] + b"8" * 12 + data[136:], "damaged: the header at byte 0 gives no size"),
    ):
        broken = tmp_path / "broken.tar"
        broken.write_bytes(content)
        with TarReader(broken) as reader, pytest.raises(DataError, match=f"broken.tar: {message}"):
            list(reader.members())
    with pytest.raises(DataError, match=r"absent\.tar: No such file"):
        TarReader(tmp_path / "absent.tar")
