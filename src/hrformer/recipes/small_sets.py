"""Small real sets that a processor can train on: CIFAR-10, LSPET (sports poses) and CamVid (street scenes).

``--data.root`` is for all of them the one folder that holds the sets' folders ``cifar10/`` (pictures in
``{train,val}/CLASS``), ``cifar10_full/`` (``train-*.parquet``), ``lspet/`` (``images/{train,val}``,
``annotations/person_keypoints_{train,val}.json``) and ``camvid/`` (``{images,labels}/{train,val}``, ``classes.txt``); a
recipe needs only its own. Scores are for the ``val`` parts.

Beside each HRFormer-T stands an HRNet-W18 with the same data, augmentation and schedule. Recipes whose names end with
"short" have small inputs and few epochs, for the half hour to an hour that one processor core has. Those whose names
begin with "smoke" take a minute, long enough that a model that works gets far beyond the score that it starts with.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hrformer.data.source_config import ClassificationSource, PoseSource, SegmentationSource
from hrformer.data.transforms.settings import ClassificationAugment, PoseAugment, SegmentationAugment
from hrformer.evaluate.protocols import ClassificationProtocol, PoseProtocol
from hrformer.recipes.recipe import Recipe
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

_LONG: dict[str, Any] = {"data": "DATA", "hardware": "one processor core or any GPU"}
_LONG |= dict.fromkeys(("time", "score"), "not measured yet")
_ONE_CORE = "one processor core"
_SHARED_CORE = "of one core that was shared with other work"
_RUNTIME = RuntimeConfig(cpu=True, workers=0, threads=1)
_TINY = ModelConfig(name="hrformer_tiny", drop_path_rate=0.05)
_PADDED = ClassificationAugment(crop="padded", auto_augment="", mixup=0, cutmix=0)
_PEOPLE_128 = PoseAugment(size=(128, 128), sigma=1.8, shift_once=False)
_PEOPLE_96 = PoseAugment(size=(96, 96), sigma=1.35, shift=0.1, half_body=0.0)
_STREETS_180 = SegmentationAugment(size=(180, 240), short_side=180, scale=(1.0, 2.0), contrast=0.3)

_CIFAR10 = Recipe(
    run=ClassificationRun(
        recipe="cifar10_tiny",
        model=_TINY,
        optim=OptimConfig(lr=2e-3, clip_norm=5.0),
        schedule=ScheduleConfig(epochs=30, warmup_epochs=2),
        batch=BatchConfig(total=128),
        data=CIFAR10,
        augment=replace(_PADDED, size=(64, 64), erasing=0.1, mixup=0.2, cutmix=1.0, mix_probability=0.5),
    ),
    title="HRFormer-T on 49,000 pictures of CIFAR-10, enlarged to 64 x 64",
    notes="At 32 x 32 the coarsest of the four branches would hold a single cell.",
    **_LONG,
)
_CIFAR10_5K = _CIFAR10.varied(
    "cifar10_5k_tiny",
    {"data": CIFAR10_5K, "schedule.epochs": 100, "schedule.warmup_epochs": 5, "validate_epochs": 5},
    title="HRFormer-T on 5,000 pictures of CIFAR-10, enlarged to 64 x 64",
)
_LSPET = Recipe(
    run=PoseRun(
        recipe="lspet_tiny",
        model=_TINY,
        optim=OptimConfig(lr=1e-3, weight_decay=0.01, exempt="pose"),
        schedule=ScheduleConfig(epochs=60, warmup_epochs=2),
        batch=BatchConfig(total=32),
        validate_epochs=5,
        data=LSPET,
        augment=replace(_PEOPLE_128, shift=0.1, scale=0.35, rotation=90.0, rotation_probability=0.8, brightness=0.2),
        evaluation=PoseProtocol(score="both"),
    ),
    title="HRFormer-T on 5,000 people in sports poses, 14 joints, at 128 x 128",
    notes="Many people are upside down, so crops are turned all the way round: a standard deviation of 90 degrees, "
    "clipped to 180.",
    **_LONG,
)
_CAMVID = Recipe(
    run=SegmentationRun(
        recipe="camvid_tiny",
        model=replace(_TINY, ocr_channels=128, ocr_key_channels=64),
        optim=OptimConfig(lr=1e-3, weight_decay=0.01, exempt="segmentation"),
        schedule=ScheduleConfig(kind="poly", epochs=100, warmup_updates=100),
        batch=BatchConfig(total=8),
        validate_epochs=10,
        data=CAMVID,
        augment=SegmentationAugment(size=(240, 320), brightness=25, contrast=0.3),
        loss=SegmentationLoss(class_weights="balanced"),
    ),
    title="HRFormer-T with a small OCR head on CamVid, 11 classes, crops of 240 x 320",
    notes="Tested on whole pictures of 480 x 360. Rare classes weigh more in the loss, by the square root of their "
    "frequency.",
    **_LONG,
)
_CIFAR10_SHORT = _CIFAR10.varied(
    "cifar10_tiny_short",
    {
        "model": ModelConfig(name="hrformer_tiny", head_planes=16, head_width=512),
        "optim.clip_norm": 0.0,
        "schedule": ScheduleConfig(epochs=3, warmup_updates=100),
        "runtime": _RUNTIME,
        "validate_epochs": 0.25,
        "augment": replace(_PADDED, size=(28, 28)),
        "evaluation.batch_size": 100,
    },
    title="HRFormer-T on 49,000 pictures of CIFAR-10 at 28 x 28, 3 epochs",
    hardware=_ONE_CORE,
    time=f"79 minutes {_SHARED_CORE}",
    score="top-1 59.9 on val, the best; 59.3 at the end (us)",
    notes="At 28 pixels the four branches are 7, 4, 2 and 1 cells wide, so that the finest one is a single attention "
    "window.",
)
_LSPET_SHORT = _LSPET.varied(
    "lspet_tiny_short",
    {
        "model.drop_path_rate": 0.0,
        "optim": OptimConfig(lr=2e-3, weight_decay=0.01, exempt="pose", eps=1e-10),
        "schedule": ScheduleConfig(epochs=6, warmup_updates=60),
        "runtime": _RUNTIME,
        "validate_epochs": 1,
        "augment": replace(_PEOPLE_96, scale=0.25, rotation=60.0, rotation_probability=0.7, brightness=0.3),
        "evaluation.batch_size": 50,
    },
    title="HRFormer-T on 5,000 people in sports poses at 96 x 96, 6 epochs",
    hardware=_ONE_CORE,
    time=f"67 minutes {_SHARED_CORE}",
    score="PCK@0.2 29.5, AP 7.8 on val (us)",
    notes="The gradients of heatmaps are tiny, hence the small eps of AdamW.",
)
_CAMVID_SHORT = _CAMVID.varied(
    "camvid_tiny_short",
    {
        "model": ModelConfig(name="hrformer_tiny", ocr_channels=64, ocr_key_channels=32, drop_path_rate=0.0),
        "optim": OptimConfig(lr=2e-3, exempt="segmentation"),
        "schedule": ScheduleConfig(kind="poly", epochs=12, warmup_updates=30),
        "runtime": _RUNTIME,
        "validate_epochs": 2,
        "augment": replace(_STREETS_180, aspect=(0.8, 1.25), brightness=25),
        "evaluation.short_side": 240,
    },
    title="HRFormer-T with a small OCR head on CamVid, crops of 180 x 240, 12 epochs",
    hardware=_ONE_CORE,
    time=f"53 minutes {_SHARED_CORE}",
    score="mIoU 45.3 on val (us)",
    notes="Tested at half the size and scored at the full one. Rare classes weigh more in the loss.",
)


def _smoke(base: Recipe, updates: int, model: ModelConfig, changes: dict[str, Any], **facts: str) -> Recipe:
    """A minute of training, with one validation at its end."""
    shared = {
        "model": model,
        "schedule.epochs": 0.0,
        "schedule.updates": updates,
        "log": LogConfig(trackers=(), pictures=4),
        "validate_epochs": 0,
        "validate_updates": updates,
    }
    return base.varied(f"smoke_{base.task}", shared | changes, **facts)


_FRESH_HEAD = {"optim.lr": 5e-4, "optim.weight_decay": 0.01, "optim.head_factor": 10, "schedule.warmup_updates": 5}

smoke_classification = _smoke(
    _CIFAR10_SHORT,
    150,
    ModelConfig(name="hrformer_nano", head_planes=8, head_width=256),
    {
        "optim": OptimConfig(lr=3e-3, clip_norm=5.0),
        "schedule.warmup_updates": 15,
        "batch.total": 64,
        "data": CIFAR10_5K,
        "augment": replace(_PADDED, size=(32, 32), erasing=0),
        "evaluation": ClassificationProtocol(),
    },
    title="HRFormer-nano on 5,000 pictures of CIFAR-10 at 32 x 32",
    time=f"85 seconds {_SHARED_CORE}",
    score="top-1 36.2 on val (us)",
)
smoke_pose = _smoke(
    _LSPET_SHORT,
    25,
    ModelConfig(name="hrformer_tiny", init="hrformer_tiny_people17", fresh=("head",)),
    _FRESH_HEAD
    | {
        "optim.eps": 1e-8,
        "batch.total": 16,
        "augment": replace(_PEOPLE_128, half_body=0.0, scale=0.25, rotation=45.0),
        "evaluation": PoseProtocol(score="pck", flip=False),
    },
    title="The bundled HRFormer-T of people with a fresh head for LSPET, trained for a minute",
    time="97 seconds of one core, half of them validation",
    score="PCK@0.2 37.5 on val (us)",
    notes="Poses cannot be learnt in a minute, but a head can, on a backbone that knows them. A model, a loss or an "
    "augmentation that is broken spoils the backbone within a few updates.",
)
smoke_segmentation = _smoke(
    _CAMVID_SHORT,
    25,
    replace(_CAMVID_SHORT.run.model, init="hrformer_tiny_petspeople", fresh=("head",)),
    _FRESH_HEAD | {"batch.total": 4, "augment": _STREETS_180, "evaluation.short_side": 180},
    title="The bundled HRFormer-T of people and pets with a fresh head for CamVid, trained for a minute",
    time="70 seconds of one core, a third of them validation",
    score="mIoU 26.9 on val (us)",
    notes="With a fresh backbone a minute is enough for 18 %, little more than the most frequent class at each "
    "position scores.",
)


def _hrnet(recipe: Recipe, title: str, **facts: str) -> Recipe:
    """The same with HRNet-W18, whose options are those of HRFormer-T's head."""
    name = recipe.name.replace("_tiny", "_hrnet_w18")
    model = {"model.name": "hrnet_w18", "model.drop_path_rate": None}
    return recipe.varied(name, model, title=f"HRNet-W18 {title}, otherwise as {recipe.name}", **facts)


RECIPES = (
    _CIFAR10,
    _CIFAR10_5K,
    _hrnet(_CIFAR10, "on 49,000 pictures of CIFAR-10"),
    _hrnet(_CIFAR10_5K, "on 5,000 pictures of CIFAR-10"),
    _LSPET,
    _hrnet(_LSPET, "on people in sports poses"),
    _CAMVID,
    _hrnet(_CAMVID, "with a small OCR head on CamVid"),
    _CIFAR10_SHORT,
    _hrnet(_CIFAR10_SHORT, "on CIFAR-10", time=f"45 minutes {_SHARED_CORE}", score="top-1 59.1 on val (us)"),
    _LSPET_SHORT,
    _hrnet(
        _LSPET_SHORT,
        "on people in sports poses",
        time="28 minutes of one core of an Intel Xeon with AVX-512",
        score="PCK@0.2 24.9, AP 4.3 on val (us)",
    ),
    _CAMVID_SHORT,
    _hrnet(
        _CAMVID_SHORT,
        "with a small OCR head on CamVid",
        hardware="one processor core (AVX2)",
        time="49 minutes of processor time",
        score="mIoU 45.0 on val, the best; 44.5 at the end (us)",
    ),
    smoke_classification,
    smoke_pose,
    smoke_segmentation,
)
