"""COCO results and COCO with track ids: what pycocotools and a plain reader of JSON find in them."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import faster_coco_eval
import numpy as np
import pycocotools.coco
import pytest
from hypothesis import given

from hrformer.formats.write import write_results
from hrformer.geometry.oks import rescore
from hrformer.geometry.skeletons import COCO17
from hrformer.predict.tracks import Tracks
from random_tracks import CHECKED, seen, tracks_of_any_kind, two_people


def written(tracks: Tracks, to: str) -> object:
    with tempfile.TemporaryDirectory() as folder:
        write_results(tracks, Path(folder) / "out.json", to=to)  # type: ignore[arg-type]
        assert [file.name for file in Path(folder).iterdir()] == ["out.json"]
        return json.loads((Path(folder) / "out.json").read_text())


@CHECKED
@given(tracks_of_any_kind())
def test_results_keep_people_in_order_with_their_scores(tracks: Tracks) -> None:
    records = written(tracks, "coco")
    assert [record["image_id"] for record in records] == tracks.frames.tolist()
    joints = np.array([record["keypoints"] for record in records]).reshape(tracks.keypoints.shape)
    np.testing.assert_allclose(joints[..., :2], tracks.keypoints[..., :2], atol=5.1e-4)
    np.testing.assert_allclose(joints[..., 2], tracks.keypoints[..., 2], atol=5.1e-7)
    scores = rescore(1.0, tracks.keypoints[..., 2])
    np.testing.assert_allclose([record["score"] for record in records], scores, atol=5.1e-7)
    assert {record["category_id"] for record in records} <= {1}


@CHECKED
@given(tracks_of_any_kind())
def test_labels_keep_order_tracks_and_visibility(tracks: Tracks) -> None:
    labels = written(tracks, "coco-tracks")
    people, visible = labels["annotations"], seen(tracks)
    assert [image["frame_id"] for image in labels["images"]] == tracks.numbers.tolist()
    assert [image["time"] for image in labels["images"]] == tracks.times.tolist()
    assert [one["id"] for one in people] == list(range(1, len(tracks) + 1))
    assert [one["image_id"] for one in people] == tracks.frames.tolist()
    assert [one["track_id"] for one in people] == tracks.tracks.tolist()
    joints = np.array([one["keypoints"] for one in people]).reshape(tracks.keypoints.shape)
    np.testing.assert_array_equal(joints[..., 2], np.where(visible, 2, 0))
    np.testing.assert_allclose(joints[..., :2], np.where(visible[..., None], tracks.keypoints[..., :2], 0), atol=5.1e-4)
    assert all(type(mark) is int for one in people for mark in one["keypoints"][2::3])
    assert [one["num_keypoints"] for one in people] == visible.sum(axis=1).tolist()
    for one, shown, xy in zip(people, visible, joints[..., :2], strict=True):
        x, y, width, height = one["bbox"]
        assert min(width, height) >= 0
        assert one["area"] == pytest.approx(width * height, abs=1e-3)
        if shown.any():
            np.testing.assert_allclose([x, y], xy[shown].min(axis=0), atol=1e-3)
            np.testing.assert_allclose([x + width, y + height], xy[shown].max(axis=0), atol=2e-3)
    assert labels["categories"][0]["keypoints"] == list(tracks.source.names)


@CHECKED
@given(tracks_of_any_kind(coco=True, people=True))
def test_evaluators_load_the_labels_and_the_results_on_them(tracks: Tracks) -> None:
    with tempfile.TemporaryDirectory() as folder:
        labels, results = Path(folder) / "labels.json", Path(folder) / "results.json"
        write_results(tracks, labels, to="coco-tracks")
        write_results(tracks, results, to="coco")
        for reader in (pycocotools.coco.COCO, faster_coco_eval.COCO):
            truth = reader(str(labels))
            found = truth.loadRes(str(results))
            for image in truth.getImgIds():
                rows = tracks.tracks[tracks.frames == image].tolist()
                assert [one["track_id"] for one in truth.loadAnns(truth.getAnnIds(image))] == rows
                assert len(found.getAnnIds(image)) == len(rows)
            assert set(truth.getImgIds()) == set(tracks.numbers.tolist())


def test_limbs_count_from_one_and_pictures_have_the_names_that_ffmpeg_gives() -> None:
    labels = written(two_people(), "coco-tracks")
    category, image = labels["categories"][0], labels["images"][0]
    assert category["name"] == "person"
    assert category["skeleton"] == [[a + 1, b + 1] for a, b in COCO17.edges]
    assert image["file_name"] == f"clip_{image['frame_id']:012d}.jpg"
    assert (image["width"], image["height"]) == (640, 480)
