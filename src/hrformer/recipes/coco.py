"""COCO keypoints, top-down: HRFormer as its authors and as mmpose train it, and HRNet as its authors do.

``--data.root`` is the folder that holds ``annotations/``, ``train2017/`` and ``val2017/`` (or HRNet's ``images/``).
Validation during training takes the labelled boxes, so that it needs no further file. Published figures are for
detected boxes (person AP 56.4 on val2017): ``--evaluation.detections COCO_val2017_detections_AP_H_56_person.json``.
The authors trained in 16-bit floats with loss scaling, mmpose and HRNet in 32-bit ones; where theirs were 16-bit, ours
are bfloat16.
"""

from __future__ import annotations

from typing import Any

from hrformer.data.source_config import PoseSource
from hrformer.data.transforms.settings import PoseAugment
from hrformer.recipes.recipe import Recipe
from hrformer.train.config import (
    BatchConfig,
    LogConfig,
    ModelConfig,
    OptimConfig,
    PoseRun,
    RuntimeConfig,
    ScheduleConfig,
)

_LARGE: dict[str, Any] = {"augment.size": (384, 288), "augment.sigma": 3.0}
_BASE = {"model.name": "hrformer_base", "model.init": "hrformer_base_imagenet", "model.drop_path_rate": 0.2}
_W48 = {"model.name": "hrnet_w48", "model.init": "hrnet_w48_imagenet"}
# How titles call a network, and what it changes in the base.
_NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "small": ("HRFormer-S", {}),
    "base": ("HRFormer-B", _BASE),
    "hrnet_w32": ("HRNet-W32", {}),
    "hrnet_w48": ("HRNet-W48", _W48),
}


def _score(ap: float, ar: float, who: str) -> str:
    return f"AP {ap}, AR {ar} on val2017, detected boxes, flip test ({who})"


_OFFICIAL = Recipe(
    run=PoseRun(
        recipe="coco_small_256x192",
        model=ModelConfig(
            name="hrformer_small", init="hrformer_small_imagenet", drop_path_rate=0.1, position_bias=False
        ),
        optim=OptimConfig(lr=5e-4, weight_decay=0.01, exempt="pose"),
        schedule=ScheduleConfig(kind="step", epochs=210, milestones=(170, 200), warmup_updates=500, warmup_ratio=1e-3),
        batch=BatchConfig(total=256),
        runtime=RuntimeConfig(precision="bf16", sync_bn=True, cache_gb=0),
        log=LogConfig(every_updates=50),
        validate_epochs=10,
    ),
    title="HRFormer-S on COCO keypoints at 256 x 192",
    data="COCO",
    processes=8,
    hardware="8 V100 with 32 GB and 32 people each (notes on the paper, official configuration)",
    score=_score(74.0, 79.4, "authors"),
    notes="The relative position bias stays off, as in the authors' pose code, although the ImageNet weights had it "
    "on. Only bias tables are exempt from weight decay. The centre jitter is drawn once per person, as there.",
)
_MMPOSE = _OFFICIAL.varied(
    "coco_small_256x192_mmpose",
    {
        "model.position_bias": True,
        "runtime.precision": "fp32",
        "data": PoseSource(name="COCO", clip="mmpose"),
        "augment": PoseAugment(style="mmpose", shift=0.16, scale=0.5, rotation=80.0),
    },
    title="HRFormer-S on COCO keypoints at 256 x 192, as mmpose 1.x trains it",
    hardware="8 GPUs with 32 people each (mmpose's configuration); which ones is not published",
    score=_score(73.8, 79.3, "mmpose"),
    notes="With the relative position bias, jitter drawn anew for every sample, labelled boxes clipped mmpose's way, "
    "and 32-bit floats: the 16-bit setting in mmpose's files has no effect there.",
)
_HRNET = Recipe(
    run=PoseRun(
        recipe="coco_hrnet_w32_256x192",
        model=ModelConfig(name="hrnet_w32", init="hrnet_w32_imagenet"),
        optim=OptimConfig(name="adam", lr=1e-3, weight_decay=0.0, exempt="none"),
        schedule=ScheduleConfig(kind="step", epochs=210, milestones=(170, 200)),
        batch=BatchConfig(total=128),
        runtime=RuntimeConfig(precision="fp32", sync_bn=False, cache_gb=0),
        log=LogConfig(every_updates=100),
        validate_epochs=10,
        augment=PoseAugment(style="hrnet", shift=0.0, shift_probability=0.0, scale=0.35, rotation=45.0),
    ),
    title="HRNet-W32 on COCO keypoints at 256 x 192 by the recipe of its authors",
    data="COCO",
    processes=4,
    hardware="4 GPUs with 32 people each (deep-high-resolution-net.pytorch); which ones is not published",
    score=_score(74.4, 79.8, "authors"),
    notes="Adam at 1e-3 without weight decay: the 1e-4 of the authors' files is not handed to Adam by their code. "
    "Their loss has a factor 0.5, which Adam does not notice. They validate after every epoch.",
)


def _varied(
    base: Recipe, network: str, size: str, ap: float, ar: float, changes: dict[str, Any] | None = None, **facts: str
) -> Recipe:
    """What the same people trained otherwise; the title names the network and the size in place of the base's."""
    called, own = _NETWORKS[network]
    title = base.title.replace(base.title.split()[0], called).replace("256 x 192", size.replace("x", " x "))
    title += facts.pop("remark", "")
    ending, who = ("_mmpose", "mmpose") if base is _MMPOSE else ("", "authors")
    own = own | (_LARGE if size == "384x288" else {}) | (changes or {})
    return base.varied(f"coco_{network}_{size}{ending}", own, title=title, score=_score(ap, ar, who), **facts)


RECIPES = (
    _OFFICIAL,
    _varied(_OFFICIAL, "small", "384x288", 75.6, 80.7, remark=", targets of sigma 3"),
    _varied(
        _OFFICIAL,
        "base",
        "256x192",
        75.6,
        80.8,
        remark=", drop path 0.2",
        notes="Batch 256 as in the code; the paper's notes say 128.",
    ),
    _varied(
        _OFFICIAL,
        "base",
        "384x288",
        77.2,
        82.0,
        {"model.drop_path_rate": 0.3, "batch.total": 64},
        remark=", drop path 0.3",
        hardware="8 V100 with 32 GB and 8 people each (notes on the paper, official configuration)",
        notes="Batch 64 at the rate of batch 256, 5e-4, as in the code; the paper's notes say 128.",
    ),
    _MMPOSE,
    _varied(_MMPOSE, "small", "384x288", 75.7, 80.7),
    _varied(_MMPOSE, "base", "256x192", 75.4, 80.7),
    _varied(_MMPOSE, "base", "384x288", 77.4, 82.3, remark=": batch 256, drop path 0.2"),
    _HRNET,
    _varied(_HRNET, "hrnet_w32", "384x288", 75.8, 80.9),
    _varied(_HRNET, "hrnet_w48", "256x192", 75.1, 80.4),
    _varied(
        _HRNET,
        "hrnet_w48",
        "384x288",
        76.3,
        81.2,
        {"batch.total": 96},
        remark=", batch 96",
        hardware="4 GPUs with 24 people each (deep-high-resolution-net.pytorch); which ones is not published",
    ),
)
