"""What Label Studio's JSON may hold beside people in boxes, and what is said where it is not as it should be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hrformer.data.labels import label_studio, search
from hrformer.data.labels.content import Content
from hrformer.data.set_types import DataError

SIZE = {"original_width": 40, "original_height": 20}


def read(folder: Path, *annotations: list[dict[str, Any]], **task: Any) -> Content:
    """Content of a file with one task, whose annotations come one after another."""
    made = [{"id": n, "result": result, "updated_at": f"2026-01-0{n}"} for n, result in enumerate(annotations, start=1)]
    file = folder / "project.json"
    file.write_text(json.dumps([{"id": 5, "annotations": made, "data": {"image": "a.png"}, **task}]))
    return search.read_labels(file, "train", folder, outlines=True)


def region(name: str, kind: str, label: str = "nose", **value: Any) -> dict[str, Any]:
    return {"id": name, "type": kind, "value": {**value, kind: [label]}, **SIZE}


def nose(name: str = "k", **more: Any) -> dict[str, Any]:
    return region(name, "keypointlabels", x=50, y=50, width=1) | more


BOX = region("b", "rectanglelabels", "person", x=25, y=10, width=50, height=80, rotation=0)


def test_the_annotation_that_counts_is_ground_truth_or_the_last(tmp_path: Path) -> None:
    assert len(read(tmp_path, [BOX], [BOX, nose()])["annotations"][0]["keypoints"]) == 3
    task = [{"id": 1, "result": [BOX, nose()], "ground_truth": True}, {"id": 2, "result": [], "updated_at": "2027"}]
    assert len(read(tmp_path, annotations=task)["annotations"]) == 1
    task[0]["was_cancelled"] = True
    assert read(tmp_path, annotations=task)["annotations"] == []


def test_answers_and_regions_without_label_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bare = {"id": "b", "type": "rectangle", "value": {key: BOX["value"][key] for key in ("x", "y", "width")}, **SIZE}
    answer = {"id": "q", "type": "choices", "value": {"choices": ["sunny"]}, "to_name": "image"}
    text = {"id": "b", "type": "textarea", "value": {**bare["value"], "text": ["tall"]}, **SIZE}
    content = read(tmp_path, [bare, BOX, answer, text, bare | {"id": "u"}, nose(parentID="b")])
    assert [one["keypoints"] for one in content["annotations"]] == [[20, 10, 2]]
    assert "left out: 1 x rectangle without a label" in caplog.text


def test_joints_may_lie_deeper_in_a_region(tmp_path: Path) -> None:
    inner = region("o", "polygonlabels", "dress", points=[[30, 20], [60, 20], [60, 60]]) | {"parentID": "b"}
    content = read(tmp_path, [BOX, inner, nose(parentID="o")])
    people = [one for one in content["annotations"] if any(one.get("keypoints") or ())]
    assert [one["keypoints"] for one in people] == [[20, 10, 2]]
    assert people[0]["bbox"] == [10, 2, 20, 16]
    bare = {"id": "b", "type": "rectangle", "value": {"x": 1, "y": 1, "width": 9, "height": 9}, **SIZE}
    (person,) = read(tmp_path, [bare, nose(parentID="b")])["annotations"]
    assert "bbox" not in person


@pytest.mark.parametrize(
    ("image", "name"),
    [
        ("/data/upload/3/0a1b2c3d-a b.png", "/data/upload/3/0a1b2c3d-a b.png"),
        ("/data/local-files/?d=set/a.png", "/data/local-files/?d=set/a.png"),
        ("https://example.org/set/a%20b.png?X-Signature=1.2", "set/a b.png"),
        ("s3://bucket/set/a.png", "s3://bucket/set/a.png"),
    ],
)
def test_names_of_pictures(tmp_path: Path, image: str, name: str) -> None:
    assert read(tmp_path, [BOX], data={"text": "no picture", "photo": image})["images"][0]["file_name"] == name


@pytest.mark.parametrize(
    ("result", "said"),
    [
        ([nose(parentID="gone")], r"region k: 'parentID' must be the id of another region of the task, got 'gone'"),
        ([nose("k"), nose("l")], r"region l: a person has the joint 'nose' twice"),
        ([nose(id=["k"])], r"'id' of a region must be a name, got \['k'\]"),
        ([region("p", "polygonlabels", points=[])], r"region p: 'points' must be"),
        (
            [region("b", "rectanglelabels", x=1, y=1, width=1, height=1, rotation="a")],
            r"region b: 'rotation' must be a",
        ),
        ([nose(image_rotation=90)], r"region k: 'image_rotation' is 90"),
        ([nose(), BOX | {"original_width": 41}], r"'original_width' and 'original_height' must be the same in all"),
        ([nose(original_width=None)], r"region k: 'original_width' and 'original_height' must be whole numbers"),
        ([region("k", "keypointlabels", x="a", y=1, width=1)], r"region k: 'x' must be a finite number, got 'a'"),
        ([region("p", "polygonlabels", points=[1, 2])], r"region p: 'points' must be \[\[x, y\], \.\.\.\] in percent"),
        (
            [region("r", "brushlabels", format="rle", rle=[0, 0, 12, 128, 57])],
            r"region r: 'rle' must hold the 3200 bytes",
        ),
        ([region("r", "brushlabels", format="rle", rle=[0, 1, 0, 0, 57, 27, 9])], r"got 65536 values of 8 bits"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, result: list[dict[str, Any]], said: str) -> None:
    with pytest.raises(DataError, match=rf"project\.json: task 5: .*{said}"):
        read(tmp_path, result)


def test_tasks_must_name_a_picture(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"task 5: 'data' must name a picture's file"):
        read(tmp_path, [BOX], data={"text": "hello"})


def test_brushes_repeat_and_list_values() -> None:
    """Written by hand after rle-pack: 2 x 1 pixels, two repeated runs and one that is listed."""
    head = f"{8:032b}{7:05b}" + "".join(f"{width - 1:04b}" for width in (2, 3, 4, 5))
    # Three times 0, then listed 255, 9, then three times 7.
    bits = head + f"1{0:02b}{2:02b}{0:08b}" + f"0{1:02b}{1:03b}{255:08b}{9:08b}" + f"1{2:02b}{2:04b}{7:08b}"
    bits += "0" * (-len(bits) % 8)
    packed = [int(bits[place : place + 8], 2) for place in range(0, len(bits), 8)]
    # RGBA of the pixels: 0, 0, 0, 255 and 9, 7, 7, 7.
    assert label_studio.brush_mask(packed, (2, 1), "it").tolist() == [[True, True]]
    np.testing.assert_array_equal(label_studio.brush_mask(packed, (1, 2), "it"), [[True], [True]])
