"""Targets and decoding against the references, and the round trip between them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from hrformer.geometry.affine import crop_matrix, transform_points
from hrformer.geometry.boxes import box_to_crop
from hrformer.geometry.heatmaps import HeatmapCodec, cells_to_image
from parity import Golden

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
CODECS = {"64x48": ((256, 192), 2.0), "96x72": ((384, 288), 3.0)}


def codec_for(tag: str, decoder: str = "official") -> HeatmapCodec:
    input_size, sigma = CODECS[tag]
    return HeatmapCodec(input_size=input_size, sigma=sigma, decoder=decoder)


@pytest.mark.parametrize("tag", CODECS)
def test_targets_match(parity_dir: Path, tag: str) -> None:
    golden = Golden.read(parity_dir / "protocol", "targets")
    arrays = golden.arrays
    targets, weights = codec_for(tag).encode(arrays[f"keypoints_{tag}"], arrays[f"visible_{tag}"])
    assert targets.dtype == weights.dtype == np.float32
    np.testing.assert_allclose(targets, arrays[f"target_{tag}"], rtol=0, atol=1e-6)
    np.testing.assert_array_equal(weights, arrays[f"weight_{tag}"])
    np.testing.assert_array_equal(weights, arrays[f"mmpose_weight_{tag}"])
    empty = np.argwhere((weights == 1) & (targets.max(axis=(2, 3)) == 0)).tolist()
    assert empty == golden.meta[tag]["all_zero_target_but_weight_1"]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("decoder", ["official", "mmpose"])
@pytest.mark.parametrize("tag", CODECS)
def test_decoding_matches(parity_dir: Path, tag: str, decoder: str, device: str) -> None:
    arrays = Golden.read(parity_dir / "protocol", "decode").arrays
    maps, codec = arrays[f"heatmaps_{tag}"], codec_for(tag, decoder)
    cells, scores = codec.decode(torch.from_numpy(maps).to(device))
    assert cells.device.type == scores.device.type == device
    cells, scores = cells.cpu().numpy(), scores.cpu().numpy()
    picture = cells_to_image(cells, arrays[f"center_{tag}"], arrays[f"scale200_{tag}"] * 200, codec.heatmap_size)
    np.testing.assert_array_equal(cells, arrays[f"{decoder}_heatmap_{tag}"])
    np.testing.assert_array_equal(scores, arrays[f"{decoder}_score_{tag}"])
    np.testing.assert_allclose(picture, arrays[f"{decoder}_image_{tag}"], rtol=0, atol=1e-3)


@pytest.mark.parametrize("tag", CODECS)
def test_border_rules_differ_where_documented(parity_dir: Path, tag: str) -> None:
    golden = Golden.read(parity_dir / "protocol", "decode")
    maps = torch.from_numpy(golden.arrays[f"heatmaps_{tag}"])
    official, mmpose = (codec_for(tag, decoder).decode(maps)[0] for decoder in ("official", "mmpose"))
    places = (official != mmpose).any(dim=2).nonzero().tolist()
    assert places == [[d["sample"], d["joint"]] for d in golden.meta[tag]["joints_that_differ"]]


@pytest.mark.parametrize("decoder", ["official", "mmpose"])
@pytest.mark.parametrize("size", [(256, 192), (384, 288), (250, 190), (257, 193), (64, 96)])
def test_round_trip_stays_below_half_a_cell(size: tuple[int, int], decoder: str) -> None:
    codec = HeatmapCodec(input_size=size, decoder=decoder)
    height, width = codec.heatmap_size
    assert codec.heatmap_size == (-(-size[0] // 4), -(-size[1] // 4))
    stride = np.array([size[1] / width, size[0] / height])
    # A joint less than half a cell from the far border is nearest to a cell outside the map.
    points = np.random.default_rng(0).uniform(0, (np.array([width, height]) - 0.51) * stride, (6, 40, 2))
    targets, weights = codec.encode(points, np.ones((6, 40)))
    cells, scores = codec.decode(torch.from_numpy(targets))
    assert weights.all()
    np.testing.assert_allclose(scores, 1)
    assert np.abs(cells.numpy() * stride - points).max() <= 0.5 * stride.max() + 1e-3


@pytest.mark.parametrize("size", [(256, 192), (250, 190)])
def test_round_trip_through_the_crop(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    boxes = np.concatenate([rng.uniform(0, 300, (5, 2)), rng.uniform(40, 200, (5, 2))], axis=1)
    centers, sizes = box_to_crop(boxes, size[1] / size[0])
    people = boxes[:, None, :2] + rng.uniform(0, 1, (5, 17, 2)) * boxes[:, None, 2:]
    crops = [
        transform_points(person, crop_matrix(c, s, (size[1], size[0])))
        for person, c, s in zip(people, centers, sizes, strict=True)
    ]
    codec = HeatmapCodec(input_size=size)
    cells, _ = codec.decode(torch.from_numpy(codec.encode(np.stack(crops), np.ones((5, 17)))[0]))
    found = cells_to_image(cells, centers, sizes, codec.heatmap_size)
    cell = sizes / np.array([codec.heatmap_size[1], codec.heatmap_size[0]])
    assert (np.abs(found - people) <= 0.5 * cell[:, None] + 1e-2).all()


def test_unlabelled_and_far_joints() -> None:
    codec = HeatmapCodec(input_size=(64, 64))
    points = np.array([[[30, 30], [np.nan, np.inf], [1e30, 5], [-1e30, 5], [20, 20]]])
    targets, weights = codec.encode(points, [[2, 0, 1, 1, 0]])
    assert weights.tolist() == [[1, 0, 0, 0, 0]]
    assert targets[0, 1:].max() == 0
    assert targets[0, 0, 8, 8] == 1


def test_hand_made_maps() -> None:
    codec = HeatmapCodec(input_size=(32, 40), decoder="mmpose")
    maps = torch.full((1, 4, 8, 10), -1.0)
    maps[0, 0] = float("nan")
    maps[0, 1, 4, 5] = 1.0
    maps[0, 1, 4, 6] = maps[0, 1, 3, 5] = 0.5
    maps[0, 2] = float("inf")
    maps[0, 3] = 0.0
    cells, scores = codec.decode(maps)
    assert cells[0, 0].tolist() == [-1, -1]
    assert cells[0, 1].tolist() == [5.25, 3.75]
    assert cells[0, 2].tolist() == [0, 0]
    assert cells[0, 3].tolist() == [-1, -1]
    assert scores[0, 3] == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_decode_in_float32(dtype: torch.dtype) -> None:
    maps, _ = HeatmapCodec().encode(np.full((1, 3, 2), 101.0), np.ones((1, 3)))
    cells, scores = HeatmapCodec().decode(torch.from_numpy(maps).to(dtype))
    assert cells.dtype == scores.dtype == torch.float32
    assert cells.tolist() == [[[25, 25]] * 3]


def test_nobody() -> None:
    codec = HeatmapCodec()
    targets, weights = codec.encode(np.zeros((0, 17, 2)), np.zeros((0, 17)))
    assert targets.shape == (0, 17, 64, 48)
    assert weights.shape == (0, 17)
    cells, scores = codec.decode(torch.from_numpy(targets))
    assert cells.shape == (0, 17, 2)
    assert scores.shape == (0, 17)
    moved = cells_to_image(cells, np.zeros((0, 2)), np.zeros((0, 2)), codec.heatmap_size)
    assert moved.shape == (0, 17, 2)


def test_errors() -> None:
    with pytest.raises(ValueError, match="decoder must be one of"):
        HeatmapCodec(decoder="megvii")
    with pytest.raises(ValueError, match="sigma"):
        HeatmapCodec(sigma=0)
    with pytest.raises(ValueError, match="input_size"):
        HeatmapCodec(input_size=(0, 192))
    with pytest.raises(ValueError, match="heatmap_size"):
        HeatmapCodec(heatmap_size=(64, 0))
    codec = HeatmapCodec()
    with pytest.raises(ValueError, match=r"\(N, K, 64, 48\)"):
        codec.decode(torch.zeros(1, 17, 48, 64))
    with pytest.raises(ValueError, match="visible"):
        codec.encode(np.zeros((1, 17, 2)), np.zeros((1, 16)))
    with pytest.raises(ValueError, match="not finite"):
        codec.encode(np.full((1, 1, 2), np.nan), np.ones((1, 1)))
    with pytest.raises(ValueError, match="centers and sizes"):
        cells_to_image(np.zeros((2, 17, 2)), np.zeros((1, 2)), np.zeros((1, 2)), (64, 48))
    with pytest.raises(ValueError, match="floating point"):
        cells_to_image(np.zeros((2, 17, 2), dtype=int), np.zeros((2, 2)), np.zeros((2, 2)), (64, 48))


# By mmpose 1.x's MSRAHeatmap(unbiased=True) and UDPHeatmap.
MMPOSE_CELLS = {
    ("udp", 11): [[11.75211, 15.19941], [2.63137, 20.72812], [23.5, -0.5]],
    ("dark", 11): [[11.75627, 15.19914], [2.63072, 20.72468], [23, 0]],
    ("udp", 5): [[11.53646, 15.01308], [2.43189, 20.63023], [23.5, -0.5]],
    ("dark", 5): [[11.54209, 15.01122], [2.40798, 20.6266], [23, 0]],
}


@pytest.mark.parametrize(("decoder", "kernel"), MMPOSE_CELLS)
def test_dark_and_udp_are_mmposes(decoder: str, kernel: int) -> None:
    y, x = np.mgrid[:32, :24].astype(np.float32)

    def bump(right: float, down: float, sigma: float, height: float) -> np.ndarray:
        return height * np.exp(-((x - right) ** 2 + (y - down) ** 2) / (2 * sigma**2))

    maps = [bump(11.3, 14.8, 2, 0.9) + bump(15, 18, 3, 0.3), bump(2.4, 20.6, 2, 0.7) + bump(7, 25, 2, 0.2)]
    codec = HeatmapCodec(input_size=(128, 96), decoder=decoder, blur_kernel=kernel)
    cells, _ = codec.decode(torch.from_numpy(np.stack([*maps, bump(22.7, 0.4, 2, 0.5)])[None]))
    np.testing.assert_allclose(cells[0], MMPOSE_CELLS[decoder, kernel], atol=2e-5)


@pytest.mark.parametrize(("decoder", "atol"), [("dark", 0.05), ("udp", 0.1)])
def test_unbiased_targets_keep_the_joint(decoder: str, atol: float) -> None:
    codec = HeatmapCodec(input_size=(128, 96), decoder=decoder)
    points = np.random.default_rng(0).uniform(30, 66, (1, 50, 2))
    cells, _ = codec.decode(torch.from_numpy(codec.encode(points, np.ones((1, 50)))[0]))
    unit = np.subtract((96, 128), decoder == "udp") / codec.steps[::-1]
    np.testing.assert_allclose(cells.numpy() * unit, points, atol=atol)
    with pytest.raises(ValueError, match="blur_kernel must be an odd number"):
        HeatmapCodec(decoder=decoder, blur_kernel=4)
