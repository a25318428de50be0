"""Folders as labelling tools leave them open as sets do in COCO's form: parts, split, joining, and what goes first."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import tool_labels
from hrformer.data.inspection.people import check_annotations
from hrformer.data.labels.convert import convert_labels
from hrformer.data.pose_sets import open_pose
from hrformer.data.segmentation_sets import open_segmentation
from hrformer.data.set_types import DataError, NoPartError, PoseSet, SegmentationSet
from hrformer.data.source_config import SegmentationSource, Split
from hrformer.recipes.finetune import finetune_pose
from tool_labels import Labelled, picture

FIND = finetune_pose().data
NAMES = ("nose", "left_hand", "right_hand")
CLASSES = ("person", "dog", "ball")


def people(*names: str) -> list[Labelled]:
    """Pictures with two people, a dog and a ball each, all a little different."""
    found = []
    for place, name in enumerate(names):
        x = 3.0 + place
        first = {"left_hand": (x + 2, 20.5, 2), "nose": (x + 9.25, 6.5, 1), "right_hand": (x + 12, 22.0, 2)}
        second = {"nose": (x + 40, 9.5, 2), "left_hand": (x + 33, 25.0, 2)}
        outlines = [
            ("dog", [(x, 40.0), (x + 20, 40.0), (x + 20, 55.0)]),
            ("ball", [(50.0, 45.0), (58.0, 45.0), (54.0, 56.0)]),
        ]
        boxes = (x, 5.0, 18.0, 30.0), (x + 30, 4.0, 14.0, 32.0)
        found.append(Labelled(name, (64, 60), [(first, boxes[0]), (second, boxes[1])], outlines))
    return found


def cvat_tasks(root: Path, parts: dict[Split, list[Labelled]], *, joints: bool) -> None:
    for part, some in parts.items():
        tool_labels.cvat(root / part / "annotations.xml", some, NAMES)
        pictures(root / part / "images", some)


def cvat_project(root: Path, parts: dict[Split, list[Labelled]], *, joints: bool) -> None:
    """One file, whose pictures tell their subsets."""
    texts = []
    for part, some in parts.items():
        subset = {"train": "Train", "val": "Validation", "test": "Test"}[part]
        tool_labels.cvat(root / "annotations.xml", some, NAMES, subset)
        texts.append((root / "annotations.xml").read_text())
        pictures(root / "images" / subset, some)
    head, *others = texts
    body = "".join(text[text.index("<image") : text.index("</annotations>")] for text in others)
    (root / "annotations.xml").write_text(head.replace("</annotations>", f"{body}</annotations>"))


def label_studio(root: Path, parts: dict[Split, list[Labelled]], *, joints: bool) -> None:
    for part, some in parts.items():
        tool_labels.label_studio(root / f"{part}.json", some)
        pictures(root / "pictures", some)


def labelme(root: Path, parts: dict[Split, list[Labelled]], *, joints: bool) -> None:
    for part, some in parts.items():
        tool_labels.labelme(root / part, some)
        pictures(root / part, some)


def roboflow(root: Path, parts: dict[Split, list[Labelled]], *, joints: bool) -> None:
    _yolo(
        root, {"valid" if part == "val" else part: some for part, some in parts.items()}, "{part}/images/{name}", joints
    )


def ultralytics(root: Path, parts: dict[Split, list[Labelled]], *, joints: bool) -> None:
    _yolo(root, dict(parts), "images/{part}/{name}", joints)


def _yolo(root: Path, parts: dict[str, list[Labelled]], layout: str, joints: bool) -> None:
    # One set of YOLO's has joints or outlines.
    for one in (one for some in parts.values() for one in some):
        (one.outlines if joints else one.people).clear()
    names, flips = (NAMES, {"flip_idx": [0, 2, 1]}) if joints else ((), {})
    tool_labels.yolo(root, parts, names, CLASSES, layout=layout, **flips)


def pictures(folder: Path, some: list[Labelled]) -> None:
    for one in some:
        picture(folder / one.name, one.size)


FORMS: dict[str, Callable[..., None]] = {
    one.__name__: one for one in (cvat_tasks, cvat_project, label_studio, labelme, roboflow, ultralytics)
}


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> Callable[..., None]:
    made: Callable[..., None] = FORMS[request.param]
    return made


def person_of(opened: PoseSet, index: int) -> dict[str, tuple[float, ...]]:
    """Joints by name, box and area: the order of the joints is the form's."""
    person = opened.person(index)
    by_name = zip(opened.skeleton.keypoints, person.keypoints.tolist(), strict=True)
    return {name: tuple(values) for name, values in by_name} | {"box": tuple(person.box), "area": (person.area,)}


def test_people_of_every_form(tmp_path: Path, form: Callable[..., None]) -> None:
    train, val = people("a.png", "b.png"), people("c.png")
    form(tmp_path / "set", {"train": train, "val": val}, joints=True)
    source = replace(FIND, root=tmp_path / "set", clip="none")
    for split, labelled in (("train", train), ("val", val)):
        opened = open_pose(source, split)  # type: ignore[arg-type]
        assert sorted(opened.skeleton.keypoints) == sorted(NAMES)
        pairs = {tuple(opened.skeleton.keypoints[one] for one in pair) for pair in opened.skeleton.flip_pairs}
        assert pairs in ({("left_hand", "right_hand")}, {("right_hand", "left_hand")})
        wanted = [
            (one.name, {name: joints.get(name, (0, 0, 0)) for name in NAMES}, box)
            for one in labelled
            for joints, box in one.people
        ]
        found = [(Path(opened.file(n)).name, person_of(opened, n)) for n in range(len(opened))]
        found.sort(key=lambda one: (one[0], one[1]["box"]))
        for (name, values), (file, joints, box) in zip(found, wanted, strict=True):
            assert name == file
            for joint in NAMES:
                np.testing.assert_allclose(values[joint], joints[joint], atol=0.006)
            np.testing.assert_allclose(values["box"], box, atol=0.02)
        assert opened.item(0, opened.pixels(0))["keypoints"].shape == (3, 2)
        findings, numbers = check_annotations(source, split)  # type: ignore[arg-type]
        assert not [one for one in findings if one.severity == "error"]
        assert numbers["annotations"] == 2 * len(labelled)


def test_converted_people_are_the_same(tmp_path: Path, form: Callable[..., None]) -> None:
    form(tmp_path / "set", {"train": people("a.png", "b.png"), "val": people("c.png")}, joints=True)
    written = convert_labels(tmp_path / "set", tmp_path / "converted")
    assert {one.file.name for one in written} == {"train.json", "val.json"}
    for split in ("train", "val"):
        before = open_pose(replace(FIND, root=tmp_path / "set"), split)  # type: ignore[arg-type]
        after = open_pose(replace(FIND, root=tmp_path / "converted"), split)  # type: ignore[arg-type]
        assert after.annotations == tmp_path / "converted" / "annotations" / f"{split}.json"
        assert after.skeleton == before.skeleton
        assert len(after) == len(before)
        for index in range(len(before)):
            assert Path(after.file(index)).resolve() == Path(before.file(index)).resolve()
            assert person_of(after, index) == person_of(before, index)


def open_masks(root: Path, split: Split) -> SegmentationSet:
    return open_segmentation(SegmentationSource(root=root), split)


def test_outlines_of_every_form(tmp_path: Path, form: Callable[..., None]) -> None:
    form(tmp_path / "set", {"train": people("a.png", "b.png"), "val": people("c.png")}, joints=False)
    convert_labels(tmp_path / "set", tmp_path / "converted")
    for split, count in (("train", 2), ("val", 1)):
        opened = open_masks(tmp_path / "set", split)  # type: ignore[arg-type]
        again = open_masks(tmp_path / "converted", split)  # type: ignore[arg-type]
        assert (len(opened), opened.classes) == (count, again.classes)
        assert set(opened.classes) == {"background", *CLASSES}
        for index in range(count):
            mask = opened.mask(index)
            assert (mask == again.mask(index)).all()
            dog, ball = (opened.classes.index(name) for name in ("dog", "ball"))
            assert abs(int((mask == dog).sum()) - 150) < 15
            assert abs(int((mask == ball).sum()) - 44) < 8
            assert mask[50, 54] == ball


def test_one_part_is_split(tmp_path: Path, form: Callable[..., None]) -> None:
    names = [f"{number}.png" for number in range(10)]
    form(tmp_path, {"train": people(*names)}, joints=True)
    with pytest.raises(NoPartError, match=r"val_share 0\.2"):
        open_pose(replace(FIND, root=tmp_path), "val")
    shared = replace(FIND, root=tmp_path, val_share=0.2)
    train, val = open_pose(shared, "train"), open_pose(shared, "val")
    assert (len(train), len(val)) == (16, 4)
    outlines = SegmentationSource(root=tmp_path, val_share=0.2)
    if form not in (roboflow, ultralytics):
        assert [len(open_segmentation(outlines, split)) for split in ("train", "val")] == [8, 2]


def test_split_refuses_a_part_of_its_own(tmp_path: Path, form: Callable[..., None]) -> None:
    form(tmp_path, {"train": people("a.png", "b.png"), "val": people("c.png")}, joints=True)
    with pytest.raises(DataError, match=r"val_share 0\.2 is for sets without a validation part"):
        open_pose(replace(FIND, root=tmp_path, val_share=0.2), "train")
    if form in (roboflow, ultralytics):
        form(tmp_path, {"train": people("a.png", "b.png"), "val": people("c.png")}, joints=False)
    with pytest.raises(DataError, match=r"val_share 0\.2 is for sets without a validation part"):
        open_segmentation(SegmentationSource(root=tmp_path, val_share=0.2), "train")


def test_roots_of_several_forms_are_joined(tmp_path: Path) -> None:
    roboflow(tmp_path / "one", {"train": people("a.png"), "val": people("b.png")}, joints=True)
    cvat_tasks(tmp_path / "two", {"train": people("c.png", "d.png")}, joints=True)
    joined = open_pose(replace(FIND, root=tmp_path / "one", more_roots=(tmp_path / "two",)), "train")
    assert len(joined) == 6
    assert joined.skeleton.keypoints == NAMES


def test_coco_goes_first(tmp_path: Path) -> None:
    labelme(tmp_path, {"train": people("a.png", "b.png"), "val": people("c.png")}, joints=True)
    convert_labels(tmp_path, tmp_path)
    file = tmp_path / "annotations" / "train.json"
    content = json.loads(file.read_text())
    content["annotations"] = [one for one in content["annotations"] if one.get("num_keypoints")][:1]
    file.write_text(json.dumps(content))
    assert len(open_pose(replace(FIND, root=tmp_path), "train")) == 1


def test_masks_go_first(tmp_path: Path) -> None:
    """labelme's files often lie beside the masks made of them."""
    labelme(tmp_path, {"train": people("a.png"), "val": people("b.png")}, joints=False)
    for part, name in (("train", "a.png"), ("val", "b.png")):
        picture(tmp_path / "images" / part / name, (64, 60))
        picture(tmp_path / "labels" / part / name, (64, 60))
    (tmp_path / "labels/val/b.png").unlink()
    (tmp_path / "classes.txt").write_text("90 road\n0 background\n1 other\n")
    assert "other" in open_masks(tmp_path, "train").classes
    with pytest.raises(DataError, match="no mask"):
        open_masks(tmp_path, "val")


def test_joints_of_tools_without_boxes_get_one(tmp_path: Path) -> None:
    shapes = [
        {"label": name, "points": [[x, y]], "group_id": None, "shape_type": "point"}
        for name, x, y in (("nose", 20.0, 10.0), ("left_hand", 10.0, 30.0), ("right_hand", 30.0, 30.0))
    ]
    content = {
        "version": "5.2",
        "flags": {},
        "shapes": shapes,
        "imagePath": "a.png",
        "imageHeight": 60,
        "imageWidth": 64,
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    picture(tmp_path / "a.png", (64, 60))
    opened = open_pose(replace(FIND, root=tmp_path, clip="none"), "train")
    assert opened.person(0).box.tolist() == [8, 8, 24, 24]
    assert any(note.kind == "flat-box" for note in opened.notes)


def test_folders_of_parts_may_lie_in_several_folders(tmp_path: Path) -> None:
    for folder, letter in (("monday", "a"), ("tuesday", "b")):
        parts = {"train": people(f"{letter}.png"), "val": people(f"{letter}{letter}.png")}
        labelme(tmp_path / folder, parts, joints=True)  # type: ignore[arg-type]
    source = replace(FIND, root=tmp_path)
    for split, wanted in (("train", {"a.png", "b.png"}), ("val", {"aa.png", "bb.png"})):
        opened = open_pose(source, split)  # type: ignore[arg-type]
        assert {Path(opened.file(n)).name for n in range(len(opened))} == wanted


def test_labels_for_another_task_name_its_recipe(tmp_path: Path) -> None:
    labelme(tmp_path / "outlines", {"train": people("a.png")}, joints=False)
    for file in (tmp_path / "outlines").rglob("*.json"):
        content = json.loads(file.read_text())
        content["shapes"] = [one for one in content["shapes"] if one["shape_type"] == "polygon"]
        file.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"outlines of objects \(train\), which `hrformer train finetune_segmentation`"):
        open_pose(replace(FIND, root=tmp_path / "outlines"), "train")
    ultralytics(tmp_path / "joints", {"train": people("a.png"), "val": people("b.png")}, joints=True)
    with pytest.raises(DataError, match=r"keypoints \(data\.yaml\), which `hrformer train finetune_pose`"):
        open_masks(tmp_path / "joints", "train")
