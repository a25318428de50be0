from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hrformer.data.images import LoadedImage, load_image
from hrformer.data.preprocess import crop_people
from hrformer.geometry.boxes import box_to_crop
from hrformer.geometry.flips import flip_keypoints
from hrformer.geometry.heatmaps import cells_to_image
from hrformer.geometry.oks import oks_nms
from hrformer.geometry.skeletons import COCO17
from hrformer.models.model import VisionModel
from hrformer.predict.detectors import MaskDetector
from hrformer.predict.pose import PosePredictor
from hrformer.predict.results import Keypoints


@pytest.fixture
def predictor(pose_model: VisionModel) -> PosePredictor:
    return PosePredictor(pose_model, device="cpu")


@pytest.fixture
def boxes(coco_people: dict) -> list[list[list[float]]]:
    """Labelled boxes by picture, in the order of ``coco_images``."""
    ids = [image["id"] for image in coco_people["images"]]
    return [[a["bbox"] for a in coco_people["annotations"] if a["image_id"] == i] for i in ids]


def same(a: Keypoints, b: Keypoints, share: float = 0.0) -> bool:
    """Equal but for ``share`` of the joints, where maxima may nearly tie."""
    moved = np.abs(a.keypoints[..., :2] - b.keypoints[..., :2]).max(axis=2, initial=0) > 0.01
    return bool(moved.mean() <= share) and np.allclose(a.keypoints[..., 2], b.keypoints[..., 2], atol=1e-4)


def test_whole_picture(predictor: PosePredictor, skier: LoadedImage) -> None:
    result = predictor(skier, detector="picture")
    assert result.keypoints.shape == (1, 17, 3)
    assert result.boxes.tolist() == [[0, 0, 640, 425]]
    assert result.box_scores.tolist() == [1]
    assert result.names == COCO17.keypoints
    above = result.keypoints[0, :, 2][result.keypoints[0, :, 2] > 0.2]
    assert result.scores[0] == pytest.approx(above.mean())
    assert same(result, predictor(skier, boxes=[[0, 0, 640, 425]]))


def test_people_are_found_by_default(predictor: PosePredictor, skier: LoadedImage, noise: np.ndarray) -> None:
    boxes, scores = MaskDetector(device="cpu")(skier.pixels)
    result = predictor(skier)
    assert len(result.boxes) == len(boxes) == 1
    assert np.allclose(result.boxes, boxes)
    assert np.allclose(result.box_scores, scores)
    x, y, width, height = boxes[0]
    left, top, right, bottom = 281, 45, 500, 392  # as labelled in COCO
    shared = max(0, min(x + width, right) - max(x, left)) * max(0, min(y + height, bottom) - max(y, top))
    assert shared / (width * height + (right - left) * (bottom - top) - shared) > 0.5
    assert len(predictor(noise).boxes) == 0


def test_joints_of_animals_take_the_whole_picture(pose_model: VisionModel, noise: np.ndarray) -> None:
    info = pose_model.info
    assert info.skeleton is not None
    try:
        paws = replace(info.skeleton, keypoints=("snout", *info.skeleton.keypoints[1:]))
        pose_model.info = replace(info, skeleton=paws)
        predictor = PosePredictor(pose_model, device="cpu")
        assert predictor.default_detector == "picture"
        assert predictor(noise).boxes.tolist() == [[0, 0, 90, 60]]
    finally:
        pose_model.info = info


def test_results_do_not_depend_on_batch_or_order(
    predictor: PosePredictor, coco_images: list[Path], boxes: list
) -> None:
    coco_images, boxes = coco_images[:3], [rows[:2] for rows in boxes[:3]]
    one_by_one = predictor(coco_images, boxes=boxes, batch_size=1)
    assert [len(result) for result in one_by_one] == [1, 2, 2]
    for size in (2, 64):
        backwards = predictor(coco_images[::-1], boxes=boxes[::-1], batch_size=size)[::-1]
        assert [result.path for result in backwards] == list(map(str, coco_images))
        assert all(same(a, b, share=0.02) for a, b in zip(one_by_one, backwards, strict=True))
    everyone = np.concatenate([result.keypoints[:, :, :2].std(axis=1) for result in one_by_one])
    assert (everyone > 1).all(), "the model must put joints in different places for this test to mean anything"


def test_people_share_batches(predictor: PosePredictor, coco_images: list[Path], boxes: list) -> None:
    sizes = []
    hook = predictor.model.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    predictor(coco_images, boxes=boxes, batch_size=5, flip=False)
    hook.remove()
    assert sum(sizes) == sum(map(len, boxes)) == 14
    assert sizes == [5, 5, 4]


def test_pictures_without_people(predictor: PosePredictor, noise: np.ndarray) -> None:
    results = predictor([noise, noise, noise], boxes=[[], [[0, 0, 50, 50]], np.zeros((0, 4))])
    assert [len(result) for result in results] == [0, 1, 0]
    assert results[0].keypoints.shape == (0, 17, 3)
    assert results[0].to_coco(1) == []


def test_flip_test_makes_mirror_images_agree(predictor: PosePredictor, skier: LoadedImage) -> None:
    pixels = skier.pixels[:420, :630]
    mirrored = np.ascontiguousarray(pixels[:, ::-1])
    box = [[240.0, 40.0, 250.0, 350.0]]
    there = [[630 - 240.0 - 250.0, 40.0, 250.0, 350.0]]
    differences = {}
    for flip in (True, False):
        a, b = predictor([pixels, mirrored], boxes=[box, there], flip=flip, shift=False)
        differences[flip] = np.abs(a.keypoints[0, :, 2] - flip_scores(b.keypoints[0])).max()
        back = flip_keypoints(b.keypoints[..., :2], 630, COCO17.flip_pairs)
        assert back.shape == (1, 17, 2)
    # Averaging image and mirror image is symmetric but for where the crop's pixels fall.
    assert differences[True] < 0.2 * differences[False]


def flip_scores(keypoints: np.ndarray) -> np.ndarray:
    scores = keypoints[:, 2].copy()
    for left, right in COCO17.flip_pairs:
        scores[[left, right]] = scores[[right, left]]
    return scores


def test_shift_and_decoder_take_part(predictor: PosePredictor, skier: LoadedImage) -> None:
    shifted, plain = predictor(skier), predictor(skier, shift=False)
    assert not same(shifted, plain)
    assert not same(predictor(skier, flip=False), plain)


def test_udp_cuts_decodes_and_never_shifts(predictor: PosePredictor, skier: LoadedImage) -> None:
    info = replace(predictor.info, decoder="udp", shift_heatmap=False)
    predictor.model.info = info
    box = np.array([[100, 50, 200, 300]])
    crops, centers, sizes = crop_people(skier.pixels, box, info.input_spec, udp=True)
    maps = predictor.heatmaps(torch.from_numpy(crops), shift=False)
    height, width = maps.shape[2:]
    cells, _ = info.codec((height, width)).decode(maps)
    found = predictor(skier, boxes=box).keypoints[..., :2]
    np.testing.assert_allclose(found, cells_to_image(cells.numpy(), centers, sizes, (height - 1, width - 1)), atol=0.01)


def test_detections_are_suppressed_and_sorted(predictor: PosePredictor, skier: LoadedImage, data_dir: Path) -> None:
    file = data_dir / "coco_tiny" / "annotations" / "person_detections.json"
    options = {"flip": False, "box_threshold": 0.006}
    everyone = predictor(skier, detections=file, nms="off", **options)
    assert 5 < len(everyone) < 15
    kept = predictor(skier, detections=file, **options)
    _, sizes = box_to_crop(everyone.boxes.astype(np.float32), 192 / 256)
    expected = oks_nms(everyone.keypoints, everyone.scores, sizes.prod(axis=1), COCO17.sigmas)
    assert np.allclose(kept.scores, everyone.scores[expected], atol=1e-5)
    assert (np.diff(kept.scores) <= 0).all()
    assert len(predictor(skier, detections=file, nms="hard", nms_threshold=0.05, **options)) < len(kept)
    assert len(predictor(skier, detections=file, nms="soft", **options)) == len(everyone)
    # The caller's own boxes are all answered, in their order.
    given = predictor(skier, boxes=everyone.boxes, box_scores=everyone.box_scores, flip=False)
    assert np.allclose(given.scores, everyone.scores, atol=1e-4)


def test_detector_is_asked_once_per_picture(predictor: PosePredictor, coco_images: list[Path]) -> None:
    asked = []

    def detector(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        asked.append(pixels.shape)
        return np.array([[10, 10, 50, 90], [0, 0, 9, 9]], np.float32), np.array([0.9, 0.1], np.float32)

    results = predictor(coco_images, detector=detector, box_threshold=0.5, flip=False)
    assert asked == [load_image(path).pixels.shape for path in coco_images]
    assert [result.boxes.tolist() for result in results] == [[[10, 10, 50, 90]]] * 4
    assert results[0].box_scores[0] == pytest.approx(0.9)


def test_fast_crop_gives_nearly_the_same(predictor: PosePredictor, coco_images: list[Path], boxes: list) -> None:
    coco_images, boxes = coco_images[:2], boxes[:2]
    reference = predictor(coco_images, boxes=boxes, flip=False)
    fast = predictor(coco_images, boxes=boxes, flip=False, fast_crop=True)
    scale = max(np.abs(result.keypoints[..., 2]).max() for result in reference)
    for a, b in zip(reference, fast, strict=True):
        assert np.abs(a.keypoints[..., 2] - b.keypoints[..., 2]).max() < 0.02 * scale
        moved = np.abs(a.keypoints[..., :2] - b.keypoints[..., :2]).max(axis=2) > 0.01
        assert moved.mean() <= 0.1


def test_wrong_use_is_explained(predictor: PosePredictor, skier: LoadedImage, noise: np.ndarray) -> None:
    with pytest.raises(ValueError, match="only one of"):
        predictor(noise, boxes=[[0, 0, 1, 1]], detections=[])
    with pytest.raises(ValueError, match="box_scores need boxes"):
        predictor(noise, box_scores=[1.0])
    with pytest.raises(ValueError, match="matched by file name"):
        predictor(noise, detections=[])
    with pytest.raises(ValueError, match=r"shape \(N, 4\)"):
        predictor([noise], boxes=[[0, 0, 5, 5]])
    with pytest.raises(ValueError, match="one entry per picture"):
        predictor([noise, noise], boxes=[[[0, 0, 5, 5]]])
    with pytest.raises(ValueError, match="nms must be"):
        predictor(noise, nms="yes")
    with pytest.raises(ValueError, match="nms_threshold"):
        predictor(noise, nms_threshold=0)
    with pytest.raises(ValueError, match="neither side"):
        predictor(noise, boxes=[[0, 0, 0, 0]])
    with pytest.raises(ValueError, match="needs a model for pose, this one is for None"):
        PosePredictor(VisionModel(torch.nn.Identity(), None, replace(predictor.info, task=None)), device="cpu")


def test_weights_without_joint_names(pose_model: VisionModel, noise: np.ndarray) -> None:
    info = pose_model.info
    try:
        pose_model.info = replace(info, skeleton=None)
        predictor = PosePredictor(pose_model, device="cpu")
        with pytest.raises(ValueError, match="pass flip=False"):
            predictor(noise)
        twice = predictor(noise, flip=False, detector=lambda pixels: (np.array([[4.0, 4, 50, 60]] * 2), np.ones(2)))
        assert len(twice) == 1
        result = predictor(noise, flip=False)
        assert result.names[:2] == ("0", "1")
        assert result.draw().shape[2] == 3
    finally:
        pose_model.info = info


def test_other_input_sizes(pose_model: VisionModel, skier: LoadedImage) -> None:
    info = pose_model.info
    try:
        pose_model.info = replace(info, input_spec=replace(info.input_spec, size=(130, 100)))
        result = PosePredictor(pose_model, device="cpu")(skier)
    finally:
        pose_model.info = info
    assert np.isfinite(result.keypoints).all()
