"""Convolution, bias and ReLU: the plain form everywhere, cuDNN's where there is a GPU."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from hrformer.fast.triton.conv_relu import conv_relu
from kernel_accuracy import DEVICE, assert_accurate, rounded

DTYPES = [torch.float32] + ([torch.float16, torch.bfloat16] if DEVICE.type == "cuda" else [])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("stride", "padding", "groups"), [(1, 1, 1), (2, 1, 1), (1, 0, 1), (1, 1, 8)])
def test_equals_three_operations(dtype: torch.dtype, stride: int, padding: int, groups: int) -> None:
    x = rounded(dtype, 2, 16, 9, 7).contiguous(memory_format=torch.channels_last)
    weight, bias = rounded(dtype, 24, 16 // groups, 3, 3), rounded(dtype, 24)
    options = {"stride": (stride, stride), "padding": (padding, padding), "groups": groups}
    exact = F.relu(F.conv2d(x, weight, bias, stride, padding, 1, groups))
    half = [part.to(dtype) for part in (x, weight, bias)]
    ours, plain = conv_relu(*half, **options), F.relu(F.conv2d(*half, **options))
    assert_accurate({"out": ours}, {"out": plain}, {"out": exact}, dtype)
    assert ours.min() == 0


def test_empty_batch() -> None:
    x, weight, bias = (torch.zeros(size, device=DEVICE) for size in ((0, 4, 5, 5), (6, 4, 3, 3), (6,)))
    assert conv_relu(x, weight, bias, padding=(1, 1)).shape == (0, 6, 5, 5)
