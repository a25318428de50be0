"""What CVAT's XML may hold beside skeletons in boxes, and what is said where it is not as it should be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hrformer.data.labels import search
from hrformer.data.labels.content import Content
from hrformer.data.labels.shapes import mask_of
from hrformer.data.set_types import DataError

LABELS = """<label><name>nose</name><type>points</type></label><label><name>tail</name><type>points</type></label>
<label><name>person</name><type>rectangle</type></label>"""


def read(folder: Path, inner: str, labels: str = LABELS, image: str = 'width="40" height="30"') -> Content:
    """Content of a file with one picture."""
    file = folder / "annotations.xml"
    file.write_text(
        f'<?xml version="1.0"?>\n<annotations><version>1.1</version><meta><job><labels>{labels}</labels></job></meta>'
        f'<image id="7" name="a.png" {image}>{inner}</image></annotations>'
    )
    return search.read_labels(file, "train", folder, outlines=True)


def point(label: str, x: float, y: float, more: str = "") -> str:
    return f'<points label="{label}" points="{x},{y}" occluded="0" {more}></points>'


def box(x: float, more: str = "") -> str:
    return f'<box label="person" xtl="{x}" ytl="2" xbr="{x + 10}" ybr="20" occluded="0" {more}></box>'


def test_points_are_joints_of_their_group(tmp_path: Path) -> None:
    inner = point("tail", 5, 6, 'group_id="1"') + box(20, 'group_id="2"') + box(2, 'group_id="1"')
    content = read(tmp_path, inner + point("nose", 25, 5, 'group_id="2"'))
    first, second = content["annotations"]
    assert content["categories"][-1]["keypoints"] == ["nose", "tail"]
    assert (first["bbox"], first["keypoints"]) == ([2, 2, 10, 18], [0, 0, 0, 5, 6, 2])
    assert (second["bbox"], second["keypoints"]) == ([20, 2, 10, 18], [25, 5, 2, 0, 0, 0])


def test_points_without_group_belong_to_the_box_around_them(tmp_path: Path) -> None:
    content = read(tmp_path, box(2) + box(20) + point("nose", 25, 5) + point("nose", 5, 5))
    assert [one["keypoints"][:2] for one in content["annotations"]] == [[5, 5], [25, 5]]
    with pytest.raises(DataError, match=r"image 7 \(a\.png\), points 2: the joint 'nose'.*lies in 0 of the 2 boxes"):
        read(tmp_path, box(2) + box(20) + point("nose", 16, 25))
    with pytest.raises(DataError, match=r"lies in 2 of the 2 boxes.*one group"):
        read(tmp_path, box(2) + box(4) + point("nose", 8, 5))


def test_configured_joints_are_there_even_if_never_labelled(tmp_path: Path) -> None:
    content = read(tmp_path, box(2) + point("tail", 5, 5))
    assert content["annotations"][0]["keypoints"] == [0, 0, 0, 5, 5, 2]


def test_labels_of_any_kind_are_what_they_are_used_for(tmp_path: Path) -> None:
    labels = "".join(f"<label><name>{name}</name></label>" for name in ("tail", "person", "car", "nose"))
    content = read(tmp_path, point("nose", 5, 5) + box(2) + point("tail", 5, 9), labels)
    (category,) = content["categories"]
    assert (category["name"], category["keypoints"]) == ("person", ["tail", "nose"])


def test_turned_boxes_and_ellipses(tmp_path: Path) -> None:
    ellipse = '<ellipse label="ball" cx="20" cy="15" rx="8" ry="4" rotation="90" occluded="0"></ellipse>'
    content = read(tmp_path, box(10, 'rotation="90"') + ellipse)
    person, ball = content["annotations"]
    # 10 x 18 pixels about (15, 11).
    np.testing.assert_allclose(person["bbox"], [6, 6, 18, 10])
    np.testing.assert_allclose(ball["bbox"], [16, 7, 8, 16], atol=1e-9)
    assert ball["area"] == pytest.approx(np.pi * 32, rel=0.01)


def test_masks_may_reach_over_the_edge(tmp_path: Path) -> None:
    mask = '<mask label="grass" rle="0, 12" left="-1" top="28" width="4" height="3" occluded="0"></mask>'
    (record,) = read(tmp_path, mask)["annotations"]
    assert np.argwhere(mask_of(record["segmentation"])).tolist() == [[y, x] for y in (28, 29) for x in (0, 1, 2)]


def test_frames_of_a_video(tmp_path: Path) -> None:
    file = tmp_path / "annotations.xml"
    shapes = "".join(
        f'<box frame="{frame}" keyframe="1" outside="{outside}" occluded="0" xtl="1" ytl="1" xbr="9" ybr="9"></box>'
        for frame, outside in ((0, 0), (3, 0), (4, 1))
    )
    points = '<points frame="3" keyframe="0" outside="0" occluded="1" points="2,2"></points>'
    file.write_text(
        f"<annotations><meta><task><labels>{LABELS}</labels><original_size><width>40</width><height>30</height>"
        f'</original_size></task></meta><track id="0" label="person" group_id="5">{shapes}</track>'
        f'<track id="1" label="nose" group_id="5">{points}</track></annotations>'
    )
    content = search.read_labels(file, "train", tmp_path)
    assert [one["file_name"] for one in content["images"]] == ["frame_000000.png", "frame_000003.png"]
    assert [one["keypoints"][:3] for one in content["annotations"]] == [[0, 0, 0], [2, 2, 1]]


@pytest.mark.parametrize(
    ("inner", "said"),
    [
        (point("nose", 5, 5) + point("nose", 6, 6), r"points 1: a person has the joint 'nose' twice"),
        (box(2, 'group_id="1"') + box(4, 'group_id="1"') + point("nose", 5, 5, 'group_id="1"'), "box 1: a second box"),
        ('<points label="nose" points="5;6" occluded="0"></points>', r"points 0: 'points' must be pairs.*got '5;6'"),
        (
            '<box label="person" xtl="a" ytl="2" xbr="3" ybr="4"></box>',
            r"box 0: 'xtl' must be a finite number, got 'a'",
        ),
        ('<box xtl="1" ytl="2" xbr="3" ybr="4"></box>', r"box 0: 'label' must be a name, got nothing"),
        (
            '<mask label="a" rle="3, 4" left="0" top="0" width="2" height="2"></mask>',
            r"mask 0: 'rle'.*= 4, got a sum of 7",
        ),
        ('<skeleton label="s"><points label="" points="1,2"></points></skeleton>', r"skeleton 0, joint : .*'label'"),
        ("<box", r"annotations\.xml is not XML"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, inner: str, said: str) -> None:
    with pytest.raises(DataError, match=said) as error:
        read(tmp_path, inner)
    assert "annotations.xml" in str(error.value)


def test_pictures_need_a_size(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"annotations\.xml: image 7 \(a\.png\): 'width' must be a finite number"):
        read(tmp_path, "", image='height="30"')
    with pytest.raises(DataError, match=r"width and height must be whole numbers of pixels above 0, got 0 and 30"):
        read(tmp_path, "", image='width="0" height="30"')
