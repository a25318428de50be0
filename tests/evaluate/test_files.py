"""Predictions in files: COCO results, masks, classes, and the folder of ``hrformer predict``."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from hrformer.cli.output import OutputFolder
from hrformer.data.pose_sets import CocoPeople, open_pose
from hrformer.data.published_classes import to_server_ids
from hrformer.data.set_types import ClassificationSet, SegmentationSet
from hrformer.data.source_config import PoseSource
from hrformer.data.views import chosen
from hrformer.evaluate.evaluate import evaluate, export_predictions
from hrformer.evaluate.files import (
    entries_for,
    evaluate_class_file,
    evaluate_keypoint_file,
    evaluate_masks,
    read_class_file,
)
from hrformer.evaluate.protocols import ClassificationProtocol, PoseProtocol, SegmentationProtocol
from hrformer.geometry.skeletons import COCO17
from hrformer.metrics.coco_keypoints import FIGURES
from hrformer.models.model import VisionModel
from hrformer.predict.classify import ClassificationPredictor
from hrformer.predict.pose import PosePredictor
from hrformer.predict.results import Result
from hrformer.predict.segment import SegmentationPredictor

BOTH = PoseProtocol(score="both")


def predict_folder(folder: Path, results: Iterable[Result]) -> Path:
    """What ``hrformer predict`` leaves behind."""
    found = list(results)
    output = OutputFolder(folder, {"task": "test"}, pictures=False, resume=False)
    output.plan([str(result.path) for result in found])
    for result in found:
        output.add(result)
    output.flush()
    return folder


def few_athletes(athletes: CocoPeople, count: int) -> dict[str, Any]:
    content = json.loads(athletes.annotations.read_text())
    content["annotations"] = content["annotations"][:count]
    kept = {row["image_id"] for row in content["annotations"]}
    content["images"] = [row for row in content["images"] if row["id"] in kept]
    return content


@pytest.mark.parametrize("case", ["perfect", "jitter_5px", "jitter_8px_dropped", "jitter_20px_dropped"])
def test_coco_results_match_the_goldens(case: str, parity_dir: Path, coco_source: PoseSource) -> None:
    golden = json.loads((parity_dir / "protocol" / "ap.json").read_text())["figures"][case]
    annotations = coco_source.root / coco_source.val_annotations
    result = evaluate_keypoint_file(parity_dir / "protocol" / f"ap_{case}.json", annotations, COCO17, bootstrap=20)
    assert [result.scores[key] for key in FIGURES] == pytest.approx([golden[key] for key in FIGURES], abs=1e-9)
    assert (result.task, result.main, result.value) == ("pose", "AP", result.scores["AP"])
    assert result.intervals["AP"][0] <= result.value <= result.intervals["AP"][1]
    assert result.scores["images_without_results"] == 0


def test_exported_keypoints_score_as_the_model(poser: VisionModel, athletes: CocoPeople, tmp_path: Path) -> None:
    content = few_athletes(athletes, 8)
    (tmp_path / "a.json").write_text(json.dumps(content))
    source = open_pose(
        PoseSource(root=tmp_path, val_annotations="a.json", val_images=(str(Path(athletes.file(0)).parent),)), "val"
    )
    protocol = PoseProtocol(score="both", flip=False, nms_threshold=None)
    expected = evaluate(poser, source, protocol, bootstrap=20)
    file = export_predictions(poser, source, protocol, tmp_path / "out")
    found = evaluate_keypoint_file(file, content, source.skeleton, BOTH, bootstrap=20)
    assert found.main == expected.main == "pck@0.2"
    assert found.value == expected.value
    for key in FIGURES:
        assert found.scores[key] == pytest.approx(expected.scores[key], abs=1e-6)
    assert found.intervals["AP"] == pytest.approx(expected.intervals["AP"], abs=1e-6)
    assert set(found.intervals) == set(expected.intervals)


def test_folder_of_predict_for_pose(poser: VisionModel, athletes: CocoPeople, tmp_path: Path) -> None:
    content = few_athletes(athletes, 6)
    people = {row["image_id"]: row["bbox"] for row in content["annotations"]}
    folder = Path(athletes.file(0)).parent
    rows = [(folder / row["file_name"], people[row["id"]]) for row in content["images"]]
    predictor = PosePredictor(poser, device="cpu")
    results = predictor([path for path, _ in rows], boxes=[[box] for _, box in rows], flip=False)
    # The command numbers these pictures from 1 on; the annotations have other numbers.
    out = predict_folder(tmp_path / "out", results)
    found = evaluate_keypoint_file(out, content, athletes.skeleton, BOTH)
    assert found.items == found.scores["people_seen"] == 6
    assert 0 < found.value < 1
    more = few_athletes(athletes, 9)
    with pytest.raises(ValueError, match="3 of 9 pictures have no result: im"):
        evaluate_keypoint_file(out, more, athletes.skeleton)


def test_people_without_results_are_wrong(athletes: CocoPeople, tmp_path: Path) -> None:
    content = few_athletes(athletes, 4)
    rows = [
        {"image_id": one["image_id"], "category_id": 1, "keypoints": one["keypoints"], "score": 1.0}
        for one in content["annotations"]
    ]
    file = tmp_path / "results.json"
    file.write_text(json.dumps(rows))
    perfect = evaluate_keypoint_file(file, content, athletes.skeleton, BOTH, bootstrap=10)
    assert perfect.value == perfect.scores["AP"] == 1.0
    assert perfect.intervals["pck@0.2"] == (1.0, 1.0)
    file.write_text(json.dumps(rows[1:]))
    lacking = evaluate_keypoint_file(file, content, athletes.skeleton, BOTH)
    assert lacking.scores["images_without_results"] == 1
    assert lacking.scores["people_seen"] == 4
    assert lacking.value < 1
    assert lacking.scores["AR"] == 0.75


def test_keypoint_files_of_another_form(athletes: CocoPeople, tmp_path: Path, coco_source: PoseSource) -> None:
    content = few_athletes(athletes, 3)
    file = tmp_path / "results.json"
    row = {"image_id": content["images"][0]["id"], "keypoints": [0.0] * 42, "score": 1.0}

    def check(value: Any, message: str, protocol: PoseProtocol | None = None) -> None:
        file.write_text(value if isinstance(value, str) else json.dumps(value))
        with pytest.raises(ValueError, match=message):
            evaluate_keypoint_file(file, content, athletes.skeleton, protocol)

    check("{", "is not JSON")
    check({"results": []}, "must hold a list of results, found dict")
    check([row, {"image_id": 1, "class": 2}], "result 1 lacks keypoints, score")
    check([], "has no result for any of the 3 pictures")
    check([{**row, "image_id": 999_999}, row], "1 picture numbers are not among the labels': 999999")
    check([{**row, "keypoints": [0.0] * 51}], "51 numbers, not 3 x 14 joints$")
    check([{**row, "keypoints": [0.0] * 28}], "28 numbers, not 3 x 14 joints: x and y of each, so add a third")
    check([{**row, "keypoints": [[0.0] * 2] * 14}], "'keypoints' must be a list of finite numbers, x, y, score of each")
    for value in (None, "", [], {}, float("nan"), "a", True, 1e400):
        for field in ("image_id", "score", "keypoints"):
            check([row, {**row, field: value}], f"results.json: result 1: '{field}' must be|numbers, not 3 x 14")
    check([row, 3], "result 1 lacks image_id, keypoints, score")
    check([{**row, "category_id": 2}], "'category_id' of the results is 2, that of the labels 1")
    check([row, row], "1 pictures have several results", PoseProtocol(score="pck"))
    with pytest.raises(FileNotFoundError):
        evaluate_keypoint_file(tmp_path / "absent.json", content, athletes.skeleton)
    annotations = coco_source.root / coco_source.val_annotations
    people = json.loads(annotations.read_text())["annotations"]
    file.write_text(json.dumps([{**row, "image_id": people[0]["image_id"], "keypoints": [0.0] * 51}]))
    with pytest.raises(ValueError, match="pictures have several labelled people"):
        evaluate_keypoint_file(file, annotations, COCO17, BOTH)


def test_joints_nested_by_three_score_alike(athletes: CocoPeople, tmp_path: Path) -> None:
    content = few_athletes(athletes, 3)
    rows = [
        {"image_id": one["image_id"], "score": 1.0, "keypoints": np.reshape(one["keypoints"], (-1, 3)).tolist()}
        for one in content["annotations"]
    ]
    (tmp_path / "results.json").write_text(json.dumps(rows))
    assert evaluate_keypoint_file(tmp_path / "results.json", content, athletes.skeleton).value == 1.0


def test_masks_score_as_the_model(segmenter: VisionModel, streets: SegmentationSet, tmp_path: Path) -> None:
    source = chosen(streets, range(3))
    protocol = SegmentationProtocol(short_side=60)
    expected = evaluate(segmenter, source, protocol, bootstrap=10, worst=2)
    folder = export_predictions(segmenter, source, protocol, tmp_path)
    done: list[tuple[int, int]] = []
    found = evaluate_masks(folder, source, bootstrap=10, worst=2, progress=lambda *count: done.append(count))
    assert found.scores == expected.scores
    assert found.intervals == expected.intervals
    assert [example.index for example in found.worst] == [example.index for example in expected.worst]
    assert np.array_equal(found.worst[0].prediction, expected.worst[0].prediction)
    assert done == [(1, 3), (2, 3), (3, 3)]
    predictor = SegmentationPredictor(segmenter, device="cpu")
    paths = [source.file(index) for index in range(3)]
    out = predict_folder(tmp_path / "out", predictor(paths, short_side=60))
    assert evaluate_masks(out, source).scores == expected.scores


def test_masks_with_the_ids_of_a_server(streets: SegmentationSet, tmp_path: Path) -> None:
    source = chosen(streets, range(2))
    # Eleven classes that occur, of nineteen.
    source.classes = tuple(map(str, range(19)))
    for index in range(2):
        labels = source.mask(index)
        stored = to_server_ids("cityscapes", np.where(labels == 255, 0, labels))
        cv2.imwrite(str(tmp_path / f"{Path(source.file(index)).stem}.png"), stored)
    assert evaluate_masks(tmp_path, source, dataset="cityscapes").value == 1.0
    with pytest.raises(ValueError, match=r"\.png: predictions must lie in 0\.\.18"):
        evaluate_masks(tmp_path, source)


def test_masks_that_do_not_fit(streets: SegmentationSet, tmp_path: Path) -> None:
    source = chosen(streets, range(8))
    with pytest.raises(ValueError, match="no such folder"):
        evaluate_masks(tmp_path / "absent", source)
    stems = [Path(source.file(index)).stem for index in range(8)]
    for stem, index in zip(stems, range(2), strict=False):
        cv2.imwrite(str(tmp_path / f"{stem}.png"), source.mask(index))
    with pytest.raises(ValueError, match=rf"6 of 8 pictures have no mask: .*{stems[2]}.* and 1 more"):
        evaluate_masks(tmp_path, source)
    two = chosen(streets, range(2))
    cv2.imwrite(str(tmp_path / f"{stems[0]}.png"), np.where(source.mask(0) == 3, 11, 0))
    with pytest.raises(ValueError, match=rf"{stems[0]}\.png: predictions must lie in 0\.\.10, got 0\.\.11"):
        evaluate_masks(tmp_path, two)
    cv2.imwrite(str(tmp_path / f"{stems[0]}.png"), np.zeros((180, 240), np.uint8))
    with pytest.raises(ValueError, match=rf"{stems[0]}\.png: the mask is 240 x 180 pixels, the labels of .* 480 x 360"):
        evaluate_masks(tmp_path, two)


def test_classes_score_as_the_model(classifier: VisionModel, few_pictures: ClassificationSet, tmp_path: Path) -> None:
    source = few_pictures
    expected = evaluate(classifier, source, ClassificationProtocol(), bootstrap=10)
    file = export_predictions(classifier, source, ClassificationProtocol(), tmp_path)
    assert file.name == "classes.txt"
    found = evaluate_class_file(tmp_path / "classes.csv", source, bootstrap=10, worst=2)
    # A table of classes says nothing about confidence.
    assert expected.scores.keys() - found.scores.keys() == {"calibration_error", "reliability"}
    assert found.scores == {name: expected.scores[name] for name in found.scores}
    assert found.intervals == expected.intervals
    assert found.worst[0].prediction != source.label(found.worst[0].index)
    predictor = ClassificationPredictor(classifier, device="cpu")
    paths = [source.file(index) for index in range(len(source))]
    assert evaluate_class_file(predict_folder(tmp_path / "out", predictor(paths)), source).scores == found.scores
    # Pictures of one name in several class folders, and only the best class of each.
    few = predict_folder(tmp_path / "top1", predictor(paths, top_k=1))
    best = evaluate_class_file(few, source)
    assert best.value == expected.value
    assert "top5" not in best.scores


def test_class_file_that_lacks_pictures(few_pictures: ClassificationSet, tmp_path: Path) -> None:
    source = few_pictures
    file = tmp_path / "classes.json"
    file.write_text(json.dumps({source.file(index): source.label(index) for index in range(3)}))
    with pytest.raises(ValueError, match=f"{len(source) - 3} of {len(source)} pictures have no entry"):
        evaluate_class_file(file, source)


ANIMALS = ("cat", "dog", "owl")


@pytest.mark.parametrize(
    ("entries", "files", "expected"),
    [
        ([("b.png", 2), ("a", 1), ("sub/c.tif", 3)], ["set/val/a.jpg", "set/val/b.jpg", "set/val/c.jpg"], [1, 2, 3]),
        # Folders decide between equal names.
        (
            [("cat/1.png", 1), ("dog/1.png", 2), ("x/train/dog/2.png", 3), ("val/dog/2.png", 4)],
            ["v/dog/1.jpg", "v/cat/1.jpg", "val/dog/2.jpg"],
            [2, 1, 4],
        ),
        # Members of archives.
        (
            [("x.parquet::0", 0), ("x.parquet::1", 1), ("s.tar/b.jpg", 2)],
            ["d/x.parquet::1", "d/x.parquet::0", "d/s.tar::b.jpg"],
            [1, 0, 2],
        ),
        # The very name goes before one with another ending.
        ([("v/a.jpg", 1), ("v/a.png", 2)], ["v/a.jpg"], [1]),
    ],
)
def test_entries_are_found_by_name(entries: list[tuple[str, int]], files: list[str], expected: list[int]) -> None:
    assert entries_for(files, entries, "mask", "out") == expected


@pytest.mark.parametrize(
    ("entries", "files", "message"),
    [
        (
            ["a.png"],
            ["a.jpg", *(f"v/{number}.jpg" for number in range(7))],
            r"^out: 7 of 8 pictures have no mask: v/0.jpg, .*v/4.jpg and 2 more$",
        ),
        (["a.png", "a.png"], [], "two entries for a"),
        (["x/a.png", "y/a.png"], ["val/a.jpg"], "2 masks may belong to val/a"),
        (["1.png"], ["cat/1.jpg", "dog/1.jpg"], r"one mask would belong to both cat/1\.jpg and dog/1\.jpg"),
        # An entry belongs to the picture that it agrees with.
        (["cat/1.png"], ["cat/1.jpg", "dog/1.jpg"], r"1 of 2 pictures have no mask: dog/1\.jpg"),
    ],
)
def test_missing_and_doubtful_names(entries: list[str], files: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        entries_for(files, [(name, 0) for name in entries], "mask", "out")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", {"x.jpg": 2, "d/y.jpg": [0, 1]}),
        ("b.json", {"x.jpg": "owl", "d/y.jpg": ["cat", "dog"]}),
        ("c.json", [{"file": "x.jpg", "class_id": 2}, {"file_name": "d/y.jpg", "class_ids": [0, 1]}]),
        ("d.json", [{"path": "x.jpg", "label": "owl"}, {"image": "d/y.jpg", "labels": ["cat", 1]}]),
        ("e.json", [{"file_name": "x.jpg", "predictions": [{"class_id": 2}]}, {"file": "d/y.jpg", "classes": [0, 1]}]),
        ("f.csv", "x.jpg,2\nd/y.jpg,0,1\n"),
        ("g.csv", "file,score,class_1,class_2\nx.jpg,0.5,owl,\nd/y.jpg,0.2,cat,dog\n"),
    ],
)
def test_forms(tmp_path: Path, name: str, content: Any) -> None:
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    assert list(read_class_file(path, ANIMALS)) == [("x.jpg", [2]), ("d/y.jpg", [0, 1])]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"x.jpg": 3}, r"entry 0 \(x.jpg\): 3 is neither a class name nor a number in 0..2"),
        ({"x.jpg": "cow"}, "'cow' is neither"),
        ({"x.jpg": True}, "True is neither"),
        ({"x.jpg": []}, "at least one"),
        ({"x.jpg": [1, 1]}, "different classes"),
        ([{"file": "x.jpg"}], "entry 0: needs a file name and classes"),
        ([3], "entry 0: needs a file name and classes"),
    ],
)
def test_what_is_no_class(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "classes.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        list(read_class_file(path, ANIMALS))


def test_files_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        list(read_class_file(tmp_path / "a.json", ANIMALS))
    (tmp_path / "b.csv").write_text("file,score\nx.jpg,0.5\n")
    with pytest.raises(ValueError, match="no column begins with class"):
        list(read_class_file(tmp_path / "b.csv", ANIMALS))
    with pytest.raises(FileNotFoundError):
        list(read_class_file(tmp_path / "c.json", ANIMALS))
