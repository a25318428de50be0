"""Cityscapes: 2975 training and 500 validation pictures of 2048 x 1024 pixels, 19 classes.

``--data.root`` is the folder that holds ``leftImg8bit/`` and ``gtFine/``; for the layout of the HRFormer repository add
``--data.format official``. Pictures are tested whole at their own size. See ``openseg`` for what all runs share.
"""

from __future__ import annotations

from dataclasses import replace

from hrformer.data.sources import SegmentationSource
from hrformer.data.transforms.settings import SegmentationAugment
from hrformer.recipes.openseg import PLAIN_HRNET, hrformer, hrformer_run, hrnet_run, sgd
from hrformer.train.config import BatchConfig, SegmentationLoss, SegmentationRun

_DATA = SegmentationSource(name="Cityscapes", format="cityscapes")
_AUGMENT = SegmentationAugment(size=(512, 1024))


def cityscapes_small() -> SegmentationRun:
    """HRFormer-S with OCR on Cityscapes.

    Command: ``torchrun --nproc-per-node 8 -m hrformer train cityscapes_small --data.root CITYSCAPES``
    Hardware: 8 GPUs with 1 crop each (official script); which ones is not published.
    Time: not published; not run by us.
    Score: mIoU 80.0 single-scale, 81.0 multi-scale and flip on val (authors).

    Crops of 512 x 1024, OHEM on the main output, class weights on both.
    """
    return replace(
        hrformer_run(updates=80_000),
        recipe="cityscapes_small",
        batch=BatchConfig(total=8),
        validate_updates=1000,
        data=_DATA,
        augment=_AUGMENT,
        loss=SegmentationLoss(ohem=True, class_weights="cityscapes"),
    )


def cityscapes_base() -> SegmentationRun:
    """HRFormer-B with OCR on Cityscapes, drop path 0.4.

    Command: ``torchrun --nproc-per-node 8 -m hrformer train cityscapes_base --data.root CITYSCAPES``
    Hardware: 8 GPUs with 1 crop each (official script); which ones is not published.
    Time: not published; not run by us.
    Score: mIoU 81.4 single-scale, 82.0 multi-scale and flip on val (authors).
    """
    return replace(cityscapes_small(), recipe="cityscapes_base", model=hrformer("base", drop_path=0.4))


def cityscapes_base_window15() -> SegmentationRun:
    """HRFormer-B with OCR on Cityscapes, windows of 15 x 15, drop path 0.4.

    Command: ``torchrun --nproc-per-node 8 -m hrformer train cityscapes_base_window15 --data.root CITYSCAPES``
    Hardware: 8 GPUs with 1 crop each (official script); which ones is not published.
    Time: not published; not run by us.
    Score: mIoU 81.9 single-scale, 82.6 multi-scale and flip on val (authors; which scales is not recorded).
    """
    model = hrformer("base", drop_path=0.4, window=15)
    return replace(cityscapes_small(), recipe="cityscapes_base_window15", model=model)


def cityscapes_hrnet_w48_ocr() -> SegmentationRun:
    """HRNet-W48 with OCR on Cityscapes, as openseg.pytorch trains it.

    Command: ``torchrun --nproc-per-node 8 -m hrformer train cityscapes_hrnet_w48_ocr --data.root CITYSCAPES``
    Hardware: 8 GPUs with 1 crop each (openseg's script); which ones is not published.
    Time: not published; not run by us.
    Score: mIoU 81.09 single-scale on val (openseg).
    """
    return replace(
        hrnet_run(80_000, sgd(0.01, weight_decay=5e-4)),
        recipe="cityscapes_hrnet_w48_ocr",
        batch=BatchConfig(total=8),
        validate_updates=1000,
        data=_DATA,
        augment=_AUGMENT,
        loss=SegmentationLoss(class_weights="cityscapes"),
    )


def cityscapes_hrnet_w48() -> SegmentationRun:
    """HRNet-W48 without OCR on Cityscapes, otherwise as ``cityscapes_hrnet_w48_ocr``.

    Command: ``torchrun --nproc-per-node 8 -m hrformer train cityscapes_hrnet_w48 --data.root CITYSCAPES``
    Hardware: 8 GPUs with 1 crop each (openseg's script); which ones is not published.
    Time: not published; not run by us.
    Score: none published for this run.
    """
    return replace(cityscapes_hrnet_w48_ocr(), recipe="cityscapes_hrnet_w48", model=PLAIN_HRNET)
