from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from hrformer.geometry.input_spec import InputSpec
from hrformer.models.model import ModelInfo, VisionModel
from hrformer.predict.segment import SegmentationOptions, SegmentationPredictor


@pytest.fixture
def predictor(segmentation_model: VisionModel) -> SegmentationPredictor:
    return SegmentationPredictor(segmentation_model, SegmentationOptions(short_side=96), device="cpu")


def test_result_fits_the_picture(predictor: SegmentationPredictor, coco_images: list[Path], noise: np.ndarray) -> None:
    results = predictor([coco_images[0], noise, noise[:, :40]])
    assert [result.mask.shape for result in results] == [(425, 640), (60, 90), (60, 40)]
    assert len(np.unique(results[0].mask)) > 1
    assert max(results[0].shares()) < 11
    assert sum(results[0].shares().values()) == pytest.approx(1)


def test_results_do_not_depend_on_batch_or_order(predictor: SegmentationPredictor, coco_images: list[Path]) -> None:
    sources = [*coco_images, coco_images[0]]
    one_by_one = [result.mask for result in predictor(sources)]
    together = [result.mask for result in predictor(sources[::-1], batch_size=4)][::-1]
    for a, b in zip(one_by_one, together, strict=True):
        assert (a != b).mean() < 1e-4  # near ties only
    assert np.array_equal(one_by_one[0], one_by_one[4])


@pytest.mark.parametrize(
    ("options", "sizes"),
    [
        ({}, [(96, 134)]),
        ({"short_side": None}, [(60, 84)]),
        ({"pad": 8}, [(96, 136)]),
        ({"flip": True}, [(96, 134)] * 2),
        ({"scales": (0.5, 1.0)}, [(48, 68), (96, 136)]),  # several scales are padded to 8
        ({"scales": (0.5,), "pad": 1}, [(48, 67)]),
    ],
)
def test_network_sees_the_protocols_sizes(
    options: dict, sizes: list[tuple[int, int]], predictor: SegmentationPredictor, noise: np.ndarray
) -> None:
    seen = []
    hook = predictor.model.register_forward_pre_hook(lambda module, args: seen.append(tuple(args[0].shape[2:])))
    result = predictor(noise[:, :84], **options)
    hook.remove()
    assert seen == sizes
    assert result.mask.shape == (60, 84)


def test_flip_makes_mirror_images_equal(predictor: SegmentationPredictor, coco_images: list[Path]) -> None:
    pixels = cv2.imread(str(coco_images[0]))[:96, :128]
    for flip, expected in ((True, True), (False, False)):
        a, b = (r.mask for r in predictor([pixels, np.ascontiguousarray(pixels[:, ::-1])], flip=flip))
        assert ((a != b[:, ::-1]).mean() < 1e-3) == expected


@pytest.mark.parametrize(
    ("dataset", "short_side", "single", "multi"),
    [("Cityscapes train", None, 1, 8), ("ADE20K", 520, 8, 8), ("PASCAL-Context train", 520, 1, 8), ("", 520, 1, 8)],
)
def test_protocol_follows_the_data_set(dataset: str, short_side: int | None, single: int, multi: int) -> None:
    options = SegmentationPredictor.default_options(
        ModelInfo(name="x", dataset=dataset, input_spec=InputSpec(size=(520, 640)))
    )
    assert options.short_side == short_side
    assert options.pad_multiple == single
    assert replace(options, scales=(0.75, 1.0, 1.25)).pad_multiple == multi


@pytest.mark.parametrize(
    "wrong", [{"scales": ()}, {"scales": (0.0,)}, {"short_side": 0}, {"pad": 0}, {"tile": (0, 4)}, {"memory": 0.0}]
)
def test_options_are_checked(wrong: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SegmentationOptions(**wrong)


def test_names_and_colours_come_from_the_weights(segmentation_model: VisionModel, noise: np.ndarray) -> None:
    info = segmentation_model.info
    try:
        segmentation_model.info = replace(info, class_names=tuple("abcdefghijk"), palette=((1, 2, 3),) * 11)
        result = SegmentationPredictor(segmentation_model, device="cpu")(noise, short_side=64)
    finally:
        segmentation_model.info = info
    assert result.class_names == tuple("abcdefghijk")
    assert result.palette[10] == (1, 2, 3)
    assert result.to_dict()["classes"][0]["label"] in "abcdefghijk"


@pytest.mark.parametrize(
    ("options", "sizes"),
    [
        ({"tile": (64, 48)}, {(64, 48)}),
        ({"tile": (30, 48), "pad": 8}, {(32, 48)}),
        ({"tile": (4000, 4000)}, {(96, 144)}),
        ({"memory": 0.01}, {(96, 128)}),
        ({"memory": 1.0}, {(96, 144)}),
    ],
)
def test_large_pictures_go_in_tiles(
    options: dict, sizes: set[tuple[int, int]], predictor: SegmentationPredictor, noise: np.ndarray
) -> None:
    seen = set()
    hook = predictor.model.register_forward_pre_hook(lambda module, args: seen.add(tuple(args[0].shape[2:])))
    results = predictor([noise, noise[:, ::-1]], **options)
    hook.remove()
    assert seen == sizes
    whole = predictor(noise).mask
    assert results[0].mask.shape == whole.shape
    if sizes == {(96, 144)}:
        assert (results[0].mask != whole).mean() < 1e-4


@pytest.mark.parametrize("size", [(1, 5000), (5000, 1), (3, 900)])
def test_long_pictures_are_not_blown_up(size: tuple[int, int], predictor: SegmentationPredictor) -> None:
    seen = []
    hook = predictor.model.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape[2:].numel()))
    result = predictor(np.zeros((*size, 3), np.uint8), short_side=96)
    hook.remove()
    assert result.mask.shape == size
    assert max(seen) <= 96 * 96 * 16


@pytest.mark.parametrize("device", ["cuda:99", "nonsense", "meta"])
def test_a_device_that_is_not_there_is_refused(device: str, segmentation_model: VisionModel) -> None:
    with pytest.raises(ValueError, match=r"no device .*there is cpu"):
        SegmentationPredictor(segmentation_model, device=device)
