"""The picture of augmented samples: what lies where, that labels are drawn, and what happens to broken samples."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hrformer.data.classification_sets import open_classification
from hrformer.data.draw import LEFT, RIGHT
from hrformer.data.inspection.samples import TILE, Tile, _with_flags, choose, contact_sheet, draw_samples, fitted
from hrformer.data.pose_sets import open_pose
from hrformer.data.segmentation_sets import open_segmentation
from hrformer.data.source_config import ClassificationSource, PoseSource, SegmentationSource
from hrformer.data.transforms.classification import BatchMixer, TrainClassification
from hrformer.data.transforms.pose import TrainPose
from hrformer.data.transforms.segmentation import TrainSegmentation
from hrformer.data.transforms.settings import ClassificationAugment, PoseAugment, SegmentationAugment


def tile(color: tuple[int, int, int], width: int = 40, height: int = 30, caption: str = "") -> Tile:
    return np.full((height, width, 3), color, np.uint8), caption


def pose(data_dir: Path, **changes: Any) -> tuple[Any, TrainPose]:
    source = PoseSource(
        root=data_dir / "coco_tiny", train_annotations="annotations/person_keypoints.json", train_images=("images",)
    )
    people, settings = open_pose(source, "train"), PoseAugment(**changes)
    return people, TrainPose(settings, people.skeleton)


def has(pixels: np.ndarray, color: tuple[int, int, int], tolerance: int = 0) -> int:
    return int((np.abs(pixels.astype(int) - color) <= tolerance).all(axis=2).sum())


def test_tiles_lie_in_rows_and_columns() -> None:
    red, green, blue = (250, 0, 0), (0, 250, 0), (0, 0, 250)
    rows = ((tile(red, 60), tile(green)), (tile(blue),))
    sheet = contact_sheet("title", [("rows", rows)])
    corners = {color: np.argwhere((sheet == color).all(axis=2)) for color in (red, green, blue)}
    assert [len(places) for places in corners.values()] == [60 * 30, 40 * 30, 40 * 30]
    (top, left), (_, beside), (below, _) = (places.min(axis=0) for places in corners.values())
    assert beside >= left + 60
    assert below >= top + 30
    assert sheet.dtype == np.uint8


def test_captions_are_shortened_to_their_column() -> None:
    short = contact_sheet("t", [("", [[tile((9, 9, 9), TILE, caption="a" * 10)]])])
    long = contact_sheet("t", [("", [[tile((9, 9, 9), TILE, caption="a" * 400)]])])
    assert short.shape == long.shape
    # Nothing is written right of the column, however long the caption.
    assert (long[60:, TILE + 20 :] == 255).all()
    assert (long[-40:, TILE - 60 : TILE] < 128).any()


def test_legend_is_broken_into_lines() -> None:
    section = ("", [[tile((9, 9, 9))]])
    entries = [(f"a rather long name, number {number}", (200, number, 0)) for number in range(12)]
    sheet = contact_sheet("t", [section], entries)
    assert sheet.shape[0] > contact_sheet("t", [section], entries[:1]).shape[0] + 60
    for _, color in entries:
        assert has(sheet, color) > 300


@pytest.mark.parametrize(("height", "width"), [(3, 2), (900, 30), (480, 480)])
def test_pictures_are_fitted(height: int, width: int) -> None:
    pixels, factor = fitted(np.zeros((height, width, 3), np.uint8))
    assert max(pixels.shape) == TILE
    assert factor == TILE / max(height, width)


def test_samples_are_of_different_classes_and_pictures(data_dir: Path) -> None:
    source = open_classification(ClassificationSource(root=data_dir / "cifar10"), "val")
    chosen = choose(source, 12, seed=3)
    assert chosen == choose(source, 12, seed=3) != choose(source, 12, seed=4)
    assert len(set(chosen)) == 12
    assert len({source.label(index) for index in chosen}) == 10
    people, _ = pose(data_dir)
    assert sorted(people.picture(index) for index in choose(people, 9, seed=0)) == [0, 1, 2, 3]


def test_classes(data_dir: Path) -> None:
    settings = ClassificationAugment(size=(32, 32), crop="padded")
    source = open_classification(ClassificationSource(root=data_dir / "cifar10"), "val")
    done: list[tuple[int, int]] = []
    options: dict[str, Any] = {"samples": 6, "seed": 0}
    sheet, findings = draw_samples(
        source,
        TrainClassification(settings),
        "t",
        mixer=BatchMixer(settings, 10),
        progress=lambda *state: done.append(state),
        **options,
    )
    assert findings == []
    assert done == [(number, 6) for number in range(1, 7)]
    plain, _ = draw_samples(source, TrainClassification(settings), "t", **options)
    assert sheet is not None
    assert plain is not None
    # The rows of mixed pictures come below the others.
    assert sheet.shape[0] > plain.shape[0] + 280
    assert np.array_equal(sheet[: plain.shape[0] - 20], plain[:-20])


def test_samples_do_not_disturb_the_generators(data_dir: Path) -> None:
    source = open_classification(ClassificationSource(root=data_dir / "cifar10"), "val")
    before = np.random.get_state()[1].copy()
    draw_samples(source, TrainClassification(ClassificationAugment(size=(32, 32))), "t", samples=1, seed=0)
    assert np.array_equal(before, np.random.get_state()[1])


def test_people(data_dir: Path) -> None:
    people, transform = pose(data_dir, flip=0.0, scale=0.0, rotation=0.0, half_body=0.0, shift=0.0)
    sheet, findings = draw_samples(people, transform, "t", samples=2, seed=0)
    assert findings == []
    assert sheet is not None
    picture = sheet[100:]
    for color in (LEFT, RIGHT):
        assert has(picture, color, 3) > 200
    # The labelled box is drawn on the untouched sample only.
    assert has(picture[:, :TILE], (255, 255, 255)) > 500


def test_flags_follow_the_joints_into_the_mirror_image(data_dir: Path) -> None:
    people, transform = pose(data_dir, flip=1.0)
    item = people.item(0, people.pixels(0)) | {"index": 0, "epoch": 0}
    item["visible"] = torch.arange(17.0)
    flags = _with_flags(transform)(item)["visible"].tolist()
    assert flags[:5] == [0, 2, 1, 4, 3]
    assert _with_flags(replace_flip(transform, 0.0))(item)["visible"].tolist() == list(range(17))


def replace_flip(transform: TrainPose, flip: float) -> TrainPose:
    return TrainPose(replace(transform.settings, flip=flip), transform.skeleton)


def test_masks(data_dir: Path) -> None:
    source = open_segmentation(SegmentationSource(root=data_dir / "camvid"), "val")
    # Half the size: three quarters of each crop are void.
    settings = SegmentationAugment(size=(360, 480), scale=(0.5, 0.5), aspect=(1, 1), flip=0, brightness=0)
    sheet, findings = draw_samples(source, TrainSegmentation(settings), "t", samples=1, seed=0)
    assert findings == []
    assert sheet is not None
    augmented = sheet[-400:, TILE + 24 : 2 * TILE + 24]
    assert 0.6 < has(augmented, (0, 0, 0)) / (360 * 480) < 0.8
    assert has(augmented, (90, 90, 90)) > 5000
    # The legend shows the road's colour of the classes file.
    assert has(sheet[:120], (128, 64, 128)) > 300


def test_broken_samples_are_reported(data_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "train" / "cat"
    folder.mkdir(parents=True)
    for number in range(3):
        (folder / f"{number}.png").write_bytes(b"broken")
    source = open_classification(ClassificationSource(root=tmp_path), "train")
    sheet, findings = draw_samples(
        source, TrainClassification(ClassificationAugment(size=(32, 32))), "t", samples=8, seed=0
    )
    assert sheet is None
    (found,) = findings
    assert (found.severity, found.kind, found.count) == ("error", "sample", 2)
    assert "2 samples cannot be prepared for training" in found.what
    assert "training would stop at this sample" in found.fix
