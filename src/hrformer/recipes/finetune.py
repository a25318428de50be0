"""Fine-tuning on your own pictures: one recipe per task, for one GPU or a processor.

What they leave open is fitted to the set, the start weights and the machine when training starts, see
``train.fitting``: batch, updates, rate, crops, strength of the augmentation, validations. On a GPU they start from
published weights, which are downloaded at the first run, on a processor from the small ones in the package;
``--model.init`` takes any other file or name. A batch that does not fit a GPU is worked off in parts.
"""

from __future__ import annotations

from typing import Any

from hrformer.data.source_config import PoseSource
from hrformer.data.transforms.settings import ClassificationAugment, PoseAugment, SegmentationAugment
from hrformer.evaluate.protocols import PoseProtocol, SegmentationProtocol
from hrformer.recipes.recipe import Recipe
from hrformer.train.config import (
    BatchConfig,
    ClassificationRun,
    ModelConfig,
    OptimConfig,
    PoseRun,
    ScheduleConfig,
    SegmentationRun,
)

# A mean of the weights is kept, and stages nearer to the input learn more slowly, by a factor of 0.8 each.
_SHARED: dict[str, Any] = {
    "fit": True,
    "model": ModelConfig(name="", init="auto", frozen=("norms",)),
    "batch": BatchConfig(total=0),
    "validate_epochs": 0,
    "validate_start": True,
    "ema_decay": 0.998,
}
_FACTS: dict[str, Any] = {"data": "PICTURES", "hardware": "one GPU, or a processor, with hrformer_tiny"}

finetune_classification = Recipe(
    run=ClassificationRun(
        recipe="finetune_classification",
        optim=OptimConfig(lr=0, weight_decay=0.05, exempt="classification", clip_norm=5.0, layer_decay=0.8),
        schedule=ScheduleConfig(kind="cosine", warmup_share=0.05),
        augment=ClassificationAugment(size=(0, 0), area=(0, 0), mixup=0, cutmix=0, erasing=0.1),
        **_SHARED,
    ),
    title="HRFormer-S on folders of pictures, one folder per class: train/CLASS/*.jpg and val/CLASS/*.jpg",
    **_FACTS,
    time="75 seconds of two cores with 16 pictures, stopped early",
    score="depends on the pictures; top-1 100 on 4 pictures of two kinds, 50 before, from 16 (us)",
    notes="Stages nearer to the input learn more slowly, by a factor of 0.8 each; a mean of the weights is kept.",
)

finetune_pose = Recipe(
    run=PoseRun(
        recipe="finetune_pose",
        optim=OptimConfig(lr=0, weight_decay=0.01, exempt="pose", layer_decay=0.8),
        schedule=ScheduleConfig(kind="cosine", warmup_share=0.05),
        data=PoseSource(
            # None is named, so that they are found in the layout of any tool.
            train_annotations="",
            val_annotations="",
            train_images=("images/train", "images"),
            val_images=("images/val", "images"),
        ),
        augment=PoseAugment(
            size=(0, 0), interpolation="antialiased", sigma=0, shift_once=False, scale=0.35, rotation=-1
        ),
        evaluation=PoseProtocol(score="coco"),
        **_SHARED,
    ),
    title="HRFormer-S for people, animals or things with joints of your own, labelled in COCO's keypoint format",
    **_FACTS,
    time="68 seconds of two cores with 17 people",
    score="depends on the pictures; AP 76.6 on 3 people with COCO's joints, 73.4 before, from 17 (us)",
    notes="The folder holds `annotations/train.json` and `annotations/val.json`, and pictures in `images/train` and "
    "`images/val`, or is what Roboflow, CVAT or Label Studio export. Of one file for everything, `--data.val-share "
    "0.2` keeps about a fifth for validation. Joints may have any names; left and right are told from them, or by "
    "`--data.flip-pairs`.",
)

finetune_segmentation = Recipe(
    run=SegmentationRun(
        recipe="finetune_segmentation",
        optim=OptimConfig(lr=0, weight_decay=0.01, exempt="segmentation", layer_decay=0.8),
        schedule=ScheduleConfig(kind="poly", warmup_share=0.05),
        augment=SegmentationAugment(
            size=(0, 0), interpolation="antialiased", short_side=0, scale=(0, 0), brightness=40, contrast=0.4
        ),
        evaluation=SegmentationProtocol(short_side=0),
        **_SHARED,
    ),
    title="HRFormer-S with OCR on pictures and masks: images/{train,val}/x.jpg and labels/{train,val}/x.png",
    **_FACTS,
    time="77 seconds of two cores with 16 pictures",
    score="depends on the pictures; mIoU 85.3 on 4 pictures of pets, 64.1 before, from 16 (us)",
    notes="Masks hold class numbers, 255 for no class; `classes.txt` names them, `0 road` on a line. Let rare classes "
    "weigh more with `--loss.class-weights auto`.",
)

RECIPES = (finetune_classification, finetune_pose, finetune_segmentation)
