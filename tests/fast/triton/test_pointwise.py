"""The matrix product of inference with its prologue and epilogues, against the plain reference in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hrformer.fast.folding import PointwiseWeights
from hrformer.fast.stages import pointwise_reference
from hrformer.fast.triton.pointwise import pointwise
from kernel_accuracy import DEVICE, DTYPES, assert_accurate, nan_filled_buffers, rounded

pytest.importorskip("triton")

EPS = 1e-6


def weights(dtype: torch.dtype, in_channels: int, out_channels: int, *, norm: bool) -> PointwiseWeights:
    return PointwiseWeights(
        weight=(rounded(dtype, out_channels, in_channels) * in_channels**-0.5).to(dtype).double(),
        bias=rounded(dtype, out_channels),
        norm_weight=rounded(dtype, in_channels) if norm else None,
        norm_bias=rounded(dtype, in_channels) if norm else None,
        eps=EPS,
    )


def kernel_result(
    x: Tensor, given: PointwiseWeights, activation: str = "none", residual: Tensor | None = None
) -> Tensor:
    with nan_filled_buffers():
        return pointwise(x, given.packed(x.dtype), eps=EPS, activation=activation, residual=residual)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("size", "in_channels", "out_channels", "norm", "activation", "with_residual"),
    [
        ((2, 5, 7), 78, 312, True, "gelu", False),  # the feed-forward network's first product, three column blocks
        ((1, 8, 8), 312, 78, False, "none", True),  # a projection with residual
        ((1, 3, 5), 18, 54, True, "none", False),
        ((67,), 36, 18, False, "relu", False),  # rows beyond one block
        ((1, 1, 1), 32, 32, False, "gelu", True),  # one row
        ((2, 3, 3), 156, 16, True, "gelu", True),  # three chunks of statistics, the last one short
        ((4,), 5, 3, True, "none", False),  # narrower than every block
    ],
)
def test_as_exact_as_plain(
    dtype: torch.dtype,
    size: tuple[int, ...],
    in_channels: int,
    out_channels: int,
    norm: bool,
    activation: str,
    with_residual: bool,
) -> None:
    if dtype == torch.float32 and DEVICE.type == "cuda":
        pytest.skip("float32 products stay with torch on a GPU")
    x, given = rounded(dtype, *size, in_channels), weights(dtype, in_channels, out_channels, norm=norm)
    residual = rounded(dtype, *size, out_channels) if with_residual else None

    def plain(to: torch.dtype) -> Tensor:
        rest = None if residual is None else residual.to(to)
        return pointwise_reference(x.to(to), given, activation=activation, residual=rest)

    ours = kernel_result(x.to(dtype), given, activation, None if residual is None else residual.to(dtype))
    assert_accurate({"out": ours}, {"out": plain(dtype)}, {"out": plain(torch.float64)}, dtype)


def test_mean_far_from_zero_cancels_nothing() -> None:
    x = (100 + rounded(torch.float16, 9, 78)).half()
    given = weights(torch.float16, 78, 20, norm=True)
    plain, exact = pointwise_reference(x, given), pointwise_reference(x.double(), given)
    assert_accurate({"out": kernel_result(x, given)}, {"out": plain}, {"out": exact}, torch.float16)


def test_empty_map() -> None:
    x = torch.zeros(0, 4, 4, 32, dtype=torch.float16, device=DEVICE)
    assert kernel_result(x, weights(torch.float16, 32, 7, norm=True)).shape == (0, 4, 4, 7)
