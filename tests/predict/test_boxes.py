from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hrformer.data.images import LoadedImage
from hrformer.predict.boxes import DetectionTable, found_boxes, given_boxes, pair_with_images

PICTURE = LoadedImage(pixels=np.zeros((40, 60, 3), np.uint8))
RECORD = {"image_id": 785, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}


def test_coco_tiny_detections(data_dir: Path) -> None:
    file = data_dir / "coco_tiny" / "annotations" / "person_detections.json"
    records = json.loads(file.read_text())
    for table in (DetectionTable.read(file), DetectionTable(records)):
        found = {i: table.find(f"some/where/{i:012d}.jpg") for i in (785, 40083, 196141, 197388)}
        assert sum(len(boxes.boxes) for boxes in found.values()) == 118
        assert len(table) == 4
        first = found[785]
        assert first.compete
        assert first.boxes.dtype == np.float32
        assert np.allclose(first.boxes[0], records[0]["bbox"], rtol=1e-6)
        assert len(table.find("000000000785.jpg", threshold=0.3).boxes) == sum(
            record["score"] >= 0.3 for record in records if record["image_id"] == 785
        )


@pytest.mark.parametrize("name", ["000000000785.jpg", "785.png", "COCO_val2014_000000000785.jpg", "a/b/785"])
def test_matching_by_number(name: str) -> None:
    table = DetectionTable([RECORD])
    assert table.has(name)
    assert table.find(name).boxes.tolist() == [[1, 2, 3, 4]]


@pytest.mark.parametrize("written", ["x/photo.jpg", "photo.jpg", "photo"])
def test_matching_by_name(written: str) -> None:
    record = {"file_name": written, "bbox": [1, 2, 3, 4], "score": 0.5}
    assert DetectionTable([record]).find("x/photo.jpg").scores.tolist() == [0.5]
    assert not DetectionTable([record]).has("y/photo2.jpg")


def test_exact_name_wins_over_the_bare_one() -> None:
    rows = [{"file_name": n, "bbox": [i, 0, 1, 1], "score": 1.0} for i, n in enumerate(("b/x.jpg", "x.jpg"))]
    assert DetectionTable(rows).find("b/x.jpg").boxes[0, 0] == 0
    assert DetectionTable(rows).find("c/x.jpg").boxes[0, 0] == 1


def test_other_categories_are_left_out() -> None:
    table = DetectionTable([RECORD | {"category_id": 3}])
    assert table.has("785.jpg")
    assert table.find("785.jpg").boxes.shape == (0, 4)
    assert not table.has("786.jpg")
    assert table.find("786.jpg").boxes.shape == (0, 4)


def test_data_set_with_images_and_annotations(tmp_path: Path) -> None:
    content = {
        "images": [{"id": 5, "file_name": "one.jpg"}],
        "annotations": [{"image_id": 5, "category_id": 1, "bbox": [0, 0, 9, 9]}],
    }
    file = tmp_path / "set.json"
    file.write_text(json.dumps(content))
    assert DetectionTable.read(file).find("one.jpg").scores.tolist() == [1.0]


@pytest.mark.parametrize(
    "wrong", [{"bbox": [1, 2, 3]}, {"bbox": [1, 2, -3, 4]}, {"bbox": [0, 0, 0, 0]}, {"score": None}, {"image_id": "x"}]
)
def test_wrong_records_are_shown(wrong: dict) -> None:
    with pytest.raises(ValueError, match=r"detection 1 is not of the form .*bbox.*: \{"):
        DetectionTable([RECORD, RECORD | wrong])


@pytest.mark.parametrize(("text", "message"), [("{", "not JSON"), ('{"a": 1}', "list"), ("[1]", "detection 0")])
def test_wrong_files_are_named(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "boxes.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=f"boxes.json.*{message}"):
        DetectionTable.read(file)


def test_default_is_the_whole_picture() -> None:
    found = given_boxes(None, None, PICTURE)
    assert found.boxes.tolist() == [[0, 0, 60, 40]]
    assert found.scores.tolist() == [1]
    assert not found.compete


def test_given_boxes_keep_their_precision() -> None:
    assert given_boxes([[1, 2, 3, 4]], None, PICTURE).boxes.dtype == np.float64
    assert given_boxes(np.ones((2, 4), np.float32), [0.5, 0.25], PICTURE).boxes.dtype == np.float32
    assert given_boxes([], None, PICTURE).boxes.shape == (0, 4)
    with pytest.raises(ValueError, match=r"shape \(N, 4\)"):
        given_boxes([1, 2, 3, 4], None, PICTURE)
    with pytest.raises(ValueError, match="as many scores"):
        given_boxes([[1, 2, 3, 4]], [0.5, 0.5], PICTURE)


@pytest.mark.parametrize("boxes", [[None], [None, None, None]])
def test_boxes_must_match_the_pictures(boxes: list) -> None:
    with pytest.raises(ValueError, match="one entry per picture"):
        list(pair_with_images([PICTURE, PICTURE], boxes, None))


@pytest.mark.parametrize(
    "make",
    [
        torch.tensor,
        lambda rows: torch.tensor(rows, dtype=torch.bfloat16, requires_grad=True),
        lambda rows: np.array(rows).astype(np.int64),
        list,
        iter,
        lambda rows: [torch.tensor(row) for row in rows],
    ],
)
def test_boxes_and_detectors_of_any_number_type(make: Any) -> None:
    rows = [[1, 2, 30, 40], [5, 6, 7, 8]]
    found = found_boxes((make(rows), make([1, 0])), 0.5)
    assert found.boxes.tolist() == rows[:1]
    assert found.scores.tolist() == [1]
    assert given_boxes(make(rows), make([1, 0]), PICTURE).boxes.tolist() == rows
    assert found_boxes(([], []), 0.5).boxes.shape == (0, 4)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (None, "a detector must return a pair"),
        (([[1, 2, 3]], [1]), r"shape \(N, 4\)"),
        ((["a"], [1]), "a detector's boxes must be rows of numbers"),
        (([[1, 2, 3, 4]], [np.nan]), "a detector's scores must be finite"),
        (([[1, 2, 3, 4]], [1, 1]), "as many scores"),
    ],
)
def test_wrong_answers_of_detectors(answer: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        found_boxes(answer, 0.5)


def test_generators_of_boxes() -> None:
    rows = (one for one in ([[1, 2, 3, 4]], None))
    pairs = list(pair_with_images([PICTURE, PICTURE], rows, None))
    assert [found.boxes.tolist() for _, found in pairs] == [[[1, 2, 3, 4]], [[0, 0, 60, 40]]]
    with pytest.raises(ValueError, match="box_scores must have one entry per picture: more than 1"):
        list(pair_with_images([PICTURE], iter([None]), iter([None, None])))


def test_labelled_boxes_are_clipped_as_in_evaluation(tmp_path: Path) -> None:
    content = {
        "images": [{"id": 5, "file_name": "one.jpg", "width": 60, "height": 40}],
        "annotations": [{"image_id": 5, "category_id": 1, "bbox": [-5, 10, 20, 90]}],
    }
    (tmp_path / "set.json").write_text(json.dumps(content))
    assert DetectionTable.read(tmp_path / "set.json").find("one.jpg").boxes.tolist() == [[0, 10, 19, 29]]
