"""The small sets again, in the half hour to an hour that one processor core has: small inputs, few epochs.

These runs made the figures below; ``small_sets`` holds recipes for those who have more time. Beside each HRFormer-T
stands an HRNet-W18 with the same data, augmentation and schedule. ``--data.root`` as in ``small_sets``.
"""

from __future__ import annotations

from dataclasses import replace

from hrformer.data.transforms.settings import ClassificationAugment, PoseAugment, SegmentationAugment
from hrformer.evaluate.protocols import ClassificationProtocol, PoseProtocol, SegmentationProtocol
from hrformer.recipes.small_sets import CAMVID, CIFAR10, LSPET
from hrformer.train.config import (
    BatchConfig,
    ClassificationRun,
    ModelConfig,
    OptimConfig,
    PoseRun,
    RuntimeConfig,
    ScheduleConfig,
    SegmentationLoss,
    SegmentationRun,
)

_RUNTIME = RuntimeConfig(cpu=True, workers=0, threads=1)


def cifar10_tiny_short() -> ClassificationRun:
    """HRFormer-T on 49,000 pictures of CIFAR-10 at 28 x 28, 3 epochs.

    Command: ``hrformer train cifar10_tiny_short --data.root DATA``
    Hardware: one processor core.
    Time: 79 minutes of one core that was shared with other work.
    Score: top-1 59.9 on val, the best; 59.3 at the end (us).

    At 28 pixels the four branches are 7, 4, 2 and 1 cells wide, so that the finest one is a single attention window.
    """
    return ClassificationRun(
        recipe="cifar10_tiny_short",
        model=ModelConfig(name="hrformer_tiny", head_planes=16, head_width=512),
        optim=OptimConfig(lr=2e-3, weight_decay=0.05, exempt="classification"),
        schedule=ScheduleConfig(kind="cosine", epochs=3, warmup_updates=100),
        batch=BatchConfig(total=128),
        runtime=_RUNTIME,
        validate_epochs=0.25,
        data=CIFAR10,
        augment=ClassificationAugment(
            size=(28, 28), crop="padded", auto_augment="", erasing=0.25, mixup=0, cutmix=0, label_smoothing=0.1
        ),
        evaluation=ClassificationProtocol(batch_size=100),
    )


def cifar10_hrnet_w18_short() -> ClassificationRun:
    """HRNet-W18 on CIFAR-10, otherwise as ``cifar10_tiny_short``.

    Command: ``hrformer train cifar10_hrnet_w18_short --data.root DATA``
    Hardware: one processor core.
    Time: 45 minutes of one core that was shared with other work.
    Score: top-1 59.1 on val (us).
    """
    model = ModelConfig(name="hrnet_w18", head_planes=16, head_width=512)
    return replace(cifar10_tiny_short(), recipe="cifar10_hrnet_w18_short", model=model)


def lspet_tiny_short() -> PoseRun:
    """HRFormer-T on 5,000 people in sports poses at 96 x 96, 6 epochs.

    Command: ``hrformer train lspet_tiny_short --data.root DATA``
    Hardware: one processor core.
    Time: 67 minutes of one core that was shared with other work.
    Score: PCK@0.2 29.5, AP 7.8 on val (us).

    The gradients of heatmaps are tiny, hence the small eps of AdamW.
    """
    return PoseRun(
        recipe="lspet_tiny_short",
        model=ModelConfig(name="hrformer_tiny", drop_path_rate=0.0),
        optim=OptimConfig(lr=2e-3, weight_decay=0.01, exempt="pose", eps=1e-10),
        schedule=ScheduleConfig(kind="cosine", epochs=6, warmup_updates=60),
        batch=BatchConfig(total=32),
        runtime=_RUNTIME,
        validate_epochs=1,
        data=LSPET,
        augment=PoseAugment(
            size=(96, 96),
            sigma=1.35,
            shift=0.1,
            half_body=0.0,
            scale=0.25,
            rotation=60.0,
            rotation_probability=0.7,
            brightness=0.3,
        ),
        evaluation=PoseProtocol(score="both", batch_size=50),
    )


def lspet_hrnet_w18_short() -> PoseRun:
    """HRNet-W18 on people in sports poses, otherwise as ``lspet_tiny_short``.

    Command: ``hrformer train lspet_hrnet_w18_short --data.root DATA``
    Hardware: one processor core.
    Time: 28 minutes of one core of an Intel Xeon with AVX-512.
    Score: PCK@0.2 24.9, AP 4.3 on val (us).
    """
    return replace(lspet_tiny_short(), recipe="lspet_hrnet_w18_short", model=ModelConfig(name="hrnet_w18"))


def camvid_tiny_short() -> SegmentationRun:
    """HRFormer-T with a small OCR head on CamVid, crops of 180 x 240, 12 epochs.

    Command: ``hrformer train camvid_tiny_short --data.root DATA``
    Hardware: one processor core.
    Time: 53 minutes of one core that was shared with other work.
    Score: mIoU 45.3 on val (us).

    Tested at half the size and scored at the full one. Rare classes weigh more in the loss.
    """
    return SegmentationRun(
        recipe="camvid_tiny_short",
        model=ModelConfig(name="hrformer_tiny", ocr_channels=64, ocr_key_channels=32, drop_path_rate=0.0),
        optim=OptimConfig(lr=2e-3, weight_decay=0.05, exempt="segmentation"),
        schedule=ScheduleConfig(kind="poly", epochs=12, warmup_updates=30),
        batch=BatchConfig(total=8),
        runtime=_RUNTIME,
        validate_epochs=2,
        data=CAMVID,
        augment=SegmentationAugment(
            size=(180, 240), short_side=180, scale=(1.0, 2.0), aspect=(0.8, 1.25), brightness=25, contrast=0.3
        ),
        loss=SegmentationLoss(class_weights="balanced"),
        evaluation=SegmentationProtocol(short_side=240),
    )


def camvid_hrnet_w18_short() -> SegmentationRun:
    """HRNet-W18 with a small OCR head on CamVid, otherwise as ``camvid_tiny_short``.

    Command: ``hrformer train camvid_hrnet_w18_short --data.root DATA``
    Hardware: one processor core (AVX2).
    Time: 49 minutes of processor time.
    Score: mIoU 45.0 on val, the best; 44.5 at the end (us).
    """
    model = ModelConfig(name="hrnet_w18", ocr_channels=64, ocr_key_channels=32)
    return replace(camvid_tiny_short(), recipe="camvid_hrnet_w18_short", model=model)
