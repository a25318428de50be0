"""Pose sets that are broken in one way each, and COCO files before the reader sees them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hrformer.data.inspection.parts import Part, told_once
from hrformer.data.inspection.people import check_annotations
from hrformer.data.inspection.report import Finding
from hrformer.data.pose_sets import open_pose
from hrformer.data.set_types import Note, Person, PoseSet
from hrformer.data.source_config import PoseSource
from hrformer.geometry.skeletons import COCO17

JOINTS = ("head", "tail", "wing")
BIRD = replace(
    COCO17, name="bird", keypoints=JOINTS, flip_pairs=((0, 1),), edges=((0, 1),), sigmas=(0.1, 0.1, 0.1), upper_body=()
)
SOUND = ((20, 20, 2), (40, 30, 1), (30, 35, 2))


class Birds(PoseSet):
    """Birds in pictures of 60 x 50 pixels, one each, in a box of (10, 10, 40, 30)."""

    name, skeleton = "birds", BIRD

    def __init__(self, *keypoints: Any, box: tuple[float, ...] = (10, 10, 40, 30)) -> None:
        self.keypoints, self.box = keypoints, box

    def __len__(self) -> int:
        return len(self.keypoints)

    def file(self, index: int) -> str:
        return f"{index}.jpg"

    def pixels(self, index: int) -> np.ndarray:
        return np.full((50, 60, 3), index, np.uint8)

    def person(self, index: int) -> Person:
        keypoints = np.array(self.keypoints[index], dtype=np.float64)
        return Person(image_id=index, person_id=index, box=np.array(self.box, dtype=np.float64), keypoints=keypoints)


def look(*keypoints: Any, split: Any = "train", **options: Any) -> dict[str, Finding]:
    part = Part(Birds(*keypoints, **options), split, crop=(64, 64))
    part.look_through()
    return {one.kind: one for one in part.findings()}


def test_sound_people() -> None:
    assert look(SOUND, SOUND) == {}
    part = Part(Birds(SOUND, ((20, 20, 2), (0, 0, 0), (30, 35, 1))), "train", crop=(64, 64))
    part.look_through()
    numbers = part.statistics()
    assert (numbers["people"], numbers["people_per_picture"]) == (2, 1.0)
    assert numbers["box_side"] == {"smallest": 40, "median": 40, "largest": 40}
    assert [row["labelled"] for row in numbers["joints"]] == [1, 0.5, 1]
    assert [row["hidden"] for row in numbers["joints"]] == [0, 0.5, 0.5]


NOBODY, OUTSIDE = ((0, 0, 0),) * 3, ((20, 20, 2), (70, 20, 2), (30, 35, 2))


@pytest.mark.parametrize(
    ("keypoints", "kind", "severity", "what", "fix"),
    [
        (NOBODY, "no-joints", "warning", "1 of 3 people with no labelled joint", "label them or take them out"),
        (OUTSIDE, "joint-outside", "warning", "1 of 3 people with labelled joints outside", "set x, y and flag to 0"),
        (((20, 20, 2), (0, 0, 2), (30, 35, 2)), "joint-at-origin", "warning", "labelled at (0, 0)", "set the flag"),
        (((0.2, 0.3, 2), (0.4, 0.5, 2), (0, 0, 0)), "joint-units", "error", "instead of pixels", "multiply x by"),
        (((20, 20, 3), (40, 30, 1), (30, 35, 2)), "joint-values", "error", "other than 0, 1 and 2", "0 not labelled"),
        (((20, np.nan, 2), (40, 30, 1), (30, 35, 2)), "joint-values", "error", "not finite", "write x, y, flag"),
    ],
)
def test_joints(keypoints: Any, kind: str, severity: str, what: str, fix: str) -> None:
    found = look(SOUND, keypoints, SOUND)
    assert set(found) == {kind}
    assert (found[kind].severity, found[kind].count) == (severity, 1)
    assert what in found[kind].what
    assert fix in found[kind].fix
    assert found[kind].where[0].startswith("1.jpg (person 1)")


def test_what_concerns_everybody_is_an_error() -> None:
    assert look(OUTSIDE, OUTSIDE, SOUND)["joint-outside"].severity == "error"
    assert look(OUTSIDE, OUTSIDE)["joint-outside"].where[0] == "0.jpg (person 0): tail"
    assert look(NOBODY)["no-joints"].severity == "error"


def test_joints_that_nobody_has() -> None:
    found = look(((20, 20, 2), (40, 30, 2), (0, 0, 0)))["joint-never-labelled"]
    assert (found.what, found.where) == ("1 of 3 joints labelled in nobody looked at", ("wing",))
    assert "remove them from the list of joints" in found.fix


def test_boxes() -> None:
    found = look(SOUND, box=(30, 30, 1, 20))["thin-box"]
    assert found.where == ("0.jpg (person 0): (30, 30, 1, 20)",)
    assert "(x, y, width, height) in pixels" in found.fix
    found = look(SOUND, box=(50, 2, 8, 8))["box-misses-person"]
    assert (found.severity, found.what[:20]) == ("error", "1 of 1 person with m")
    assert "not (x1, y1, x2, y2)" in found.fix


def test_test_parts_without_labels() -> None:
    assert look(NOBODY, NOBODY, split="test") == {}
    assert not Part(Birds(NOBODY), "test", crop=(64, 64)).labelled
    assert Part(Birds(NOBODY, SOUND), "test", crop=(64, 64)).labelled


def test_real_people_are_sound(data_dir: Path) -> None:
    source = PoseSource(root=data_dir / "coco_tiny", train_annotations="annotations/person_keypoints.json")
    part = Part(open_pose(replace(source, train_images=("images",)), "train"), "train", crop=(256, 192))
    part.look_through()
    assert list(part.findings()) == []
    numbers = part.statistics()
    assert (numbers["items"], numbers["pictures"], numbers["people_per_picture"]) == (12, 4, 3.0)
    # Two boxes leave a picture at most by the labels' own rounding.
    findings, numbers = check_annotations(source, "train")
    assert [one.kind for one in findings] == ["no-joints"]
    assert numbers == {"annotations": 14, "crowds": 0, "without_joints": 2, "without_area": 0}


def labels(folder: Path, name: str = "train.json") -> PoseSource:
    return PoseSource(root=folder, train_annotations=name)


@pytest.fixture
def annotations(tmp_path: Path) -> Callable[..., dict[str, Finding]]:
    """Checks a file with these annotations; each overrides a sound one."""

    def check(*changes: dict[str, Any]) -> dict[str, Finding]:
        sound = {"image_id": 7, "category_id": 1, "iscrowd": 0, "area": 50, "bbox": [2, 1, 10, 8]}
        sound["keypoints"] = [3, 3, 2, 5, 5, 1, 0, 0, 0]
        content = {
            "images": [{"id": 7, "file_name": "7.png", "width": 20, "height": 16}],
            "categories": [{"id": 1, "name": "bird", "keypoints": JOINTS}],
            "annotations": [{"id": number, **sound, **one} for number, one in enumerate(changes)],
        }
        (tmp_path / "train.json").write_text(json.dumps(content))
        return {one.kind: one for one in check_annotations(labels(tmp_path), "train")[0]}

    return check


@pytest.mark.parametrize(
    ("change", "kind", "severity", "what", "fix"),
    [
        ({"image_id": 8}, "unknown-picture", "error", "1 annotation of pictures that the file does not", "add these"),
        (
            {"keypoints": [3, 3, 2, 5, 5, 1]},
            "joint-count",
            "error",
            "another number of joints",
            "write 3 x (x, y, flag)",
        ),
        ({"keypoints": [0] * 9}, "no-joints", "warning", "1 of 3 people without any labelled joint", "flag 1 or 2"),
        ({"bbox": [8, 7, 18, 15]}, "box-beyond-picture", "warning", "1 of 3 boxes beyond the edge", "not [x1, y1,"),
    ],
)
def test_annotations(annotations: Any, change: dict[str, Any], kind: str, severity: str, what: str, fix: str) -> None:
    found = annotations({}, change, {})
    assert set(found) == {kind}
    assert (found[kind].severity, found[kind].count) == (severity, 1)
    assert what in found[kind].what
    assert fix in found[kind].fix
    assert found[kind].where[0].startswith("annotation 1")


def test_annotations_in_order(annotations: Callable[..., dict[str, Finding]]) -> None:
    assert annotations({}, {"iscrowd": 1, "keypoints": []}, {"bbox": [8, 7, 13, 10]}) == {}
    assert annotations({"keypoints": [0] * 9})["no-joints"].severity == "error"


@pytest.mark.parametrize("keypoints", [["3,5"] * 9, "3 3 2", [[3, 3], [5, 5], [0, 0]], [{"x": 3}] * 3])
def test_what_the_reader_refuses_is_not_guessed_at(annotations: Any, keypoints: Any) -> None:
    assert annotations({"keypoints": keypoints}, {"keypoints": [[3, 3, 2], [5, 5, 1], [0, 0, 0]]}) == {}


def test_annotations_of_other_categories_and_spellings(tmp_path: Path) -> None:
    sound = {
        "image_id": "7",
        "category_id": 1.0,
        "bbox": ["2", 1, 10, 8],
        "keypoints": [3, 3, "2", 5, 5, 1, 0, 0, None],
    }
    content = {
        "images": [{"id": 7.0, "file_name": "7.png", "width": 20.0, "height": "16"}],
        "categories": [{"id": "1", "name": "bird", "keypoints": JOINTS}, {"id": 2, "name": "car"}],
        "annotations": [
            *(sound, {**sound, "area": 0}, {**sound, "iscrowd": "0", "area": "50"}, {**sound, "iscrowd": "1"}),
            *({**sound, "category_id": 2, "image_id": 8, "keypoints": None}, {**sound, "keypoints": [None] * 9}),
        ],
    }
    (tmp_path / "train.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(content).encode())
    findings, numbers = check_annotations(labels(tmp_path), "train")
    assert [one.kind for one in findings] == ["no-joints"]
    assert numbers == {"annotations": 5, "crowds": 1, "without_joints": 1, "without_area": 2}


def test_one_joint() -> None:
    class Dots(Birds):
        skeleton = replace(BIRD, keypoints=("centre",), flip_pairs=(), edges=(), sigmas=(0.1,))

    part = Part(Dots(*[((20, 20, 2),)] * 50), "train", crop=(64, 64))
    part.look_through()
    assert list(part.findings()) == []
    assert part.statistics()["joints"] == [{"name": "centre", "labelled": 1.0, "hidden": 0.0}]


def test_what_the_reader_put_right_is_a_warning() -> None:
    birds = Birds(((70, 20, 2), (40, 30, 1), (30, 35, 2)))
    birds.notes = (Note(kind="no-area", text="train.json: no areas"), Note(kind="exif-unknown", text="turned"))
    part = Part(birds, "train", crop=(64, 64))
    part.look_through()
    found = {one.kind: one for one in part.findings()}
    assert (found["no-area"].severity, found["no-area"].what) == ("warning", "train.json: no areas")
    # Resizing pictures that lie turned would distort them.
    assert "--data.exif apply" in found["joint-outside"].fix
    assert "resized" not in found["joint-outside"].fix


def test_files_that_only_the_reader_can_judge(tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text('{"images": []}')
    (tmp_path / "broken.json").write_text("{")
    for name in ("list.json", "broken.json", "absent.json"):
        assert check_annotations(labels(tmp_path, name), "train") == ([], {})
    assert check_annotations(PoseSource(), "test") == ([], {})


def finding(severity: Any, kind: str, split: str, what: str = "", where: tuple[str, ...] = ()) -> Finding:
    return Finding(severity=severity, kind=kind, split=split, what=what, fix="", where=where)


def test_what_parts_of_one_file_share_is_told_once() -> None:
    units = [finding("error", "joint-units", split, f"{count} people") for split, count in (("train", 9), ("val", 3))]
    note = [finding("warning", "no-area", split, "no area") for split in ("train", "val")]
    people = [finding("warning", "joint-outside", split, f"1 of {n}") for split, n in (("train", 9), ("val", 3))]
    files = [finding("error", "unreadable-picture", split, "empty", (f"{split}.jpg",)) for split in ("train", "val")]
    everything = [*units, *note, *people, *files]
    assert told_once(everything, one_file=False) == everything
    assert told_once(everything, one_file=True) == [units[0], note[0], *people, *files]


def test_boxes_in_another_spelling_need_no_guesses() -> None:
    spelling = finding("warning", "box-spelling", "train")
    guesses = [finding("warning", kind, "train") for kind in ("box-beyond-picture", "box-misses-person")]
    other, error = finding("warning", "box-misses-person", "val"), finding("error", "box-misses-person", "train")
    assert told_once([*guesses, spelling, other, error], one_file=False) == [spelling, other, error]
