"""People with joints in any order come back as they were labelled: names, order, flags, places."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tool_labels
from hrformer.data.labels import search
from hrformer.data.labels.content import Content
from tool_labels import Joints, Labelled

NAMES = ("nose", "left_eye", "right_eye", "tail", "Ohr links")
PROPERTY = settings(max_examples=25, deadline=None, derandomize=True)
ALL = tuple((name, 10.0 + place, 12.0, 2) for place, name in enumerate(NAMES))


def joints(names: tuple[str, ...], size: tuple[int, int]) -> st.SearchStrategy[Joints]:
    """Some of the joints, in any order, with flags 0, 1, 2."""
    # Not at 0, 0, which a file without flags cannot tell from no label.
    place = st.tuples(
        st.floats(0.5, size[0] - 0.5, allow_nan=False, width=32),
        st.floats(0.5, size[1] - 0.5, allow_nan=False, width=32),
        st.integers(0, 2),
    )
    order = st.permutations(names).flatmap(lambda some: st.integers(1, len(some)).map(lambda count: some[:count]))
    return order.flatmap(lambda some: st.fixed_dictionaries(dict.fromkeys(some, place)))


@st.composite
def sets(draw: st.DrawFn) -> list[Labelled]:
    """Pictures with several people each; somebody has all joints, so that all names occur."""
    pictures = []
    for number in range(draw(st.integers(1, 3))):
        size = draw(st.sampled_from([(64, 48), (33, 101), (640, 480)]))
        people = draw(st.lists(joints(NAMES, size), max_size=4))
        # Boxes differ, since a list of people has no other order in some forms.
        boxes = [(1.0 + place, 2.0, 20.0 + 2 * place, 30.0) for place in range(len(people))]
        pictures.append(Labelled(f"{number}.png", size, list(zip(people, boxes, strict=True))))
    whole: Joints = {name: (x, y, flag) for name, x, y, flag in draw(st.permutations(ALL))}
    pictures.append(Labelled("whole.png", (64, 48), [(whole, (5.0, 5.0, 20.0, 20.0))]))
    return pictures


def content_of(path: Path, root: Path) -> Content:
    return search.read_labels(path, "train", root, outlines=True)


def expected(one: Labelled, names: list[str]) -> list[list[float]]:
    """Numbers of the people of a picture by their boxes: joints in an order, 0 for those without label."""
    rows = []
    for labels, _ in sorted(one.people, key=lambda person: person[1]):
        values = (labels.get(name, (0.0, 0.0, 0)) for name in names)
        rows.append([number for x, y, flag in values for number in ((x, y, flag) if flag else (0, 0, 0))])
    return rows


def check(content: Content, pictures: list[Labelled], digits: float) -> None:
    """Names, flags and places, these as exactly as ``digits`` says as a share of the picture's size or in pixels."""
    (category,) = content["categories"]
    names = category["keypoints"]
    assert set(names) == set(NAMES)
    for image, one in zip(content["images"], pictures, strict=True):
        # Label Studio tells the size with what was drawn.
        assert (image.get("width"), image.get("height")) == one.size or not (one.people or "width" in image)
        records = [record for record in content["annotations"] if record["image_id"] == image["id"]]
        records.sort(key=lambda record: record["bbox"])
        wanted, boxes = expected(one, names), sorted(box for _, box in one.people)
        assert len(records) == len(wanted)
        for record, row, box in zip(records, wanted, boxes, strict=True):
            assert record["keypoints"][2::3] == row[2::3]
            assert record["num_keypoints"] == sum(flag > 0 for flag in row[2::3])
            np.testing.assert_allclose(record["keypoints"], row, rtol=0, atol=digits * max(one.size))
            np.testing.assert_allclose(record["bbox"], box, rtol=0, atol=2 * digits * max(one.size))


@PROPERTY
@given(pictures=sets())
def test_cvat(pictures: list[Labelled]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "annotations.xml")
        tool_labels.cvat(file, pictures, NAMES)
        content = content_of(file, Path(folder))
    assert content["categories"][0]["keypoints"] == list(NAMES)
    # Two decimals are written; boxes as corners.
    check(content, pictures, 0.0101 / 64)


@PROPERTY
@given(pictures=sets(), seed=st.integers(0, 99))
def test_label_studio(pictures: list[Labelled], seed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "project-1.json")
        tool_labels.label_studio(file, pictures, seed)
        content = content_of(file, Path(folder))
    check(content, pictures, 1e-9)


@PROPERTY
@given(pictures=sets(), seed=st.integers(0, 99))
def test_labelme(pictures: list[Labelled], seed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        tool_labels.labelme(Path(folder), pictures, seed)
        content = content_of(Path(folder), Path(folder))
    check(content, pictures, 1e-9)


@PROPERTY
@given(pictures=sets(), layout=st.sampled_from(["{part}/images/{name}", "images/{part}/{name}"]))
def test_yolo(pictures: list[Labelled], layout: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        tool_labels.yolo(Path(folder), {"train": pictures}, NAMES, layout=layout)
        content = content_of(Path(folder, "data.yaml"), Path(folder))
    assert content["categories"][0]["keypoints"] == list(NAMES)
    check(content, pictures, 1e-6)


@PROPERTY
@given(pictures=sets())
def test_yolo_without_flags_knows_labelled_or_not(pictures: list[Labelled]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        tool_labels.yolo(Path(folder), {"train": pictures}, NAMES, dims=2)
        content = content_of(Path(folder, "data.yaml"), Path(folder))
    for one in pictures:
        for place, (some, box) in enumerate(one.people):
            one.people[place] = {name: (x, y, 2 * (flag > 0)) for name, (x, y, flag) in some.items()}, box
    check(content, pictures, 1e-6)


@pytest.mark.parametrize("form", ["label_studio", "labelme"])
def test_order_is_that_of_the_first_appearance(tmp_path: Path, form: str) -> None:
    one = Labelled("a.png", (64, 48), [({"tail": (3.0, 3.0, 1), "nose": (5.0, 5.0, 2)}, (1.0, 1.0, 9.0, 9.0))])
    other = Labelled("b.png", (64, 48), [({"left_eye": (3.0, 3.0, 2), "tail": (5.0, 5.0, 2)}, (1.0, 1.0, 9.0, 9.0))])
    if form == "labelme":
        tool_labels.labelme(tmp_path, [one, other], 3)
        shapes = (tmp_path / "a.json").read_text()
    else:
        tool_labels.label_studio(tmp_path / "a.json", [one, other], 3)
        shapes = (tmp_path / "a.json").read_text()
    first = sorted(["tail", "nose"], key=lambda name: shapes.index(f'"{name}"'))
    content = content_of(tmp_path if form == "labelme" else tmp_path / "a.json", tmp_path)
    assert content["categories"][0]["keypoints"] == [*first, "left_eye"]
