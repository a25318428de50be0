"""What the segmentation runs on all four sets share: HRFormer's, and HRNet's of openseg.pytorch.

HRFormer's segmentation code builds on openseg.pytorch. Both read pictures as BGR and normalise them with the statistics
of RGB. Ours reads RGB, so weights trained here want RGB and the authors' want BGR; scores may differ for that. Theirs
use 16-bit floats with loss scaling, ours bfloat16. The backbone starts from ImageNet-1K. There is one peak rate for
backbone and head, but for HRNet on PASCAL-Context and COCO-Stuff.
"""

from __future__ import annotations

from hrformer.train.config import (
    LogConfig,
    ModelConfig,
    OptimConfig,
    RuntimeConfig,
    ScheduleConfig,
    SegmentationRun,
)


def hrformer_run(updates: int) -> SegmentationRun:
    """HRFormer-S with OCR, without anything that belongs to one data set.

    Args:
        updates: length; 80,000 on Cityscapes, 60,000 on PASCAL-Context and COCO-Stuff, 150,000 on ADE20K.
    """
    return SegmentationRun(
        model=hrformer("small", drop_path=0.2),
        optim=OptimConfig(lr=1e-4, weight_decay=0.01, exempt="segmentation"),
        schedule=ScheduleConfig(kind="poly", updates=updates, warmup_updates=1500, warmup_ratio=1e-6, power=0.9),
        runtime=RuntimeConfig(precision="bf16", sync_bn=True, cache_gb=0),
        log=LogConfig(every_updates=50),
        validate_epochs=0,
        validate_updates=10_000,
    )


def hrformer(size: str, *, drop_path: float, window: int | None = None) -> ModelConfig:
    """HRFormer with its OCR head and ImageNet weights, whose bias tables are resized for other windows.

    Args:
        size: "small" or "base".
        drop_path: at the full depth.
        window: side of the attention windows; None for 7.
    """
    name = f"hrformer_{size}" if window is None else f"hrformer_{size}_window{window}"
    return ModelConfig(name=name, init=f"hrformer_{size}_imagenet", drop_path_rate=drop_path)


def hrnet_run(updates: int, optim: OptimConfig) -> SegmentationRun:
    """HRNet-W48 with the OCR head of 74.5 million parameters, without anything that belongs to one data set.

    Args:
        updates: length.
        optim: rates differ between the sets.
    """
    return SegmentationRun(
        model=ModelConfig(name="hrnet_w48", init="hrnet_w48_ms_in1k", aux="wide"),
        optim=optim,
        schedule=ScheduleConfig(kind="poly", updates=updates, power=0.9),
        runtime=RuntimeConfig(precision="bf16", sync_bn=True, cache_gb=0),
        log=LogConfig(every_updates=50),
        validate_epochs=0,
        validate_updates=10_000,
    )


PLAIN_HRNET = ModelConfig(name="hrnet_w48", init="hrnet_w48_ms_in1k", head="fcn")
"""HRNetV2-W48 with its own head, without OCR and hence without an auxiliary loss."""


def sgd(lr: float, *, weight_decay: float = 1e-4, head_factor: float = 1.0) -> OptimConfig:
    """Optimiser of openseg.pytorch: plain momentum, every parameter decayed."""
    return OptimConfig(
        name="sgd", lr=lr, weight_decay=weight_decay, exempt="none", nesterov=False, head_factor=head_factor
    )
