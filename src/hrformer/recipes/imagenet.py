"""ImageNet-1K classifiers: HRFormer as published, and the baselines that its paper compares with.

All ran on 1,281,167 training and 50,000 validation pictures at 224 x 224. ``--data.root`` is the folder that holds
``train/WNID`` and ``val/WNID``. The published runs used mixed precision in 16-bit floats (Apex O1); ours use bfloat16,
which needs no loss scaling.
"""

from __future__ import annotations

from typing import Any

from hrformer.data.transforms.settings import ClassificationAugment
from hrformer.recipes.recipe import Recipe
from hrformer.train.config import (
    BatchConfig,
    ClassificationRun,
    LogConfig,
    ModelConfig,
    OptimConfig,
    RuntimeConfig,
    ScheduleConfig,
)

_TINY = Recipe(
    run=ClassificationRun(
        recipe="imagenet_tiny",
        model=ModelConfig(name="hrformer_tiny", drop_path_rate=0.0),
        optim=OptimConfig(lr=1e-3, lr_batch=1024, weight_decay=0.05, exempt="classification", clip_norm=5.0),
        schedule=ScheduleConfig(kind="cosine", epochs=300, warmup_epochs=20, warmup_ratio=1e-3, floor_ratio=1e-2),
        batch=BatchConfig(total=1024),
        runtime=RuntimeConfig(precision="bf16", sync_bn=False, cache_gb=0),
        log=LogConfig(every_updates=100),
    ),
    title="HRFormer-T on ImageNet-1K",
    data="IMAGENET",
    processes=8,
    hardware="8 GPUs with 128 pictures each (official script); which ones is not published",
    score="top-1 78.6, top-5 94.2 (authors)",
    notes="Rates are for a batch of 1024 and scale with it; batch norms are not shared between GPUs; drop path 0.",
)
_HRNET_W18 = Recipe(
    run=ClassificationRun(
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
    ),
    title="HRNet-W18 on ImageNet-1K by the recipe of its authors",
    data="IMAGENET",
    processes=4,
    hardware="4 GPUs with 32 pictures each (HRNet-Image-Classification); which ones is not published",
    score="top-1 76.77 (authors' weights, timm's evaluation)",
    notes="SGD with Nesterov momentum at 0.05 for a batch of 128, every parameter decayed; crops and mirror "
    "images only.",
)


def _hrformer(size: str, drop_path: float, title: str, score: str) -> Recipe:
    changes = {"model.name": f"hrformer_{size}", "model.drop_path_rate": drop_path}
    return _TINY.varied(f"imagenet_{size}", changes, title=title, score=f"{score} (authors)")


def _hrnet(width: int, score: str) -> Recipe:
    return _HRNET_W18.varied(
        f"imagenet_hrnet_w{width}",
        {"model.name": f"hrnet_w{width}"},
        title=f"HRNet-W{width} on ImageNet-1K by the recipe of its authors",
        score=f"{score} (authors' weights, timm's evaluation)",
    )


def _timm(network: str, model: str, drop_path: float, changes: dict[str, Any], score: str, notes: str = "") -> Recipe:
    """A network of timm, such as "Swin-T", in the trainer of HRFormer."""
    family, size = model.split("_")[:2]
    return _TINY.varied(
        f"imagenet_{family}_{size}",
        {"model.name": f"timm/{model}", "model.drop_path_rate": drop_path, **changes},
        title=f"{network} on ImageNet-1K, in the trainer of HRFormer",
        hardware="not published for this code; 8 GPUs with 128 pictures each make the batch",
        score=score,
        notes=notes,
    )


_DEIT: dict[str, Any] = {"optim.clip_norm": 0.0, "schedule.warmup_epochs": 5}
_SWIN: dict[str, Any] = {"optim.exempt": "segmentation"}
_DEIT_B = "top-1 81.8 (DeiT's paper), 81.98 (its weights, timm's evaluation)"
_SWINS_OWN = "(Swin's own weights, timm's evaluation)"

RECIPES = (
    _TINY,
    _hrformer("small", 0.0, "HRFormer-S on ImageNet-1K", "top-1 81.2, top-5 95.6"),
    _hrformer("base", 0.2, "HRFormer-B on ImageNet-1K, with drop path 0.2", "top-1 82.8, top-5 96.3"),
    _HRNET_W18,
    _hrnet(32, "top-1 78.45"),
    _hrnet(48, "top-1 79.33, top-5 94.52"),
    _timm(
        "DeiT-S",
        "deit_small_patch16_224",
        0.1,
        _DEIT,
        "top-1 79.86, top-5 95.06 (DeiT's own weights, timm's evaluation)",
        "DeiT's own code warms up over 5 epochs, does not clip gradients and repeats every picture three times in an "
        "epoch of its own kind; here only the first two are followed. Position embeddings, which DeiT does not decay, "
        "are decayed.",
    ),
    _timm("DeiT-B", "deit_base_patch16_224", 0.1, _DEIT, _DEIT_B),
    _timm(
        "Swin-T",
        "swin_tiny_patch4_window7_224",
        0.2,
        _SWIN,
        f"top-1 81.39 {_SWINS_OWN}",
        "The same family of recipes; Swin exempts its bias tables from decay, HRFormer does not.",
    ),
    _timm("Swin-S", "swin_small_patch4_window7_224", 0.3, _SWIN, f"top-1 83.23 {_SWINS_OWN}"),
    _timm("Swin-B", "swin_base_patch4_window7_224", 0.5, _SWIN, f"top-1 83.60 {_SWINS_OWN}"),
)
