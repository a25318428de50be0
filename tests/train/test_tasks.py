from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from hrformer.data.set_types import SegmentationSet
from hrformer.geometry.input_spec import InputSpec
from hrformer.losses import HardPixels, ohem_cross_entropy, pixel_cross_entropy
from hrformer.train.config import ClassificationLoss, ClassificationRun, PoseRun, SegmentationLoss, SegmentationRun
from hrformer.train.config_file import from_dict, to_dict
from hrformer.train.tasks import (
    CITYSCAPES_WEIGHTS,
    class_weights,
    require_same_names,
    require_weights,
    task_for,
    zero_outside,
)


class Masks(SegmentationSet):
    """Two masks in memory."""

    name, classes = "masks", ("a", "b", "c")
    masks = (np.array([[0, 0, 0, 0], [0, 0, 0, 0]], np.uint8), np.array([[1, 255, 2, 0]], np.uint8))

    def __len__(self) -> int:
        return 2

    def file(self, index: int) -> str:
        return str(index)

    def pixels(self, index: int) -> np.ndarray:
        raise NotImplementedError

    def mask(self, index: int) -> np.ndarray:
        return self.masks[index]


def test_only_the_real_picture_is_left() -> None:
    x = torch.ones(2, 3, 4, 5)
    out = zero_outside(x, torch.tensor([[0, 0, 4, 5], [1, 2, 3, 4]]))
    assert out[0].sum() == 3 * 20
    assert out[1].sum() == 3 * 4
    assert out[1, 0, 1:3, 2:4].sum() == 4


def test_class_weights() -> None:
    assert class_weights("none", Masks()) is None
    # Shares 9/11, 1/11, 1/11; the median is 1/11.
    balanced = class_weights("balanced", Masks()).tolist()
    assert balanced == pytest.approx([0.4, 1.0, 1.0])
    with pytest.raises(ValueError, match="Cityscapes has 19 classes, masks has 3"):
        require_weights("cityscapes", "masks", Masks.classes)
    assert len(CITYSCAPES_WEIGHTS) == 19
    assert class_weights("auto", Masks()).tolist() == balanced
    assert class_weights((1.0, 2.0, 0.5), Masks()).tolist() == [1.0, 2.0, 0.5]
    with pytest.raises(ValueError, match=r"masks has 3 classes, so give 3 numbers in their order \(a, b, c\).* got 2"):
        require_weights((1.0, 2.0), "masks", Masks.classes)


def test_class_weights_of_a_classifier(classification_run: ClassificationRun) -> None:
    names = task_for(classification_run).train_set.classes
    given = tuple(float(place + 1) for place in range(len(names)))
    config = replace(classification_run, loss=ClassificationLoss(class_weights=given))
    assert from_dict(to_dict(config)) == config
    task = task_for(config)
    assert task.weights.tolist() == list(given)
    assert task.weights_text().startswith(f"class weights: {names[0]} 1.00, {names[1]} 2.00")
    assert task_for(classification_run).weights_text() == ""
    logits, labels = torch.randn(2, len(names)), torch.tensor([0, 1])
    rows = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    smooth = config.augment.label_smoothing
    whole = task.losses(logits, {"target": labels})["loss"]
    parts = [task.losses(logits[i : i + 1], {"target": labels[i : i + 1]})["loss"] for i in range(2)]
    assert whole.item() == pytest.approx(sum(parts).item() / 2)
    if smooth == 0:
        assert whole.item() == pytest.approx((rows[0] * given[0] + rows[1] * given[1]).item() / 2)
    auto = task_for(replace(config, loss=ClassificationLoss(class_weights="auto")))
    labels = [auto.train_set.label(index) for index in range(len(auto.train_set))]
    assert np.mean([auto.weights[label] for label in labels]) == pytest.approx(1)
    with pytest.raises(ValueError, match=f"has {len(names)} classes, so give {len(names)} numbers"):
        task_for(replace(config, loss=ClassificationLoss(class_weights=(1.0,))))
    with pytest.raises(ValueError, match="0 or more"):
        ClassificationLoss(class_weights=(1.0, -1.0))


def test_segmentation_loss_uses_weights_and_share(segmentation_run: SegmentationRun) -> None:
    config = replace(segmentation_run, loss=SegmentationLoss(class_weights="balanced", auxiliary=0.5))
    task = task_for(config)
    logits, labels = torch.randn(1, 11, 6, 6), torch.randint(0, 11, (1, 6, 6))
    losses = task.losses((logits, 2 * logits), {"mask": labels})
    main = pixel_cross_entropy(2 * logits, labels, task.weights)
    auxiliary = pixel_cross_entropy(logits, labels, task.weights)
    assert losses["loss"].item() == pytest.approx((main + 0.5 * auxiliary).item())
    # A head with one output, as HRNetV2's, has no auxiliary part.
    assert task.losses(logits, {"mask": labels})["loss"].item() == pytest.approx(auxiliary.item())
    hard = task_for(replace(config, loss=SegmentationLoss(ohem=True, hard=HardPixels(threshold=0.2, min_kept=5))))
    wanted = ohem_cross_entropy(logits, labels, HardPixels(threshold=0.2, min_kept=5))
    assert hard.losses(logits, {"mask": labels})["loss"].item() == pytest.approx(wanted.item())


def test_pose_model_takes_the_joints_of_the_data(pose_run: PoseRun) -> None:
    model, report = task_for(pose_run).build()
    assert report is None
    assert model.info.skeleton is not None
    assert model.info.skeleton.keypoints[-1] == "head_top"
    assert model.info.input_spec.size == (64, 64)


@pytest.mark.parametrize("kind", ["pose_run", "segmentation_run"])
def test_the_model_is_tested_with_the_filter_of_its_training(kind: str, request: pytest.FixtureRequest) -> None:
    config = request.getfixturevalue(kind)
    for filter_ in ("bilinear", "antialiased"):
        task = task_for(replace(config, augment=replace(config.augment, interpolation=filter_)))
        assert task.build()[0].info.input_spec.interpolation == filter_


def test_smoothing_happens_once(classification_run: ClassificationRun) -> None:
    hard = replace(classification_run, augment=replace(classification_run.augment, mixup=0, cutmix=0, erasing=0))
    logits, labels = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    for config in (hard, classification_run):
        task = task_for(config)
        batch = task.prepare({"image": images, "label": labels}, InputSpec())
        target = batch["target"]
        if target.ndim == 1:
            target = torch.nn.functional.one_hot(target, 3) * 0.9 + 0.1 / 3
        wanted = -(target * logits.log_softmax(1)).sum(1).mean()
        assert task.losses(logits, batch)["loss"].item() == pytest.approx(wanted.item(), rel=1e-5)


def test_sets_must_agree() -> None:
    require_same_names("classes", ("a", "b"), ("a", "b"))
    with pytest.raises(ValueError, match="same classes in the same order; 2 and 2 of them differ in 'a' and 'b'"):
        require_same_names("classes", ("a", "b"), ("b", "a"))
    with pytest.raises(ValueError, match="2 and 1 of them differ in their numbers"):
        require_same_names("classes", ("a", "b"), ("a",))
