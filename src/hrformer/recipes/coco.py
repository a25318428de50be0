"""COCO keypoints, top-down: HRFormer as its authors and as mmpose train it, and HRNet as its authors do.

``--data.root`` is the folder that holds ``annotations/``, ``train2017/`` and ``val2017/`` (or HRNet's ``images/``).
Validation during training takes the labelled boxes, so that it needs no further file. Published figures are for
detected boxes (person AP 56.4 on val2017): ``--evaluation.detections COCO_val2017_detections_AP_H_56_person.json``.
The authors trained in 16-bit floats with loss scaling, mmpose and HRNet in 32-bit ones; where theirs were 16-bit, ours
are bfloat16.
"""

from __future__ import annotations

from dataclasses import replace

from hrformer.data.sources import PoseSource
from hrformer.data.transforms.settings import PoseAugment
from hrformer.train.config import (
    BatchConfig,
    LogConfig,
    ModelConfig,
    OptimConfig,
    PoseRun,
    RuntimeConfig,
    ScheduleConfig,
)

_LARGE = PoseAugment(size=(384, 288), sigma=3.0)


def coco_small_256x192() -> PoseRun:
    """HRFormer-S on COCO keypoints at 256 x 192.

    Command: ``torchrun --nproc-per-node 8 -m hrformer train coco_small_256x192 --data.root COCO``
    Hardware: 8 V100 with 32 GB and 32 people each (notes on the paper, official configuration).
    Time: not published; not run by us.
    Score: AP 74.0, AR 79.4 on val2017, detected boxes, flip test (authors).

    The relative position bias stays off, as in the authors' pose code, although the ImageNet weights had it on. Only
    bias tables are exempt from weight decay. The centre jitter is drawn once per person, as there.
    """
    return PoseRun(
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
    )


def coco_small_384x288() -> PoseRun:
    """HRFormer-S on COCO keypoints at 384 x 288, targets of sigma 3.

    Command: ``torchrun --nproc-per-node 8 -m hrformer train coco_small_384x288 --data.root COCO``
    Hardware: 8 V100 with 32 GB and 32 people each (notes on the paper, official configuration).
    Time: not published; not run by us.
    Score: AP 75.6, AR 80.7 on val2017, detected boxes, flip test (authors).
    """
    return replace(coco_small_256x192(), recipe="coco_small_384x288", augment=_LARGE)


def coco_base_256x192() -> PoseRun:
    """HRFormer-B on COCO keypoints at 256 x 192, drop path 0.2.

    Command: ``torchrun --nproc-per-node 8 -m hrformer train coco_base_256x192 --data.root COCO``
    Hardware: 8 V100 with 32 GB and 32 people each (notes on the paper, official configuration).
    Time: not published; not run by us.
    Score: AP 75.6, AR 80.8 on val2017, detected boxes, flip test (authors).

    Batch 256 as in the code; the paper's notes say 128.
    """
    return replace(
        coco_small_256x192(),
        recipe="coco_base_256x192",
        model=ModelConfig(name="hrformer_base", init="hrformer_base_imagenet", drop_path_rate=0.2, position_bias=False),
    )


def coco_base_384x288() -> PoseRun:
    """HRFormer-B on COCO keypoints at 384 x 288, drop path 0.3.

    Command: ``torchrun --nproc-per-node 8 -m hrformer train coco_base_384x288 --data.root COCO``
    Hardware: 8 V100 with 32 GB and 8 people each (notes on the paper, official configuration).
    Time: not published; not run by us.
    Score: AP 77.2, AR 82.0 on val2017, detected boxes, flip test (authors).

    Batch 64 at the rate of batch 256, 5e-4, as in the code; the paper's notes say 128.
    """
    return replace(
        coco_base_256x192(),
        recipe="coco_base_384x288",
        model=ModelConfig(name="hrformer_base", init="hrformer_base_imagenet", drop_path_rate=0.3, position_bias=False),
        augment=_LARGE,
        batch=BatchConfig(total=64),
    )


def coco_small_256x192_mmpose() -> PoseRun:
    """HRFormer-S on COCO keypoints at 256 x 192, as mmpose 1.x trains it.

    Command: ``torchrun --nproc-per-node 8 -m hrformer train coco_small_256x192_mmpose --data.root COCO``
    Hardware: 8 GPUs with 32 people each (mmpose's configuration); which ones is not published.
    Time: not published; not run by us.
    Score: AP 73.8, AR 79.3 on val2017, detected boxes, flip test (mmpose).

    With the relative position bias, jitter drawn anew for every sample, labelled boxes clipped mmpose's way, and 32-bit
    floats: the 16-bit setting in mmpose's files has no effect there.
    """
    base = coco_small_256x192()
    return replace(
        base,
        recipe="coco_small_256x192_mmpose",
        model=replace(base.model, position_bias=True),
        runtime=replace(base.runtime, precision="fp32"),
        data=PoseSource(name="COCO", clip="mmpose"),
        augment=PoseAugment(style="mmpose", shift=0.16, scale=0.5, rotation=80.0),
    )


def coco_small_384x288_mmpose() -> PoseRun:
    """HRFormer-S on COCO keypoints at 384 x 288, as mmpose 1.x trains it.

    Command: ``torchrun --nproc-per-node 8 -m hrformer train coco_small_384x288_mmpose --data.root COCO``
    Hardware: 8 GPUs with 32 people each (mmpose's configuration); which ones is not published.
    Time: not published; not run by us.
    Score: AP 75.7, AR 80.7 on val2017, detected boxes, flip test (mmpose).
    """
    base = coco_small_256x192_mmpose()
    return replace(base, recipe="coco_small_384x288_mmpose", augment=replace(base.augment, size=(384, 288), sigma=3.0))


def coco_base_256x192_mmpose() -> PoseRun:
    """HRFormer-B on COCO keypoints at 256 x 192, as mmpose 1.x trains it.

    Command: ``torchrun --nproc-per-node 8 -m hrformer train coco_base_256x192_mmpose --data.root COCO``
    Hardware: 8 GPUs with 32 people each (mmpose's configuration); which ones is not published.
    Time: not published; not run by us.
    Score: AP 75.4, AR 80.7 on val2017, detected boxes, flip test (mmpose).
    """
    return replace(
        coco_small_256x192_mmpose(),
        recipe="coco_base_256x192_mmpose",
        model=ModelConfig(name="hrformer_base", init="hrformer_base_imagenet", drop_path_rate=0.2, position_bias=True),
    )


def coco_base_384x288_mmpose() -> PoseRun:
    """HRFormer-B on COCO keypoints at 384 x 288, as mmpose 1.x trains it: batch 256, drop path 0.2.

    Command: ``torchrun --nproc-per-node 8 -m hrformer train coco_base_384x288_mmpose --data.root COCO``
    Hardware: 8 GPUs with 32 people each (mmpose's configuration); which ones is not published.
    Time: not published; not run by us.
    Score: AP 77.4, AR 82.3 on val2017, detected boxes, flip test (mmpose).
    """
    base = coco_base_256x192_mmpose()
    return replace(base, recipe="coco_base_384x288_mmpose", augment=replace(base.augment, size=(384, 288), sigma=3.0))


def coco_hrnet_w32_256x192() -> PoseRun:
    """HRNet-W32 on COCO keypoints at 256 x 192 by the recipe of its authors.

    Command: ``torchrun --nproc-per-node 4 -m hrformer train coco_hrnet_w32_256x192 --data.root COCO``
    Hardware: 4 GPUs with 32 people each (deep-high-resolution-net.pytorch); which ones is not published.
    Time: not published; not run by us.
    Score: AP 74.4, AR 79.8 on val2017, detected boxes, flip test (authors).

    Adam at 1e-3 without weight decay: the 1e-4 of the authors' files is not handed to Adam by their code. Their loss
    has a factor 0.5, which Adam does not notice. They validate after every epoch.
    """
    return PoseRun(
        recipe="coco_hrnet_w32_256x192",
        model=ModelConfig(name="hrnet_w32", init="hrnet_w32_imagenet"),
        optim=OptimConfig(name="adam", lr=1e-3, weight_decay=0.0, exempt="none"),
        schedule=ScheduleConfig(kind="step", epochs=210, milestones=(170, 200)),
        batch=BatchConfig(total=128),
        runtime=RuntimeConfig(precision="fp32", sync_bn=False, cache_gb=0),
        log=LogConfig(every_updates=100),
        validate_epochs=10,
        augment=PoseAugment(style="hrnet", shift=0.0, shift_probability=0.0, scale=0.35, rotation=45.0),
    )


def coco_hrnet_w32_384x288() -> PoseRun:
    """HRNet-W32 on COCO keypoints at 384 x 288 by the recipe of its authors.

    Command: ``torchrun --nproc-per-node 4 -m hrformer train coco_hrnet_w32_384x288 --data.root COCO``
    Hardware: 4 GPUs with 32 people each (deep-high-resolution-net.pytorch); which ones is not published.
    Time: not published; not run by us.
    Score: AP 75.8, AR 80.9 on val2017, detected boxes, flip test (authors).
    """
    base = coco_hrnet_w32_256x192()
    return replace(base, recipe="coco_hrnet_w32_384x288", augment=replace(base.augment, size=(384, 288), sigma=3.0))


def coco_hrnet_w48_256x192() -> PoseRun:
    """HRNet-W48 on COCO keypoints at 256 x 192 by the recipe of its authors.

    Command: ``torchrun --nproc-per-node 4 -m hrformer train coco_hrnet_w48_256x192 --data.root COCO``
    Hardware: 4 GPUs with 32 people each (deep-high-resolution-net.pytorch); which ones is not published.
    Time: not published; not run by us.
    Score: AP 75.1, AR 80.4 on val2017, detected boxes, flip test (authors).
    """
    return replace(
        coco_hrnet_w32_256x192(),
        recipe="coco_hrnet_w48_256x192",
        model=ModelConfig(name="hrnet_w48", init="hrnet_w48_imagenet"),
    )


def coco_hrnet_w48_384x288() -> PoseRun:
    """HRNet-W48 on COCO keypoints at 384 x 288 by the recipe of its authors, batch 96.

    Command: ``torchrun --nproc-per-node 4 -m hrformer train coco_hrnet_w48_384x288 --data.root COCO``
    Hardware: 4 GPUs with 24 people each (deep-high-resolution-net.pytorch); which ones is not published.
    Time: not published; not run by us.
    Score: AP 76.3, AR 81.2 on val2017, detected boxes, flip test (authors).
    """
    return replace(
        coco_hrnet_w32_384x288(),
        recipe="coco_hrnet_w48_384x288",
        model=ModelConfig(name="hrnet_w48", init="hrnet_w48_imagenet"),
        batch=BatchConfig(total=96),
    )
