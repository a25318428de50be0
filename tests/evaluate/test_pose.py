"""Labelled and detected boxes, the predictor's path, and the figures of pycocotools."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hrformer.data.coco_keypoints import CocoPeople
from hrformer.data.pose_sets import open_pose
from hrformer.data.source_config import PoseSource
from hrformer.evaluate import scores
from hrformer.evaluate.evaluate import evaluate, export_predictions
from hrformer.evaluate.protocols import PoseProtocol
from hrformer.evaluate.scores import own_similarity
from hrformer.metrics.coco_keypoints import FIGURES
from hrformer.models.model import VisionModel
from hrformer.predict.pose import PosePredictor

DETECTIONS = Path("annotations/person_detections.json")


def test_labelled_people_equal_the_predictor(coco_poser: VisionModel, coco_source: PoseSource) -> None:
    source = open_pose(coco_source, "val")
    result = evaluate(coco_poser, source, PoseProtocol(nms_threshold=None, batch_size=5), worst=20)
    predictor = PosePredictor(coco_poser, device="cpu")
    assert result.items == result.scores["people"] == len(source) == 12
    assert result.scores["images"] == 4
    for example in result.worst:
        found = predictor(example.file, boxes=source.person(example.index).box[None])
        # Another batch: rounding of the network, which moves no peak here.
        assert np.abs(example.prediction[:, :2] - found.keypoints[0, :, :2]).max() < 1e-3
        assert example.prediction[:, 2] == pytest.approx(found.keypoints[0, :, 2], rel=1e-4, abs=5e-6)


def test_detections_equal_the_predictor(
    coco_poser: VisionModel, coco_source: PoseSource, data_dir: Path, tmp_path: Path
) -> None:
    source = open_pose(coco_source, "val", detections=DETECTIONS, box_threshold=0.6)
    protocol = PoseProtocol(detections=DETECTIONS, box_threshold=0.6, batch_size=16, nms_threshold=0.3)
    result = evaluate(coco_poser, source, protocol, worst=3)
    assert result.worst == ()  # nobody labelled them
    results = json.loads(export_predictions(coco_poser, source, protocol, tmp_path).read_text())
    predictor = PosePredictor(coco_poser, device="cpu")
    file = data_dir / "coco_tiny" / DETECTIONS
    expected = []
    for path in sorted((data_dir / "coco_tiny" / "images").glob("*.jpg")):
        found = predictor(path, detections=file, box_threshold=0.6, nms_threshold=0.3)
        expected += found.to_coco(int(path.stem))
    assert len(results) == len(expected) == result.scores["people"] < len(source)
    for one, other in zip(results, expected, strict=True):
        assert one["image_id"] == other["image_id"]
        assert one["keypoints"] == pytest.approx(other["keypoints"], abs=2e-3)
        assert one["score"] == pytest.approx(other["score"], rel=1e-4)


def test_flip_and_shift_are_the_protocols(coco_poser: VisionModel, coco_source: PoseSource) -> None:
    source = open_pose(coco_source, "val")
    variants = [PoseProtocol(flip=False), PoseProtocol(shift=False), PoseProtocol()]
    found = [evaluate(coco_poser, source, variant, limit=2, worst=2).worst[0].prediction for variant in variants]
    assert not np.allclose(found[0], found[2])
    assert not np.allclose(found[1], found[2])


def test_pycocotools_agrees(poser: VisionModel, athletes: CocoPeople, tmp_path: Path) -> None:
    coco = pytest.importorskip("pycocotools.coco", reason="needs pycocotools, from the extra 'dev'")
    from pycocotools.cocoeval import COCOeval

    protocol = PoseProtocol(batch_size=20)
    result = evaluate(poser, athletes, protocol, limit=14)
    file = export_predictions(poser, athletes, protocol, tmp_path, limit=14)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = coco.COCO(str(athletes.annotations))
        evaluation = COCOeval(truth, truth.loadRes(str(file)), "keypoints")
        evaluation.params.imgIds = [athletes.person(index).image_id for index in range(14)]
        evaluation.params.kpt_oks_sigmas = np.array(athletes.skeleton.sigmas)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    assert result.scores["AP"] > 0.02
    # The file's coordinates are rounded to thousandths of a pixel.
    assert [result.scores[key] for key in FIGURES] == pytest.approx(evaluation.stats.tolist(), abs=1e-6)


def test_similarity_of_a_person_to_its_labels(athletes: CocoPeople) -> None:
    person = athletes.person(0)
    assert own_similarity(person.keypoints, person, athletes.skeleton) == 1
    moved = person.keypoints + np.array([5.0, 0.0, 0.0])
    near = own_similarity(moved, person, athletes.skeleton)
    assert near is not None
    assert 0.3 < near < 1
    assert own_similarity(moved, replace(person, area=person.area / 4), athletes.skeleton) < near
    # Without an area the box stands in; the set's own areas are made that way.
    assert own_similarity(moved, replace(person, area=0.0), athletes.skeleton) == pytest.approx(near, rel=0.05)
    blank = replace(person, keypoints=np.zeros_like(person.keypoints))
    assert own_similarity(moved, blank, athletes.skeleton) is None


def test_missing_package_is_noticed_before_the_run(
    poser: VisionModel, athletes: CocoPeople, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scores, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"hrformer\[train\]"):
        evaluate(poser, athletes, PoseProtocol())
    assert evaluate(poser, athletes, PoseProtocol(score="pck"), limit=2).main == "pck@0.2"


def test_pictures_without_labels_have_no_figures(
    coco_poser: VisionModel, coco_source: PoseSource, tmp_path: Path
) -> None:
    content = json.loads((coco_source.root / coco_source.val_annotations).read_text())
    del content["annotations"]
    (tmp_path / "test.json").write_text(json.dumps(content))
    (tmp_path / "images").symlink_to(coco_source.root / "images")
    hidden = PoseSource(root=tmp_path, test_annotations="test.json", test_images=("images",))
    source = open_pose(hidden, "test", detections=coco_source.root / DETECTIONS, box_threshold=0.5)
    with pytest.raises(ValueError, match="no annotation file"):
        evaluate(coco_poser, source, PoseProtocol())
    results = json.loads(export_predictions(coco_poser, source, PoseProtocol(), tmp_path / "out").read_text())
    assert {row["image_id"] for row in results} <= set(source.image_ids)
    assert all(set(row) == {"image_id", "category_id", "keypoints", "score"} for row in results)
    assert len(results[0]["keypoints"]) == 51


def test_ap_that_no_label_allows_is_refused(coco_poser: VisionModel, coco_source: PoseSource, tmp_path: Path) -> None:
    content = json.loads((coco_source.root / coco_source.val_annotations).read_text())
    for person in content["annotations"]:
        person["keypoints"], person["num_keypoints"] = [0] * 51, 0
    (tmp_path / "blank.json").write_text(json.dumps(content))
    (tmp_path / "images").symlink_to(coco_source.root / "images")
    blank = PoseSource(root=tmp_path, val_annotations="blank.json", val_images=("images",))
    source = open_pose(blank, "val", detections=coco_source.root / DETECTIONS, box_threshold=0.5)
    with pytest.raises(ValueError, match=r"AP is not defined on .*has a labelled joint"):
        evaluate(coco_poser, source, PoseProtocol())
