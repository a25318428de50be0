from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from hrformer.data.classification_sets import open_classification
from hrformer.data.images import load_image
from hrformer.data.sets import DataError
from hrformer.data.sources import ClassificationSource


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
