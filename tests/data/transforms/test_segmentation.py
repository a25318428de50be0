from __future__ import annotations

import json
import pickle
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torchvision import tv_tensors

from hrformer.data.images import load_image
from hrformer.data.loader import LoaderDataset, batches_of, seeded
from hrformer.data.order import TrainOrder
from hrformer.data.segmentation_sets import open_segmentation
from hrformer.data.set_types import as_image, as_pixels
from hrformer.data.source_config import SegmentationSource
from hrformer.data.transforms.segmentation import SegmentationDraw, TrainSegmentation, prepare_scene
from hrformer.data.transforms.settings import SegmentationAugment
from hrformer.geometry.input_spec import InputSpec
from parity import resizes_as_the_goldens

PLAIN = {"scale": (1.0, 1.0), "aspect": (1.0, 1.0), "flip": 0.0, "brightness": 0}


def item(height: int, width: int) -> dict:
    """A picture whose red and green tell the place of a pixel, and a mask that tells it coarsely."""
    rows, columns = np.mgrid[:height, :width]
    pixels = np.stack([rows % 256, columns % 256, np.full_like(rows, 100)], axis=2).astype(np.uint8)
    mask = ((rows // 8 * 5 + columns // 8) % 19).astype(np.uint8)
    return {"image": as_image(pixels), "mask": tv_tensors.Mask(torch.from_numpy(mask)), "index": 4, "epoch": 2}


def drawn(transform: TrainSegmentation, height: int, width: int, count: int) -> list[SegmentationDraw]:
    picture = torch.empty((3, height, width), dtype=torch.uint8)
    return [transform.make_params({"image": picture}) for _ in range(count)]


def test_shapes_and_types_of_an_item() -> None:
    made = TrainSegmentation(SegmentationAugment(size=(40, 56)))(item(60, 80))
    assert list(made) == ["image", "mask", "extent", "index"]
    assert (made["image"].shape, made["image"].dtype) == ((3, 40, 56), torch.uint8)
    assert (made["mask"].shape, made["mask"].dtype) == ((40, 56), torch.uint8)
    assert (made["extent"].shape, made["extent"].dtype, made["index"]) == ((4,), torch.int64, 4)


def test_draws_have_the_recipes_ranges() -> None:
    settings = SegmentationAugment(size=(520, 520), short_side=520, contrast=0.2)
    draws = drawn(TrainSegmentation(settings), 360, 480, 4000)
    factors = []
    for one in draws:
        # 360 x 480 has short side 520 at 693 x 520.
        assert one.sizes[0] == (693, 520)
        width, height = one.sizes[1]
        factors.append((width / 693, height / 520))
        assert 0 <= one.crop[0] <= max(height - 520, 0)
        assert 0 <= one.crop[1] <= max(width - 520, 0)
        y0, x0, y1, x1 = one.extent
        assert (y1 - y0, x1 - x0) == (min(height, 520), min(width, 520))
        assert 0 <= y0 <= y1 <= 520
        assert 0 <= x0 <= x1 <= 520
    across, down = np.array(factors).T
    # Factor and aspect back from the sizes; rounding down takes less than one pixel in 247.
    scale, aspect = np.sqrt(across * down), across / down
    assert 0.495 < scale.min() < 0.51
    assert 1.99 < scale.max() <= 2.0
    assert abs(scale.mean() - 1.25) < 0.02
    assert 0.89 < aspect.min() < 0.905
    assert 1.095 < aspect.max() < 1.11
    # Uniform, not just within its bounds: quarters hold 1000 +- 4 standard deviations.
    counts = np.histogram(scale, np.linspace(0.5, 2, 5))[0]
    assert abs(counts - 1000).max() < 4 * 28
    brightness = [one.brightness for one in draws]
    assert set(brightness) == set(range(-10, 11))
    assert abs(np.mean([one.flip for one in draws]) - 0.5) < 0.04
    contrast = [one.contrast for one in draws]
    assert 0.8 <= min(contrast) < 0.81 < 1.19 < max(contrast) <= 1.2
    # Crops and places reach both ends.
    assert min(one.crop[0] for one in draws) == 0
    assert any(one.crop[0] == one.sizes[1][1] - 520 > 0 for one in draws)
    assert {one.extent[0] == 0 for one in draws if one.sizes[1][1] < 519} == {True, False}


def test_cityscapes_keeps_the_size_before_the_random_one() -> None:
    (one,) = drawn(TrainSegmentation(SegmentationAugment()), 1024, 2048, 1)
    assert len(one.sizes) == 1
    assert one.contrast == 1


@pytest.mark.parametrize("short_side", [None, 96])
@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_steps_are_the_recipes(data_dir: Path, short_side: int | None, flip: float) -> None:
    """Each step done by itself on a real picture, in the order of the published runs, gives the same pixels."""
    source = open_segmentation(SegmentationSource(root=data_dir / "camvid"), "val")
    pixels, mask = source.pixels(0), source.mask(0)
    transform = TrainSegmentation(SegmentationAugment(size=(128, 160), short_side=short_side, flip=flip))
    smaller = larger = 0
    for _ in range(12):
        state = torch.get_rng_state()
        (one,) = drawn(transform, 360, 480, 1)
        torch.set_rng_state(state)
        made = transform(source.item(0, pixels) | {"index": 0})
        picture, labels = pixels, mask
        if flip and short_side:
            picture, labels = picture[:, ::-1], labels[:, ::-1]
        if short_side:
            picture = cv2.resize(picture, (128, 96), interpolation=cv2.INTER_CUBIC)
            labels = cv2.resize(labels, (128, 96), interpolation=cv2.INTER_NEAREST)
        picture = cv2.resize(picture, one.sizes[-1], interpolation=cv2.INTER_CUBIC)
        labels = cv2.resize(labels, one.sizes[-1], interpolation=cv2.INTER_NEAREST)
        picture = picture[one.crop[0] :, one.crop[1] :][:128, :160]
        labels = labels[one.crop[0] :, one.crop[1] :][:128, :160]
        if flip and not short_side:
            picture, labels = picture[:, ::-1], labels[:, ::-1]
        picture = np.clip(picture.astype(int) + one.brightness, 0, 255)
        y0, x0, y1, x1 = made["extent"].tolist()
        assert np.array_equal(as_pixels(made["image"])[y0:y1, x0:x1], picture)
        assert np.array_equal(made["mask"][y0:y1, x0:x1], labels)
        outside = torch.ones((128, 160), dtype=torch.bool)
        outside[y0:y1, x0:x1] = False
        assert bool((made["mask"][outside] == 255).all())
        smaller += bool(outside.any())
        larger += not outside.any()
    assert larger == 12 if short_side is None else smaller and larger


def test_picture_and_mask_stay_together() -> None:
    settings = SegmentationAugment(size=(48, 64), short_side=64, brightness=0)
    for _ in range(10):
        given = item(120, 160)
        # The mask is a function of the picture: 8 x 8 blocks of one label.
        given["mask"] = tv_tensors.Mask((given["image"][1] // 16).as_subclass(torch.Tensor))
        made = TrainSegmentation(settings)(given)
        y0, x0, y1, x1 = made["extent"].tolist()
        columns = as_pixels(made["image"])[y0:y1, x0:x1, 1].astype(int)
        labels = made["mask"][y0:y1, x0:x1].numpy().astype(int)
        # Nearest and bicubic sampling are at most a resized pixel apart, which covers up to 2 x 1.9 columns.
        assert np.abs(columns - (labels * 16 + 7.5)).max() < 8 + 2 * 160 / 85 * 2


def test_labels_are_never_mixed() -> None:
    given = item(90, 120)
    given["mask"] = tv_tensors.Mask(torch.randint(0, 2, (90, 120), dtype=torch.uint8) * 200)
    for _ in range(10):
        made = TrainSegmentation(SegmentationAugment(size=(64, 64)))(given)
        assert set(made["mask"].unique().tolist()) <= {0, 200, 255}


def test_nothing_to_do_changes_nothing() -> None:
    given = item(50, 70)
    made = TrainSegmentation(SegmentationAugment(size=(50, 70), **PLAIN))(given)
    assert torch.equal(made["image"], given["image"])
    assert torch.equal(made["mask"], given["mask"])
    assert made["extent"].tolist() == [0, 0, 50, 70]


@pytest.mark.parametrize("filter_", ["bicubic", "antialiased"])
def test_without_augmentation_training_sees_what_testing_sees(filter_: Any) -> None:
    given = item(90, 120)
    made = TrainSegmentation(SegmentationAugment(size=(45, 60), short_side=45, interpolation=filter_, **PLAIN))(given)
    assert torch.equal(made["image"], prepare_scene(given, InputSpec(interpolation=filter_), short_side=45)["image"])


def test_brightness_and_contrast_saturate() -> None:
    transform = TrainSegmentation(SegmentationAugment(size=(1, 256), **PLAIN | {"contrast": 0.5}))
    ramp = as_image(np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2))
    params = SegmentationDraw(
        flip=False, sizes=((256, 1),), crop=(0, 0), extent=(0, 0, 1, 256), brightness=-10, contrast=1.5
    )
    made = transform.apply(item(1, 256) | {"image": ramp}, params)["image"][0, 0].tolist()
    assert [made[value] for value in (0, 10, 11, 100, 179, 180, 181, 255)] == [0, 0, 2, 135, 254, 255, 255, 255]


def test_cached_pictures_are_not_written_to() -> None:
    pixels = np.full((30, 40, 3), 9, np.uint8)
    pixels.flags.writeable = False
    given = item(30, 40) | {"image": as_image(pixels)}
    transform = TrainSegmentation(SegmentationAugment(size=(20, 20), short_side=30))
    masks = given["mask"].clone()
    transform(given)
    assert torch.equal(given["mask"], masks)
    assert (as_pixels(given["image"]) == 9).all()


def test_same_seed_same_item_in_any_process(data_dir: Path) -> None:
    source = open_segmentation(SegmentationSource(root=data_dir / "camvid"), "val")
    transform = TrainSegmentation(SegmentationAugment(size=(96, 96)))
    with seeded(5):
        first = transform(source.item(0, source.pixels(0)) | {"index": 0})
    with seeded(5):
        again = pickle.loads(pickle.dumps(transform))(source.item(0, source.pixels(0)) | {"index": 0})
    assert all(torch.equal(first[name], again[name]) for name in ("image", "mask", "extent"))
    batches = [
        list(
            batches_of(LoaderDataset(source, transform, seed=3), TrainOrder(num_items=101, batch_size=4).batches(0, 2))
        )
        for _ in range(2)
    ]
    assert len(batches[0]) == 2
    for one, other in zip(*batches, strict=True):
        assert one["image"].shape == (4, 3, 96, 96)
        assert (one["mask"].shape, one["extent"].shape) == ((4, 96, 96), (4, 4))
        assert torch.equal(one["image"], other["image"])
        assert torch.equal(one["index"], other["index"])


def test_training_needs_masks() -> None:
    given = item(10, 10)
    del given["mask"]
    with pytest.raises(ValueError, match="training needs masks"):
        TrainSegmentation(SegmentationAugment())(given)


def test_test_picture_matches_the_golden(data_dir: Path, parity_dir: Path) -> None:
    meta = json.loads((parity_dir / "protocol" / "segmentation.json").read_text())["preprocess"]
    pixels = load_image(data_dir / "coco_tiny" / "images" / meta["image"]).pixels
    made = prepare_scene({"image": as_image(pixels), "index": 3}, InputSpec(interpolation="bicubic"), short_side=520)
    assert list(made) == ["image", "original", "index"]
    resized = as_pixels(made["image"])
    assert [resized.shape[1], resized.shape[0]] == meta["border_wh"]
    if resizes_as_the_goldens():
        assert zlib.crc32(np.ascontiguousarray(resized[:, :, ::-1]).tobytes()) == meta["resized_uint8_crc32"]
    assert (made["original"].tolist(), made["original"].dtype) == (list(pixels.shape[:2]), torch.int64)


def test_test_sizes_match_the_golden(parity_dir: Path) -> None:
    sizes = json.loads((parity_dir / "protocol" / "segmentation.json").read_text())["sizes"]["rows"]
    assert len(sizes) > 3
    for entry in sizes:
        width, height = entry["original_wh"]
        blank = {"image": as_image(np.zeros((height, width, 3), np.uint8)), "index": 0}
        made = prepare_scene(blank, InputSpec(interpolation="bicubic"), short_side=520)
        assert [made["image"].shape[2], made["image"].shape[1]] == entry["resized_wh"]


def test_test_mask_keeps_its_size() -> None:
    given = item(30, 50)
    for options, expected in (({}, (30, 50)), ({"short_side": 60}, (60, 100)), ({"size": (32, 64)}, (32, 64))):
        made = prepare_scene(given, InputSpec(), **options)
        assert made["image"].shape == (3, *expected)
        assert torch.equal(made["mask"], given["mask"])
        assert made["original"].tolist() == [30, 50]


def test_some_pictures_are_softened_and_masks_are_not() -> None:
    transform = TrainSegmentation(SegmentationAugment(size=(40, 56), soften=0.4, **PLAIN))
    sharpness = [one.sharpness for one in drawn(transform, 40, 56, 1000)]
    assert np.mean(np.array(sharpness) < 1) == pytest.approx(0.4, abs=0.06)
    assert 0.35 <= min(sharpness) < 0.37
    given = item(40, 56)
    sharp = transform.make_params(given)
    made = transform.apply(given, replace(sharp, sharpness=0.4))
    assert torch.equal(made["mask"], given["mask"])
    assert not torch.equal(made["image"], given["image"])
    # Slopes of one level a pixel, but for the seams of the softening.
    assert (made["image"].float() - given["image"].float()).abs().median() <= 1
