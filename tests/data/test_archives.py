"""Tar shards and zip files give the pictures that were packed, and say what is wrong with them."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from hrformer.data.archives import TarShards, tar_members
from hrformer.data.classification_sets import open_classification
from hrformer.data.images import load_image
from hrformer.data.set_types import DataError
from hrformer.data.source_config import ClassificationSource

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


def members(path: Path) -> list[tuple[str, int, int]]:
    with path.open("rb") as file:
        return [(one.name, one.offset_data, one.size) for one in tar_members(path, file)]


@pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_finds_what_tarfile_finds(tar_format: int, tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    pack(path, tar_format)
    with tarfile.open(path) as tar:
        expected = [(info.name, info.offset_data, info.size) for info in tar if info.isreg()]
    assert members(path) == expected
    assert len(expected) == len(MEMBERS) + (0 if tar_format == tarfile.USTAR_FORMAT else 1)
    for name, start, size in expected:
        assert path.read_bytes()[start : start + size] == (MEMBERS | {"last.txt": b"end"})[name]


def test_archives_without_magic_word_have_their_checksum(tmp_path: Path) -> None:
    path = tmp_path / "old.tar"
    pack(path, tarfile.GNU_FORMAT)
    data = bytearray(path.read_bytes()[:1024])
    data[257:265] = bytes(8)
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    path.write_bytes(bytes(data) + bytes(1024))
    assert [name for name, *_ in members(path)] == ["a.txt"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:6000], "cut short or damaged: "),
        (lambda data: data[:1300], "cut short or damaged: "),
        (gzip.compress, "compressed by gzip; unpack it once"),
        (lambda data: b"hello " * 200, "not a tar file"),
        (lambda data: b"", "not a tar file"),
        (lambda data: data[:1024] + b"\x07" * 1024, "cut short or damaged: no whole member begins at byte 1024"),
        (lambda data: data[:1024] + data[1024:1148] + b"8" * 12 + data[1160:], "cut short or damaged: .* at byte 1024"),
    ],
)
def test_damaged_shards_are_refused(change, message: str, tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    pack(path, tarfile.GNU_FORMAT)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(DataError, match=rf"x\.tar: {message}"):
        TarShards([path])


def test_absent_shards_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.tar: No such file"):
        TarShards([tmp_path / "absent.tar"])


def write_shard(path: Path, members: Iterable[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture(scope="module")
def files(data_dir: Path) -> list[Path]:
    """Three real pictures of each class."""
    return [f for folder in sorted((data_dir / "cifar10" / "val").iterdir()) for f in sorted(folder.iterdir())[:3]]


@pytest.fixture
def shards(files: list[Path], tmp_path: Path) -> ClassificationSource:
    classes = sorted({file.parent.name for file in files})
    for shard in range(3):
        members: list[tuple[str, bytes]] = []
        for file in files[shard::3]:
            key, label = f"{file.parent.name}/{file.stem}", classes.index(file.parent.name)
            note = {"cls": b"%d\n" % label} if shard < 2 else {"json": json.dumps({"label": label, "x": [1]}).encode()}
            parts = {"jpg": file.read_bytes(), "txt": b"ignored", **note}
            # Shard 1 has the label before the picture.
            members += [(f"{key}.{ending}", parts[ending]) for ending in sorted(parts, reverse=shard != 1)]
        write_shard(tmp_path / f"train-{shard:06d}.tar", [("__meta__.json", b"{}"), *members])
    return ClassificationSource(root=tmp_path, format="webdataset", train="train-{000000..000002}.tar")


def test_items_are_the_files(shards: ClassificationSource, files: list[Path]) -> None:
    data = pickle.loads(pickle.dumps(open_classification(shards, "train")))
    assert (len(data), data.classes, data.name) == (30, tuple("0123456789"), shards.root.name)
    ordered = [file for shard in range(3) for file in files[shard::3]]
    for index, file in enumerate(ordered):
        assert np.array_equal(data.pixels(index), load_image(file).pixels)
        assert data.label(index) == index % 10
    assert data.file(10) == f"{shards.root / 'train-000001.tar'}::airplane/{files[1].name}"


def test_the_webdataset_package_writes_what_is_read(files: list[Path], tmp_path: Path) -> None:
    wds = pytest.importorskip("webdataset")
    with wds.ShardWriter(str(tmp_path / "a-%03d.tar"), maxcount=7, verbose=0) as writer:
        for number, file in enumerate(files):
            writer.write({"__key__": f"{number:05d}", "jpg": file.read_bytes(), "cls": number % 4})
    data = TarShards(sorted(tmp_path.glob("*.tar")))
    assert [data.label(index) for index in range(len(data))] == [number % 4 for number in range(30)]
    assert np.array_equal(data.pixels(29), load_image(files[29]).pixels)


def test_names_come_from_the_class_list(shards: ClassificationSource, data_dir: Path) -> None:
    (shards.root / "classes.txt").write_bytes((data_dir / "cifar10" / "classes.txt").read_bytes())
    assert open_classification(shards, "train").classes[3] == "cat"
    (shards.root / "classes.txt").write_text("0 a\n1 b\n")
    with pytest.raises(DataError, match="has the label 9, but there are only 2"):
        open_classification(shards, "train")


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("a.jpg", b"x")], "sample 'a' has no label; there must be a.cls, or a.json with it"),
        ([("a.cls", b"1")], "sample 'a' has no picture"),
        ([("a.jpg", b"x"), ("a.cls", b"cat")], r"a\.cls: must hold a class id as text, got b'cat'"),
        ([("a.jpg", b"x"), ("a.png", b"x"), ("a.cls", b"1")], r"a\.png and a\.jpg are pictures of one sample"),
        ([("a.jpg", b"x"), ("a.json", b"{")], r"a\.json: Expecting"),
        ([("a.jpg", b"x"), ("a.json", b'{"label": "cat"}')], r"a\.json: 'label' must be a class id, got 'cat'"),
        ([("a.jpg", b"x"), ("a.json", b'{"other": 1}')], "sample 'a' has no label"),
        ([("a.jpg", b"x"), ("a.cls", b"-1")], "has the label -1"),
        ([], "not a tar file|holds no pictures"),
    ],
)
def test_incomplete_samples_are_named(members: list[tuple[str, bytes]], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        TarShards([write_shard(tmp_path / "x.tar", members)])


def test_own_label_key(tmp_path: Path) -> None:
    path = write_shard(
        tmp_path / "train.tar",
        [("a.jpg", b"x"), ("a.fine", b"5"), ("b.jpg", b"x"), ("b.json", b'{"fine": 3, "label": 9}')],
    )
    source = ClassificationSource(root=path.parent, format="webdataset", label_column="fine")
    data = open_classification(source, "train")
    assert [data.label(index) for index in range(2)] == [5, 3]


def test_broken_pictures_are_named(shards: ClassificationSource, tmp_path: Path) -> None:
    data = TarShards([write_shard(tmp_path / "x.tar", [("k.jpg", b"no picture"), ("k.cls", b"0")])])
    with pytest.raises(ValueError, match=r"x\.tar::k\.jpg: not a picture"):
        data.pixels(0)
    data = open_classification(shards, "train")
    shard = shards.root / "train-000002.tar"
    shard.write_bytes(shard.read_bytes()[:1500])
    with pytest.raises(DataError, match="has become shorter"):
        data.pixels(29)
    with pytest.raises(DataError, match=r"train-000002\.tar: cut short"):
        open_classification(shards, "train")


@pytest.fixture
def zipped(data_dir: Path, tmp_path: Path) -> tuple[ClassificationSource, list[Path]]:
    """Twelve CIFAR pictures as ImageNet's users pack it: folders in train, none in val."""
    files = [f for name in ("cat", "dog") for f in sorted((data_dir / "cifar10" / "train" / name).iterdir())[:6]]
    files = files[::2] + files[1::2]
    for part, method in (("train", zipfile.ZIP_STORED), ("val", zipfile.ZIP_DEFLATED)):
        lines = []
        with zipfile.ZipFile(tmp_path / f"{part}.zip", "w", method) as archive:
            for file in files:
                name = f"{file.parent.name}/{file.name}" if part == "train" else f"{file.parent.name}_{file.name}"
                archive.write(file, name)
                lines.append(f"{name}\t{int(file.parent.name == 'dog')}\n")
        (tmp_path / f"{part}_map.txt").write_text("".join(lines))
    return ClassificationSource(root=tmp_path), files


@pytest.mark.parametrize("split", ["train", "val"])
def test_zip_and_map_give_the_files(zipped: tuple[ClassificationSource, list[Path]], split) -> None:
    source, files = zipped
    data = pickle.loads(pickle.dumps(open_classification(source, split)))
    assert (data.classes, len(data), data.name) == (("cat", "dog"), 12, source.root.name)
    assert data.file(0).startswith(f"{source.root / split}.zip::cat")
    for index, file in enumerate(files):
        assert np.array_equal(data.pixels(index), load_image(file).pixels)
        assert data.classes[data.label(index)] == file.parent.name


def test_a_folder_goes_before_the_archive(zipped: tuple[ClassificationSource, list[Path]], data_dir: Path) -> None:
    source, _ = zipped
    (source.root / "train").symlink_to(data_dir / "cifar10" / "val")
    assert len(open_classification(source, "train")) == 1000


def test_archive_and_list_must_fit(zipped: tuple[ClassificationSource, list[Path]]) -> None:
    source, _ = zipped
    listing = source.root / "val_map.txt"
    text = listing.read_text()
    listing.write_text(text + "absent.jpg\t0\n")
    with pytest.raises(DataError, match=r"val\.zip: has no member 'absent\.jpg', which .*val_map\.txt lists"):
        open_classification(source, "val")
    listing.write_text(text.replace("\t", " "))
    with pytest.raises(DataError, match=r"val_map\.txt, line 1: must be a path, a tab and a class id"):
        open_classification(source, "val")
    listing.write_text(text.replace("\t1", "\t7"))
    with pytest.raises(DataError, match="has the label 7, but there are only 2 class names"):
        open_classification(source, "val")
    listing.unlink()
    with pytest.raises(DataError, match=r"val_map\.txt: no such file; beside a zip"):
        open_classification(source, "val")


def test_damage_is_reported(zipped: tuple[ClassificationSource, list[Path]]) -> None:
    source, _ = zipped
    data = open_classification(source, "train")
    archive = source.root / "train.zip"
    archive.write_bytes(b"\0" * 64 + archive.read_bytes()[64:])
    with pytest.raises(DataError, match="damaged or has changed"):
        data.pixels(0)
    archive.write_bytes(archive.read_bytes()[:5000])
    with pytest.raises(DataError, match=r"train\.zip: cannot be read as a zip archive"):
        open_classification(source, "train")
