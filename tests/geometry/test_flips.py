"""Mirroring: heatmaps bit for bit, points as the references move them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from hrformer.geometry.flips import flip_keypoints, merge_flipped
from hrformer.geometry.skeletons import COCO17
from parity import Golden


@pytest.mark.parametrize("shift", [True, False])
def test_merged_heatmaps_match_bitwise(parity_dir: Path, shift: bool) -> None:
    golden = Golden.read(parity_dir / "protocol", "flip")
    plain, flipped = torch.from_numpy(golden.arrays["plain"]), torch.from_numpy(golden.arrays["flipped"])
    merged = merge_flipped(plain, flipped, golden.meta["flip_pairs"], shift)
    np.testing.assert_array_equal(merged.numpy(), golden.arrays["merged_shift" if shift else "merged_no_shift"])


def test_points_match_the_official_code(parity_dir: Path) -> None:
    golden = Golden.read(parity_dir / "protocol", "geometry")
    widths = {image["id"]: image["width"] for image in golden.meta["images"]}
    people = [box for box in golden.meta["boxes"] if box["source"] == "gt"]
    for row, person in enumerate(people):
        width, joints = widths[person["image_id"]], golden.arrays["gt_joints"][row]
        flipped = flip_keypoints(joints, width, COCO17.flip_pairs)
        np.testing.assert_array_equal(flipped[:, :2], golden.arrays["official_flipped_joints"][row])
        np.testing.assert_array_equal(flipped[:, 2] > 0, golden.arrays["official_flipped_visible"][row] > 0)
        center = golden.arrays["official_center_256x192"][row]
        moved = flip_keypoints(center[None], width, ())[0]
        np.testing.assert_array_equal(moved, golden.arrays["official_flipped_center"][row])


def test_twice_is_once_more_the_same() -> None:
    points = np.random.default_rng(0).uniform(0, 99, (4, 17, 2))
    twice = flip_keypoints(flip_keypoints(points, 100, COCO17.flip_pairs), 100, COCO17.flip_pairs)
    np.testing.assert_allclose(twice, points, atol=1e-12)


def test_picture_and_points_agree() -> None:
    picture = np.zeros((6, 9), np.uint8)
    picture[2, 7] = 255
    (x, y), *_ = flip_keypoints(np.array([[7.0, 2.0]]), 9, ())
    assert picture[:, ::-1][int(y), int(x)] == 255


def test_the_input_is_left_alone() -> None:
    points, maps = np.ones((17, 3)), torch.rand(1, 17, 3, 3)
    points[3, 2] = 0
    before, maps_before = points.copy(), maps.clone()
    assert flip_keypoints(points, 10, COCO17.flip_pairs)[4].tolist() == [0, 0, 0]
    merge_flipped(maps, maps, COCO17.flip_pairs)
    np.testing.assert_array_equal(points, before)
    assert torch.equal(maps, maps_before)


def test_nobody_and_one_column() -> None:
    assert flip_keypoints(np.zeros((0, 17, 3)), 10, COCO17.flip_pairs).shape == (0, 17, 3)
    assert merge_flipped(torch.zeros(0, 17, 4, 3), torch.zeros(0, 17, 4, 3), COCO17.flip_pairs).shape == (0, 17, 4, 3)
    narrow = torch.rand(1, 2, 3, 1)
    assert torch.equal(merge_flipped(narrow * 0, narrow, [(0, 1)]), narrow[:, [1, 0]] / 2)


def test_errors() -> None:
    with pytest.raises(ValueError, match="one shape"):
        merge_flipped(torch.zeros(1, 17, 4, 3), torch.zeros(1, 17, 4, 4), COCO17.flip_pairs)
    with pytest.raises(ValueError, match=r"\(B, K, H, W\)"):
        merge_flipped(torch.zeros(17, 4, 3), torch.zeros(17, 4, 3), COCO17.flip_pairs)
    with pytest.raises(ValueError, match="does not fit 14 joints"):
        merge_flipped(torch.zeros(1, 14, 4, 3), torch.zeros(1, 14, 4, 3), COCO17.flip_pairs)
    with pytest.raises(ValueError, match="must have shape"):
        flip_keypoints(np.zeros((17, 4)), 10, COCO17.flip_pairs)
