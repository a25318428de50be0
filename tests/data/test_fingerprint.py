"""What a set was made of, and how it differs later."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hrformer.data.classification_sets import open_classification
from hrformer.data.fingerprint import changes, fingerprint
from hrformer.data.source_config import ClassificationSource


@pytest.mark.parametrize(
    ("broken", "ignored", "said"),
    [
        (True, ["train/a/0.png"], ""),
        (True, [], "1 file changed (train/a/0.png)"),
        # A file that is gone while labels still name it is no file that broke.
        (False, ["train/a/0.png"], "1 file removed (train/a/0.png)"),
        (False, [], "1 file removed (train/a/0.png)"),
    ],
)
def test_a_file_that_broke_may_be_left_out_but_none_that_is_gone(
    tmp_path: Path, broken: bool, ignored: list[str], said: str
) -> None:
    for name in ("a/0.png", "b/1.png"):
        file = tmp_path / "train" / name
        file.parent.mkdir(parents=True)
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(file)
    source = open_classification(ClassificationSource(root=tmp_path), "train")
    before = fingerprint(source, [tmp_path])
    if broken:
        (tmp_path / "train/a/0.png").write_bytes(b"")
    else:
        shutil.rmtree(tmp_path / "train/a")
    assert changes(before, fingerprint(source, [tmp_path]), ignored) == said
