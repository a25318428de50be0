from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from hrformer.data.images import load_image
from hrformer.geometry.skeletons import COCO17
from hrformer.predict.results import Classification, Keypoints, Segmentation


@pytest.fixture
def people(noise: np.ndarray) -> Keypoints:
    keypoints = np.random.default_rng(0).uniform(5, 50, (2, 17, 3)).astype(np.float32)
    keypoints[..., 2] = 0.75
    return Keypoints(
        image=noise,
        keypoints=keypoints,
        scores=np.array([0.8, 0.3]),
        boxes=np.array([[1.0, 2, 30, 40], [5, 5, 20, 20]]),
        box_scores=np.array([1.0, 0.5]),
        names=COCO17.keypoints,
        skeleton=COCO17,
        path="a/b.jpg",
    )


@pytest.fixture
def labels(noise: np.ndarray) -> Classification:
    return Classification(image=noise, labels=("cat", "dog"), probabilities=(0.75, 0.125), class_ids=(3, 5))


@pytest.fixture
def regions(noise: np.ndarray) -> Segmentation:
    mask = np.zeros((60, 90), np.uint8)
    mask[:, 30:] = 2
    return Segmentation(image=noise, mask=mask, class_names=("sky", "car", "road"), palette=((9, 8, 7),) * 3)


def test_dictionaries_survive_json(people: Keypoints, labels: Classification, regions: Segmentation) -> None:
    for result in (people, labels, regions):
        assert json.loads(json.dumps(result.to_dict(), allow_nan=False)) == result.to_dict()
        assert (result.to_dict()["width"], result.to_dict()["height"]) == (90, 60)
    assert labels.to_dict()["predictions"] == [
        {"class_id": 3, "label": "cat", "probability": 0.75},
        {"class_id": 5, "label": "dog", "probability": 0.125},
    ]
    assert regions.to_dict()["classes"] == [
        {"class_id": 2, "label": "road", "share": pytest.approx(2 / 3)},
        {"class_id": 0, "label": "sky", "share": pytest.approx(1 / 3)},
    ]
    first = people.to_dict()["people"][0]
    assert first["bbox"] == [1, 2, 30, 40]
    assert np.allclose(first["keypoints"], people.keypoints[0], atol=1e-3)
    assert people.to_dict()["file_name"] == "a/b.jpg"
    assert len(people) == 2


def test_coco_records(people: Keypoints) -> None:
    records = people.to_coco(785)
    assert [set(record) for record in records] == [{"image_id", "category_id", "keypoints", "score"}] * 2
    assert (records[1]["image_id"], records[1]["category_id"], records[1]["score"]) == (785, 1, 0.3)
    assert np.allclose(records[1]["keypoints"], people.keypoints[1].ravel(), atol=1e-3)
    assert json.loads(json.dumps(people.to_coco(np.int64(785), np.uint8(1)))) == records


def test_save_by_suffix(people: Keypoints, labels: Classification, regions: Segmentation, tmp_path: Path) -> None:
    for number, result in enumerate((people, labels, regions)):
        result.save(tmp_path / f"new/{number}.json")
        assert json.loads((tmp_path / f"new/{number}.json").read_text()) == result.to_dict()
        result.save(tmp_path / f"{number}.jpg")
        drawn = result.draw()
        saved = load_image(tmp_path / f"{number}.jpg").pixels
        assert saved.shape == drawn.shape
        assert np.abs(saved.astype(int) - drawn).mean() < 12  # JPEG on noise
        with pytest.raises(ValueError, match="suffix"):
            result.save(tmp_path / "x.txt")
        with pytest.raises(ValueError, match="suffix"):
            result.save(tmp_path / "x")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.jpg", "1.jpg", "2.jpg", "new"]


def test_png_of_a_segmentation_holds_class_ids(regions: Segmentation, tmp_path: Path) -> None:
    regions.save(tmp_path / "mask.png")
    assert np.array_equal(cv2.imread(str(tmp_path / "mask.png"), cv2.IMREAD_UNCHANGED), regions.mask)
    many = Segmentation(image=regions.image, mask=regions.mask.astype(np.uint16) + 299)
    many.save(tmp_path / "many.png")
    assert np.array_equal(cv2.imread(str(tmp_path / "many.png"), cv2.IMREAD_UNCHANGED), many.mask)
    assert many.name_of(299) == "299"


def test_failed_save_leaves_the_old_file(labels: Classification, tmp_path: Path, monkeypatch) -> None:
    target = tmp_path / "a.json"
    target.write_text("old")

    def full_disk(*args: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", full_disk)
    with pytest.raises(OSError, match="disk full"):
        labels.save(target)
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_supervision_takes_people_and_regions(people: Keypoints, regions: Segmentation) -> None:
    sv = pytest.importorskip("supervision", reason="needs supervision, from the extra 'dev'")
    points = people.to_supervision()
    assert isinstance(points, sv.KeyPoints)
    assert np.array_equal(points.xy, people.keypoints[..., :2])
    assert np.array_equal(points.keypoint_confidence, people.keypoints[..., 2])
    assert np.allclose(points.detection_confidence, people.scores)
    nobody = {name: getattr(people, name)[:0] for name in ("keypoints", "scores", "boxes", "box_scores")}
    assert len(replace(people, **nobody).to_supervision()) == 0
    found = regions.to_supervision()
    assert isinstance(found, sv.Detections)
    assert found.class_id.tolist() == [2, 0]
    assert found["class_name"].tolist() == ["road", "sky"]
    assert np.array_equal(found.mask[0], regions.mask == 2)
    assert found.xyxy.tolist() == [[30, 0, 89, 59], [0, 0, 29, 59]]
    drawn = sv.MaskAnnotator().annotate(regions.image.copy(), found)
    assert (drawn != regions.image).any()


def test_without_supervision_the_package_is_named(people: Keypoints, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ImportError, match="pip install supervision"):
        people.to_supervision()
