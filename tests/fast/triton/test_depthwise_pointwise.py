"""Depthwise convolution inside a matrix product, against the plain reference in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hrformer.fast.folding import DepthwiseWeights
from hrformer.fast.stages import depthwise_pointwise_reference
from hrformer.fast.triton.depthwise_pointwise import best_tile, depthwise_pointwise
from kernel_accuracy import DEVICE, DTYPES, assert_accurate, nan_filled_buffers, rounded

pytest.importorskip("triton")


def weights(dtype: torch.dtype, in_channels: int, out_channels: int, stride: int = 1) -> DepthwiseWeights:
    return DepthwiseWeights(
        depthwise=(rounded(dtype, in_channels, 3, 3) / 3).to(dtype).double(),
        depthwise_bias=rounded(dtype, in_channels),
        weight=(rounded(dtype, out_channels, in_channels) * in_channels**-0.5).to(dtype).double(),
        bias=rounded(dtype, out_channels),
        stride=stride,
    )


def kernel_result(
    x: Tensor, given: DepthwiseWeights, middle: str = "none", activation: str = "none", residual: Tensor | None = None
) -> Tensor:
    with nan_filled_buffers():
        return depthwise_pointwise(
            x,
            given.packed(x.dtype),
            stride=given.stride,
            middle=middle,
            activation=activation,
            residual=residual,
        )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("size", "in_channels", "out_channels", "stride", "middle", "activation", "with_residual"),
    [
        ((2, 9, 7), 72, 18, 1, "gelu", "gelu", True),  # the feed-forward network's second half
        ((1, 4, 17), 32, 8, 1, "gelu", "gelu", True),  # wide tiles
        ((1, 17, 3), 36, 8, 1, "gelu", "none", False),  # tall tiles
        ((1, 1, 1), 16, 4, 1, "gelu", "gelu", True),  # all neighbours outside
        ((2, 9, 8), 78, 156, 2, "none", "relu", False),  # a downsampling step, one odd side
        ((1, 3, 2), 18, 36, 2, "none", "none", False),
        ((1, 2, 3), 20, 300, 1, "none", "none", False),  # two column blocks
    ],
)
def test_as_exact_as_plain(
    dtype: torch.dtype,
    size: tuple[int, int, int],
    in_channels: int,
    out_channels: int,
    stride: int,
    middle: str,
    activation: str,
    with_residual: bool,
) -> None:
    if dtype == torch.float32 and DEVICE.type == "cuda":
        pytest.skip("float32 products stay with torch on a GPU")
    x, given = rounded(dtype, *size, in_channels), weights(dtype, in_channels, out_channels, stride)
    residual = rounded(dtype, *size, out_channels) if with_residual else None

    def plain(to: torch.dtype) -> Tensor:
        rest = None if residual is None else residual.to(to)
        return depthwise_pointwise_reference(x.to(to), given, middle=middle, activation=activation, residual=rest)

    ours = kernel_result(x.to(dtype), given, middle, activation, None if residual is None else residual.to(dtype))
    assert_accurate({"out": ours}, {"out": plain(dtype)}, {"out": plain(torch.float64)}, dtype)


@pytest.mark.parametrize("size", [(0, 8, 8), (2, 0, 8)])
def test_empty_map(size: tuple[int, int, int]) -> None:
    x = torch.zeros(*size, 32, dtype=torch.float16, device=DEVICE)
    assert kernel_result(x, weights(torch.float16, 32, 7)).shape == (*size, 7)


def test_pictures_do_not_touch() -> None:
    """The last row of one picture is no neighbour of the first of the next."""
    x, given = rounded(torch.float16, 2, 5, 4, 16).half(), weights(torch.float16, 16, 8)
    assert torch.equal(kernel_result(x, given), torch.cat([kernel_result(picture[None], given) for picture in x]))


@pytest.mark.parametrize(
    ("size", "tile"), [((64, 48), (8, 8)), ((8, 6), (8, 8)), ((16, 12), (16, 4)), ((4, 40), (4, 16))]
)
def test_tile_wastes_least(size: tuple[int, int], tile: tuple[int, int]) -> None:
    assert best_tile(*size) == tile
