"""The three bundled models: a classifier trained on ``things``, and its trunk trained on for people and for masks.

``--data.root`` is for all of them the one folder that holds ``things/`` (``{train,val}-*.parquet``), ``people17/``
(``annotations/person_keypoints_{train,val}.json``, ``images/{train,val}``; ``lspet/`` beside it) and ``petspeople/``
(``{images,labels}/{train,val}``, ``classes.txt``).
"""

from __future__ import annotations

from typing import Any

from hrformer.data.source_config import ClassificationSource, PoseSource, SegmentationSource
from hrformer.data.transforms.settings import ClassificationAugment, PoseAugment, SegmentationAugment
from hrformer.evaluate.protocols import ClassificationProtocol, PoseProtocol, SegmentationProtocol
from hrformer.recipes.recipe import Recipe
from hrformer.train.config import (
    BatchConfig,
    ClassificationRun,
    Distillation,
    ModelConfig,
    OptimConfig,
    PoseRun,
    RuntimeConfig,
    ScheduleConfig,
    SegmentationLoss,
    SegmentationRun,
)

THINGS = ClassificationSource(
    name="things",
    format="huggingface",
    train="things/train-*.parquet",
    val="things/val-*.parquet",
    val_format="huggingface",
)
PEOPLE17 = PoseSource(
    name="people17",
    train_annotations="people17/annotations/person_keypoints_train.json",
    val_annotations="people17/annotations/person_keypoints_val.json",
    train_images=("people17/images/train",),
    val_images=("people17/images/val",),
)
PETSPEOPLE = SegmentationSource(
    name="petspeople",
    images="petspeople/images/{split}",
    masks="petspeople/labels/{split}",
    classes="petspeople/classes.txt",
)

TEACHER = "runs/things_teacher.safetensors"
_FACTS: dict[str, Any] = {"data": "DATA", "hardware": "two processor cores or any GPU"}
_FACTS |= dict.fromkeys(("time", "score"), "not measured yet")
_RUNTIME = RuntimeConfig(cpu=True, workers=1, threads=2, cache_gb=1)

_THINGS_56 = Recipe(
    run=ClassificationRun(
        recipe="things_tiny_56",
        model=ModelConfig(name="hrformer_tiny", drop_path_rate=0.05),
        optim=OptimConfig(lr=4e-4, clip_norm=5.0),
        schedule=ScheduleConfig(epochs=12, warmup_updates=30),
        batch=BatchConfig(total=64),
        runtime=_RUNTIME,
        ema_decay=0.998,
        validate_epochs=2,
        data=THINGS,
        augment=ClassificationAugment(
            size=(56, 56),
            area=(0.3, 1.0),
            auto_augment="",
            erasing=0.0,
            mixup=0.0,
            cutmix=0.0,
        ),
        distill=Distillation(teacher=TEACHER, whole=True, weight=0.7, temperature=2.0),
        evaluation=ClassificationProtocol(batch_size=100),
    ),
    title="HRFormer-T on things at 56 x 56, with a teacher: the first, cheap part of things_tiny",
    notes="`python examples/things_teacher.py --data DATA/things --out runs` makes the teacher. Fresh weights learn "
    "little in the first epochs; `--model.init hrformer_tiny_things` goes on from the bundled ones. At 56 pixels the "
    "four branches are 14, 7, 4 and 2 cells wide, so that no attention window is padded on the two finest.",
    **_FACTS
    | {
        "time": "1.1 hours of two cores that were shared with other work",
        "score": "top-1 50.5 on val, of its 96 px pictures 57.4 (us, whole pictures, after 399 updates at batch 128)",
    },
)
_THINGS = _THINGS_56.varied(
    "things_tiny",
    {
        "optim.lr": 4e-4,
        "schedule.epochs": 14.0,
        "augment.size": (84, 84),
        "augment.area": (0.25, 1.0),
        "augment.soften": 0.3,
    },
    title="HRFormer-T on things at 84 x 84, with a teacher",
    notes="From the weights of things_tiny_56: `--model.init runs/things_tiny_56/best.safetensors`.",
    **_FACTS
    | {
        "time": "2.3 hours of one core that was shared with other work",
        "score": "top-1 55.0 on val, of its 96 px pictures 62.3 (us, 4 epochs, 1.2 with "
        "`--augment.area 0.4 1.0` and 2.3 with `--augment.area 0.3 1.0`; 49.2, 52.0, 52.4, 53.0, 54.1, 54.8, 55.1)",
    },
)
_PEOPLE17_96 = Recipe(
    run=PoseRun(
        recipe="people17_tiny_96",
        model=ModelConfig(name="hrformer_tiny", init="hrformer_tiny_things", drop_path_rate=0.05),
        optim=OptimConfig(lr=8e-4, weight_decay=0.01, exempt="pose", eps=1e-10, head_factor=4.0),
        schedule=ScheduleConfig(epochs=7, warmup_updates=100),
        batch=BatchConfig(total=64),
        runtime=_RUNTIME,
        ema_decay=0.998,
        validate_epochs=2,
        data=PEOPLE17,
        augment=PoseAugment(
            size=(96, 72),
            interpolation="antialiased",
            sigma=1.3,
            encoding="udp",
            shift=0.1,
            shift_once=False,
            scale=0.3,
            rotation=45.0,
            rotation_probability=0.6,
            brightness=0.3,
            soften=0.3,
        ),
        evaluation=PoseProtocol(score="both", batch_size=50),
    ),
    title="HRFormer-T on people17 at 96 x 72: the first, cheap part of people17_tiny",
    notes="The gradients of heatmaps are tiny, hence the small eps of AdamW.",
    **_FACTS
    | {
        "time": "59 minutes of one core that was shared with other work",
        "score": "PCK@0.2 52.9 on all of val (us)",
    },
)
_PEOPLE17 = _PEOPLE17_96.varied(
    "people17_tiny",
    {
        "optim.lr": 5e-4,
        "schedule": ScheduleConfig(epochs=6, warmup_updates=50),
        "batch.total": 32,
        "augment.size": (160, 120),
        "augment.sigma": 1.9,
        "augment.rotation": 80.0,
        "augment.rotation_probability": 0.65,
        "augment.scale": 0.45,
        "augment.portrait": 0.15,
        "augment.grey": 0.2,
    },
    title="HRFormer-T on people17: 17 joints of people in sports and on streets, at 160 x 120",
    notes="From the weights of people17_tiny_96: `--model.init runs/people17_tiny_96/best.safetensors`.",
    **_FACTS
    | {
        "time": "90 minutes of one core that was shared with other work, 3.6 epochs",
        "score": "PCK@0.2 82.2 on val_photos, 54.8 on val_lspet, there 45.6 for the 12 limb joints (us, 3.6 epochs "
        "from weights that had 18.7 at 128 x 96)",
    },
)
_PETSPEOPLE_84 = Recipe(
    run=SegmentationRun(
        recipe="petspeople_tiny_84",
        model=ModelConfig(
            name="hrformer_tiny",
            init="hrformer_tiny_things",
            ocr_channels=128,
            ocr_key_channels=64,
            drop_path_rate=0.05,
        ),
        optim=OptimConfig(lr=4e-4, exempt="segmentation", head_factor=2.0, clip_norm=5.0),
        schedule=ScheduleConfig(kind="poly", epochs=12, warmup_updates=100),
        batch=BatchConfig(total=16),
        runtime=_RUNTIME,
        ema_decay=0.998,
        validate_epochs=4,
        data=PETSPEOPLE,
        augment=SegmentationAugment(
            size=(84, 84),
            interpolation="antialiased",
            short_side=84,
            scale=(0.6, 1.6),
            aspect=(0.8, 1.25),
            brightness=25,
            contrast=0.3,
            soften=0.3,
        ),
        loss=SegmentationLoss(class_weights="auto"),
        evaluation=SegmentationProtocol(short_side=84),
    ),
    title="HRFormer-T with a small OCR head on petspeople, crops of 84 x 84: the first, cheap part of petspeople_tiny",
    **_FACTS
    | {
        "time": "63 minutes of one core that was shared with other work",
        "score": "mean IoU 38.1 on val (us)",
    },
)
_PETSPEOPLE = _PETSPEOPLE_84.varied(
    "petspeople_tiny",
    {
        "optim.lr": 3e-4,
        "schedule": ScheduleConfig(kind="poly", epochs=8, warmup_updates=50),
        "validate_epochs": 2,
        "augment.size": (144, 144),
        "augment.short_side": 144,
        "augment.grey": 0.2,
        "loss.class_weights": "none",
        "evaluation.short_side": 144,
    },
    title="HRFormer-T with a small OCR head on petspeople: person, cat, dog, horse, cow, sheep, crops of 144 x 144",
    notes="From the weights of petspeople_tiny_84: `--model.init runs/petspeople_tiny_84/best.safetensors`.",
    **_FACTS
    | {
        "time": "68 minutes of one core that was shared with other work, 5 epochs",
        "score": "mean IoU 47.2 on val (us, 5 epochs from weights that had 13 at 120 x 120)",
    },
)
RECIPES = (_THINGS_56, _THINGS, _PEOPLE17_96, _PEOPLE17, _PETSPEOPLE_84, _PETSPEOPLE)
