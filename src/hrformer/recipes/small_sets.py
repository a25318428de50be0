"""Small real sets that a processor can train on: CIFAR-10, LSPET (sports poses) and CamVid (street scenes).

``--data.root`` is for all of them the one folder that holds the sets' folders ``cifar10/`` (pictures in
``{train,val}/CLASS``), ``cifar10_full/`` (``train-*.parquet``), ``lspet/`` (``images/{train,val}``,
``annotations/person_keypoints_{train,val}.json``) and ``camvid/`` (``{images,labels}/{train,val}``, ``classes.txt``); a
recipe needs only its own. Scores are for the ``val`` parts.
"""

from __future__ import annotations

from dataclasses import replace

from hrformer.data.sources import ClassificationSource, PoseSource, SegmentationSource
from hrformer.data.transforms.settings import ClassificationAugment, PoseAugment, SegmentationAugment
from hrformer.evaluate.protocols import PoseProtocol
from hrformer.train.config import (
    BatchConfig,
    ClassificationRun,
    ModelConfig,
    OptimConfig,
    PoseRun,
    ScheduleConfig,
    SegmentationLoss,
    SegmentationRun,
)

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

CIFAR10 = ClassificationSource(
    name="CIFAR-10",
    format="huggingface",
    train="cifar10_full/train-*.parquet",
    val="cifar10/val",
    val_format="folders",
    classes=CIFAR10_CLASSES,
)
CIFAR10_5K = ClassificationSource(name="CIFAR-10", train="cifar10/train", val="cifar10/val", classes=CIFAR10_CLASSES)
LSPET = PoseSource(
    name="LSPET",
    train_annotations="lspet/annotations/person_keypoints_train.json",
    val_annotations="lspet/annotations/person_keypoints_val.json",
    train_images=("lspet/images/train",),
    val_images=("lspet/images/val",),
)
CAMVID = SegmentationSource(
    name="CamVid", images="camvid/images/{split}", masks="camvid/labels/{split}", classes="camvid/classes.txt"
)


def cifar10_tiny() -> ClassificationRun:
    """HRFormer-T on 49,000 pictures of CIFAR-10, enlarged to 64 x 64.

    Command: ``hrformer train cifar10_tiny --data.root DATA``
    Hardware: one processor core or any GPU.
    Time: not measured yet.
    Score: not measured yet.

    At 32 x 32 the coarsest of the four branches would hold a single cell.
    """
    return ClassificationRun(
        recipe="cifar10_tiny",
        model=ModelConfig(name="hrformer_tiny", drop_path_rate=0.05),
        optim=OptimConfig(lr=2e-3, weight_decay=0.05, exempt="classification", clip_norm=5.0),
        schedule=ScheduleConfig(kind="cosine", epochs=30, warmup_epochs=2),
        batch=BatchConfig(total=128),
        data=CIFAR10,
        augment=ClassificationAugment(
            size=(64, 64), crop="padded", auto_augment="", erasing=0.1, mixup=0.2, cutmix=1.0, mix_probability=0.5
        ),
    )


def cifar10_5k_tiny() -> ClassificationRun:
    """HRFormer-T on 5,000 pictures of CIFAR-10, enlarged to 64 x 64.

    Command: ``hrformer train cifar10_5k_tiny --data.root DATA``
    Hardware: one processor core or any GPU.
    Time: not measured yet.
    Score: not measured yet.
    """
    base = cifar10_tiny()
    return replace(
        base,
        recipe="cifar10_5k_tiny",
        data=CIFAR10_5K,
        schedule=replace(base.schedule, epochs=100, warmup_epochs=5),
        validate_epochs=5,
    )


def cifar10_hrnet_w18() -> ClassificationRun:
    """HRNet-W18 on 49,000 pictures of CIFAR-10, otherwise as ``cifar10_tiny``.

    Command: ``hrformer train cifar10_hrnet_w18 --data.root DATA``
    Hardware: one processor core or any GPU.
    Time: not measured yet.
    Score: not measured yet.
    """
    return replace(cifar10_tiny(), recipe="cifar10_hrnet_w18", model=ModelConfig(name="hrnet_w18"))


def cifar10_5k_hrnet_w18() -> ClassificationRun:
    """HRNet-W18 on 5,000 pictures of CIFAR-10, otherwise as ``cifar10_5k_tiny``.

    Command: ``hrformer train cifar10_5k_hrnet_w18 --data.root DATA``
    Hardware: one processor core or any GPU.
    Time: not measured yet.
    Score: not measured yet.
    """
    return replace(cifar10_5k_tiny(), recipe="cifar10_5k_hrnet_w18", model=ModelConfig(name="hrnet_w18"))


def lspet_tiny() -> PoseRun:
    """HRFormer-T on 5,000 people in sports poses, 14 joints, at 128 x 128.

    Command: ``hrformer train lspet_tiny --data.root DATA``
    Hardware: one processor core or any GPU.
    Time: not measured yet.
    Score: not measured yet.

    Many people are upside down, so crops are turned all the way round: a standard deviation of 90 degrees, clipped to
    180.
    """
    return PoseRun(
        recipe="lspet_tiny",
        model=ModelConfig(name="hrformer_tiny", drop_path_rate=0.05),
        optim=OptimConfig(lr=1e-3, weight_decay=0.01, exempt="pose"),
        schedule=ScheduleConfig(kind="cosine", epochs=60, warmup_epochs=2),
        batch=BatchConfig(total=32),
        validate_epochs=5,
        data=LSPET,
        augment=PoseAugment(
            size=(128, 128),
            sigma=1.8,
            shift=0.1,
            shift_once=False,
            scale=0.35,
            rotation=90.0,
            rotation_probability=0.8,
            brightness=0.2,
        ),
        evaluation=PoseProtocol(score="both"),
    )


def lspet_hrnet_w18() -> PoseRun:
    """HRNet-W18 on people in sports poses, otherwise as ``lspet_tiny``.

    Command: ``hrformer train lspet_hrnet_w18 --data.root DATA``
    Hardware: one processor core or any GPU.
    Time: not measured yet.
    Score: not measured yet.
    """
    return replace(lspet_tiny(), recipe="lspet_hrnet_w18", model=ModelConfig(name="hrnet_w18"))


def camvid_tiny() -> SegmentationRun:
    """HRFormer-T with a small OCR head on CamVid, 11 classes, crops of 240 x 320.

    Command: ``hrformer train camvid_tiny --data.root DATA``
    Hardware: one processor core or any GPU.
    Time: not measured yet.
    Score: not measured yet.

    Tested on whole pictures of 480 x 360. Rare classes weigh more in the loss, by the square root of their frequency.
    """
    return SegmentationRun(
        recipe="camvid_tiny",
        model=ModelConfig(name="hrformer_tiny", drop_path_rate=0.05, ocr_channels=128, ocr_key_channels=64),
        optim=OptimConfig(lr=1e-3, weight_decay=0.01, exempt="segmentation"),
        schedule=ScheduleConfig(kind="poly", epochs=100, warmup_updates=100),
        batch=BatchConfig(total=8),
        validate_epochs=10,
        data=CAMVID,
        augment=SegmentationAugment(size=(240, 320), brightness=25, contrast=0.3),
        loss=SegmentationLoss(class_weights="balanced"),
    )


def camvid_hrnet_w18() -> SegmentationRun:
    """HRNet-W18 with a small OCR head on CamVid, otherwise as ``camvid_tiny``.

    Command: ``hrformer train camvid_hrnet_w18 --data.root DATA``
    Hardware: one processor core or any GPU.
    Time: not measured yet.
    Score: not measured yet.
    """
    return replace(
        camvid_tiny(),
        recipe="camvid_hrnet_w18",
        model=ModelConfig(name="hrnet_w18", ocr_channels=128, ocr_key_channels=64),
    )
