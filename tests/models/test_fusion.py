"""The fusion unit against its table in the recipe (section 1.6), odd sizes included."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hrformer.models.fusion import UPSAMPLE_MODES, FusionUnit, resize_bilinear, upsample_to

CHANNELS = (4, 6, 8, 10)
EVEN = [(16, 24), (8, 12), (4, 6), (2, 3)]
ODD = [(16, 21), (8, 11), (4, 6), (2, 3)]  # a 61 x 83 picture: halved and rounded up
SMALL = [(1, 1), (1, 1), (1, 1), (1, 1)]


def unit(num_outputs: int = 4, *, separable: bool = True, upsample: str = "nearest") -> FusionUnit:
    fusion = FusionUnit(CHANNELS, num_outputs=num_outputs, separable=separable, upsample=upsample).eval()
    for m in fusion.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.normal_(m.weight, 1.0, 0.2)
            nn.init.normal_(m.bias, 0.0, 0.2)
            m.running_mean.normal_(0.0, 0.2)
    return fusion.double()


def branches(sizes: list[tuple[int, int]]) -> list[Tensor]:
    return [torch.randn(2, c, *size, dtype=torch.float64) for c, size in zip(CHANNELS, sizes, strict=True)]


def grow(y: Tensor, factor: int, size: tuple[int, int], mode: str) -> Tensor:
    if mode in ("bilinear_aligned", "bilinear_to_size"):
        return F.interpolate(y, size, mode="bilinear", align_corners=mode == "bilinear_aligned")
    corners = {"nearest": None, "bilinear": False}[mode]
    y = F.interpolate(y, scale_factor=factor, mode=mode, align_corners=corners)
    if tuple(y.shape[-2:]) != size:
        y = F.interpolate(y, size, mode="bilinear", align_corners=mode == "nearest")
    return y


def shrink(x: Tensor, steps: nn.Sequential, separable: bool) -> Tensor:
    """Stride-2 steps; ReLU after each but the last."""
    for k, step in enumerate(steps):
        if separable:
            depthwise, norm1, pointwise, norm2 = list(step)[:4]
            x = norm1(F.conv2d(x, depthwise.weight, stride=2, padding=1, groups=x.shape[1]))
            x = norm2(F.conv2d(x, pointwise.weight))
        else:
            x = step[1](F.conv2d(x, step[0].weight, stride=2, padding=1))
        if k < len(steps) - 1:
            x = F.relu(x)
    return x


def expected(fusion: FusionUnit, xs: list[Tensor], separable: bool, mode: str) -> list[Tensor]:
    outputs = []
    for i, row in enumerate(fusion.paths):
        total = xs[i]
        for j, path in enumerate(row):
            if j > i:
                y = path[1](F.conv2d(xs[j], path[0].weight))
                total = total + grow(y, 2 ** (j - i), tuple(xs[i].shape[-2:]), mode)
            elif j < i:
                total = total + shrink(xs[j], path, separable)
        outputs.append(F.relu(total))
    return outputs


@pytest.mark.parametrize("sizes", [EVEN, ODD, SMALL], ids=["even", "odd", "one cell"])
@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bilinear_aligned", "bilinear_to_size"])
@pytest.mark.parametrize("separable", [True, False])
def test_fusion_follows_the_recipe(separable: bool, mode: str, sizes: list[tuple[int, int]]) -> None:
    fusion, xs = unit(separable=separable, upsample=mode), branches(sizes)
    outputs = fusion([x.clone() for x in xs])
    for ours, theirs, x in zip(outputs, expected(fusion, xs, separable, mode), xs, strict=True):
        assert ours.shape == x.shape
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_inputs_are_left_alone() -> None:
    fusion, xs = unit().train(), branches(EVEN)
    before = [x.clone() for x in xs]
    fusion(xs)
    assert all(torch.equal(x, y) for x, y in zip(xs, before, strict=True))


def test_only_the_last_step_changes_channels() -> None:
    widths = [[conv.out_channels for conv in step if isinstance(conv, nn.Conv2d)] for step in unit().paths[3][0]]
    assert widths == [[4, 4], [4, 4], [4, 10]]


def test_no_convolution_has_a_bias() -> None:
    convolutions = [m for m in unit().modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == 6 + 2 * (3 * 1 + 2 * 2 + 1 * 3)
    assert all(m.bias is None for m in convolutions)


def test_single_output_is_the_first_of_all() -> None:
    full, xs = unit(), branches(ODD)
    single = unit(1)
    single.load_state_dict({k: v for k, v in full.state_dict().items() if k.startswith("paths.0.")})
    (output,) = single(xs)
    assert torch.equal(output, full(xs)[0])


def test_dropped_outputs_pass_through() -> None:
    fusion, xs = unit(), branches(ODD)
    full = fusion(xs)
    fusion.drop_outputs([1, 3])
    outputs = fusion(xs)
    assert torch.equal(outputs[1], full[1])
    assert torch.equal(outputs[3], full[3])
    assert outputs[0] is xs[0]
    assert outputs[2] is xs[2]
    assert {name.split(".")[1] for name, _ in fusion.named_parameters()} == {"1", "3"}


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


def test_resize_to_the_same_size_keeps_every_value() -> None:
    x = random_map(5, 7)
    for aligned in (True, False):
        assert torch.equal(resize_bilinear(x, (5, 7), align_corners=aligned), x)
