"""ImageNet-1K classifiers: HRFormer as published, and the baselines that its paper compares with.

All ran on 1,281,167 training and 50,000 validation pictures at 224 x 224. ``--data.root`` is the folder that holds
``train/WNID`` and ``val/WNID``. The published runs used mixed precision in 16-bit floats (Apex O1); ours use bfloat16,
which needs no loss scaling.
"""

from __future__ import annotations

from dataclasses import replace

from hrformer.data.transforms.settings import ClassificationAugment
from hrformer.train.config import (
    BatchConfig,
    ClassificationRun,
    LogConfig,
    ModelConfig,
    OptimConfig,
    RuntimeConfig,
    ScheduleConfig,
)


def imagenet_tiny() -> ClassificationRun:
    """HRFormer-T on ImageNet-1K.

    Command: ``torchrun --nproc-per-node 8 -m hrformer train imagenet_tiny --data.root IMAGENET``
    Hardware: 8 GPUs with 128 pictures each (official script); which ones is not published.
    Time: not published; not run by us.
    Score: top-1 78.6, top-5 94.2 (authors).

    Rates are for a batch of 1024 and scale with it; batch norms are not shared between GPUs; drop path 0.
    """
    return ClassificationRun(
        recipe="imagenet_tiny",
        model=ModelConfig(name="hrformer_tiny", drop_path_rate=0.0),
        optim=OptimConfig(lr=1e-3, lr_batch=1024, weight_decay=0.05, exempt="classification", clip_norm=5.0),
        schedule=ScheduleConfig(kind="cosine", epochs=300, warmup_epochs=20, warmup_ratio=1e-3, floor_ratio=1e-2),
        batch=BatchConfig(total=1024),
        runtime=RuntimeConfig(precision="bf16", sync_bn=False, cache_gb=0),
        log=LogConfig(every_updates=100),
    )


def imagenet_small() -> ClassificationRun:
    """HRFormer-S on ImageNet-1K.

    Command: ``torchrun --nproc-per-node 8 -m hrformer train imagenet_small --data.root IMAGENET``
    Hardware: 8 GPUs with 128 pictures each (official script); which ones is not published.
    Time: not published; not run by us.
    Score: top-1 81.2, top-5 95.6 (authors).
    """
    return replace(
        imagenet_tiny(),
        recipe="imagenet_small",
        model=ModelConfig(name="hrformer_small", drop_path_rate=0.0),
    )


def imagenet_base() -> ClassificationRun:
    """HRFormer-B on ImageNet-1K, with drop path 0.2.

    Command: ``torchrun --nproc-per-node 8 -m hrformer train imagenet_base --data.root IMAGENET``
    Hardware: 8 GPUs with 128 pictures each (official script); which ones is not published.
    Time: not published; not run by us.
    Score: top-1 82.8, top-5 96.3 (authors).
    """
    return replace(
        imagenet_tiny(),
        recipe="imagenet_base",
        model=ModelConfig(name="hrformer_base", drop_path_rate=0.2),
    )


def imagenet_hrnet_w18() -> ClassificationRun:
    """HRNet-W18 on ImageNet-1K by the recipe of its authors.

    Command: ``torchrun --nproc-per-node 4 -m hrformer train imagenet_hrnet_w18 --data.root IMAGENET``
    Hardware: 4 GPUs with 32 pictures each (HRNet-Image-Classification); which ones is not published.
    Time: not published; not run by us.
    Score: top-1 76.77 (authors' weights, timm's evaluation).

    SGD with Nesterov momentum at 0.05 for a batch of 128, every parameter decayed; crops and mirror images only.
    """
    return ClassificationRun(
        recipe="imagenet_hrnet_w18",
        model=ModelConfig(name="hrnet_w18"),
        optim=OptimConfig(name="sgd", lr=0.05, lr_batch=128, weight_decay=1e-4, exempt="none"),
        schedule=ScheduleConfig(kind="step", epochs=100, milestones=(30, 60, 90)),
        batch=BatchConfig(total=128),
        runtime=RuntimeConfig(precision="fp32", sync_bn=False, cache_gb=0),
        log=LogConfig(every_updates=500),
        augment=ClassificationAugment(
            interpolation="bilinear", auto_augment="", erasing=0, mixup=0, cutmix=0, label_smoothing=0
        ),
    )


def imagenet_hrnet_w32() -> ClassificationRun:
    """HRNet-W32 on ImageNet-1K by the recipe of its authors.

    Command: ``torchrun --nproc-per-node 4 -m hrformer train imagenet_hrnet_w32 --data.root IMAGENET``
    Hardware: 4 GPUs with 32 pictures each (HRNet-Image-Classification); which ones is not published.
    Time: not published; not run by us.
    Score: top-1 78.45 (authors' weights, timm's evaluation).
    """
    return replace(imagenet_hrnet_w18(), recipe="imagenet_hrnet_w32", model=ModelConfig(name="hrnet_w32"))


def imagenet_hrnet_w48() -> ClassificationRun:
    """HRNet-W48 on ImageNet-1K by the recipe of its authors.

    Command: ``torchrun --nproc-per-node 4 -m hrformer train imagenet_hrnet_w48 --data.root IMAGENET``
    Hardware: 4 GPUs with 32 pictures each (HRNet-Image-Classification); which ones is not published.
    Time: not published; not run by us.
    Score: top-1 79.33, top-5 94.52 (authors' weights, timm's evaluation).
    """
    return replace(imagenet_hrnet_w18(), recipe="imagenet_hrnet_w48", model=ModelConfig(name="hrnet_w48"))


def imagenet_deit_small() -> ClassificationRun:
    """DeiT-S on ImageNet-1K, in the trainer of HRFormer.

    Command: ``torchrun --nproc-per-node 8 -m hrformer train imagenet_deit_small --data.root IMAGENET``
    Hardware: not published for this code; 8 GPUs with 128 pictures each make the batch.
    Time: not published; not run by us.
    Score: top-1 79.86, top-5 95.06 (DeiT's own weights, timm's evaluation).

    DeiT's own code warms up over 5 epochs, does not clip gradients and repeats every picture three times in an epoch of
    its own kind; here only the first two are followed. Position embeddings, which DeiT does not decay, are decayed.
    """
    base = imagenet_tiny()
    return replace(
        base,
        recipe="imagenet_deit_small",
        model=ModelConfig(name="timm/deit_small_patch16_224", drop_path_rate=0.1),
        optim=replace(base.optim, clip_norm=0.0),
        schedule=replace(base.schedule, warmup_epochs=5),
    )


def imagenet_deit_base() -> ClassificationRun:
    """DeiT-B on ImageNet-1K, in the trainer of HRFormer.

    Command: ``torchrun --nproc-per-node 8 -m hrformer train imagenet_deit_base --data.root IMAGENET``
    Hardware: not published for this code; 8 GPUs with 128 pictures each make the batch.
    Time: not published; not run by us.
    Score: top-1 81.8 (DeiT's paper), 81.98 (its weights, timm's evaluation).
    """
    return replace(
        imagenet_deit_small(),
        recipe="imagenet_deit_base",
        model=ModelConfig(name="timm/deit_base_patch16_224", drop_path_rate=0.1),
    )


def imagenet_swin_tiny() -> ClassificationRun:
    """Swin-T on ImageNet-1K, in the trainer of HRFormer.

    Command: ``torchrun --nproc-per-node 8 -m hrformer train imagenet_swin_tiny --data.root IMAGENET``
    Hardware: not published for this code; 8 GPUs with 128 pictures each make the batch.
    Time: not published; not run by us.
    Score: top-1 81.39 (Swin's own weights, timm's evaluation).

    The same family of recipes; Swin exempts its bias tables from decay, HRFormer does not.
    """
    base = imagenet_tiny()
    return replace(
        base,
        recipe="imagenet_swin_tiny",
        model=ModelConfig(name="timm/swin_tiny_patch4_window7_224", drop_path_rate=0.2),
        optim=replace(base.optim, exempt="segmentation"),
    )


def imagenet_swin_small() -> ClassificationRun:
    """Swin-S on ImageNet-1K, in the trainer of HRFormer.

    Command: ``torchrun --nproc-per-node 8 -m hrformer train imagenet_swin_small --data.root IMAGENET``
    Hardware: not published for this code; 8 GPUs with 128 pictures each make the batch.
    Time: not published; not run by us.
    Score: top-1 83.23 (Swin's own weights, timm's evaluation).
    """
    return replace(
        imagenet_swin_tiny(),
        recipe="imagenet_swin_small",
        model=ModelConfig(name="timm/swin_small_patch4_window7_224", drop_path_rate=0.3),
    )


def imagenet_swin_base() -> ClassificationRun:
    """Swin-B on ImageNet-1K, in the trainer of HRFormer.

    Command: ``torchrun --nproc-per-node 8 -m hrformer train imagenet_swin_base --data.root IMAGENET``
    Hardware: not published for this code; 8 GPUs with 128 pictures each make the batch.
    Time: not published; not run by us.
    Score: top-1 83.60 (Swin's own weights, timm's evaluation).
    """
    return replace(
        imagenet_swin_tiny(),
        recipe="imagenet_swin_base",
        model=ModelConfig(name="timm/swin_base_patch4_window7_224", drop_path_rate=0.5),
    )
