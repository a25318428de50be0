"""Pillow's resizing as matrix products, against Pillow."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from hrformer.geometry.resampling import resample


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "antialiased", "nearest"])
@pytest.mark.parametrize("new_size", [(84, 84), (224, 301), (600, 500), (33, 64)])
def test_as_pillow(interpolation: str, new_size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (97, 131, 3), dtype=np.uint8)
    pixels[20:60, 30:90] //= 9  # not noise alone
    name = "BILINEAR" if interpolation == "antialiased" else interpolation.upper()
    want = np.asarray(Image.fromarray(pixels).resize(new_size[::-1], Image.Resampling[name])).astype(int)
    planes = torch.from_numpy(pixels).permute(2, 0, 1)[None].float()
    found = resample(planes, (97, 131), new_size, interpolation)[0].permute(1, 2, 0).numpy().astype(int)
    difference = np.abs(found - want)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.005
    top, left, height, width = 5, 7, 20, 11
    part = resample(planes, (97, 131), new_size, interpolation, (top, left, height, width))[0].permute(1, 2, 0)
    np.testing.assert_array_equal(part.numpy(), found[top : top + height, left : left + width])
