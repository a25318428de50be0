"""Labels as tools write them: what is taken as it is meant, what is said, and what is refused by name."""

from __future__ import annotations

import contextlib
import io
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hrformer.data.coco_labels import truth_of
from hrformer.data.pose_sets import open_pose
from hrformer.data.set_types import DataError
from hrformer.data.source_config import PoseSource
from hrformer.evaluate.files import evaluate_keypoint_file
from hrformer.metrics.coco_keypoints import FIGURES

JOINTS = ["nose", "left_hand", "right_hand"]
SIZE = (200, 160)
NONSENSE = [None, "", [], {}, math.nan, -1, "a", 1e400, True, 10**400]


def person(number: Any, picture: Any = 7, **changes: Any) -> dict[str, Any]:
    record = {"id": number, "image_id": picture, "category_id": 1, "iscrowd": 0, "area": 2000.0, "num_keypoints": 2}
    return {**record, "bbox": [20, 10, 80, 60], "keypoints": [30, 30, 2, 80, 50, 1, 0, 0, 0], **changes}


def without(record: dict[str, Any], field: str) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name != field}


def content_of(rows: Any, **changes: Any) -> dict[str, Any]:
    return {
        "images": [{"id": n, "file_name": f"{n}.png", "width": SIZE[0], "height": SIZE[1]} for n in (7, 9)],
        "categories": [{"id": 1, "name": "bird", "keypoints": JOINTS, "skeleton": [[1, 2]]}],
        "annotations": rows,
        **changes,
    }


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., PoseSource]:
    def write(rows: Any, **changes: Any) -> PoseSource:
        (tmp_path / "images").mkdir(exist_ok=True)
        for number in (7, 9):
            Image.new("RGB", SIZE).save(tmp_path / "images" / f"{number}.png")
        (tmp_path / "val.json").write_text(json.dumps(content_of(rows, **changes)))
        return PoseSource(root=tmp_path, val_annotations="val.json", val_images=("images",))

    return write


def opened(source: PoseSource) -> tuple[Any, dict[int, Any]]:
    people = open_pose(source, "val")
    return people, {(one := people.person(index)).person_id: one for index in range(len(people))}


def complaint(source: PoseSource) -> str:
    """What is said of the file; any other error fails the test."""
    try:
        return "" if open_pose(source, "val").truth()["annotations"] else "silent"
    except DataError as error:
        return str(error)


def perfect(people: Any, file: Path, shift: float = 0) -> list[dict[str, Any]]:
    everyone = [people.person(index) for index in range(len(people))]
    rows = [
        {
            "image_id": one.image_id,
            "category_id": one.category_id,
            "score": 1.0,
            "keypoints": (one.keypoints + np.array([shift, 0, 0])).ravel().tolist(),
        }
        for one in everyone
    ]
    file.write_text(json.dumps(rows))
    return rows


@pytest.mark.parametrize(
    ("area", "said"),
    [
        (None, "without an area above 0"),
        (0, "without an area above 0"),
        (-4.0, "without an area above 0"),
        (math.nan, "without an area above 0"),
        ("0", "without an area above 0"),
        ("n/a", "without an area above 0"),
        (7201, "with an area that does not fit the box"),
        (47.0, "with an area that does not fit the box"),
        (1e400, "with an area that does not fit the box"),
    ],
)
def test_the_box_stands_in_for_areas(write, area: Any, said: str, tmp_path: Path) -> None:
    people = [person(1, area=area), without(person(2, 9), "area"), person(3, 9, area="1500", bbox=[21, 10, 80, 60])]
    if area is not None:
        people[1] = person(2, 9, area=area)
    found, everyone = opened(write(people))
    assert [everyone[number].area for number in (1, 2, 3)] == [0.53 * 4800, 0.53 * 4800, 1500]
    (note,) = found.notes
    assert note.kind == "no-area"
    assert f"val.json: 'area' of 2 of 3 people: 2 {said}; 0.53 x width x height" in note.text
    perfect(found, tmp_path / "results.json")
    result = evaluate_keypoint_file(tmp_path / "results.json", found, found.skeleton)
    assert (result.value, result.scores["AR"]) == (1.0, 1.0)
    # Boxes are clipped by who knows the pictures.
    rows = [truth["annotations"] for truth in (truth_of(found.annotations, 3), found.truth())]
    assert [[one["area"] for one in some] for some in rows] == [[0.53 * 4800, 0.53 * 4800, 1500]] * 2


def test_small_masks_of_large_boxes_keep_their_area(write) -> None:
    found, everyone = opened(write([person(1, area=9.0, segmentation=[[1, 2, 3, 4, 5, 6]])]))
    assert (everyone[1].area, found.notes) == (9.0, ())


def test_copies_are_counted(write) -> None:
    people = [person(1), person(2, 9), person(1), person(3, 9, bbox=[21, 10, 80, 60]), person(4)]
    found, _ = opened(write(people))
    (note,) = found.notes
    assert note.kind == "copies"
    assert note.text.endswith(
        "val.json: 2 annotations of 5 people with the picture, box and joints of another one, such as number 2 in "
        "'annotations', a copy of annotation 1; counted as people of their own in training and scoring"
    )
    assert opened(write([person(1), person(2, 9)]))[0].notes == ()


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "'annotations' is empty: label people in these pictures"),
        ([person(1, iscrowd=1), person(2, iscrowd=1)], "2 of 2 annotations crowds: write 'iscrowd' 0"),
        ([person(1, category_id="9"), person(2, category_id=9)], "2 of 2 annotations of category_id 9, and those "),
        ([person(1, 8, keypoints=[])], "1 of 1 annotation of pictures that 'images' does not list: add these"),
        ([person(1, keypoints=[0] * 9)], "1 of 1 annotation without a labelled joint: label them, "),
        ([person(1, bbox=[900, 900, 5, 5], keypoints=[900, 900, 2, 904, 904, 2, 0, 0, 0])], "1 of 1 annotation with "),
    ],
)
def test_why_nobody_is_left(write, rows: list[Any], said: str, tmp_path: Path) -> None:
    assert complaint(write(rows)).startswith(f"{tmp_path}/val.json: nobody is left: {said}")


@pytest.mark.parametrize("side", ["", -1, 2.5, "wide", [200]])
def test_sizes_that_are_none_may_be_left_out(write, side: Any) -> None:
    image = {"id": 7, "file_name": "7.png", "width": side, "height": SIZE[1]}
    assert "entry 0 of 'images': 'width' must be a number of pixels, got" in complaint(write([], images=[image]))
    assert complaint(write([], images=[image])).endswith("; leave it out, and the picture's own counts")


def test_figures_are_pycocotools_with_the_corrected_labels(write, tmp_path: Path) -> None:
    coco = pytest.importorskip("pycocotools.coco", reason="needs pycocotools, from the extra 'dev'")
    from pycocotools.cocoeval import COCOeval

    rows = [
        *(person(1, area=0, num_keypoints=0), person(2, 9, num_keypoints=7), person(3, 9, iscrowd=1)),
        *(
            person(4, keypoints=[0] * 9, num_keypoints=0),
            person(5, 9, keypoints=[40, 40, 2, None, None, None, 0, 0, 0]),
        ),
    ]
    right = [
        *(person(1, area=0.53 * 4800), person(2, 9), person(3, 9, iscrowd=1)),
        *(
            person(4, keypoints=[0] * 9, num_keypoints=0),
            person(5, 9, keypoints=[40, 40, 2] + [0] * 6, num_keypoints=1),
        ),
    ]
    cars = {"id": 2, "name": "car"}
    found, _ = opened(
        write([*rows, {"id": 6, "image_id": 7, "category_id": 2}], categories=[*content_of([])["categories"], cars])
    )
    assert [note.kind for note in found.notes] == ["num-keypoints", "no-area"]
    assert "'num_keypoints' of 3 of 4 people" in found.notes[0].text
    results = perfect(found, tmp_path / "results.json", shift=3)
    result = evaluate_keypoint_file(tmp_path / "results.json", found, found.skeleton)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = coco.COCO()
        truth.dataset = content_of(right)
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), "keypoints")
        evaluation.params.kpt_oks_sigmas = np.array(found.skeleton.sigmas)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    assert 0 < evaluation.stats[0] < 1
    assert [result.scores[key] for key in FIGURES] == pytest.approx(evaluation.stats.tolist(), abs=1e-9)
    assert [(row["id"], row["iscrowd"], row["num_keypoints"]) for row in found.truth()["annotations"]] == [
        *((1, 0, 2), (2, 0, 2), (3, 1, 2), (4, 0, 0), (5, 0, 1))
    ]


@pytest.mark.parametrize("box", [None, [], [20, 10, 0, 60], [20, 10, -5, -5], [500, 10, 20, 20]])
def test_joints_make_up_for_boxes(write, box: Any) -> None:
    found, everyone = opened(write([person(1, bbox=box, area=0), person(2, 9)]))
    # Joints span (30, 30) to (80, 50), grown by 5 on every side; official clipping takes a pixel off.
    assert everyone[1].box.tolist() == [25, 25, 59, 29]
    assert found.notes[0].kind == ("flat-box" if not box or box[2] <= 0 else "no-area")
    assert {row["id"] for row in found.truth()["annotations"]} == {1, 2}


def test_people_outside_are_left_out_of_both(write) -> None:
    outside = {"bbox": [500, 10, 20, 20], "keypoints": [505, 20, 2, 510, 25, 2, 0, 0, 0]}
    found, everyone = opened(write([person(1), person(2, 9, **outside)]))
    assert list(everyone) == [1]
    assert [row["id"] for row in found.truth()["annotations"]] == [1]
    assert "left out of training and scoring" in found.notes[-1].text
    with pytest.raises(DataError, match=r"annotation 1: needs a 'bbox'.* do not span one"):
        open_pose(write([person(1, bbox=None, keypoints=[30, 30, 2] + [0] * 6)]), "val")


@pytest.mark.parametrize("far", [0, 2**53, 2**63, 2**70])
@pytest.mark.parametrize("spell", [int, str])
def test_numbers_in_every_spelling(write, far: int, spell: Callable[[int], Any], tmp_path: Path) -> None:
    row = {"category_id": 1.0, "iscrowd": "0", "area": "2000", "bbox": ["20", 10.0, 80, "60"], "num_keypoints": "2"}
    joints = ["30", 30, "2", 80.0, "50.0", 1.0, None, None, None]
    source = write(
        [person(spell(far + n), spell(far + n), **row, keypoints=joints) for n in (2, 1)],
        images=[
            {"id": spell(far + n), "file_name": f"{name}.png", "width": float(SIZE[0]), "height": str(SIZE[1])}
            for n, name in ((1, 9), (2, 7))
        ],
        categories=[{"id": "1", "name": "bird", "keypoints": JOINTS}],
    )
    found, everyone = opened(source)
    assert (found.image_ids, list(everyone), found.notes) == ((far + 1, far + 2), [far + 1, far + 2], ())
    assert everyone[far + 1].keypoints.tolist() == [[30, 30, 2], [80, 50, 1], [0, 0, 0]]
    assert (everyone[far + 1].area, everyone[far + 1].box.tolist()) == (2000, [20, 10, 79, 59])
    rows = perfect(found, tmp_path / "results.json")
    assert [one["image_id"] for one in rows] == [far + 1, far + 2]
    assert evaluate_keypoint_file(tmp_path / "results.json", found, found.skeleton).value == 1.0
    spelt = [{**one, "image_id": spell(one["image_id"]), "category_id": "1", "score": "1.0"} for one in rows[::-1]]
    (tmp_path / "results.json").write_text(json.dumps(spelt))
    assert evaluate_keypoint_file(tmp_path / "results.json", found, found.skeleton).value == 1.0
    boxes = [{"image_id": spell(far + 2), "category_id": "1", "bbox": ["1", 2, 30, 40], "score": "0.5"}]
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    detected = open_pose(source, "val", detections=tmp_path / "boxes.json")
    assert (len(detected), detected.person(0).image_id, detected.truth()) == (1, far + 2, found.truth())


@pytest.mark.parametrize(
    "joints",
    [
        [30, 30, 2, None, None, None, 80, 50, 1],
        [30, 30, 2, math.nan, 5, 2, 80, 50, 1],
        [30, 30, 2, 7, 8, None, 80, 50, 1],
    ],
)
def test_joints_that_are_partly_null_are_not_labelled(write, joints: list[Any]) -> None:
    _, everyone = opened(write([person(1, keypoints=joints)]))
    assert everyone[1].keypoints.tolist() == [[30, 30, 2], [0, 0, 0], [80, 50, 1]]


def test_people_without_joints_and_with_a_mark_before_the_file(write, tmp_path: Path) -> None:
    source = write([person(1), person(2, keypoints=[]), without(person(3, 9), "keypoints"), person(4, keypoints=None)])
    file = tmp_path / "val.json"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    found, everyone = opened(source)
    assert list(everyone) == [1]
    assert len(found.truth()["annotations"]) == 4


@pytest.mark.parametrize(
    ("keypoints", "message"),
    [
        ([30, 30, 3] + [0] * 6, r"the flags in 'keypoints' must be 0 .* got 3"),
        ([30, 30, 2, 1, 1, -1, 0, 0, 0], r"the flags in 'keypoints' must be 0 .* got -1"),
        ([30, 30, 1.5] + [0] * 6, r"the flags in 'keypoints' must be 0 .* got 1.5"),
        (["x", 30, 2] + [0] * 6, r"'keypoints' must hold numbers, or null .* got 'x'"),
        ([1e400, 30, 2] + [0] * 6, r"'keypoints' must be finite"),
        ([30, 30, 2], r"'keypoints' has 3 numbers, not 3 x 3"),
        ("30", r"'keypoints' must be a list of numbers, got '30'"),
        (["30,5", 30, 2] + [0] * 6, r"'keypoints' must hold numbers, .* got '30,5' \(numbers have .* point: 30\.5\)"),
        ([[30, 30], [1, 1], [0, 0]], r"'keypoints' must hold x, y and flag .* of each of the 3 joints, got \[\[30, 30"),
        ([{"x": 30, "y": 30, "v": 2}] * 3, r"'keypoints' must hold x, y and flag .* got \[\{'x': 30"),
    ],
)
def test_joints_without_meaning_are_named(write, keypoints: Any, message: str) -> None:
    with pytest.raises(DataError, match=rf"val\.json: annotation 4: {message}"):
        open_pose(write([person(1), person(4, keypoints=keypoints)]), "val")


@pytest.mark.parametrize(
    "field", ["id", "image_id", "category_id", "iscrowd", "area", "num_keypoints", "bbox", "keypoints"]
)
@pytest.mark.parametrize("value", NONSENSE, ids=lambda value: repr(value)[:8])
def test_nonsense_in_annotations_is_taken_or_named(write, field: str, value: Any) -> None:
    rows = [person(1), person(4, 9, **{field: value})]
    inside = [person(4, 9, bbox=[20, value, 80, 60]), person(4, 9, keypoints=[30, value, 2, 80, 50, 1, 0, 0, 0])]
    for one in ([rows[0], inside[0]], [rows[0], inside[1]], rows, [rows[0], without(rows[1], field)], [rows[0], value]):
        error = complaint(write(one))
        assert not error or ("val.json" in error and ("annotation" in error or "nobody is left" in error))


@pytest.mark.parametrize("value", NONSENSE, ids=lambda value: repr(value)[:8])
def test_nonsense_in_pictures_and_categories_is_taken_or_named(write, value: Any) -> None:
    sound = content_of([person(1)])
    changes: list[dict[str, Any]] = [{key: value} for key in ("images", "annotations", "categories")]
    for key in ("images", "categories"):
        first, *others = sound[key]
        changes += [{key: [value, *others]}]
        for field in first:
            changes += [{key: [{**first, field: value}, *others]}, {key: [without(first, field), *others]}]
    for change in changes:
        error = complaint(write([person(1)], **change))
        assert not error or "val.json" in error


def test_categories_are_chosen_by_name_or_id(write) -> None:
    cup = {"id": 2, "name": "cup", "keypoints": ["rim", "base"], "skeleton": [[1, 2]]}
    box = {"bbox": [5, 5, 20, 20], "area": 400, "keypoints": [8, 8, 2, 20, 20, 2]}
    source = write([person(1), person(2, 9, category_id=2, **box)], categories=[*content_of([])["categories"], cup])
    with pytest.raises(
        DataError, match=r"bird, cup have different joints.*PoseSource\.category NAME takes one of bird, cup"
    ):
        open_pose(source, "val")
    for chosen, number, kind in (("bird", 1, 1), ("cup", 2, 2), ("2", 2, 2)):
        found, everyone = opened(replace(source, category=chosen))
        assert (list(everyone), found.category_id) == ([number], kind)
        assert [row["id"] for row in found.truth()["annotations"]] == [number]
        assert [row["id"] for row in found.truth()["categories"]] == [kind]
    with pytest.raises(DataError, match=r"no category 'cat', .* bird \(3 joints\), cup \(2 joints\)"):
        open_pose(replace(source, category="cat"), "val")


def test_joints_nested_by_three_are_read(write) -> None:
    flat, nested = [30, 30, 2, 80, 50, 1, 0, 0, 0], [[30, "30", 2], [80, 50, 1], [None, None, 0]]
    _, everyone = opened(write([person(1, keypoints=nested), person(2, keypoints=flat)]))
    assert everyone[1].keypoints.tolist() == everyone[2].keypoints.tolist()
    _, unnamed = opened(write([person(1, keypoints=[[30, 30, 2]] * 17)], categories=[{"id": 1, "name": "person"}]))
    assert unnamed[1].keypoints.shape == (17, 3)


def test_decimal_commas_are_told(write) -> None:
    point = r"got \['20,5', '10', .* \(numbers have a decimal point: 20\.5\)"
    with pytest.raises(DataError, match=rf"val\.json: annotation 1: needs a 'bbox' .*{point}"):
        open_pose(write([person(1, bbox=["20,5", "10", "80", "60"])]), "val")
    with pytest.raises(DataError, match=r"'area' must be .* got '2000,0' \(numbers have a decimal point: 2000\.0\)"):
        open_pose(write([person(1, area="2000,0")]), "val")


def test_one_of_a_kind_is_said_in_the_singular(write) -> None:
    found, _ = opened(write([person(1, area=0, num_keypoints=0, bbox=None), person(2, category_id=5)]))
    said = [note.text.partition("val.json: ")[2] for note in found.notes]
    assert [text.partition(";")[0] for text in said] == [
        "'num_keypoints' of 1 of 1 person is not the number of their labelled joints",
        "no 'bbox' with width and height in 1 of 1 person",
        "'area' of 1 of 1 person: 1 without an area above 0",
        "1 annotation of categories that the file does not list",
    ]


@pytest.mark.parametrize(
    "limbs", [[[1, 2], [2, 3]], [[0, 1], [1, 2]], [["1", "2"], [2.0, 3.0]], [["0", 1.0], [1, "2"]]], ids=str
)
def test_limbs_are_counted_from_1_or_from_0(write, limbs: Any, caplog: pytest.LogCaptureFixture) -> None:
    found, _ = opened(
        write([person(1)], categories=[{"id": 1, "name": "bird", "keypoints": JOINTS, "skeleton": limbs}])
    )
    assert found.skeleton.edges == ((0, 1), (1, 2))
    assert ("counts the joints of its limbs from 0, where COCO counts from 1" in caplog.text) == (
        float(limbs[0][0]) == 0
    )
