"""Run configurations as files: nothing is lost on the way, and every mistake is told by the name of its field."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from hrformer.cli.arguments import EvaluateArguments
from hrformer.cli.runs import parse_run
from hrformer.data.source_config import PoseSource, SegmentationSource
from hrformer.data.transforms.settings import ClassificationAugment, PoseAugment, SegmentationAugment
from hrformer.evaluate.protocols import PoseProtocol, SegmentationProtocol
from hrformer.geometry.skeletons import LSPET14
from hrformer.train.config import (
    BatchConfig,
    ClassificationRun,
    LogConfig,
    ModelConfig,
    OptimConfig,
    PoseRun,
    RuntimeConfig,
    SaveConfig,
    ScheduleConfig,
    SegmentationLoss,
    SegmentationRun,
    check,
    with_fields,
)
from hrformer.train.config_file import RUNS, from_dict, read_config, to_dict, write_config

POSE = PoseRun(
    recipe="mine",
    seed=3,
    model=ModelConfig(name="hrformer_nano", frozen=("stem", "stage1"), drop_path_rate=0.1, position_bias=False),
    optim=OptimConfig(betas=(0.8, 0.99)),
    schedule=ScheduleConfig(kind="step", epochs=210, milestones=(170.0, 200.0)),
    data=PoseSource(
        root=Path("sets/coco"),
        detections=Path("boxes.json"),
        flip_pairs=(("left_eye", "right_eye"),),
        sigmas=(0.1, 0.2),
        skeleton=LSPET14,
    ),
    evaluation=PoseProtocol(detections=Path("boxes.json"), nms_threshold=None),
)
SEGMENTATION = SegmentationRun(
    data=SegmentationSource(classes=("road", "sky"), ignore=(0, 7)),
    loss=SegmentationLoss(ohem=True, class_weights="balanced"),
    evaluation=SegmentationProtocol(scales=(0.75, 1.0), window=(64, 64)),
)


@pytest.mark.parametrize("config", [ClassificationRun(), POSE, SEGMENTATION], ids=list(RUNS))
def test_a_run_survives_its_file(config, tmp_path: Path) -> None:
    assert from_dict(to_dict(config)) == config
    path = write_config(config, tmp_path / "new" / "config.json")
    assert read_config(path) == config
    assert not list(tmp_path.rglob("*.tmp"))
    assert json.loads(path.read_text()) == to_dict(config)


def test_what_a_file_leaves_out_takes_its_default() -> None:
    found = from_dict({"task": "pose", "optim": {"lr": 1}, "augment": {"size": [64, 48]}})
    assert found == PoseRun(optim=OptimConfig(lr=1.0), augment=PoseAugment(size=(64, 48)))
    assert isinstance(found.optim.lr, float)
    assert from_dict({"task": "segmentation", "data": {"classes": "names.txt"}}).data.classes == "names.txt"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"task": None}, "task must be one of classification, pose, segmentation, got None"),
        ({"task": "poses"}, "got 'poses'; did you mean 'pose'?"),
        ({"optim": {"lrr": 1}}, "unknown field optim.lrr; did you mean optim.lr?"),
        ({"lr": 1}, "unknown field lr; did you mean optim.lr?"),
        ({"data": {"lr_batch": 1}}, "unknown field data.lr_batch; did you mean optim.lr_batch?"),
        ({"scheduled": {}}, "unknown field scheduled; did you mean schedule?"),
        ({"loss": {}}, "unknown field loss; a run has recipe, seed, model"),
        ({"optim": 3}, "optim must be an object, got 3"),
        ({"optim": {"lr": "fast"}}, 'optim.lr must be a valid number, got "fast"'),
        ({"optim": {"lr": True}}, "optim.lr must be a valid number, got true"),
        ({"optim": {"lr": None}}, "optim.lr must be a valid number, got null"),
        ({"seed": 1.5}, "seed must be a valid integer, got 1.5"),
        ({"runtime": {"cpu": 1}}, "runtime.cpu must be a valid boolean, got 1"),
        ({"optim": {"name": "adamww"}}, "optim.name must be 'adamw', 'adam' or 'sgd', got \"adamww\";"),
        ({"optim": {"name": "adamww"}}, "did you mean 'adamw'?"),
        ({"model": {"upsample": "cubic"}}, "model.upsample must be 'nearest', 'bilinear'"),
        ({"model": {"window_size": "7"}}, "model.window_size must be a valid integer"),
        ({"augment": {"size": [64]}}, "augment.size[1]: Field required, got [64]"),
        ({"augment": {"size": [64, "a"]}}, 'augment.size[1] must be a valid integer, got "a"'),
        ({"augment": {"size": [64, 48, 3]}}, "augment.size: Tuple should have at most 2 items"),
        (
            {"task": "classification", "loss": {"class_weights": [1, "a"]}},
            "loss.class_weights[1] must be a valid number",
        ),
        ({"schedule": {"milestones": 3}}, "schedule.milestones must be a valid array, got 3"),
        ({"data": {"root": 3}}, "data.root must be a valid string, got 3"),
        ({"data": {"skeleton": {"name": "x"}}}, 'data.skeleton.keypoints: Field required, got {"name": "x"}'),
        (
            {"task": "segmentation", "data": {"classes": 11}},
            "data.classes must be a valid string or a valid array, got 11",
        ),
        ({"optim": {"lr": -1}}, "optim.lr must be a rate above 0, got -1"),
        ({"evaluation": {"alpha": 0}}, "evaluation: alpha must be above 0, got 0"),
        ({"task": "segmentation", "loss": {"hard": {"threshold": 2}}}, "loss.hard: threshold must lie in (0, 1]"),
    ],
)
def test_mistakes_are_named(values: dict, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        from_dict({"task": "pose"} | values)


def test_files_that_hold_no_run(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    for text, message in (
        ("{", f"{path} is not a JSON file: "),
        ("[1]", f"{path} must hold one JSON object"),
        (str([1] * 999), f"got {str([1] * 999)[:157]}..."),
        ('{"task": "pose", "optim": {"lrr": 1}}', f"{path}: unknown field optim.lrr; did you mean optim.lr?"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=re.escape(message)):
            read_config(path)
    with pytest.raises(FileNotFoundError):
        read_config(tmp_path / "absent.json")


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (OptimConfig, {"lr": -0.1}, "optim.lr must be a rate above 0, got -0.1"),
        (OptimConfig, {"lr": float("nan")}, "optim.lr must be a rate above 0, got nan"),
        (OptimConfig, {"betas": (0.9, 1.0)}, "optim.betas must lie in [0, 1)"),
        (OptimConfig, {"momentum": 0.0}, "optim.nesterov needs a momentum above 0"),
        (OptimConfig, {"clip_norm": -1.0}, "optim.clip_norm must not be negative, got -1.0"),
        (OptimConfig, {"head_factor": 0.0}, "optim.head_factor must be above 0"),
        (OptimConfig, {"layer_decay": 1.5}, "optim.layer_decay must lie in (0, 1]"),
        (ScheduleConfig, {"updates": -5}, "schedule.updates must not be negative, got -5"),
        (ScheduleConfig, {"milestones": (5.0, 3.0)}, "schedule.milestones must be rising numbers of epochs"),
        (ScheduleConfig, {"gamma": 0.0}, "schedule.gamma must lie in (0, 1]"),
        (ModelConfig, {"frozen": ("stage9",)}, "model.frozen must be among stem, stage1"),
        (ModelConfig, {"frozen": ("backbon",)}, "did you mean 'backbone'?"),
        (ModelConfig, {"drop_path_rate": 1.0}, "model.drop_path_rate must lie in [0, 1), got 1.0"),
        (ModelConfig, {"name": ""}, "model.name must name a variant"),
        (BatchConfig, {"total": -1}, "batch.total must be at least 1, got -1"),
        (ScheduleConfig, {"warmup_share": 1.0}, "schedule.warmup_share must lie in [0, 1), got 1.0"),
        (RuntimeConfig, {"workers": -1}, "runtime.workers must not be negative, got -1"),
        (SaveConfig, {"every_minutes": -1.0}, "save.every_minutes must not be negative"),
        (LogConfig, {"every_updates": 0}, "log.every_updates must be at least 1, got 0"),
        (PoseRun, {"ema_decay": 1.0}, "ema_decay must lie in [0, 1), 0 for no average, got 1.0"),
        (ClassificationRun, {"seed": -1}, "seed must not be negative, got -1"),
        (SegmentationLoss, {"auxiliary": -0.1}, "loss.auxiliary must not be negative"),
    ],
)
def test_ranges(kind, values: dict, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        kind(**values)


RUN = PoseRun(schedule=ScheduleConfig(epochs=10))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optim": OptimConfig(lr=0)}, "optim.lr must be a rate above 0, got 0"),
        ({"batch": BatchConfig(total=0)}, "batch.total must be at least 1, got 0"),
        ({"model": ModelConfig(name="", init="hrformer_tiny_people17")}, "model.name must name a variant"),
        ({"model": ModelConfig(init="auto")}, "model.init: 'auto' needs fit"),
        ({"schedule": ScheduleConfig()}, "give schedule.epochs or schedule.updates, one of them above 0"),
        ({"schedule": ScheduleConfig(epochs=1, updates=5)}, "schedule.epochs is 1 and schedule.updates is 5"),
        ({"validate_updates": 5}, "validate_epochs is 1 and validate_updates is 5"),
        ({"validate_epochs": 0}, "give validate_epochs or validate_updates"),
        ({"schedule": ScheduleConfig(epochs=9, warmup_epochs=9)}, "schedule.warmup_epochs (9) must be below"),
        ({"schedule": ScheduleConfig(updates=9, warmup_updates=20)}, "schedule.warmup_updates (20) must be below"),
        ({"schedule": ScheduleConfig(epochs=9, warmup_epochs=1, warmup_updates=1)}, "not both; set the other to 0"),
        ({"batch": BatchConfig(total=8, per_device=16)}, "batch.per_device (16) must not exceed batch.total (8)"),
        ({"runtime": RuntimeConfig(cpu=True, precision="fp16")}, "'fp16' needs a GPU"),
        ({"augment": PoseAugment(size=(66, 64))}, "augment.size must be multiples of 4"),
        ({"augment": PoseAugment(flip=1.5)}, "augment.flip must lie in [0, 1], got 1.5"),
        ({"augment": PoseAugment(grey=2)}, "augment.grey must lie in [0, 1], got 2"),
        ({"augment": PoseAugment(portrait=-1)}, "augment.portrait must lie in [0, 1], got -1"),
        ({"augment": PoseAugment(sigma=0)}, "augment.sigma must be above 0, got 0"),
        ({"augment": PoseAugment(scale=1.0)}, "augment.scale must lie in [0, 1), got 1.0"),
    ],
)
def test_fields_that_do_not_go_together(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        check(replace(RUN, **changes))


def test_fields_are_changed_by_dotted_name() -> None:
    changed = with_fields(RUN, {"recipe": "mine", "optim.lr": 0.5, "optim.eps": 1e-6, "augment.size": (64, 48)})
    assert changed == replace(
        RUN, recipe="mine", optim=replace(RUN.optim, lr=0.5, eps=1e-6), augment=PoseAugment(size=(64, 48))
    )
    with pytest.raises(TypeError, match="lrr"):
        with_fields(RUN, {"optim.lrr": 0.5})
    with pytest.raises(ValueError, match=r"optim\.lr must be a rate above 0"):
        with_fields(RUN, {"optim.lr": -1})


def test_augmentations_of_the_other_tasks() -> None:
    length = {"schedule": ScheduleConfig(epochs=1)}
    check(ClassificationRun(**length))
    check(SegmentationRun(**length))
    for config, message in (
        (
            ClassificationRun(augment=ClassificationAugment(area=(0.5, 2.0)), **length),
            "augment.area must be (smallest, largest) share",
        ),
        (ClassificationRun(augment=ClassificationAugment(ratio=(2.0, 1.0)), **length), "augment.ratio must be"),
        (ClassificationRun(augment=ClassificationAugment(mixup=-1.0), **length), "augment.mixup must not be negative"),
        (SegmentationRun(augment=SegmentationAugment(scale=(2.0, 1.0)), **length), "augment.scale must be"),
        (SegmentationRun(augment=SegmentationAugment(short_side=0), **length), "augment.short_side must be above 0"),
        (SegmentationRun(augment=SegmentationAugment(size=(0, 8)), **length), "augment.size must be (height, width)"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            check(config)


@pytest.mark.parametrize("ignore", ["none", (), (0, 7)])
def test_ignored_ids_survive_their_file_and_the_command_line(ignore: object) -> None:
    config = SegmentationRun(data=SegmentationSource(ignore=ignore))  # type: ignore[arg-type]
    assert from_dict(json.loads(json.dumps(to_dict(config)))) == config
    # What earlier versions wrote.
    assert from_dict({"task": "segmentation", "data": {"ignore": [255]}}).data.ignore == (255,)
    with pytest.raises(ValueError, match=r"data\.ignore must be 'none' or a valid array, got .all."):
        from_dict({"task": "segmentation", "data": {"ignore": "all"}})
    typed = ["none"] if ignore == "none" else [str(number) for number in ignore]
    options = EvaluateArguments()
    command = parse_run(options, ["camvid_tiny", "--data.ignore", *typed], command="eval", sections=["data"])
    assert command.config.data.ignore == ignore
