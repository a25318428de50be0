"""The steps that go into a graph, in PyTorch: they answer as the predictors do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from hrformer.export.pipelines import SegmentationPipeline, pipeline_for
from hrformer.export.proof import read_pictures
from hrformer.geometry.tiles import short_side_size
from hrformer.models.model import VisionModel
from hrformer.predict.classify import ClassificationPredictor
from hrformer.predict.pose import PosePredictor
from hrformer.predict.predictors import load
from hrformer.predict.segment import SegmentationPredictor

BOXES = np.array([[10, 20, 200, 300], [-30, 5, 160, 90.5], [60, 70, 33, 21]], np.float32)


def weights(name: str) -> str:
    """The bundled weights of a name, or the small ones of the tests."""
    return str(Path(__file__).parents[1] / "weights" / f"{name}.safetensors") if "nano" in name else name


def pictures() -> list[NDArray[np.uint8]]:
    """A photograph whole, as a strip, at an odd size, and smaller than a window."""
    whole = read_pictures([])[0]
    return [
        np.ascontiguousarray(part) for part in (whole, whole[:, :40], whole[50:147, 90:221], whole[90:113, 200:219])
    ]


@pytest.mark.parametrize("name", ["hrformer_nano_lspet", "hrformer_tiny_people17"])
@pytest.mark.parametrize("flip", [True, False])
def test_pose(name: str, flip: bool) -> None:
    predictor = load(weights(name), "cpu")
    assert isinstance(predictor, PosePredictor)
    pipeline = pipeline_for(predictor.model, replace(predictor.options, flip=flip))
    for pixels in pictures():
        with torch.inference_mode():
            answer = pipeline(torch.from_numpy(pixels), torch.from_numpy(BOXES))[0].numpy()
        result = predictor(pixels, boxes=BOXES, flip=flip)
        assert answer.shape == (3, predictor.info.num_classes, 3)
        # A crop differs by a grey level here and there, which may turn a quarter of a cell where neighbours are equal.
        distance = np.linalg.norm(answer[..., :2] - result.keypoints[..., :2], axis=2)
        assert np.sort(distance.ravel())[-2] < 0.05
        np.testing.assert_allclose(answer[..., 2], result.keypoints[..., 2], atol=2e-3)


@pytest.mark.parametrize("decoder", ["mmpose", "dark", "udp"])
def test_pose_decoders(decoder: str, small_model: object) -> None:
    model: VisionModel = small_model("pose")  # type: ignore[operator]
    model.info = replace(model.info, decoder=decoder)  # type: ignore[arg-type]
    predictor = PosePredictor(model, device="cpu")
    pixels = pictures()[0]
    with torch.inference_mode():
        answer = pipeline_for(model, predictor.options)(torch.from_numpy(pixels), torch.from_numpy(BOXES))[0]
    result = predictor(pixels, boxes=BOXES, nms="off")
    # Untrained maps have peaks everywhere: most joints must agree, whatever the decoder.
    distance = np.linalg.norm(answer[..., :2].numpy() - result.keypoints[..., :2], axis=2)
    assert np.median(distance) < 0.05
    assert (distance < 0.05).mean() > 0.8


@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize("name", ["hrformer_nano_camvid", "hrformer_tiny_petspeople"])
def test_segmentation(name: str, flip: bool) -> None:
    predictor = load(weights(name), "cpu")
    assert isinstance(predictor, SegmentationPredictor)
    pipeline = pipeline_for(predictor.model, replace(predictor.options, flip=flip))
    for pixels in pictures():
        with torch.inference_mode():
            answer = pipeline(torch.from_numpy(pixels)[None])[0]
        assert answer.dtype == torch.uint8
        assert (answer[0].numpy() != predictor(pixels, flip=flip).mask).mean() < 5e-3  # two pixels of the smallest


def test_segmentation_at_its_own_size_and_padded(small_model: object) -> None:
    predictor = SegmentationPredictor(small_model("segmentation"), device="cpu")  # type: ignore[operator]
    pixels = pictures()[2]
    for options in ({"short_side": None}, {"short_side": 64, "pad": 8}):
        pipeline = pipeline_for(predictor.model, replace(predictor.options, **options))  # type: ignore[arg-type]
        with torch.inference_mode():
            answer, x, _ = pipeline(torch.from_numpy(pixels)[None])
        assert (answer[0].numpy() != predictor(pixels, **options).mask).mean() < 2e-3
        assert x.shape[2:] == ((97, 131) if options["short_side"] is None else (64, 88))


def test_size_of_the_networks_input(small_model: object) -> None:
    predictor = SegmentationPredictor(small_model("segmentation"), device="cpu")  # type: ignore[operator]
    pipeline = SegmentationPipeline(predictor.model, predictor.options)
    random = np.random.default_rng(0)
    for height, width in random.integers(20, 4000, (2000, 2)).tolist():
        if max(height, width) > 16 * min(height, width):
            continue
        want = short_side_size((width, height), 64)[::-1]
        found = pipeline.network_size((height, width))
        # The float ratio of the published rule loses a half now and then.
        assert max(abs(a - b) for a, b in zip(found, want, strict=True)) <= 1


@pytest.mark.parametrize("name", ["hrformer_nano_cifar10", "hrformer_tiny_things"])
@pytest.mark.parametrize("flip", [True, False])
def test_classification(name: str, flip: bool) -> None:
    predictor = load(weights(name), "cpu")
    assert isinstance(predictor, ClassificationPredictor)
    pipeline = pipeline_for(predictor.model, replace(predictor.options, flip=flip))
    for pixels in pictures():
        with torch.inference_mode():
            answer = pipeline(torch.from_numpy(pixels)[None])[0][0]
        result = predictor(pixels, top_k=1000, flip=flip)
        assert int(answer.argmax()) == result.class_ids[0]
        np.testing.assert_allclose(answer[list(result.class_ids)], result.probabilities, atol=2e-3)
