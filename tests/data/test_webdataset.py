from __future__ import annotations

import io
import json
import pickle
import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from hrformer.data.classification_sets import open_classification
from hrformer.data.images import load_image
from hrformer.data.sets import DataError
from hrformer.data.sources import ClassificationSource
from hrformer.data.webdataset import TarShards


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
