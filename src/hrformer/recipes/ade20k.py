"""ADE20K: 20210 training and 2000 validation pictures, 150 classes.

``--data.root`` is the folder that holds ``ADEChallengeData2016/``; for the layout of the HRFormer repository add
``--data.format official``. Pictures are tested whole with a short side of 520 pixels, padded to a multiple of 8;
multi-scale figures are those of ``--evaluation.scales 0.75 1 1.25 --evaluation.flip``. See ``openseg`` for what all
runs share.

The batch behind the published figures is uncertain: the authors' page says 8, their script for 8 GPUs takes 16, the
one for 4 GPUs 8. These recipes take 16.
"""

from __future__ import annotations

from dataclasses import replace

from hrformer.data.sources import SegmentationSource
from hrformer.data.transforms.settings import SegmentationAugment
from hrformer.evaluate.protocols import SegmentationProtocol
from hrformer.recipes.openseg import PLAIN_HRNET, hrformer, hrformer_run, hrnet_run, sgd
from hrformer.train.config import BatchConfig, SegmentationLoss, SegmentationRun

_DATA = SegmentationSource(name="ADE20K", format="ade20k", dataset="ade20k")
_AUGMENT = SegmentationAugment(size=(520, 520), short_side=520)
_TEST = SegmentationProtocol(short_side=520, pad=8)


def ade20k_small() -> SegmentationRun:
    """HRFormer-S with OCR on ADE20K, with OHEM.

    Command: ``torchrun --nproc-per-node 8 -m hrformer train ade20k_small --data.root ADE20K``
    Hardware: 8 GPUs with 2 crops each (official script); which ones is not published.
    Time: not published; not run by us.
    Score: mIoU 44.0 single-scale, 45.1 multi-scale and flip on val (authors; at batch 8 by their page).
    """
    return replace(
        hrformer_run(updates=150_000),
        recipe="ade20k_small",
        batch=BatchConfig(total=16),
        data=_DATA,
        augment=_AUGMENT,
        loss=SegmentationLoss(ohem=True),
        evaluation=_TEST,
    )


def ade20k_base() -> SegmentationRun:
    """HRFormer-B with OCR on ADE20K.

    Command: ``torchrun --nproc-per-node 8 -m hrformer train ade20k_base --data.root ADE20K``
    Hardware: 8 GPUs with 2 crops each (official script); which ones is not published.
    Time: not published; not run by us.
    Score: mIoU 46.3 single-scale, 47.6 multi-scale and flip on val (authors; at batch 8 by their page).
    """
    return replace(ade20k_small(), recipe="ade20k_base", model=hrformer("base", drop_path=0.2))


def ade20k_base_window13() -> SegmentationRun:
    """HRFormer-B with OCR on ADE20K, windows of 13 x 13.

    Command: ``torchrun --nproc-per-node 8 -m hrformer train ade20k_base_window13 --data.root ADE20K``
    Hardware: 8 GPUs with 2 crops each (official script); which ones is not published.
    Time: not published; not run by us.
    Score: mIoU 48.7 single-scale, 50.0 multi-scale and flip on val (authors; at batch 8 by their page).
    """
    model = hrformer("base", drop_path=0.2, window=13)
    return replace(ade20k_small(), recipe="ade20k_base_window13", model=model)


def ade20k_hrnet_w48_ocr() -> SegmentationRun:
    """HRNet-W48 with OCR on ADE20K, as openseg.pytorch trains it, with OHEM.

    Command: ``torchrun --nproc-per-node 4 -m hrformer train ade20k_hrnet_w48_ocr --data.root ADE20K``
    Hardware: 4 GPUs with 4 crops each (openseg's script); which ones is not published.
    Time: not published; not run by us.
    Score: mIoU 44.62 single-scale, 46.19 multi-scale and flip on val (openseg).
    """
    return replace(
        hrnet_run(150_000, sgd(0.02)),
        recipe="ade20k_hrnet_w48_ocr",
        batch=BatchConfig(total=16),
        data=_DATA,
        augment=_AUGMENT,
        loss=SegmentationLoss(ohem=True),
        evaluation=_TEST,
    )


def ade20k_hrnet_w48() -> SegmentationRun:
    """HRNet-W48 without OCR on ADE20K, otherwise as ``ade20k_hrnet_w48_ocr`` but for OHEM.

    Command: ``torchrun --nproc-per-node 4 -m hrformer train ade20k_hrnet_w48 --data.root ADE20K``
    Hardware: 4 GPUs with 4 crops each (openseg's script); which ones is not published.
    Time: not published; not run by us.
    Score: mIoU 43.1 single-scale, 44.2 multi-scale and flip on val (HRNet repository, by its own 120 epochs).
    """
    return replace(ade20k_hrnet_w48_ocr(), recipe="ade20k_hrnet_w48", model=PLAIN_HRNET, loss=SegmentationLoss())
