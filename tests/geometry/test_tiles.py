"""Test-time sizes, multi-scale fusion and label maps against the official segmentation code; sliding windows."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hrformer.geometry import tiles
from hrformer.geometry.tiles import (
    blend_windows,
    fuse_scales,
    fuse_windows,
    label_map,
    pad_to_multiple,
    resize_cubic,
    scaled_size,
    short_side_size,
    sliding_windows,
)
from parity import Golden

# The official multi-scale tests: of PASCAL-Context, COCO-Stuff, ADE20K, and Cityscapes with window 7; HRNet's on
# Cityscapes; and the default of the official Cityscapes script with window 15.
MS3 = (0.75, 1.0, 1.25)
MS6 = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
MS7 = (*MS6, 2.0)


@pytest.fixture(scope="module")
def golden(parity_dir: Path) -> Golden:
    return Golden.read(parity_dir / "protocol", "segmentation")


def test_sizes_match(golden: Golden) -> None:
    section = golden.meta["sizes"]
    assert section["rows"]
    for row in section["rows"]:
        width, height = short_side_size(tuple(row["original_wh"]), section["min_side"])
        assert [width, height] == row["resized_wh"]
        padded = pad_to_multiple(torch.zeros(1, 1, 1, 1).expand(1, 1, height, width), section["stride"])
        assert [padded.shape[3], padded.shape[2]] == row["padded_wh"]
        assert [scaled_size(tuple(padded.shape[2:]), scale)[::-1] for scale in MS3] == [tuple(s) for s in row["ms3_wh"]]


@pytest.mark.parametrize(("name", "scales"), [("ss", (1.0,)), ("ms3", MS3), ("ms7", MS7)])
def test_fusion_matches(golden: Golden, name: str, scales: tuple[float, ...]) -> None:
    section, arrays = golden.meta["fusion"], golden.arrays
    weight, bias = torch.from_numpy(arrays["fusion_weight"]), torch.from_numpy(arrays["fusion_bias"])
    seen = []

    def network(x: Tensor) -> Tensor:
        seen.append(list(x.shape[2:]))
        return F.conv2d(x, weight, bias, stride=4, padding=1)

    logits = fuse_scales(network, torch.from_numpy(arrays["fusion_input"]), scales, flip=name != "ss")
    assert seen == section[name]["network_input_sizes_hw"]
    tolerance = 1e-5 * section[name]["logits_absmax"]
    assert np.abs(logits[:, :, ::3, ::3].numpy() - arrays[f"fusion_{name}_logits"]).max() < tolerance
    assert abs(logits.mean().item() - section[name]["logits_mean"]) < tolerance

    width, height = section["setup"]["border_wh"]
    cut = logits[0, :, :height, :width].permute(1, 2, 0).numpy()
    resized = cv2.resize(cut, section["setup"]["original_wh"], interpolation=cv2.INTER_CUBIC)
    assert np.abs(resized[::2, ::2] - arrays[f"fusion_{name}_resized"]).max() < tolerance
    clear = arrays[f"fusion_{name}_label_margin"] > 2 * tolerance
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(resized.argmax(axis=2)[clear], arrays[f"fusion_{name}_label"][clear])


def test_scaled_sizes_round_down() -> None:
    assert scaled_size((33, 45), 0.75) == (24, 33)
    assert scaled_size((520, 697), 1.75) == (910, 1219)


def test_mirror_symmetry_and_plain_call() -> None:
    x = torch.rand(1, 3, 20, 27)
    torch.testing.assert_close(fuse_scales(lambda t: t * 2, x), x * 2)
    torch.testing.assert_close(fuse_scales(lambda t: t, x, (1.0,), flip=True), x * 2)
    fused = fuse_scales(lambda t: t, x, MS6, flip=True)
    torch.testing.assert_close(fuse_scales(lambda t: t, x.flip(-1), MS6, flip=True).flip(-1), fused)


def test_padding_is_right_and_below() -> None:
    x = torch.rand(2, 3, 5, 9)
    padded = pad_to_multiple(x, 4)
    assert padded.shape == (2, 3, 8, 12)
    assert torch.equal(padded[..., :5, :9], x)
    assert (padded[..., 5:, :] == 0).all()
    assert (padded[..., 9:] == 0).all()
    assert pad_to_multiple(padded, 4) is padded


@pytest.mark.parametrize("size", [(10, 10), (33, 57), (7, 100), (64, 64), (1, 1)])
@pytest.mark.parametrize(("window", "stride"), [((16, 16), (16, 16)), ((16, 24), (5, 24)), ((64, 64), (32, 48))])
def test_windows_cover_the_picture(size, window, stride) -> None:
    covered = np.zeros(size, int)
    windows = sliding_windows(size, window, stride)
    shape = min(window[0], size[0]), min(window[1], size[1])
    for y0, x0, y1, x1 in windows:
        assert (y1 - y0, x1 - x0) == shape
        assert y0 >= 0
        assert x0 >= 0
        assert y1 <= size[0]
        assert x1 <= size[1]
        covered[y0:y1, x0:x1] += 1
    assert covered.min() >= 1
    assert len(set(windows)) == len(windows)


def test_windows_in_order() -> None:
    assert sliding_windows((4, 7), (4, 4), (4, 2)) == [(0, 0, 4, 4), (0, 2, 4, 6), (0, 3, 4, 7)]
    assert sliding_windows((8, 4), (4, 4), (4, 4)) == [(0, 0, 4, 4), (4, 0, 8, 4)]


def test_windows_are_averaged_where_they_overlap() -> None:
    x = torch.rand(2, 3, 11, 17)
    seen = []

    def model(part: Tensor) -> Tensor:
        seen.append(tuple(part.shape[2:]))
        return part[:, :1] * 2

    # A network that looks at single pixels gives the same whole or in windows.
    torch.testing.assert_close(fuse_windows(model, x, (8, 8), (5, 3)), x[:, :1] * 2)
    assert set(seen) == {(8, 8)}
    assert len(seen) == 2 * 4
    # A network that answers with the number of its window: columns 3..7 of a 4 wide step belong to both.
    numbers = iter([1.0, 3.0])
    fused = fuse_windows(lambda part: torch.full_like(part[:, :1], next(numbers)), x[:1, :, :8, :11], (8, 8), (8, 3))
    assert fused[0, 0, 0].tolist() == [1.0] * 3 + [2.0] * 5 + [3.0] * 3


def test_errors() -> None:
    with pytest.raises(ValueError, match="width, height"):
        short_side_size((0, 4))
    with pytest.raises(ValueError, match="leave nothing"):
        scaled_size((1, 100), 0.5)
    with pytest.raises(ValueError, match="multiple above 0"):
        pad_to_multiple(torch.zeros(1, 3, 4, 4), 0)
    with pytest.raises(ValueError, match="at least one scale"):
        fuse_scales(lambda t: t, torch.zeros(1, 3, 4, 4), ())
    with pytest.raises(ValueError, match="at least one scale"):
        fuse_scales(lambda t: t, torch.zeros(3, 4, 4))
    with pytest.raises(ValueError, match="left out"):
        sliding_windows((10, 10), (4, 4), (5, 4))
    with pytest.raises(ValueError, match="above 0"):
        sliding_windows((10, 10), (4, 4), (0, 4))


@pytest.mark.parametrize("case", ["ss", "ms3", "ms7"])
def test_label_maps_match_the_golden(case: str, parity_dir: Path) -> None:
    meta = json.loads((parity_dir / "protocol" / "segmentation.json").read_text())["fusion"]
    arrays = np.load(parity_dir / "protocol" / "segmentation.npz")
    weight, bias, x = (torch.from_numpy(arrays[f"fusion_{name}"]) for name in ("weight", "bias", "input"))
    scales = meta[case]["scales"]
    logits = fuse_scales(lambda x: F.conv2d(x, weight, bias, 4, 1), x, scales or (1.0,), flip=scales is not None)
    width, height = meta["setup"]["border_wh"]
    labels = label_map(logits[0, :, :height, :width], tuple(meta["setup"]["original_wh"]))
    clear = arrays[f"fusion_{case}_label_margin"] > 1e-5 * meta[case]["logits_absmax"]
    assert labels.dtype == np.uint8
    assert clear.mean() > 0.99
    assert np.array_equal(labels[clear], arrays[f"fusion_{case}_label"][clear])


def test_label_map_is_the_same_in_chunks_and_by_opencv(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.randn(23, 13, 17)
    whole = label_map(logits, (40, 31))
    monkeypatch.setattr(tiles, "_CHUNK_ELEMENTS", 40 * 31 * 3)
    assert np.array_equal(label_map(logits, (40, 31)), whole)
    enlarged = cv2.resize(logits.permute(1, 2, 0).numpy(), (40, 31), interpolation=cv2.INTER_CUBIC)
    first, second = np.sort(enlarged, axis=2)[..., :-3:-1].transpose(2, 0, 1)
    clear = first - second > 1e-4
    assert np.array_equal(whole[clear], enlarged.argmax(2)[clear])
    assert label_map(torch.randn(300, 4, 4), (4, 4)).dtype == np.uint16
    assert label_map(torch.zeros(3, 4, 4), (9, 9)).max() == 0


@pytest.mark.parametrize("picture", [(70, 50), (140, 90), (33, 21)])
@pytest.mark.parametrize("window", [(16, 24), (50, 70), (1, 3), (64, 8)])
def test_windows_give_the_classes_of_the_whole(
    picture: tuple[int, int], window: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles, "_CHUNK_ELEMENTS", 2000)
    logits = torch.randn(5, 50, 70)
    labels = blend_windows(lambda y0, x0, y1, x1: logits[:, y0:y1, x0:x1], (50, 70), window, picture)
    assert labels.shape == (picture[1], picture[0])
    assert (labels.numpy() != label_map(logits, picture)).mean() < 1e-3


def test_a_window_counts_less_towards_its_edge() -> None:
    seen = []

    def window(y0: int, x0: int, y1: int, x1: int) -> torch.Tensor:
        seen.append((x0, x1))
        wanted = 1.0 if x0 == 0 else -1.0
        return torch.stack([torch.full((y1 - y0, x1 - x0), wanted), torch.zeros(y1 - y0, x1 - x0)])

    labels = blend_windows(window, (4, 28), (4, 16), (28, 4))
    assert seen == [(0, 16), (12, 28)]
    assert (labels[:, :14] == 0).all()
    assert (labels[:, 14:] == 1).all()


@pytest.mark.parametrize(
    ("old", "new"), [((45, 60), (180, 301)), ((180, 90), (97, 33)), ((5, 7), (5, 7)), ((1, 3), (9, 8))]
)
def test_resize_cubic_is_that_of_torch(old: tuple[int, int], new: tuple[int, int]) -> None:
    x = torch.randn(2, 3, *old, dtype=torch.float64)
    want = torch.nn.functional.interpolate(x, size=new, mode="bicubic", align_corners=False)
    torch.testing.assert_close(resize_cubic(x, new), want, rtol=0, atol=1e-12)
