"""The fusion unit (every output branch sums all inputs, brought to its size and channels), and how maps are resized."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from hrformer.models.blocks import batch_norm

UpsampleMode = Literal["nearest", "bilinear", "bilinear_aligned", "bilinear_to_size"]
UPSAMPLE_MODES: tuple[UpsampleMode, ...] = ("nearest", "bilinear", "bilinear_aligned", "bilinear_to_size")


def resize_bilinear(x: Tensor, size: tuple[int, int], *, align_corners: bool) -> Tensor:
    """Bilinear resize of (B, C, H, W) to ``size`` (height, width), which keeps every value where it has that size.

    Without a condition on that, so that a graph can hold it for any size.
    """
    return F.interpolate(x, size=[size[0], size[1]], mode="bilinear", align_corners=align_corners)


def upsample_to(x: Tensor, factor: int, size: tuple[int, int], mode: str) -> Tensor:
    """Bring a coarse map to a finer branch: multiply the size by ``factor``, then fix up odd sizes.

    ``nearest`` (classification and segmentation): nearest, then bilinear with aligned corners where the size
    still differs. ``bilinear`` (pose): both steps bilinear, corners not aligned. ``bilinear_aligned``
    (HRNet-Semantic-Segmentation with OCR): one bilinear step to the target size, corners aligned.
    ``bilinear_to_size`` (the same repository without OCR): the same, corners not aligned.

    The second step is always there: to the same size it keeps every value, and a graph for any size needs no condition.

    Args:
        x: (B, C, H, W).
        factor: 2 ** (number of branches between the two maps).
        size: target (height, width).
        mode: one of ``UPSAMPLE_MODES``, see above.
    """
    grown = [x.shape[-2] * factor, x.shape[-1] * factor]
    target = [size[0], size[1]]
    if mode == "nearest":
        x = F.interpolate(x, size=grown, mode="nearest")
        return F.interpolate(x, size=target, mode="bilinear", align_corners=True)
    if mode == "bilinear":
        x = F.interpolate(x, size=grown, mode="bilinear", align_corners=False)
        return F.interpolate(x, size=target, mode="bilinear", align_corners=False)
    return F.interpolate(x, size=target, mode="bilinear", align_corners=mode == "bilinear_aligned")


def _downsample_path(in_channels: int, out_channels: int, steps: int, separable: bool) -> nn.Sequential:
    """``steps`` stride-2 convolutions; only the last changes channels and only it has no ReLU."""
    path = []
    for step in range(steps):
        last = step == steps - 1
        out = out_channels if last else in_channels
        layers: list[nn.Module] = []
        if separable:
            layers += [nn.Conv2d(in_channels, in_channels, 3, 2, 1, groups=in_channels, bias=False)]
            layers += [batch_norm(in_channels), nn.Conv2d(in_channels, out, 1, bias=False), batch_norm(out)]
        else:
            layers += [nn.Conv2d(in_channels, out, 3, 2, 1, bias=False), batch_norm(out)]
        if not last:
            layers.append(nn.ReLU(inplace=True))
        path.append(nn.Sequential(*layers))
    return nn.Sequential(*path)


class FusionUnit(nn.Module):
    """Exchange between branches at the end of a module.

    Output i is ReLU of the sum over inputs j: identity for j = i; 1x1 convolution, BN and upsampling for a
    coarser input; stride-2 3x3 steps for a finer one. HRFormer's steps are depthwise-separable, HRNet's full
    (both repositories; the HRFormer paper says "as in HRNet").

    Args:
        channels: of every input branch, finest first.
        num_outputs: branches to produce; 1 keeps only the finest.
        separable: depthwise-separable downsampling.
        upsample: see ``upsample_to``.
    """

    def __init__(self, channels: Sequence[int], *, num_outputs: int, separable: bool, upsample: UpsampleMode) -> None:
        super().__init__()
        self.upsample: str = upsample
        self.paths = nn.ModuleList()
        for i in range(num_outputs):
            row = nn.ModuleList()
            for j, in_channels in enumerate(channels):
                if j == i:
                    row.append(nn.Identity())
                elif j > i:
                    row.append(
                        nn.Sequential(nn.Conv2d(in_channels, channels[i], 1, bias=False), batch_norm(channels[i]))
                    )
                else:
                    row.append(_downsample_path(in_channels, channels[i], i - j, separable))
            self.paths.append(row)

    def drop_outputs(self, kept: Sequence[int]) -> None:
        """Keep the paths to these outputs only; the others pass their input through, so that indices stay."""
        for i in range(len(self.paths)):
            if i not in kept:
                self.paths[i] = nn.ModuleList()

    def forward(self, xs: list[Tensor]) -> list[Tensor]:
        """Branches [(B, C_j, H_j, W_j)] -> ``num_outputs`` branches of the same sizes."""
        outputs: list[Tensor] = []
        for i, row in enumerate(self.paths):
            size = (xs[i].shape[-2], xs[i].shape[-1])
            terms: list[Tensor] = []
            for j, path in enumerate(row.children()):
                y = path(xs[j])
                terms.append(self.upsampled(y, 1 << (j - i), size) if j > i else y)
            if len(terms) == 0:  # dropped
                outputs.append(xs[i])
            else:
                total = terms[0]
                for term in terms[1:]:
                    total = total + term
                outputs.append(F.relu(total))
        return outputs

    def upsampled(self, x: Tensor, factor: int, size: tuple[int, int]) -> Tensor:
        """A coarser input, after its 1x1 convolution, brought to ``size``; see ``upsample_to``."""
        return upsample_to(x, factor, size, self.upsample)
