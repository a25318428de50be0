"""Boxes against the numbers of the official code and of mmpose."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hrformer.geometry.boxes import box_to_crop, clip_boxes_mmpose, clip_boxes_official
from parity import Golden

SIZES = ["256x192", "384x288"]


@pytest.fixture(scope="module")
def golden(parity_dir: Path) -> Golden:
    return Golden.read(parity_dir / "protocol", "geometry")


def labelled(golden: Golden) -> list[tuple[list[float], tuple[int, int]]]:
    sizes = {image["id"]: (image["width"], image["height"]) for image in golden.meta["images"]}
    boxes = [box for box in golden.meta["boxes"] if box["source"] == "gt"]
    return [(box["bbox_xywh"], sizes[box["image_id"]]) for box in boxes]


def detected(golden: Golden) -> np.ndarray:
    # As mmpose reads them; the clipping rules are for labelled persons only.
    return np.array([b["bbox_xywh"] for b in golden.meta["boxes"] if b["source"] == "detection"], dtype=np.float32)


def aspect(tag: str) -> float:
    height, width = map(int, tag.split("x"))
    return width / height


@pytest.mark.parametrize("tag", SIZES)
def test_official_boxes_match(golden: Golden, tag: str) -> None:
    clipped = np.concatenate([clip_boxes_official([box], size) for box, size in labelled(golden)])
    np.testing.assert_allclose(clipped, golden.arrays[f"official_box_xywh_{tag}"][: len(clipped)], rtol=0, atol=1e-12)
    centers, sizes = box_to_crop(np.concatenate([clipped, detected(golden)]), aspect(tag))
    np.testing.assert_allclose(centers, golden.arrays[f"official_center_{tag}"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(sizes, golden.arrays[f"official_scale200_{tag}"] * 200, rtol=0, atol=1e-4)


@pytest.mark.parametrize("tag", SIZES)
def test_mmpose_boxes_match_bit_for_bit(golden: Golden, tag: str) -> None:
    clipped = np.concatenate([clip_boxes_mmpose([box], size) for box, size in labelled(golden)])
    corners = np.concatenate([clipped[:, :2], clipped[:, :2] + clipped[:, 2:]], axis=1).astype(np.float32)
    np.testing.assert_array_equal(corners, golden.arrays[f"mmpose_box_xyxy_{tag}"][: len(corners)])
    for boxes, rows in ((clipped, slice(0, len(clipped))), (detected(golden), slice(len(clipped), None))):
        centers, sizes = box_to_crop(boxes, aspect(tag))
        np.testing.assert_array_equal(centers, golden.arrays[f"mmpose_center_{tag}"][rows])
        np.testing.assert_array_equal(sizes, golden.arrays[f"mmpose_scale_px_{tag}"][rows])


def test_all_detections_match_mmpose_end_to_end(parity_dir: Path, data_dir: Path) -> None:
    want = json.loads((parity_dir / "protocol" / "end_to_end.json").read_text())["det"]["instances"]
    found = json.loads((data_dir / "coco_tiny" / "annotations" / "person_detections.json").read_text())
    centers, sizes = box_to_crop(np.array([d["bbox"] for d in found], dtype=np.float32), 192 / 256)
    key = {(d["image_id"], np.float32(d["score"]).item()): row for row, d in enumerate(found)}
    assert len(key) == len(want) == 118
    for person in want:
        row = key[person["image_id"], np.float32(person["bbox_score"]).item()]
        np.testing.assert_array_equal(centers[row], np.float32(person["input_center"]))
        np.testing.assert_array_equal(sizes[row], np.float32(person["input_scale_px"]))


def test_the_two_rules_differ_where_a_box_sticks_out() -> None:
    boxes = [[-10.0, -5.0, 50.0, 200.0], [60.0, 20.0, 80.0, 30.0]]
    np.testing.assert_array_equal(clip_boxes_official(boxes, (100, 80)), [[0, 0, 49, 79], [60, 20, 39, 29]])
    np.testing.assert_array_equal(clip_boxes_mmpose(boxes, (100, 80)), [[0, 0, 40, 79], [60, 20, 39, 30]])


@pytest.mark.parametrize("clip", [clip_boxes_official, clip_boxes_mmpose])
def test_nothing_is_left_of_a_box_outside(clip) -> None:
    assert clip([[200.0, 10.0, 20.0, 20.0]], (100, 80))[0, 2] == 0
    assert clip([[10.0, 300.0, 20.0, 20.0]], (100, 80))[0, 3] == 0


def test_short_side_grows_and_padding_applies() -> None:
    centers, sizes = box_to_crop([[10, 20, 30, 80], [0, 0, 90, 40]], 0.75)
    np.testing.assert_allclose(centers, [[25, 60], [45, 20]])
    np.testing.assert_allclose(sizes, [[75, 100], [112.5, 150]])
    assert centers.dtype == sizes.dtype == np.float32
    np.testing.assert_allclose(box_to_crop([[10, 20, 30, 80]], 0.75, padding=1.0)[1], [[60, 80]])


@pytest.mark.parametrize("boxes", [[], np.zeros((0, 4))])
def test_no_boxes(boxes) -> None:
    assert clip_boxes_official(boxes, (4, 4)).shape == clip_boxes_mmpose(boxes, (4, 4)).shape == (0, 4)
    centers, sizes = box_to_crop(boxes, 0.75)
    assert centers.shape == sizes.shape == (0, 2)


def test_wrong_input_is_named() -> None:
    with pytest.raises(ValueError, match=r"\(N, 4\)"):
        box_to_crop([1, 2, 3, 4], 0.75)
    with pytest.raises(ValueError, match="box 1 is"):
        box_to_crop([[0, 0, 1, 1], [0, 0, -1, 5]], 0.75)
    with pytest.raises(ValueError, match="box 0 is"):
        box_to_crop([[3, 3, 0, 0]], 0.75)
    with pytest.raises(ValueError, match="not finite"):
        clip_boxes_mmpose([[0, 0, np.nan, 1]], (10, 10))
    with pytest.raises(ValueError, match="aspect"):
        box_to_crop([[0, 0, 1, 1]], 0)
    with pytest.raises(ValueError, match="image_size"):
        clip_boxes_official([[0, 0, 1, 1]], (0, 10))
