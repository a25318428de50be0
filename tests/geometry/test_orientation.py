"""Turning by EXIF orientation, held against Pillow's."""

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from hrformer.geometry.orientation import upright_boxes, upright_pixels, upright_points, upright_size


@pytest.mark.parametrize("orientation", range(1, 9))
def test_all_eight_turn_as_pillow_does(orientation: int) -> None:
    stored = np.arange(35, dtype=np.uint8).reshape(5, 7)
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    Image.fromarray(stored).save(file, "png", exif=exif)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(file)))

    np.testing.assert_array_equal(upright_pixels(stored, orientation), upright)
    assert upright_size((7, 5), orientation) == upright.shape[::-1]
    x, y = upright_points(np.array([4.0, 2.0]), (7, 5), orientation).astype(int)
    assert upright[y, x] == stored[2, 4]
    left, top, width, height = upright_boxes(np.array([1.0, 2, 3, 1]), (7, 5), orientation).astype(int)
    assert sorted(upright[top : top + height, left : left + width].ravel()) == sorted(stored[2:3, 1:4].ravel())
