"""COCO-Stuff-10K v1.1: 9000 training and 1000 test pictures, 171 classes; the test part serves as validation.

``--data.root`` is the folder that holds ``images/``, ``annotations/`` and ``imageLists/``; for the layout of the
HRFormer repository add ``--data.format official``. Pictures are tested whole with a short side of 520 pixels,
unpadded; multi-scale figures are those of ``--evaluation.scales 0.75 1 1.25 --evaluation.flip``. See ``openseg`` for
what all runs share.
"""

from __future__ import annotations

from dataclasses import replace

from hrformer.data.sources import SegmentationSource
from hrformer.data.transforms.settings import SegmentationAugment
from hrformer.evaluate.protocols import SegmentationProtocol
from hrformer.recipes.openseg import PLAIN_HRNET, hrformer, hrformer_run, hrnet_run, sgd
from hrformer.train.config import BatchConfig, SegmentationLoss, SegmentationRun

_DATA = SegmentationSource(name="COCO-Stuff-10K", format="coco_stuff_10k", dataset="coco_stuff_10k")
_AUGMENT = SegmentationAugment(size=(520, 520), short_side=520)
_TEST = SegmentationProtocol(short_side=520)


def coco_stuff_small() -> SegmentationRun:
    """HRFormer-S with OCR on COCO-Stuff-10K, with OHEM.

    Command: ``torchrun --nproc-per-node 8 -m hrformer train coco_stuff_small --data.root COCO_STUFF``
    Hardware: 8 GPUs with 2 crops each (official script); which ones is not published.
    Time: not published; not run by us.
    Score: mIoU 37.9 single-scale, 38.9 multi-scale and flip (authors).
    """
    return replace(
        hrformer_run(updates=60_000),
        recipe="coco_stuff_small",
        batch=BatchConfig(total=16),
        data=_DATA,
        augment=_AUGMENT,
        loss=SegmentationLoss(ohem=True),
        evaluation=_TEST,
    )


def coco_stuff_base() -> SegmentationRun:
    """HRFormer-B with OCR on COCO-Stuff-10K.

    Command: ``torchrun --nproc-per-node 8 -m hrformer train coco_stuff_base --data.root COCO_STUFF``
    Hardware: 8 GPUs with 2 crops each (official script); which ones is not published.
    Time: not published; not run by us.
    Score: mIoU 41.6 single-scale, 42.5 multi-scale and flip (authors).
    """
    return replace(coco_stuff_small(), recipe="coco_stuff_base", model=hrformer("base", drop_path=0.2))


def coco_stuff_base_window15() -> SegmentationRun:
    """HRFormer-B with OCR on COCO-Stuff-10K, windows of 15 x 15.

    Command: ``torchrun --nproc-per-node 8 -m hrformer train coco_stuff_base_window15 --data.root COCO_STUFF``
    Hardware: 8 GPUs with 2 crops each (official script); which ones is not published.
    Time: not published; not run by us.
    Score: mIoU 42.4 single-scale, 43.3 multi-scale and flip (authors).
    """
    model = hrformer("base", drop_path=0.2, window=15)
    return replace(coco_stuff_small(), recipe="coco_stuff_base_window15", model=model)


def coco_stuff_hrnet_w48_ocr() -> SegmentationRun:
    """HRNet-W48 with OCR on COCO-Stuff-10K, as openseg.pytorch trains it; OHEM, ten times the rate for the head.

    Command: ``torchrun --nproc-per-node 4 -m hrformer train coco_stuff_hrnet_w48_ocr --data.root COCO_STUFF``
    Hardware: 4 GPUs with 4 crops each (openseg's script); which ones is not published.
    Time: not published; not run by us.
    Score: mIoU 39.61 single-scale, 40.20 multi-scale and flip (openseg).
    """
    return replace(
        hrnet_run(60_000, sgd(1e-3, head_factor=10)),
        recipe="coco_stuff_hrnet_w48_ocr",
        batch=BatchConfig(total=16),
        data=_DATA,
        augment=_AUGMENT,
        loss=SegmentationLoss(ohem=True),
        evaluation=_TEST,
    )


def coco_stuff_hrnet_w48() -> SegmentationRun:
    """HRNet-W48 without OCR on COCO-Stuff-10K, otherwise as ``coco_stuff_hrnet_w48_ocr`` but for OHEM.

    Command: ``torchrun --nproc-per-node 4 -m hrformer train coco_stuff_hrnet_w48 --data.root COCO_STUFF``
    Hardware: 4 GPUs with 4 crops each (openseg's script); which ones is not published.
    Time: not published; not run by us.
    Score: mIoU 36.2 single-scale, 37.9 multi-scale and flip (HRNet repository, by its own 110 epochs).
    """
    return replace(
        coco_stuff_hrnet_w48_ocr(), recipe="coco_stuff_hrnet_w48", model=PLAIN_HRNET, loss=SegmentationLoss()
    )
