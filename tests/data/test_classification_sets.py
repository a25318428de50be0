from __future__ import annotations

from pathlib import Path

import pytest

from hrformer.data.classification_sets import open_classification
from hrformer.data.sets import DataError
from hrformer.data.sources import ClassificationSource


def test_parts_have_their_own_root(data_dir: Path, tmp_path: Path) -> None:
    source = ClassificationSource(root=tmp_path, train="x", val="val", val_root=data_dir / "cifar10", test="")
    assert len(open_classification(source, "val")) == 1000
    with pytest.raises(DataError, match=r"the set has no part 'test': ClassificationSource\.test is empty"):
        open_classification(source, "test")


@pytest.mark.parametrize("layout", ["folders", "webdataset", "huggingface"])
def test_absent_root(layout, tmp_path: Path) -> None:
    if layout == "huggingface":
        pytest.importorskip("datasets")
    with pytest.raises(DataError, match="absent: no such folder"):
        open_classification(ClassificationSource(root=tmp_path / "absent", format=layout), "train")
