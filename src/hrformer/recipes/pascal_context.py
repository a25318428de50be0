"""PASCAL-Context: 4998 training and 5105 validation pictures, 59 classes, the background ignored.

``--data.root`` is the folder that holds ``VOCdevkit/VOC2010``; for the layout of the HRFormer repository add
``--data.format official``. Pictures are tested whole with a short side of 520 pixels, unpadded; multi-scale figures are
those of ``--evaluation.scales 0.75 1 1.25 --evaluation.flip``. See ``openseg`` for what all runs share.
"""

from __future__ import annotations

from dataclasses import replace

from hrformer.data.sources import SegmentationSource
from hrformer.data.transforms.settings import SegmentationAugment
from hrformer.evaluate.protocols import SegmentationProtocol
from hrformer.recipes.openseg import PLAIN_HRNET, hrformer, hrformer_run, hrnet_run, sgd
from hrformer.train.config import BatchConfig, SegmentationRun

_DATA = SegmentationSource(name="PASCAL-Context", format="pascal_context", dataset="pascal_context")
_AUGMENT = SegmentationAugment(size=(520, 520), short_side=520)
_TEST = SegmentationProtocol(short_side=520)


def pascal_context_small() -> SegmentationRun:
    """HRFormer-S with OCR on PASCAL-Context.

    Command: ``torchrun --nproc-per-node 8 -m hrformer train pascal_context_small --data.root PASCAL_CONTEXT``
    Hardware: 8 GPUs with 2 crops each (official script); which ones is not published.
    Time: not published; not run by us.
    Score: mIoU 53.8 single-scale, 54.6 multi-scale and flip on val, 59 classes (authors).

    Plain cross-entropy, although the authors' page and scripts speak of OHEM.
    """
    return replace(
        hrformer_run(updates=60_000),
        recipe="pascal_context_small",
        batch=BatchConfig(total=16),
        data=_DATA,
        augment=_AUGMENT,
        evaluation=_TEST,
    )


def pascal_context_base() -> SegmentationRun:
    """HRFormer-B with OCR on PASCAL-Context.

    Command: ``torchrun --nproc-per-node 8 -m hrformer train pascal_context_base --data.root PASCAL_CONTEXT``
    Hardware: 8 GPUs with 2 crops each (official script); which ones is not published.
    Time: not published; not run by us.
    Score: mIoU 56.3 single-scale, 57.1 multi-scale and flip on val, 59 classes (authors).
    """
    return replace(pascal_context_small(), recipe="pascal_context_base", model=hrformer("base", drop_path=0.2))


def pascal_context_base_window15() -> SegmentationRun:
    """HRFormer-B with OCR on PASCAL-Context, windows of 15 x 15, drop path 0.3.

    Command: ``torchrun --nproc-per-node 8 -m hrformer train pascal_context_base_window15 --data.root PASCAL_CONTEXT``
    Hardware: 8 GPUs with 2 crops each (official script); which ones is not published.
    Time: not published; not run by us.
    Score: mIoU 57.6 single-scale, 58.5 multi-scale and flip on val, 59 classes (authors).
    """
    model = hrformer("base", drop_path=0.3, window=15)
    return replace(pascal_context_small(), recipe="pascal_context_base_window15", model=model)


def pascal_context_hrnet_w48_ocr() -> SegmentationRun:
    """HRNet-W48 with OCR on PASCAL-Context, as openseg.pytorch trains it; ten times the rate for the head.

    Command: ``torchrun --nproc-per-node 4 -m hrformer train pascal_context_hrnet_w48_ocr --data.root PASCAL_CONTEXT``
    Hardware: 4 GPUs with 4 crops each (openseg's script); which ones is not published.
    Time: not published; not run by us.
    Score: mIoU 55.11 single-scale on val, 59 classes (openseg); 56.2 multi-scale and flip (HRNet repository).
    """
    return replace(
        hrnet_run(60_000, sgd(1e-3, head_factor=10)),
        recipe="pascal_context_hrnet_w48_ocr",
        batch=BatchConfig(total=16),
        data=_DATA,
        augment=_AUGMENT,
        evaluation=_TEST,
    )


def pascal_context_hrnet_w48() -> SegmentationRun:
    """HRNet-W48 without OCR on PASCAL-Context, otherwise as ``pascal_context_hrnet_w48_ocr``.

    Command: ``torchrun --nproc-per-node 4 -m hrformer train pascal_context_hrnet_w48 --data.root PASCAL_CONTEXT``
    Hardware: 4 GPUs with 4 crops each (openseg's script); which ones is not published.
    Time: not published; not run by us.
    Score: mIoU 54.1 multi-scale and flip on val (HRNet repository, by its own 200 epochs).
    """
    return replace(pascal_context_hrnet_w48_ocr(), recipe="pascal_context_hrnet_w48", model=PLAIN_HRNET)
