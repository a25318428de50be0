"""The kernel of fusion units against torch's own resizing in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hrformer.fast.stages import fusion_sum_reference
from hrformer.fast.triton.fusion_sum import fusion_sum
from kernel_accuracy import DEVICE, DTYPES, assert_accurate, nan_filled_buffers, rounded

pytest.importorskip("triton")

SIZE = (8, 8)


def pyramid(dtype: torch.dtype, factors: tuple[int, ...], channels: int, size: tuple[int, int] = SIZE) -> list[Tensor]:
    return [rounded(dtype, 2, size[0] // factor, size[1] // factor, channels) for factor in factors]


def kernel_result(terms: list[Tensor], size: tuple[int, int], mode: str) -> Tensor:
    with nan_filled_buffers():
        return fusion_sum(terms, size, mode=mode)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bilinear_aligned"])
@pytest.mark.parametrize(
    ("factors", "channels"),
    [((1, 2, 4, 8), 18), ((1, 1, 2), 36), ((1, 1), 130), ((1,), 5), ((8, 4), 32)],
)
def test_as_exact_as_plain(dtype: torch.dtype, mode: str, factors: tuple[int, ...], channels: int) -> None:
    terms = pyramid(dtype, factors, channels)

    def plain(to: torch.dtype) -> Tensor:
        return fusion_sum_reference([term.to(to) for term in terms], factors, SIZE, mode=mode)

    ours = kernel_result([term.to(dtype) for term in terms], SIZE, mode)
    assert_accurate({"out": ours}, {"out": plain(dtype)}, {"out": plain(torch.float64)}, dtype)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize(("coarse", "size"), [((3, 4), (5, 7)), ((1, 2), (3, 1)), ((2, 5), (9, 33))])
def test_any_size_in_one_bilinear_step(coarse: tuple[int, int], size: tuple[int, int], aligned: bool) -> None:
    """The modes of HRNet's segmentation code, which resize to the target size whatever the factor."""
    terms = [rounded(torch.float32, 1, *size, 12), rounded(torch.float32, 1, *coarse, 12)]
    mode = "bilinear_aligned" if aligned else "bilinear_to_size"
    plain = fusion_sum_reference([term.float() for term in terms], (1, 2), size, mode=mode)
    exact = fusion_sum_reference(terms, (1, 2), size, mode=mode)
    ours = kernel_result([term.float() for term in terms], size, "bilinear_aligned" if aligned else "bilinear")
    assert_accurate({"out": ours}, {"out": plain}, {"out": exact}, torch.float32)


def test_inputs_are_left_alone() -> None:
    terms = [term.float() for term in pyramid(torch.float32, (1, 2), 8)]
    before = [term.clone() for term in terms]
    kernel_result(terms, SIZE, "bilinear")
    assert all(torch.equal(a, b) for a, b in zip(terms, before, strict=True))


def test_empty_batch() -> None:
    terms = [torch.zeros(0, *SIZE, 8, device=DEVICE), torch.zeros(0, 4, 8, 8, device=DEVICE)]
    assert kernel_result(terms, SIZE, "bilinear").shape == (0, *SIZE, 8)
