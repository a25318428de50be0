"""Convolution, bias and ReLU: plain PyTorch, or cuDNN's one call for all of it."""

from __future__ import annotations

import logging

import torch
import torch.nn.functional as F
from torch import Tensor

logger = logging.getLogger("hrformer")

_refused: set[tuple[torch.dtype, str]] = set()


def conv_relu(
    x: Tensor, weight: Tensor, bias: Tensor,
    *, stride: tuple[int, ...] = (1, 1), padding: tuple[int, ...] = (0, 0), dilation: tuple[int, ...] = (1, 1),
    groups: int = 1,
) -> Tensor:  # fmt: skip
    """relu(conv(x) + bias), (B, C, H, W) -> (B, C', H', W'), in one pass where cuDNN has one.

    Bias and ReLU then cost no further reading of the map.
    """
    if x.is_cuda and groups == 1 and x.numel() > 0 and torch.backends.cudnn.is_available():
        key = (x.dtype, torch.cuda.get_device_name(x.device))
        if key not in _refused:
            try:
                return torch.cudnn_convolution_relu(x, weight, bias, stride, padding, dilation, groups)
            except RuntimeError as error:
                _refused.add(key)
                logger.info("convolution with ReLU runs as two operations: %s", str(error).partition("\n")[0])
    return F.relu_(F.conv2d(x, weight, bias, stride, padding, dilation, groups))
