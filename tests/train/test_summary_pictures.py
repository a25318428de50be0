from __future__ import annotations

import base64
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from hrformer.data.classification_sets import open_classification
from hrformer.data.pose_sets import open_pose
from hrformer.data.segmentation_sets import open_segmentation
from hrformer.data.set_types import IGNORE, ClassificationSet, ImageSet, PoseSet, SegmentationSet
from hrformer.data.source_config import ClassificationSource, PoseSource, SegmentationSource
from hrformer.evaluate.evaluate import evaluate
from hrformer.evaluate.protocols import ClassificationProtocol, Example, PoseProtocol, Protocol, SegmentationProtocol
from hrformer.predict.predictors import load
from hrformer.train.summary_pictures import (
    CLASS_SIDE,
    LONG_SIDE,
    OFFSET,
    PERSON_SIDE,
    WRONG,
    Panel,
    choose_items,
    draw_examples,
    predict_examples,
)


@pytest.fixture
def pictures(data_dir: Path) -> ClassificationSet:
    return open_classification(ClassificationSource(root=data_dir / "cifar10"), "val")


@pytest.fixture
def people(data_dir: Path) -> PoseSet:
    source = PoseSource(root=data_dir / "lspet", val_annotations="annotations/person_keypoints_val.json")
    return open_pose(source, "val")


@pytest.fixture
def streets(data_dir: Path) -> SegmentationSet:
    return open_segmentation(SegmentationSource(root=data_dir / "camvid"), "val")


def example(source: ImageSet, index: int, prediction: Any) -> Example:
    return Example(index=index, file=source.file(index), score=0.25, prediction=prediction)


def decoded(panel: Panel) -> np.ndarray:
    pixels = cv2.imdecode(np.frombuffer(base64.b64decode(panel.jpeg), np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]
    assert (pixels.shape[1], pixels.shape[0]) == panel.size
    return pixels


def near(pixels: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    """Where a colour is, as far as JPEG keeps it."""
    return np.abs(pixels.astype(int) - color).max(axis=2) < 45


def test_classification_names_both_classes(pictures: ClassificationSet) -> None:
    right, wrong = draw_examples(pictures, [example(pictures, 0, 0), example(pictures, 0, 3)])
    assert (right.text, wrong.text) == ("airplane, recognised", "airplane, taken for cat")
    assert right.file == pictures.file(0)
    assert right.score == 0.25
    (panel,) = right.panels
    assert panel.size == (CLASS_SIDE, CLASS_SIDE)
    small = cv2.resize(decoded(panel), (32, 32), interpolation=cv2.INTER_AREA)
    assert np.abs(small.astype(int) - pictures.pixels(0)).mean() < 6


def test_pose_shows_label_beside_prediction_and_lines_between_them(people: PoseSet) -> None:
    label = people.person(3).keypoints
    shifted = label + np.array([12.0, 12.0, 0.0])
    same, moved = draw_examples(people, [example(people, 3, label), example(people, 3, shifted)])
    assert [panel.title for panel in same.panels] == ["label", "prediction"]
    assert max(same.panels[0].size) == PERSON_SIDE
    assert not near(decoded(same.panels[0]), OFFSET).any()
    assert near(decoded(same.panels[1]), OFFSET).sum() < 20
    assert near(decoded(moved.panels[1]), OFFSET).sum() > 200
    assert dict(moved.legend)["from prediction to label"] == OFFSET
    assert (people.person(3).keypoints == label).all()


def test_pose_without_labels_shows_the_prediction_alone(people: PoseSet, monkeypatch: pytest.MonkeyPatch) -> None:
    person = people.person(3)
    monkeypatch.setattr(people, "person", lambda index: replace(person, keypoints=np.zeros((14, 3))))
    (picture,) = draw_examples(people, [example(people, 3, person.keypoints)])
    assert [panel.title for panel in picture.panels] == ["prediction"]


@pytest.mark.parametrize("place", [-500.0, np.nan, 1e30])
def test_joints_far_outside_are_no_error(people: PoseSet, place: float) -> None:
    said = people.person(3).keypoints.copy()
    said[4, :2] = place
    (picture,) = draw_examples(people, [example(people, 3, said)])
    assert max(decoded(picture.panels[1]).shape) == PERSON_SIDE


def test_segmentation_marks_exactly_the_wrong_pixels(streets: SegmentationSet) -> None:
    label = streets.mask(0)
    said = np.where(label == IGNORE, 0, label)
    said[100:200, 50:250] = 9
    (picture,) = draw_examples(streets, [example(streets, 0, said)])
    assert [panel.title for panel in picture.panels] == ["picture", "label", "prediction", "errors"]
    assert {panel.size for panel in picture.panels} == {(LONG_SIDE, 360)}
    truly = (said != label) & (label != IGNORE)
    shown = near(decoded(picture.panels[3]), WRONG)
    # JPEG stores colours at half the resolution: borders of a region may be off.
    inside = cv2.erode(truly.astype(np.uint8), np.ones((5, 5))).astype(bool)
    around = cv2.dilate(truly.astype(np.uint8), np.ones((5, 5))).astype(bool)
    assert inside.sum() > 5000
    assert shown[inside].mean() > 0.99
    assert not shown[~around].any()
    names = [name for name, _ in picture.legend]
    assert "pedestrian" in names
    assert names[:3] == ["wrong", "not labelled", "sky"]


def test_large_pictures_become_small_and_unlabelled_ones_have_two_panels(
    streets: SegmentationSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    big = cv2.resize(streets.pixels(0), (960, 720))
    said = cv2.resize(streets.mask(0), (960, 720), interpolation=cv2.INTER_NEAREST)
    monkeypatch.setattr(streets, "pixels", lambda index: big)
    monkeypatch.setattr(streets, "labelled", False, raising=False)
    (picture,) = draw_examples(streets, [example(streets, 0, np.where(said == IGNORE, 0, said))])
    assert [(panel.title, panel.size) for panel in picture.panels] == [
        ("picture", (LONG_SIDE, 360)),
        ("prediction", (LONG_SIDE, 360)),
    ]


def test_chosen_items_are_fixed_and_on_different_pictures(people: PoseSet, data_dir: Path) -> None:
    assert choose_items(people, 5, 0) == choose_items(people, 5, 0) == sorted(set(choose_items(people, 5, 0)))
    assert choose_items(people, 5, 0) != choose_items(people, 5, 1)
    root = data_dir / "coco_tiny"
    source = PoseSource(root=root, val_annotations="annotations/person_keypoints.json", val_images=("images",))
    crowd = open_pose(source, "val")
    chosen = choose_items(crowd, 50, 0)
    assert len({crowd.picture(index) for index in chosen}) == len(chosen) < len(crowd)


@pytest.mark.parametrize(
    ("fixture", "task", "protocol"),
    [
        ("pictures", "classification", ClassificationProtocol(batch_size=2)),
        ("people", "pose", PoseProtocol(score="coco", batch_size=2)),
        pytest.param("streets", "segmentation", SegmentationProtocol(), marks=pytest.mark.slow),
    ],
)
def test_predictions_are_those_of_the_evaluation(
    request: pytest.FixtureRequest, fixture: str, task: str, protocol: Protocol, small: dict[str, str]
) -> None:
    if fixture == "people":
        pytest.importorskip("faster_coco_eval", reason="needs faster-coco-eval, from the extra 'train'")
    source: ImageSet = request.getfixturevalue(fixture)
    model = load(small[task]).model.train()
    torch.manual_seed(5)
    found = predict_examples(model, source, [1, 0], protocol)
    after = torch.rand(1)
    torch.manual_seed(5)
    assert after == torch.rand(1)
    assert model.training
    expected = {e.index: e for e in evaluate(model, source, protocol, limit=2, worst=2).worst}
    assert [one.index for one in found] == [1, 0]
    for one in found:
        assert one.file == expected[one.index].file
        assert one.score == pytest.approx(expected[one.index].score, abs=1e-5)
        assert np.allclose(one.prediction, expected[one.index].prediction, atol=1e-3)
    assert len(draw_examples(source, found)) == 2
