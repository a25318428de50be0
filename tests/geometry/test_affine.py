"""Crop matrices against the references, and batched cropping against OpenCV."""

from __future__ import annotations

import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from hrformer.geometry.affine import (
    crop_batch,
    crop_matrix,
    finer_theta,
    sample_affine,
    transform_points,
    upright_theta,
)
from parity import Golden

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
SIZES = ["256x192", "384x288"]
RULES = ["official", "mmpose"]
CROP_PIXELS, PICTURE_PIXELS = 2e-3, 2e-4  # tolerances of the goldens' README


@pytest.fixture(scope="module")
def golden(parity_dir: Path) -> Golden:
    return Golden.read(parity_dir / "protocol", "geometry")


def output_size(tag: str) -> tuple[int, int]:
    height, width = map(int, tag.split("x"))
    return width, height


def crops_of(golden: Golden, rule: str, tag: str) -> tuple[np.ndarray, np.ndarray]:
    if rule == "mmpose":
        return golden.arrays[f"mmpose_center_{tag}"], golden.arrays[f"mmpose_scale_px_{tag}"]
    return golden.arrays[f"official_center_{tag}"], golden.arrays[f"official_scale200_{tag}"] * 200


def rectangle(center: np.ndarray, size: np.ndarray) -> np.ndarray:
    return center + size * (np.array([[0, 0], [1, 0], [0, 1], [1, 1]]) - 0.5)


def load(data_dir: Path, name: str, crc32: int | None = None) -> torch.Tensor:
    """Picture as (3, H, W) uint8 RGB."""
    pixels = cv2.imread(str(data_dir / "coco_tiny" / "images" / name))[..., ::-1].copy()
    if crc32 is not None and zlib.crc32(pixels.tobytes()) != crc32:
        pytest.skip(f"this JPEG decoder reads {name} differently from the one behind the goldens")
    return torch.from_numpy(pixels).permute(2, 0, 1)


@pytest.mark.parametrize("tag", SIZES)
@pytest.mark.parametrize("rule", RULES)
def test_matrices_match(golden: Golden, rule: str, tag: str) -> None:
    target = output_size(tag)
    for row, (center, size) in enumerate(zip(*crops_of(golden, rule, tag), strict=True)):
        corners, crop = rectangle(center, size), rectangle(np.array(target) / 2, np.array(target))
        want = golden.arrays[f"{rule}_matrix_{tag}"][row], golden.arrays[f"{rule}_inverse_{tag}"][row]
        ours = crop_matrix(center, size, target), crop_matrix(center, size, target, inverse=True)
        error = np.abs(transform_points(corners, ours[0]) - transform_points(corners, want[0])).max()
        back = np.abs(transform_points(crop, ours[1]) - transform_points(crop, want[1])).max()
        assert error < (CROP_PIXELS if rule == "official" else 1e-9)
        assert back < (PICTURE_PIXELS if rule == "official" else 1e-9)


@pytest.mark.parametrize("tag", SIZES)
@pytest.mark.parametrize("rule", RULES)
def test_rotated_matrices_match(golden: Golden, rule: str, tag: str) -> None:
    centers, sizes = crops_of(golden, "official", tag)
    rotation = golden.meta["rotation"]
    for i, box in enumerate(rotation["box_indices"]):
        corners = rectangle(centers[box], sizes[box])
        for j, degrees in enumerate(rotation["degrees"]):
            ours = crop_matrix(centers[box], sizes[box], output_size(tag), degrees)
            want = golden.arrays[f"{rule}_rot_matrix_{tag}"][i, j]
            assert np.abs(transform_points(corners, ours) - transform_points(corners, want)).max() < CROP_PIXELS


@pytest.mark.parametrize("tag", SIZES)
@pytest.mark.parametrize("rule", RULES)
def test_joints_move_into_the_crop(golden: Golden, rule: str, tag: str) -> None:
    joints, want = golden.arrays["gt_joints"], golden.arrays[f"{rule}_gt_joints_{tag}"]
    centers, sizes = crops_of(golden, rule, tag)
    for person in range(len(joints)):
        moved = transform_points(joints[person, :, :2], crop_matrix(centers[person], sizes[person], output_size(tag)))
        assert moved.dtype == np.float32
        shown = joints[person, :, 2] > 0  # official leaves the others where they were
        assert np.abs(moved - want[person])[shown].max() < CROP_PIXELS


@pytest.mark.parametrize("degrees", [0.0, 30.0, -77.5, 180.0])
def test_there_and_back(degrees: float) -> None:
    center, size = np.array([251.3, 97.8]), np.array([141.0, 188.0])
    points = np.random.default_rng(0).uniform(0, 500, (5, 7, 2))
    inside = transform_points(points, crop_matrix(center, size, (192, 256), degrees))
    back = transform_points(inside, crop_matrix(center, size, (192, 256), degrees, inverse=True))
    assert np.abs(back - points).max() < 1e-3
    np.testing.assert_allclose(
        transform_points(center, crop_matrix(center, size, (192, 256), degrees)), [96, 128], atol=1e-3
    )


def test_a_box_turned_clockwise_shows_the_person_turned_the_other_way() -> None:
    matrix = crop_matrix([50, 50], [40, 40], (40, 40), 90.0)
    # What lies below the middle of the picture is at the right of a crop whose box is turned by 90 degrees.
    np.testing.assert_allclose(transform_points(np.array([50.0, 60.0]), matrix), [30, 20], atol=1e-5)


def test_transform_points_keeps_a_floating_dtype() -> None:
    matrix = [[2, 0, 1], [0, 3, -1]]
    for given, kept in ((np.float32, np.float32), (np.float64, np.float64), (np.int64, np.float64)):
        moved = transform_points(np.array([[1, 2]], dtype=given), matrix)
        assert moved.dtype == kept
        assert moved.tolist() == [[3, 5]]
    assert transform_points(np.zeros((0, 2), np.float32), matrix).shape == (0, 2)


def test_matrix_errors() -> None:
    with pytest.raises(ValueError, match=r"shape \(2,\)"):
        crop_matrix([1, 2, 3], [1, 1], (4, 4))
    with pytest.raises(ValueError, match="finite"):
        crop_matrix([1, np.nan], [1, 1], (4, 4))
    with pytest.raises(ValueError, match="above 0"):
        crop_matrix([1, 2], [0, 1], (4, 4))
    with pytest.raises(ValueError, match=r"\(2, 3\)"):
        transform_points(np.zeros((1, 2)), np.eye(3))
    with pytest.raises(ValueError, match=r"\(\.\.\., 2\)"):
        transform_points(np.zeros((1, 3)), np.eye(3)[:2])


@pytest.mark.parametrize("device", DEVICES)
def test_crops_match_the_official_pipeline(parity_dir: Path, data_dir: Path, device: str) -> None:
    golden = Golden.read(parity_dir / "protocol", "crops")
    spread = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    middle = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    for row, crop in enumerate(golden.meta["crops"]):
        picture = load(data_dir, crop["image"], golden.meta["decoded_rgb_crc32"][crop["image"]]).to(device)
        matrix = crop_matrix(crop["center"], np.array(crop["scale200"]) * 200, (192, 256))
        ours = crop_batch(picture, matrix[None], (192, 256))[0].cpu()
        if row < 2:
            grey = np.abs(ours.permute(1, 2, 0).numpy() - golden.arrays["warped_rgb_cv5"][row].astype(float))
            assert grey.max() <= 1
            assert (grey > 0).mean() < 0.01
        normalised = (ours / 255 - middle) / spread
        error = np.abs(normalised.flatten()[:: golden.meta["stride"]].numpy() - golden.arrays["normalised_cv5"][row])
        assert error.max() < 0.0176
        assert (error > 1e-5).mean() < 0.01
        assert np.abs(normalised.mean((1, 2)).numpy() - golden.arrays["channel_mean_cv5"][row]).max() < 1e-4


@pytest.mark.parametrize("degrees", [0.0, -38.0])
def test_difference_to_opencv_is_as_documented(golden: Golden, data_dir: Path, degrees: float) -> None:
    names = {image["id"]: image["file_name"] for image in golden.meta["images"]}
    pictures = {key: load(data_dir, name) for key, name in names.items()}
    centers, sizes = crops_of(golden, "mmpose", "256x192")
    differences = []
    for box, center, size in zip(golden.meta["boxes"], centers, sizes, strict=True):
        picture, matrix = pictures[box["image_id"]], crop_matrix(center, size, (192, 256), degrees)
        ours = crop_batch(picture, matrix[None], (192, 256))[0].permute(1, 2, 0).numpy()
        theirs = cv2.warpAffine(picture.permute(1, 2, 0).numpy(), matrix, (192, 256), flags=cv2.INTER_LINEAR)
        differences.append(np.abs(ours - theirs))
    exact = int(cv2.__version__.split(".")[0]) >= 5  # version 4 samples on a grid of 1/32 pixel
    assert np.max(differences) <= (1 if exact else 8)
    assert np.mean(differences) < (0.0005 if exact else 0.25)


def test_many_crops_equal_one_by_one() -> None:
    picture = torch.randint(0, 256, (3, 41, 57), dtype=torch.uint8)
    matrices = np.stack([crop_matrix([20 + 3 * i, 15 + i], [18, 24], (9, 13), 25.0 * i) for i in range(5)])
    together = crop_batch(picture, matrices, (9, 13))
    assert together.shape == (5, 3, 13, 9)
    assert together.dtype == torch.float32
    for row, matrix in enumerate(matrices):
        alone = crop_batch(picture, matrix[None], (9, 13))
        torch.testing.assert_close(together[row], alone[0], rtol=0, atol=1)  # a rounding may tip over
        assert (together[row] != alone[0]).float().mean() < 0.01


def bilinear(image: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Textbook bilinear sampling of (H, W) with zeros outside, pixel centres at whole numbers."""
    padded = np.pad(image, 2)
    x, y = np.clip(x + 2, 0, padded.shape[1] - 1.001), np.clip(y + 2, 0, padded.shape[0] - 1.001)
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    a, b = x - left, y - top
    upper = padded[top, left] * (1 - a) + padded[top, left + 1] * a
    lower = padded[top + 1, left] * (1 - a) + padded[top + 1, left + 1] * a
    return upper * (1 - b) + lower * b


@pytest.mark.parametrize("shape", [(23, 31), (1, 17), (9, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_float_pictures_are_sampled_exactly(shape: tuple[int, int], dtype: torch.dtype) -> None:
    image = torch.rand(2, *shape, dtype=dtype)
    matrix = crop_matrix([shape[1] / 2, shape[0] / 2], [14, 10], (21, 15), 33.0)
    inverse = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))[:2]
    columns, rows = np.meshgrid(np.arange(21.0), np.arange(15.0))
    where = transform_points(np.stack([columns, rows], axis=-1), inverse)
    ours = crop_batch(image, matrix[None], (21, 15))
    assert ours.dtype == dtype
    for channel in range(2):
        want = bilinear(image[channel].double().numpy(), where[..., 0], where[..., 1])
        np.testing.assert_allclose(ours[0, channel], want, rtol=0, atol=1e-5 if dtype == torch.float32 else 1e-12)


def test_identity_and_outside() -> None:
    picture = torch.randint(0, 256, (3, 7, 11), dtype=torch.uint8)
    still, away = np.array([[1.0, 0, 0], [0, 1, 0]]), np.array([[1.0, 0, 500], [0, 1, 0]])
    both = crop_batch(picture, [still, away], (11, 7))
    assert torch.equal(both[0], picture.float())
    assert not both[1].any()
    assert not crop_batch(picture, away[None], (11, 7)).any()


def test_crop_errors() -> None:
    picture, matrix = torch.zeros(3, 8, 8), np.array([[[1.0, 0, 0], [0, 1, 0]]])
    with pytest.raises(ValueError, match=r"\(C, H, W\)"):
        crop_batch(picture[None], matrix, (4, 4))
    with pytest.raises(ValueError, match="floating point"):
        crop_batch(picture.int(), matrix, (4, 4))
    with pytest.raises(ValueError, match=r"\(N, 2, 3\)"):
        crop_batch(picture, matrix[0], (4, 4))
    with pytest.raises(ValueError, match="inverted"):
        crop_batch(picture, matrix * 0, (4, 4))
    with pytest.raises(ValueError, match="not finite"):
        crop_batch(picture, matrix * np.nan, (4, 4))
    with pytest.raises(ValueError, match="output_size"):
        crop_batch(picture, matrix, (0, 4))


def test_udp_measures_between_pixel_centres() -> None:
    matrix = crop_matrix([50, 40], [30, 40], (192, 256), udp=True)
    corners = np.array([[35.0, 20.0], [65.0, 60.0]])
    np.testing.assert_allclose(transform_points(corners, matrix), [[0, 0], [191, 255]], atol=1e-9)
    inverse = crop_matrix([50, 40], [30, 40], (192, 256), 20, udp=True, inverse=True)
    turned = crop_matrix([50, 40], [30, 40], (192, 256), 20, udp=True)
    np.testing.assert_allclose(transform_points(transform_points(corners, turned), inverse), corners, atol=1e-9)


@pytest.mark.parametrize("udp", [False, True])
def test_upright_crops_by_tensors_alone(udp: bool) -> None:
    picture = torch.from_numpy(np.random.default_rng(0).uniform(0, 255, (3, 97, 131)))
    centers = torch.tensor([[50.25, 40.5], [3.0, 90.0]], dtype=torch.float64)
    sizes = torch.tensor([[30.0, 40.0], [90.0, 120.0]], dtype=torch.float64)
    pairs = list(zip(centers.numpy(), sizes.numpy(), strict=True))
    want = crop_batch(picture, [crop_matrix(c, s, (48, 64), udp=udp) for c, s in pairs], (48, 64))
    theta = upright_theta(centers, sizes, (131, 97), (48, 64), udp=udp)
    torch.testing.assert_close(sample_affine(picture, theta, (48, 64)), want, rtol=0, atol=1e-3)
    # Four samples a pixel and direction: their middle is the pixel's.
    fine = sample_affine(picture, finer_theta(theta, 4), (192, 256))
    assert fine.shape == (2, 3, 256, 192)
    grown = [crop_matrix(c, s, (48, 64), udp=udp) * 4 + [[0, 0, 1.5], [0, 0, 1.5]] for c, s in pairs]
    torch.testing.assert_close(fine, crop_batch(picture, grown, (192, 256)), rtol=0, atol=1e-3)
