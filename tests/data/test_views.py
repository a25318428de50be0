"""Views of some pictures tell what the whole set tells of them, and nothing else."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hrformer.data.classification_sets import open_classification
from hrformer.data.loader import PictureCache
from hrformer.data.pose_sets import open_pose
from hrformer.data.segmentation_sets import open_segmentation
from hrformer.data.set_types import DataError
from hrformer.data.source_config import ClassificationSource, PoseSource, SegmentationSource
from hrformer.data.views import chosen
from hrformer.evaluate.protocols import PoseProtocol
from hrformer.evaluate.scores import PoseScores

TINY = PoseSource(val_annotations="annotations/person_keypoints.json", val_images=("images",))


def test_people_of_some_pictures(data_dir: Path) -> None:
    whole = open_pose(replace(TINY, root=data_dir / "coco_tiny"), "val")
    assert whole.image_ids is not None
    pictures = sorted({whole.picture(index) for index in range(len(whole))})[1:]
    view = chosen(whole, pictures)
    items = [index for index in range(len(whole)) if whole.picture(index) in pictures]
    assert 0 < len(view) == len(items) < len(whole)
    assert view.image_ids == tuple(whole.image_ids[number] for number in pictures)
    for index, before in enumerate(items):
        assert view.person(index).person_id == whole.person(before).person_id
        assert view.file(index) == whole.file(before)
        assert view.image_ids[view.picture(index)] == view.person(index).image_id
        assert view.item(index, view.pixels(index)).keys() == whole.item(before, whole.pixels(before)).keys()
    assert (view.skeleton, view.annotations, view.name) == (whole.skeleton, whole.annotations, whole.name)
    # A view of a view counts its own pictures.
    again = pickle.loads(pickle.dumps(chosen(view, [0])))
    assert {again.person(index).image_id for index in range(len(again))} == {view.image_ids[0]} == set(again.image_ids)
    assert PictureCache(again).complete


def test_pictures_without_people_count_in_the_scores(data_dir: Path, tmp_path: Path) -> None:
    content = json.loads((data_dir / "coco_tiny/annotations/person_keypoints.json").read_text())
    empty = content["images"][0]["id"]
    content["annotations"] = [one for one in content["annotations"] if one["image_id"] != empty]
    (tmp_path / "val.json").write_text(json.dumps(content))
    source = PoseSource(root=tmp_path, val_annotations="val.json", val_images=(str(data_dir / "coco_tiny/images"),))
    whole = open_pose(source, "val")
    view = chosen(whole, [0, whole.picture(0)])
    assert view.image_ids is not None
    assert view.image_ids[0] == empty
    scores = PoseScores(view, PoseProtocol(score="coco"), num_items=len(view))
    assert scores._coco is not None
    assert {image["id"] for image in scores._coco.annotations["images"]} == set(view.image_ids)
    with pytest.raises(DataError, match="no item is on any of the pictures chosen"):
        chosen(whole, [0])


def test_masks_of_some_pictures(data_dir: Path) -> None:
    whole = open_segmentation(SegmentationSource(root=data_dir / "camvid"), "val")
    view = chosen(whole, {3, 1})
    assert [view.mask_file(index) for index in range(2)] == [whole.mask_file(1), whole.mask_file(3)]
    np.testing.assert_array_equal(view.mask(1), whole.mask(3))
    assert (view.classes, view.palette, view.labelled) == (whole.classes, whole.palette, True)
    assert view.item(1, view.pixels(1))["mask"].shape == whole.mask(3).shape


def test_classes_of_some_pictures(data_dir: Path) -> None:
    whole = open_classification(ClassificationSource(root=data_dir / "cifar10"), "val")
    view = chosen(whole, range(99, 102))
    assert [view.label(index) for index in range(3)] == [0, 1, 1]
    assert (view.classes, view.file(0)) == (whole.classes, whole.file(99))
