"""Segmentation on four published sets: HRFormer's runs, and HRNet's of openseg.pytorch.

HRFormer's segmentation code builds on openseg.pytorch. Both read pictures as BGR and normalise them with the statistics
of RGB. Ours reads RGB, so weights trained here want RGB and the authors' want BGR; scores may differ for that. Theirs
use 16-bit floats with loss scaling, ours bfloat16. The backbone starts from ImageNet-1K. There is one peak rate for
backbone and head, but for HRNet on PASCAL-Context and COCO-Stuff.

The sets, and what the folder of ``--data.root`` holds; for the layout of the HRFormer repository add ``--data.format
official``:

- Cityscapes: 2975 training and 500 validation pictures of 2048 x 1024 pixels, 19 classes; ``leftImg8bit/`` and
  ``gtFine/``. Pictures are tested whole at their own size.
- PASCAL-Context: 4998 and 5105 pictures, 59 classes, the background ignored; ``VOCdevkit/VOC2010``.
- COCO-Stuff-10K v1.1: 9000 training and 1000 test pictures, 171 classes; the test part serves as validation;
  ``images/``, ``annotations/`` and ``imageLists/``.
- ADE20K: 20210 and 2000 pictures, 150 classes; ``ADEChallengeData2016/``. The batch behind the published figures is
  uncertain: the authors' page says 8, their script for 8 GPUs takes 16, the one for 4 GPUs 8. These recipes take 16.

Pictures of the last three are tested whole with a short side of 520 pixels, unpadded but for ADE20K's, which are padded
to a multiple of 8; multi-scale figures are those of ``--evaluation.scales 0.75 1 1.25 --evaluation.flip``.
"""

from __future__ import annotations

from typing import Any

from hrformer.data.source_config import SegmentationSource
from hrformer.data.transforms.settings import SegmentationAugment
from hrformer.evaluate.protocols import SegmentationProtocol
from hrformer.recipes.recipe import Recipe
from hrformer.train.config import (
    LogConfig,
    ModelConfig,
    OptimConfig,
    RuntimeConfig,
    ScheduleConfig,
    SegmentationLoss,
    SegmentationRun,
    with_fields,
)
from hrformer.wording import counted

_SHARED: dict[str, Any] = {
    "runtime": RuntimeConfig(precision="bf16", sync_bn=True, cache_gb=0),
    "log": LogConfig(every_updates=50),
    "validate_epochs": 0,
    "validate_updates": 10_000,
}
_HRFORMER = SegmentationRun(
    model=ModelConfig(name="hrformer_small", init="hrformer_small_imagenet", drop_path_rate=0.2),
    optim=OptimConfig(lr=1e-4, weight_decay=0.01, exempt="segmentation"),
    schedule=ScheduleConfig(kind="poly", warmup_updates=1500, warmup_ratio=1e-6, power=0.9),
    **_SHARED,
)
# The OCR head has 74.5 million parameters with this auxiliary one. openseg.pytorch's optimiser is plain momentum, with
# every parameter decayed.
_HRNET = SegmentationRun(
    model=ModelConfig(name="hrnet_w48", init="hrnet_w48_ms_in1k", aux="wide"),
    optim=OptimConfig(name="sgd", weight_decay=1e-4, exempt="none", nesterov=False),
    schedule=ScheduleConfig(kind="poly", power=0.9),
    **_SHARED,
)


def _miou(single: str, multi: str, rest: str) -> str:
    return f"mIoU {single} single-scale, {multi} multi-scale and flip {rest}"


def _recipe(run: SegmentationRun, name: str, trained: str, gpus: int, whose: str, **facts: str) -> Recipe:
    each = f"{gpus} GPUs with {counted(run.batch.total // gpus, 'crop')} each"
    return Recipe(
        run=run,
        title=trained.format(run.data.name),
        data=name.upper(),
        processes=gpus,
        hardware=f"{each} ({whose} script); which ones is not published",
        **facts,
    )


def _small(name: str, changes: dict[str, Any], score: str, remark: str = "", notes: str = "") -> Recipe:
    """HRFormer-S with OCR."""
    run = with_fields(_HRFORMER, {"recipe": f"{name}_small", **changes})
    return _recipe(run, name, f"HRFormer-S with OCR on {{}}{remark}", 8, "official", score=score, notes=notes)


def _base(small: Recipe, score: str, *, drop_path: float = 0.2, window: int = 7) -> Recipe:
    """HRFormer-B with OCR, otherwise as HRFormer-S; bias tables are resized for other windows than 7 x 7."""
    ending, remark = (f"_window{window}", f", windows of {window} x {window}") if window != 7 else ("", "")
    remark += f", drop path {drop_path}" if drop_path != 0.2 else ""
    model = ModelConfig(name=f"hrformer_base{ending}", init="hrformer_base_imagenet", drop_path_rate=drop_path)
    title = f"HRFormer-B with OCR on {small.run.data.name}{remark}"
    return small.varied(small.name.replace("_small", f"_base{ending}"), {"model": model}, title=title, score=score)


def _hrnets(
    name: str, changes: dict[str, Any], score: str, plain_score: str, *, gpus: int = 4, remark: str = ""
) -> tuple[Recipe, Recipe]:
    """HRNet-W48 with OCR; HRNetV2-W48 with its own head, hence without an auxiliary loss, and without OHEM."""
    run = with_fields(_HRNET, {"recipe": f"{name}_hrnet_w48_ocr", **changes})
    title = f"HRNet-W48 with OCR on {{}}, as openseg.pytorch trains it{remark}"
    ocr = _recipe(run, name, title, gpus, "openseg's", score=score)
    model = ModelConfig(name="hrnet_w48", init="hrnet_w48_ms_in1k", head="fcn")
    title = f"HRNet-W48 without OCR on {run.data.name}, otherwise as {ocr.name}{' but for OHEM' * run.loss.ohem}"
    changes = {"model": model, "loss.ohem": False}
    return ocr, ocr.varied(f"{name}_hrnet_w48", changes, title=title, score=plain_score)


_OHEM = {"loss": SegmentationLoss(ohem=True)}
_TEN_TIMES = {"optim.lr": 1e-3, "optim.head_factor": 10}
_SHORT_520 = {
    "batch.total": 16,
    "augment": SegmentationAugment(size=(520, 520), short_side=520),
    "evaluation": SegmentationProtocol(short_side=520),
}
_CITYSCAPES = {
    "data": SegmentationSource(name="Cityscapes", format="cityscapes"),
    "schedule.updates": 80_000,
    "batch.total": 8,
    "validate_updates": 1000,
    "augment": SegmentationAugment(size=(512, 1024)),
    "loss.class_weights": "cityscapes",
}
_PASCAL_CONTEXT = {
    **_SHORT_520,
    "data": SegmentationSource(name="PASCAL-Context", format="pascal_context", dataset="pascal_context"),
    "schedule.updates": 60_000,
}
_COCO_STUFF = {
    **_SHORT_520,
    **_OHEM,
    "data": SegmentationSource(name="COCO-Stuff-10K", format="coco_stuff_10k", dataset="coco_stuff_10k"),
    "schedule.updates": 60_000,
}
_ADE20K = {
    **_SHORT_520,
    **_OHEM,
    "data": SegmentationSource(name="ADE20K", format="ade20k", dataset="ade20k"),
    "schedule.updates": 150_000,
    "evaluation": SegmentationProtocol(short_side=520, pad=8),
}

_CITYSCAPES_SMALL = _small(
    "cityscapes",
    _CITYSCAPES | {"loss.ohem": True},
    _miou("80.0", "81.0", "on val (authors)"),
    notes="Crops of 512 x 1024, OHEM on the main output, class weights on both.",
)
_PASCAL_CONTEXT_SMALL = _small(
    "pascal_context",
    _PASCAL_CONTEXT,
    _miou("53.8", "54.6", "on val, 59 classes (authors)"),
    notes="Plain cross-entropy, although the authors' page and scripts speak of OHEM.",
)
_COCO_STUFF_SMALL = _small("coco_stuff", _COCO_STUFF, _miou("37.9", "38.9", "(authors)"), ", with OHEM")
_AT_BATCH_8 = "on val (authors; at batch 8 by their page)"
_ADE20K_SMALL = _small("ade20k", _ADE20K, _miou("44.0", "45.1", _AT_BATCH_8), ", with OHEM")
_NOT_RECORDED = "on val (authors; which scales is not recorded)"

RECIPES = (
    _CITYSCAPES_SMALL,
    _base(_CITYSCAPES_SMALL, _miou("81.4", "82.0", "on val (authors)"), drop_path=0.4),
    _base(_CITYSCAPES_SMALL, _miou("81.9", "82.6", _NOT_RECORDED), drop_path=0.4, window=15),
    *_hrnets(
        "cityscapes",
        _CITYSCAPES | {"optim.lr": 0.01, "optim.weight_decay": 5e-4},
        "mIoU 81.09 single-scale on val (openseg)",
        "none published for this run",
        gpus=8,
    ),
    _PASCAL_CONTEXT_SMALL,
    _base(_PASCAL_CONTEXT_SMALL, _miou("56.3", "57.1", "on val, 59 classes (authors)")),
    _base(_PASCAL_CONTEXT_SMALL, _miou("57.6", "58.5", "on val, 59 classes (authors)"), drop_path=0.3, window=15),
    *_hrnets(
        "pascal_context",
        _PASCAL_CONTEXT | _TEN_TIMES,
        "mIoU 55.11 single-scale on val, 59 classes (openseg); 56.2 multi-scale and flip (HRNet repository)",
        "mIoU 54.1 multi-scale and flip on val (HRNet repository, by its own 200 epochs)",
        remark="; ten times the rate for the head",
    ),
    _COCO_STUFF_SMALL,
    _base(_COCO_STUFF_SMALL, _miou("41.6", "42.5", "(authors)")),
    _base(_COCO_STUFF_SMALL, _miou("42.4", "43.3", "(authors)"), window=15),
    *_hrnets(
        "coco_stuff",
        _COCO_STUFF | _TEN_TIMES,
        _miou("39.61", "40.20", "(openseg)"),
        _miou("36.2", "37.9", "(HRNet repository, by its own 110 epochs)"),
        remark="; OHEM, ten times the rate for the head",
    ),
    _ADE20K_SMALL,
    _base(_ADE20K_SMALL, _miou("46.3", "47.6", _AT_BATCH_8)),
    _base(_ADE20K_SMALL, _miou("48.7", "50.0", _AT_BATCH_8), window=13),
    *_hrnets(
        "ade20k",
        _ADE20K | {"optim.lr": 0.02},
        _miou("44.62", "46.19", "on val (openseg)"),
        _miou("43.1", "44.2", "on val (HRNet repository, by its own 120 epochs)"),
        remark=", with OHEM",
    ),
)
