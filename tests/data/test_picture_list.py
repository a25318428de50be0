"""Pictures whose classes nobody told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hrformer.data.images import load_image
from hrformer.data.picture_list import PictureList
from hrformer.data.sets import DataError


def test_pictures_in_the_order_given(data_dir: Path) -> None:
    files = sorted((data_dir / "cifar10" / "val" / "cat").glob("*.jpg"))[2::-1]
    source = PictureList(files, ("cat", "dog"), "test")
    assert (source.name, source.classes, len(source)) == ("test", ("cat", "dog"), 3)
    assert [source.file(index) for index in range(3)] == [str(file) for file in files]
    assert source.label(1) == -1
    assert np.array_equal(source.pixels(1), load_image(files[1]).pixels)


def test_no_pictures() -> None:
    with pytest.raises(DataError, match="test: there are no pictures"):
        PictureList([], ("cat",), "test")
