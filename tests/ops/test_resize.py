"""The four ways of upsampling in the fusion unit, against plain numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from hrformer.ops.resize import UPSAMPLE_MODES, resize_bilinear, upsample_to


def weights(old: int, new: int, align_corners: bool) -> np.ndarray:
    """(new, old) matrix of linear interpolation along one axis."""
    position = np.arange(new, dtype=np.float64)
    if align_corners:
        position = position * ((old - 1) / (new - 1) if new > 1 else 0.0)
    else:
        position = np.maximum((position + 0.5) * old / new - 0.5, 0.0)
    low = np.minimum(position.astype(int), old - 1)
    high = np.minimum(low + 1, old - 1)
    matrix = np.zeros((new, old))
    matrix[np.arange(new), low] += 1 - (position - low)
    matrix[np.arange(new), high] += position - low
    return matrix


def bilinear(x: np.ndarray, size: tuple[int, int], align_corners: bool) -> np.ndarray:
    return weights(x.shape[-2], size[0], align_corners) @ x @ weights(x.shape[-1], size[1], align_corners).T


def expected_upsample(x: np.ndarray, factor: int, size: tuple[int, int], mode: str) -> np.ndarray:
    """The recipe's table of section 1.6, and HRNet-Semantic-Segmentation's single step."""
    grown = (x.shape[-2] * factor, x.shape[-1] * factor)
    if mode in ("bilinear_aligned", "bilinear_to_size"):
        return bilinear(x, size, mode == "bilinear_aligned")
    if mode == "nearest":
        y = x.repeat(factor, axis=-2).repeat(factor, axis=-1)
        return y if grown == size else bilinear(y, size, True)
    y = bilinear(x, grown, False)
    return y if grown == size else bilinear(y, size, False)


def random_map(*size: int) -> Tensor:
    return torch.randn(2, 3, *size, dtype=torch.float64)


@pytest.mark.parametrize("mode", UPSAMPLE_MODES)
@pytest.mark.parametrize(
    ("size", "factor", "target"),
    [
        ((4, 3), 2, (8, 6)),  # exact
        ((4, 3), 4, (16, 12)),
        ((8, 11), 2, (16, 21)),  # one odd side
        ((2, 3), 8, (16, 21)),
        ((1, 1), 8, (1, 1)),
        ((1, 1), 2, (1, 2)),
        ((1, 2), 4, (3, 5)),
    ],
)
def test_upsample_equals_numpy(size: tuple[int, int], factor: int, target: tuple[int, int], mode: str) -> None:
    x = random_map(*size)
    expected = torch.from_numpy(expected_upsample(x.numpy(), factor, target, mode))
    torch.testing.assert_close(upsample_to(x, factor, target, mode), expected, rtol=1e-9, atol=1e-9)


def test_modes_differ() -> None:
    x = random_map(4, 3)
    for size, modes in (((8, 6), UPSAMPLE_MODES[:3]), ((7, 5), UPSAMPLE_MODES)):
        results = [upsample_to(x, 2, size, mode) for mode in modes]
        for i in range(len(modes)):
            for j in range(i):
                assert (results[i] - results[j]).abs().max() > 0.1


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("target", [(9, 4), (3, 7), (1, 1)])
def test_resize_bilinear_equals_numpy(target: tuple[int, int], align_corners: bool) -> None:
    x = random_map(5, 7)
    expected = torch.from_numpy(bilinear(x.numpy(), target, align_corners))
    torch.testing.assert_close(resize_bilinear(x, target, align_corners=align_corners), expected)


def test_resize_to_the_same_size_is_free() -> None:
    x = random_map(5, 7)
    assert resize_bilinear(x, (5, 7), align_corners=True) is x
