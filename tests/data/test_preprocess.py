from __future__ import annotations

import json
import zlib
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional as tv

from hrformer.data.images import LoadedImage, load_image
from hrformer.data.preprocess import (
    centre_crop,
    centre_plan,
    crop_people,
    crop_people_on_device,
    draw_wear,
    normalise,
    normalise_planes,
    resize,
    softened,
    warp,
    worn,
)
from hrformer.geometry.affine import crop_matrix
from hrformer.geometry.boxes import box_to_crop
from hrformer.geometry.input_spec import InputSpec
from hrformer.geometry.tiles import pad_to_multiple
from parity import resizes_as_the_goldens

POSE = InputSpec(size=(256, 192))


def official_matrix(center: np.ndarray, size: np.ndarray) -> np.ndarray:
    """From the middle, the point half a width above it and a third at a right angle, as the official code has it.

    Ours takes the point to the left, as mmpose does. The mapping is the same, the float32 rounding is not.
    """
    up, half = np.array([0, -0.5], np.float32), np.array([96, 128], np.float32)
    triples = []
    for origin, width in ((center, size[0]), (half, np.float32(192))):
        second = origin + up * width
        away = origin - second
        triples.append(np.array([origin, second, second + np.array([-away[1], away[0]])], np.float32))
    return cv2.getAffineTransform(*triples)


def test_crops_match_the_golden_of_the_installed_opencv(coco_images: list[Path], parity_dir: Path) -> None:
    meta = json.loads((parity_dir / "protocol" / "crops.json").read_text())
    arrays = np.load(parity_dir / "protocol" / "crops.npz")
    version = f"cv{cv2.__version__.split('.')[0]}"
    if f"normalised_{version}" not in arrays:
        pytest.skip(f"no golden for OpenCV {cv2.__version__}")
    files = {path.name: path for path in coco_images}
    differing = 0
    for row, crop in enumerate(meta["crops"]):
        pixels = load_image(files[crop["image"]]).pixels
        center, size = np.float32(crop["center"]), np.float32(crop["scale200"]) * np.float32(200)
        exact = warp(pixels, official_matrix(center, size), (192, 256))
        if row < 2:
            assert np.array_equal(exact, arrays[f"warped_rgb_{version}"][row])
        x = normalise(torch.from_numpy(exact)[None], POSE)[0].numpy()
        assert np.abs(x.ravel()[:: meta["stride"]] - arrays[f"normalised_{version}"][row]).max() < 1e-6
        assert np.abs(x.mean((1, 2), dtype=np.float64) - arrays[f"channel_mean_{version}"][row]).max() < 1e-6
        ours, centers, sizes = crop_people(pixels, [crop["bbox_xywh"]], POSE)
        assert np.abs(np.concatenate([centers[0] - center, sizes[0] - size])).max() < 1e-4
        differing += int((np.abs(ours[0].astype(int) - exact) > 0).sum())
        assert np.abs(ours[0].astype(int) - exact).max() <= (1 if version == "cv5" else 8)
    assert differing < 0.001 * 6 * exact.size


def test_fast_crop_differs_by_no_more_than_stated(coco_images: list[Path], coco_people: dict) -> None:
    differences = []
    for path, entry in zip(coco_images, coco_people["images"], strict=True):
        boxes = [a["bbox"] for a in coco_people["annotations"] if a["image_id"] == entry["id"]]
        pixels = load_image(path).pixels
        reference, centers, sizes = crop_people(pixels, boxes, POSE)
        fast, fast_centers, fast_sizes = crop_people_on_device(pixels, boxes, POSE, torch.device("cpu"))
        assert np.array_equal(centers, fast_centers)
        assert np.array_equal(sizes, fast_sizes)
        assert fast.dtype == torch.uint8
        differences.append(np.abs(reference.astype(int) - fast.numpy()).ravel())
    difference = np.concatenate(differences)
    assert len(differences) == 4
    if int(cv2.__version__.split(".")[0]) >= 5:
        assert difference.max() <= 1
        assert (difference > 0).mean() < 0.003
    else:
        assert difference.max() <= 8
        assert difference.mean() < 0.25


def test_patterns_finer_than_the_input_average_out_only_where_antialiased() -> None:
    rows, columns = np.indices((600, 800))
    board = np.repeat(((rows + columns) % 2 * 255).astype(np.uint8)[..., None], 3, axis=2)
    box, spec, far = [[150, 100, 500, 400]], InputSpec(size=(64, 48), interpolation="antialiased"), torch.device("cpu")
    for udp in (False, True):
        plain = crop_people(board, box, InputSpec(size=(64, 48)), udp=udp)[0][0, 24:40, 12:36]
        crop = crop_people(board, box, spec, udp=udp)[0]
        inside = crop[0, 24:40, 12:36].astype(int)
        assert plain.std() > 40
        assert inside.std() < 12
        assert abs(inside.mean() - 127.5) < 1
        crowd = crop_people_on_device(board, box * 17, spec, far, udp=udp)[0].numpy()
        assert len(crowd) == 17
        assert np.abs(crop.astype(int) - crowd).max() <= 1
    assert resize(board, (90, 70), "antialiased").astype(int).std() < 12
    assert resize(board, (90, 70), "bicubic").std() > 40


@pytest.mark.parametrize("udp", [False, True])
@pytest.mark.parametrize("side", [30, 400])
def test_an_antialiased_crop_moves_nothing(udp: bool, side: int) -> None:
    # On a slope the mean over a pixel's area is the value in its middle.
    slope = np.add.outer(np.arange(600) / 5, np.arange(800) / 8).round().astype(np.uint8)
    picture, box = np.repeat(slope[..., None], 3, axis=2), [[200, 150, 0.75 * side, side]]
    crops = [
        crop_people(picture, box, InputSpec(size=(64, 48), interpolation=filter_), udp=udp)[0].astype(int)
        for filter_ in ("bilinear", "antialiased")
    ]
    assert np.abs(crops[0] - crops[1])[0, 2:-2, 2:-2].max() <= 1


def test_crop_of_nobody() -> None:
    pixels = np.zeros((10, 20, 3), np.uint8)
    for crops, centers, sizes in (
        crop_people(pixels, [], POSE),
        crop_people_on_device(pixels, [], POSE, torch.device("cpu")),
    ):
        assert tuple(crops.shape) == (0, 256, 192, 3)
        assert centers.shape == sizes.shape == (0, 2)


def test_crop_is_black_outside_the_picture() -> None:
    crops, centers, sizes = crop_people(np.full((100, 100, 3), 200, np.uint8), [[0, 0, 100, 100]], POSE)
    top_left = crop_matrix(centers[0], sizes[0], (192, 256)) @ [0, 0, 1]
    assert np.all(crops[0, : int(top_left[1]) - 1] == 0)
    assert np.all(crops[0, 128, 96] == 200)
    assert box_to_crop([[0, 0, 100, 100]], 0.75)[1].tolist() == sizes.tolist()


@pytest.mark.parametrize("size", [(640, 425), (300, 900), (224, 224), (33, 500), (257, 256)])
def test_centre_crop_is_torchvisions(size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    spec = InputSpec(interpolation="bicubic")
    small = tv.resize(Image.fromarray(pixels), 256, tv.InterpolationMode.BICUBIC)
    expected = np.asarray(tv.center_crop(small, [224, 224]))
    assert np.array_equal(centre_crop(pixels, spec), expected)


@pytest.mark.parametrize("spec", [InputSpec(size=(48, 64)), InputSpec(size=(64, 48), crop_ratio=1.0)])
def test_centre_crop_of_other_shapes(spec: InputSpec) -> None:
    for shape in ((32, 32, 3), (200, 60, 3), (60, 200, 3)):
        assert centre_crop(np.full(shape, 9, np.uint8), spec).shape == (*spec.size, 3)


def test_crop_ratio_is_rounded_as_timm_does() -> None:
    # 224 / 0.9 = 248.9: timm resizes to 248, so 12 pixels are cut on each side.
    pixels = np.tile(np.arange(248, dtype=np.uint8)[None, :, None], (248, 1, 3))
    assert centre_crop(pixels, InputSpec(crop_ratio=0.9))[0, [0, -1], 0].tolist() == [12, 235]


def test_segmentation_input_matches_the_golden(skier: LoadedImage, parity_dir: Path) -> None:
    meta = json.loads((parity_dir / "protocol" / "segmentation.json").read_text())["preprocess"]
    arrays = np.load(parity_dir / "protocol" / "segmentation.npz")
    spec = InputSpec(size=(520, 520), channel_order="BGR", interpolation="bicubic")
    resized = resize(skier.pixels, tuple(meta["border_wh"]), spec.interpolation)
    if resizes_as_the_goldens():
        assert zlib.crc32(np.ascontiguousarray(resized[:, :, ::-1]).tobytes()) == meta["resized_uint8_crc32"]
    x = pad_to_multiple(normalise(torch.from_numpy(resized)[None], spec), 8)[0].numpy()
    assert list(x.shape) == meta["input_shape_chw"]
    assert np.abs(x.ravel()[:: meta["stride"]] - arrays["preprocess_tensor"]).max() < 1e-6
    assert np.abs(x[:, -3:, ::17] - arrays["preprocess_last_rows"]).max() < 1e-6
    assert np.abs(x[:, ::17, -3:] - arrays["preprocess_last_columns"]).max() < 1e-6


def test_channel_order_swaps_pixels_and_not_statistics() -> None:
    pixels = torch.tensor([[[[10, 20, 30]]]], dtype=torch.uint8)
    rgb = InputSpec(mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 0.125))
    expected = (np.array([30, 20, 10]) / 255 - [0.1, 0.2, 0.3]) / [0.5, 0.25, 0.125]
    assert np.allclose(normalise(pixels, replace(rgb, channel_order="BGR")).flatten(), expected, atol=1e-6)
    expected = (np.array([10, 20, 30]) / 255 - [0.1, 0.2, 0.3]) / [0.5, 0.25, 0.125]
    assert np.allclose(normalise(pixels, rgb).flatten(), expected, atol=1e-6)


def test_picture_of_the_right_size_is_not_resampled(noise: np.ndarray) -> None:
    assert resize(noise, noise.shape[1::-1], "bicubic") is noise


@pytest.mark.parametrize("order", ["RGB", "BGR"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_planes_are_normalised_alike(order, layout: torch.memory_format) -> None:
    spec = InputSpec(channel_order=order, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    pixels = torch.randint(0, 256, (2, 5, 7, 3), dtype=torch.uint8)
    planes = normalise_planes(pixels.permute(0, 3, 1, 2).contiguous(), spec, layout)
    assert torch.equal(planes, normalise(pixels, spec))
    assert planes.is_contiguous(memory_format=layout)
    first = pixels[0, 0, 0].float() / 255
    expected = (first if order == "RGB" else first.flip(0)) - torch.tensor([0.1, 0.2, 0.3])
    assert torch.allclose(planes[0, :, 0, 0], expected / torch.tensor([0.4, 0.5, 0.6]))


def test_long_pictures_are_cropped_without_resizing_the_whole(noise: np.ndarray) -> None:
    strip = np.tile(noise[:20], (1, 30, 1))
    for picture in (strip, np.swapaxes(strip, 0, 1)):
        crop, spec = centre_crop(picture, InputSpec()), InputSpec(size=(192, 192))
        assert crop.shape == (224, 224, 3)
        whole = Image.fromarray(picture).resize([round(s * 256 / 20) for s in picture.shape[1::-1]], Image.BILINEAR)
        x, y = ((side - 224) / 2 for side in whole.size)
        expected = np.asarray(whole.crop((round(x), round(y), round(x) + 224, round(y) + 224)))
        assert np.abs(crop.astype(int) - expected).max() <= 1
    assert (centre_crop(np.full((1, 5000, 4), 255, np.uint8), spec) == 255).all()


def test_pictures_fit_models_of_one_and_four_channels(noise: np.ndarray) -> None:
    pixels = torch.from_numpy(noise)[None]
    grey, opaque = (InputSpec(mean=(0.0,) * n, std=(1 / 255,) * n) for n in (1, 4))
    luma = np.asarray(Image.fromarray(noise).convert("L"), np.float32)
    np.testing.assert_allclose(normalise(pixels, grey)[0, 0], luma, atol=1e-4)
    four = normalise(pixels, replace(opaque, channel_order="BGR"))[0].round().byte()
    assert np.array_equal(four[:3].flip(0).permute(1, 2, 0), noise)
    assert (four[3] == 255).all()
    with_alpha = torch.cat([pixels, pixels[..., :1]], dim=3)
    assert torch.equal(normalise(with_alpha, opaque)[0].round().byte().permute(1, 2, 0), with_alpha[0])
    with pytest.raises(ValueError, match="takes 2 channels"):
        normalise(pixels, InputSpec().for_channels(2))


def test_wear_is_drawn_as_often_as_asked_for_and_not_at_all_where_it_never_happens() -> None:
    random = np.random.default_rng(0).random
    drawn = [draw_wear(0.3, 0.2, random) for _ in range(2000)]
    assert np.mean([sharpness < 1 for sharpness, _ in drawn]) == pytest.approx(0.3, abs=0.03)
    assert np.mean([grey for _, grey in drawn]) == pytest.approx(0.2, abs=0.03)
    assert draw_wear(0, 0, lambda: pytest.fail("nothing to draw")) == (1.0, False)


@pytest.mark.parametrize("channels", [3, 4])
def test_a_grey_picture_keeps_its_light_and_its_alpha(channels: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 5, channels), dtype=np.uint8)
    grey = worn(pixels, 1.0, grey=True)
    # ITU-R BT.601
    light = pixels[..., :3] @ np.array([0.299, 0.587, 0.114])
    assert np.abs(grey[..., :3] - light[..., None]).max() <= 1
    assert (grey[..., 3:] == pixels[..., 3:]).all()
    assert worn(pixels, 1.0, grey=False) is pixels


def test_a_softened_picture_has_lost_what_is_fine_and_nothing_else() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    pixels[:, 30:] = 200
    soft = softened(pixels, 0.5)
    assert soft.shape == pixels.shape
    assert soft[:, :28].std() < 0.6 * pixels[:, :28].std()
    assert soft[:, :28].mean() == pytest.approx(pixels[:, :28].mean(), abs=1)
    np.testing.assert_array_equal(soft[:, 34:], 200)
    np.testing.assert_array_equal(softened(pixels, 1.0), pixels)
    assert softened(pixels[:1, :2], 0.35).shape == (1, 2, 3)


def test_centre_plan_rounds_as_torchvision_and_python() -> None:
    random = np.random.default_rng(0)
    for spec in (InputSpec(), InputSpec(size=(84, 84)), InputSpec(size=(200, 131), crop_ratio=0.9)):
        rows, columns = (int(side / spec.crop_ratio) for side in spec.size)
        for height, width in random.integers(1, 5000, (3000, 2)).tolist():
            if rows * width >= columns * height:
                new = rows, max(int(rows * width / height), spec.size[1])
            else:
                new = max(int(columns * height / width), spec.size[0]), columns
            corner = round((new[0] - spec.size[0]) / 2), round((new[1] - spec.size[1]) / 2)
            assert centre_plan((height, width), spec) == (new, corner)


def test_antialiased_crops_on_the_device_are_those_of_opencv() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    pixels = cv2.GaussianBlur(pixels, (0, 0), 2)
    spec, boxes = (
        InputSpec(size=(64, 48), interpolation="antialiased"),
        np.array([[10, 20, 90, 80], [-9, 5, 60, 110.5]]),
    )
    plain, fast = (
        crop_people(pixels, boxes, spec)[0],
        crop_people_on_device(pixels, boxes, spec, torch.device("cpu"))[0],
    )
    differs = plain != fast.numpy()
    # A mean of 16 samples is a half once in 16 pixels: both round it to even.
    assert differs.mean() < (0.005 if cv2.__version__.startswith("5") else 0.5)
