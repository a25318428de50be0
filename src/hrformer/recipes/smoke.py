"""One short run per task on the small sets, for a processor: long enough that a model that works clears its range.

Each starts far below its range, so that a loop that learns nothing stays there.

``--data.root`` as in ``small_sets``.
"""

from __future__ import annotations

from hrformer.data.transforms.settings import ClassificationAugment, PoseAugment, SegmentationAugment
from hrformer.evaluate.protocols import PoseProtocol, SegmentationProtocol
from hrformer.recipes.small_sets import CAMVID, CIFAR10_5K, LSPET
from hrformer.train.config import (
    BatchConfig,
    ClassificationRun,
    LogConfig,
    ModelConfig,
    OptimConfig,
    PoseRun,
    RuntimeConfig,
    ScheduleConfig,
    SegmentationLoss,
    SegmentationRun,
)

_RUNTIME = RuntimeConfig(cpu=True, workers=0, threads=1)
_LOG = LogConfig(every_updates=20, trackers=(), pictures=4)


def smoke_classification() -> ClassificationRun:
    """HRFormer-nano on 5,000 pictures of CIFAR-10 at 32 x 32.

    Command: ``hrformer train smoke_classification --data.root DATA``
    Hardware: one processor core.
    Time: 85 seconds of one core that was shared with other work.
    Score: top-1 36.2 on val (us).
    """
    return ClassificationRun(
        recipe="smoke_classification",
        model=ModelConfig(name="hrformer_nano", head_planes=8, head_width=256),
        optim=OptimConfig(lr=3e-3, weight_decay=0.05, exempt="classification", clip_norm=5.0),
        schedule=ScheduleConfig(kind="cosine", updates=150, warmup_updates=15),
        batch=BatchConfig(total=64),
        runtime=_RUNTIME,
        log=_LOG,
        validate_epochs=0,
        validate_updates=150,
        data=CIFAR10_5K,
        augment=ClassificationAugment(
            size=(32, 32), crop="padded", auto_augment="", erasing=0, mixup=0, cutmix=0, label_smoothing=0.1
        ),
    )


def smoke_pose() -> PoseRun:
    """The bundled HRFormer-nano of sports poses with a fresh head, trained for a minute.

    Command: ``hrformer train smoke_pose --data.root DATA``
    Hardware: one processor core.
    Time: 71 seconds of one core (AVX2), and 41 seconds of validation.
    Score: PCK@0.2 32.4 on val (us); 15.5 before, on its first 100 people.

    Poses cannot be learnt in a minute, but a head can, on a backbone that knows them. A model, a loss or an
    augmentation that is broken spoils the backbone within a few updates.
    """
    return PoseRun(
        recipe="smoke_pose",
        model=ModelConfig(name="hrformer_nano", init="hrformer_nano_lspet", fresh=("head",)),
        optim=OptimConfig(lr=5e-4, weight_decay=0.01, exempt="pose", head_factor=10),
        schedule=ScheduleConfig(kind="cosine", updates=40, warmup_updates=5),
        batch=BatchConfig(total=16),
        runtime=_RUNTIME,
        log=_LOG,
        validate_epochs=0,
        validate_updates=40,
        data=LSPET,
        augment=PoseAugment(size=(128, 128), sigma=1.8, shift_once=False, half_body=0.0, scale=0.25, rotation=45.0),
        evaluation=PoseProtocol(score="pck", flip=False),
    )


def smoke_segmentation() -> SegmentationRun:
    """The bundled HRFormer-nano of CamVid with a fresh head, trained for a minute.

    Command: ``hrformer train smoke_segmentation --data.root DATA``
    Hardware: one processor core.
    Time: 75 seconds of one core (AVX2), and 22 seconds of validation.
    Score: mIoU 42.0 on val (us); 3.6 before, on its first 40 pictures.

    With a fresh backbone a minute is enough for 18 %, little more than the most frequent class at each position
    scores.
    """
    return SegmentationRun(
        recipe="smoke_segmentation",
        model=ModelConfig(
            name="hrformer_nano",
            init="hrformer_nano_camvid",
            fresh=("head",),
            ocr_channels=64,
            ocr_key_channels=32,
            drop_path_rate=0.0,
        ),
        optim=OptimConfig(lr=5e-4, weight_decay=0.01, exempt="segmentation", head_factor=10),
        schedule=ScheduleConfig(kind="poly", updates=40, warmup_updates=5),
        batch=BatchConfig(total=4),
        runtime=_RUNTIME,
        log=_LOG,
        validate_epochs=0,
        validate_updates=40,
        data=CAMVID,
        augment=SegmentationAugment(size=(180, 240), short_side=180, scale=(1.0, 2.0), contrast=0.3),
        loss=SegmentationLoss(class_weights="balanced"),
        evaluation=SegmentationProtocol(short_side=180),
    )
