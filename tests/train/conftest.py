"""Small runs on real pictures: a few of each shared set, linked into a folder of their own."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hrformer.checkpoints.checkpoint import save_checkpoint
from hrformer.data.source_config import ClassificationSource, PoseSource, SegmentationSource
from hrformer.data.transforms.settings import ClassificationAugment, PoseAugment, SegmentationAugment
from hrformer.evaluate.protocols import ClassificationProtocol, PoseProtocol, SegmentationProtocol
from hrformer.recipes.small_sets import CIFAR10_CLASSES
from hrformer.train.config import (
    AnyRun,
    BatchConfig,
    ClassificationRun,
    LogConfig,
    ModelConfig,
    OptimConfig,
    PoseRun,
    RuntimeConfig,
    SaveConfig,
    ScheduleConfig,
    SegmentationRun,
)
from hrformer.zoo import create_model

SHARED = {
    "schedule": ScheduleConfig(kind="cosine", updates=6, warmup_updates=2),
    "runtime": RuntimeConfig(cpu=True, workers=0, threads=1),
    "log": LogConfig(every_updates=1, trackers=(), pictures=2),
    "save": SaveConfig(every_updates=2, every_minutes=0),
    "optim": OptimConfig(lr=1e-3),
    "batch": BatchConfig(total=8),
    "validate_epochs": 0.0,
    "validate_updates": 3,
}


@pytest.fixture(scope="session")
def few_classes(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """3 classes, 10 training and 4 validation pictures each."""
    root = tmp_path_factory.mktemp("few_classes")
    for split, count in (("train", 10), ("val", 4)):
        for name in ("airplane", "cat", "ship"):
            folder = root / split / name
            folder.mkdir(parents=True)
            for file in sorted((data_dir / "cifar10" / split / name).glob("*.jpg"))[:count]:
                (folder / file.name).symlink_to(file)
    return root


@pytest.fixture(scope="session")
def few_people(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 training people and 6 for validation."""
    root, source = tmp_path_factory.mktemp("few_people"), data_dir / "lspet"
    (root / "annotations").mkdir()
    (root / "images").symlink_to(source / "images")
    for split, count in (("train", 16), ("val", 6)):
        name = f"annotations/person_keypoints_{split}.json"
        content = json.loads((source / name).read_text())
        content["annotations"] = content["annotations"][:count]
        kept = {row["image_id"] for row in content["annotations"]}
        content["images"] = [row for row in content["images"] if row["id"] in kept]
        (root / name).write_text(json.dumps(content))
    return root


@pytest.fixture(scope="session")
def few_streets(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """10 training and 3 validation pictures with masks."""
    root, source = tmp_path_factory.mktemp("few_streets"), data_dir / "camvid"
    (root / "classes.txt").symlink_to(source / "classes.txt")
    for split, count in (("train", 10), ("val", 3)):
        for kind, ending in (("images", "jpg"), ("labels", "png")):
            folder = root / kind / split
            folder.mkdir(parents=True)
            for file in sorted((source / kind / split).glob(f"*.{ending}"))[:count]:
                (folder / file.name).symlink_to(file)
    return root


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """By task a file of nano with fresh weights: CIFAR-10's classes, LSPET's joints, CamVid's number of classes."""
    folder = tmp_path_factory.mktemp("small")
    files: dict[str, str] = {}
    for task, size, options in (
        ("classification", (56, 56), {"num_classes": 10, "head_planes": 8, "head_width": 512}),
        ("pose", (128, 128), {"num_keypoints": 14}),
        ("segmentation", (180, 240), {"num_classes": 11, "ocr_channels": 64, "ocr_key_channels": 32}),
    ):
        torch.manual_seed(1)
        model = create_model("hrformer_nano", task, **options)
        names = CIFAR10_CLASSES if task == "classification" else ()
        spec = replace(model.info.input_spec, size=size)
        model.info = replace(model.info, input_spec=spec, class_names=names)
        files[task] = str(save_checkpoint(model, folder / f"{task}.safetensors"))
    return files


@pytest.fixture
def classification_run(few_classes: Path) -> ClassificationRun:
    """Nano on 32 x 32 pictures."""
    return ClassificationRun(
        recipe="test",
        model=ModelConfig(name="hrformer_nano", head_planes=4, head_width=32),
        data=ClassificationSource(root=few_classes),
        augment=ClassificationAugment(size=(32, 32), crop="padded"),
        evaluation=ClassificationProtocol(batch_size=8),
        **SHARED,
    )


@pytest.fixture
def pose_run(few_people: Path) -> PoseRun:
    """Nano on 64 x 64 crops."""
    return PoseRun(
        recipe="test",
        model=ModelConfig(name="hrformer_nano"),
        data=PoseSource(
            root=few_people,
            train_annotations="annotations/person_keypoints_train.json",
            val_annotations="annotations/person_keypoints_val.json",
            train_images=("images/train",),
            val_images=("images/val",),
        ),
        augment=PoseAugment(size=(64, 64), sigma=1.0),
        evaluation=PoseProtocol(score="pck", batch_size=4),
        **SHARED | {"optim": OptimConfig(lr=1e-3, exempt="pose", weight_decay=0.01)},
    )


@pytest.fixture
def segmentation_run(few_streets: Path) -> SegmentationRun:
    """Nano on 64 x 96 crops."""
    return SegmentationRun(
        recipe="test",
        model=ModelConfig(name="hrformer_nano", ocr_channels=16, ocr_key_channels=8),
        data=SegmentationSource(root=few_streets),
        augment=SegmentationAugment(size=(64, 96), short_side=64),
        evaluation=SegmentationProtocol(short_side=64),
        **SHARED | {"batch": BatchConfig(total=4), "optim": OptimConfig(lr=1e-3, exempt="segmentation")},
    )


@pytest.fixture
def any_run(
    request: pytest.FixtureRequest,
) -> Callable[[str], AnyRun]:
    """The run of a task by its name."""
    return lambda task: request.getfixturevalue(f"{task}_run")
