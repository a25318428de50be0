"""Recipes hold the numbers of the fact sheet, section 2, find their data and weights, and say what they are."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import timm
import torch

from hrformer.checkpoints.registry import find_weights
from hrformer.data.classification_sets import open_classification
from hrformer.data.pose_sets import open_pose
from hrformer.data.segmentation_sets import open_segmentation
from hrformer.recipes.catalogue import RECIPES, find_recipe, list_recipes
from hrformer.recipes.small_sets import CIFAR10, CIFAR10_5K
from hrformer.train.config import AnyRun, ClassificationRun, PoseRun, SegmentationRun, check
from hrformer.train.config_file import from_dict, task_of, to_dict
from hrformer.train.fitting import fitted
from hrformer.train.optim import parameter_groups, rate_at, total_updates
from hrformer.train.tasks import model_options
from hrformer.zoo import create_model, list_models

IMAGENET_UPDATES = 1_281_167 // 1024
COCO_UPDATES = 149_813 // 256

# Recipe, drop path, published main score as it stands beside the recipe.
IMAGENET = [("imagenet_tiny", 0.0, "78.6"), ("imagenet_small", 0.0, "81.2"), ("imagenet_base", 0.2, "82.8")]
# Recipe, drop path, size, sigma, batch, position bias, score.
COCO = [
    ("coco_small_256x192", 0.1, (256, 192), 2, 256, False, "74.0"),
    ("coco_small_384x288", 0.1, (384, 288), 3, 256, False, "75.6"),
    ("coco_base_256x192", 0.2, (256, 192), 2, 256, False, "75.6"),
    ("coco_base_384x288", 0.3, (384, 288), 3, 64, False, "77.2"),
    ("coco_small_256x192_mmpose", 0.1, (256, 192), 2, 256, True, "73.8"),
    ("coco_small_384x288_mmpose", 0.1, (384, 288), 3, 256, True, "75.7"),
    ("coco_base_256x192_mmpose", 0.2, (256, 192), 2, 256, True, "75.4"),
    ("coco_base_384x288_mmpose", 0.2, (384, 288), 3, 256, True, "77.4"),
]
# Recipe, model, drop path, updates, batch, OHEM, scores.
SEGMENTATION = [
    ("cityscapes_small", "hrformer_small", 0.2, 80_000, 8, True, ("80.0", "81.0")),
    ("cityscapes_base", "hrformer_base", 0.4, 80_000, 8, True, ("81.4", "82.0")),
    ("cityscapes_base_window15", "hrformer_base_window15", 0.4, 80_000, 8, True, ("81.9", "82.6")),
    ("pascal_context_small", "hrformer_small", 0.2, 60_000, 16, False, ("53.8", "54.6")),
    ("pascal_context_base", "hrformer_base", 0.2, 60_000, 16, False, ("56.3", "57.1")),
    ("pascal_context_base_window15", "hrformer_base_window15", 0.3, 60_000, 16, False, ("57.6", "58.5")),
    ("coco_stuff_small", "hrformer_small", 0.2, 60_000, 16, True, ("37.9", "38.9")),
    ("coco_stuff_base", "hrformer_base", 0.2, 60_000, 16, True, ("41.6", "42.5")),
    ("coco_stuff_base_window15", "hrformer_base_window15", 0.2, 60_000, 16, True, ("42.4", "43.3")),
    ("ade20k_small", "hrformer_small", 0.2, 150_000, 16, True, ("44.0", "45.1")),
    ("ade20k_base", "hrformer_base", 0.2, 150_000, 16, True, ("46.3", "47.6")),
    ("ade20k_base_window13", "hrformer_base_window13", 0.2, 150_000, 16, True, ("48.7", "50.0")),
]
# Recipe, optimiser, rate, batch, length in epochs.
HRNET = [
    *((f"imagenet_hrnet_w{width}", "sgd", 0.05, 128, 100) for width in (18, 32, 48)),
    ("coco_hrnet_w32_256x192", "adam", 1e-3, 128, 210),
    ("coco_hrnet_w32_384x288", "adam", 1e-3, 128, 210),
    ("coco_hrnet_w48_256x192", "adam", 1e-3, 128, 210),
    ("coco_hrnet_w48_384x288", "adam", 1e-3, 96, 210),
]
SETS = ("cityscapes", "pascal_context", "coco_stuff", "ade20k")


def made(name: str) -> AnyRun:
    return RECIPES[name]()


@pytest.mark.parametrize("name", list_recipes())
def test_every_recipe_is_a_run_that_can_be_stored_and_explained(name: str) -> None:
    config = made(name)
    assert config == made(name)
    assert config.recipe == name
    check(config)
    assert from_dict(to_dict(config)) == config
    facts = find_recipe(name)
    assert (facts.name, facts.task) == (name, task_of(config))
    assert all((facts.title, facts.hardware, facts.time, facts.score))
    assert all(text in facts.description for text in (facts.title, facts.command, facts.score, facts.notes))
    words = shlex.split(facts.command)
    called = words.index("hrformer")
    assert words[called + 1 : called + 4] == ["train", name, "--data.root"]
    processes = int(words[words.index("--nproc-per-node") + 1]) if "--nproc-per-node" in words else 1
    assert config.batch.total % processes == 0
    if config.fit:
        assert (config.model.name, config.model.init) == ("", "auto")
        config = fitted(config, 20, 4, gpu=False)
        check(config)
    if config.model.init:
        entry = find_weights(config.model.init)
        assert config.model.name.startswith(entry.model)
    stem = config.model.name.removeprefix("timm/")
    assert stem in list_models() or (config.model.name.startswith("timm/") and timm.is_model(stem))


def test_published_runs_are_all_there() -> None:
    wanted = {row[0] for rows in (IMAGENET, COCO, SEGMENTATION, HRNET) for row in rows}
    wanted |= {f"{name}_hrnet_w48{head}" for name in SETS for head in ("", "_ocr")}
    small = {
        f"{name}_{model}" for name in ("cifar10", "cifar10_5k", "lspet", "camvid") for model in ("tiny", "hrnet_w18")
    }
    tasks = ("classification", "pose", "segmentation")
    wanted |= small | {f"{kind}_{task}" for kind in ("smoke", "finetune") for task in tasks}
    wanted |= {f"{name}_short" for name in small if not name.startswith("cifar10_5k")}
    wanted |= {f"imagenet_deit_{size}" for size in ("small", "base")}
    wanted |= {f"imagenet_swin_{size}" for size in ("tiny", "small", "base")}
    wanted |= {
        "things_tiny_56",
        "things_tiny",
        "people17_tiny_96",
        "people17_tiny",
        "petspeople_tiny_84",
        "petspeople_tiny",
    }
    assert wanted == set(list_recipes())


@pytest.mark.parametrize(("name", "drop_path", "score"), IMAGENET)
def test_imagenet(name: str, drop_path: float, score: str) -> None:
    config = made(name)
    assert isinstance(config, ClassificationRun)
    optim, augment = config.optim, config.augment
    assert (optim.name, optim.weight_decay, optim.exempt, optim.clip_norm) == ("adamw", 0.05, "classification", 5.0)
    assert (optim.betas, optim.eps) == ((0.9, 0.999), 1e-8)
    assert config.model.drop_path_rate == drop_path
    assert total_updates(config.schedule, IMAGENET_UPDATES) == 300 * IMAGENET_UPDATES
    warmup = 20 * IMAGENET_UPDATES
    rates = [rate_at(update, config, IMAGENET_UPDATES) for update in (0, warmup, 300 * IMAGENET_UPDATES + 1)]
    assert rates == pytest.approx([1e-6, 1e-3, 1e-5], rel=1e-3)
    assert not config.runtime.sync_bn
    assert (augment.size, augment.interpolation, augment.area) == ((224, 224), "bicubic", (0.08, 1.0))
    assert (augment.auto_augment, augment.erasing) == ("rand-m9-mstd0.5-inc1", 0.25)
    assert (augment.mixup, augment.cutmix, augment.label_smoothing) == (0.8, 1.0, 0.1)
    assert f"top-1 {score}" in find_recipe(name).score


@pytest.mark.parametrize(("name", "drop_path", "size", "sigma", "batch", "bias", "score"), COCO)
def test_coco(name: str, drop_path: float, size, sigma: float, batch: int, bias: bool, score: str) -> None:
    config = made(name)
    assert isinstance(config, PoseRun)
    optim, augment = config.optim, config.augment
    assert (optim.name, optim.lr, optim.lr_batch, optim.weight_decay) == ("adamw", 5e-4, 0, 0.01)
    assert (optim.exempt, optim.clip_norm) == ("pose", 0)
    assert (config.model.drop_path_rate, config.model.position_bias) == (drop_path, bias)
    assert (augment.size, augment.sigma, config.batch.total) == (size, sigma, batch)
    rates = [rate_at(update, config, COCO_UPDATES) for update in (0, 500, 170 * COCO_UPDATES, 200 * COCO_UPDATES)]
    assert rates == pytest.approx([5e-7, 5e-4, 5e-5, 5e-6])
    assert total_updates(config.schedule, COCO_UPDATES) == 210 * COCO_UPDATES
    assert config.validate_epochs == 10
    assert config.runtime.sync_bn
    protocol = config.evaluation
    assert (protocol.score, protocol.flip, protocol.shift, protocol.nms_threshold) == ("coco", True, True, 0.9)
    style = "mmpose" if name.endswith("mmpose") else "official"
    assert (augment.style, config.data.clip) == (style, style)
    assert (augment.rotation, augment.scale) == ((80.0 if style == "mmpose" else 40.0), 0.5)
    assert f"AP {score}" in find_recipe(name).score


@pytest.mark.parametrize(("name", "model", "drop_path", "updates", "batch", "ohem", "scores"), SEGMENTATION)
def test_segmentation(
    name: str, model: str, drop_path: float, updates: int, batch: int, ohem: bool, scores: tuple[str, str]
) -> None:
    config = made(name)
    assert isinstance(config, SegmentationRun)
    streets = name.startswith("cityscapes")
    assert (config.model.name, config.model.drop_path_rate) == (model, drop_path)
    optim, augment, protocol = config.optim, config.augment, config.evaluation
    assert (optim.name, optim.lr, optim.weight_decay, optim.exempt) == ("adamw", 1e-4, 0.01, "segmentation")
    assert (optim.clip_norm, optim.head_factor) == (0, 1)
    assert total_updates(config.schedule, 1) == updates
    rates = [rate_at(update, config, 1) for update in (0, 1500, (1500 + updates) // 2)]
    assert rates == pytest.approx([1e-10, 1e-4, 1e-4 * 0.5**0.9])
    assert config.batch.total == batch
    assert (config.loss.ohem, config.loss.auxiliary) == (ohem, 0.4)
    assert (config.loss.hard.threshold, config.loss.hard.min_kept) == (0.9, 100_000)
    assert config.loss.class_weights == ("cityscapes" if streets else "none")
    assert (config.validate_updates, config.validate_epochs) == (1000 if streets else 10_000, 0)
    assert augment.size == ((512, 1024) if streets else (520, 520))
    assert (augment.scale, augment.aspect, augment.brightness) == ((0.5, 2.0), (0.9, 1.1), 10)
    assert augment.short_side == protocol.short_side == (None if streets else 520)
    assert protocol.pad_multiple == (8 if name.startswith("ade20k") else 1)
    assert (protocol.scales, protocol.window) == ((1.0,), None)
    assert f"mIoU {scores[0]} single-scale, {scores[1]} multi-scale" in find_recipe(name).score


@pytest.mark.parametrize(("name", "optimiser", "rate", "batch", "epochs"), HRNET)
def test_hrnet(name: str, optimiser: str, rate: float, batch: int, epochs: float) -> None:
    config = made(name)
    assert (config.optim.name, config.optim.lr, config.optim.exempt) == (optimiser, rate, "none")
    assert (config.batch.total, config.schedule.epochs, config.schedule.kind) == (batch, epochs, "step")
    assert not config.runtime.sync_bn
    if isinstance(config, PoseRun):
        assert (config.augment.style, config.augment.rotation, config.augment.scale) == ("hrnet", 45.0, 0.35)


@pytest.mark.parametrize(
    ("name", "rate", "decay", "head", "updates"),
    [
        ("cityscapes", 0.01, 5e-4, 1, 80_000),
        ("pascal_context", 1e-3, 1e-4, 10, 60_000),
        ("coco_stuff", 1e-3, 1e-4, 10, 60_000),
        ("ade20k", 0.02, 1e-4, 1, 150_000),
    ],
)
def test_hrnet_segmentation(name: str, rate: float, decay: float, head: float, updates: int) -> None:
    config, plain = made(f"{name}_hrnet_w48_ocr"), made(f"{name}_hrnet_w48")
    optim = config.optim
    assert (optim.name, optim.lr, optim.weight_decay, optim.head_factor) == ("sgd", rate, decay, head)
    assert (optim.nesterov, optim.exempt, config.schedule.updates) == (False, "none", updates)
    assert (config.model.aux, plain.model.head) == ("wide", "fcn")
    assert plain.optim == optim
    # The same data, augmentation and test as HRFormer's runs.
    former = made(f"{name}_small")
    assert (config.data, config.augment, config.evaluation) == (former.data, former.augment, former.evaluation)


# Parameters of whole models in millions: fact sheet 1.11 exactly, 4.1, 4.2 and 4.4 as rounded there.
@pytest.mark.parametrize(
    ("name", "outputs", "millions"),
    [
        ("imagenet_tiny", 1000, 8.035820),
        ("imagenet_hrnet_w18", 1000, 21.30),
        ("imagenet_deit_small", 1000, 22.05),
        ("imagenet_swin_tiny", 1000, 28.29),
        ("coco_small_256x192", 17, 7.746779),
        ("coco_hrnet_w32_256x192", 17, 28.5),
        ("cityscapes_small", 19, 13.523856),
        pytest.param("cityscapes_base_window15", 19, 56.196480, marks=pytest.mark.slow),
        pytest.param("ade20k_base_window13", 19, 56.143776, marks=pytest.mark.slow),
        pytest.param("cityscapes_hrnet_w48_ocr", 19, 74.5, marks=pytest.mark.slow),
    ],
)
def test_models_are_the_published_ones(name: str, outputs: int, millions: float) -> None:
    config = made(name)
    task = task_of(config)
    count = {"num_keypoints" if task == "pose" else "num_classes": outputs}
    with torch.device("meta"):
        model = create_model(config.model.name, task, **count, **model_options(config.model))
    parameters = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    assert parameters == pytest.approx(millions, abs=1e-6 if "hrformer" in config.model.name else 0.05)


def test_heads_learn_faster_where_openseg_says_so() -> None:
    model = create_model("hrformer_nano", "segmentation", ocr_channels=8, ocr_key_channels=4)
    for name, factor in (("pascal_context_hrnet_w48_ocr", 10), ("cityscapes_hrnet_w48_ocr", 1)):
        scales: dict[bool, set[float]] = {True: set(), False: set()}
        for group in parameter_groups(model, made(name).optim):
            for parameter in group["names"]:
                scales[parameter.startswith("head.")].add(group["scale"])
        assert scales == {True: {factor}, False: {1}}


def test_small_sets_are_found_from_one_root(data_dir: Path) -> None:
    def rooted(name: str):
        data = to_dict(made(name))
        data["data"]["root"] = str(data_dir)
        return from_dict(data).data

    assert [len(open_classification(rooted("cifar10_5k_tiny"), part)) for part in ("train", "val")] == [5000, 1000]
    assert open_classification(rooted("cifar10_tiny"), "val").classes == CIFAR10.classes == CIFAR10_5K.classes
    assert [len(open_pose(rooted("lspet_tiny"), part)) for part in ("train", "val")] == [5000, 800]
    assert [len(open_segmentation(rooted("camvid_tiny"), part)) for part in ("train", "val")] == [367, 101]


@pytest.mark.slow
def test_cifar10_in_parquet_files(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets", reason="reading parquet files needs datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    data = to_dict(made("cifar10_tiny"))
    data["data"]["root"] = str(data_dir)
    train = open_classification(from_dict(data).data, "train")
    assert len(train) == 49_000
    assert train.classes == CIFAR10.classes
    assert train.pixels(0).shape == (32, 32, 3)


def test_unknown_recipes_are_told_their_neighbours() -> None:
    assert find_recipe("smoke_pose") is RECIPES["smoke_pose"]
    with pytest.raises(ValueError, match=r"no recipe is called 'cityscapes_smal'\. Close matches: cityscapes_small"):
        find_recipe("cityscapes_smal")
    with pytest.raises(ValueError, match="Close matches: coco_small_256x192, coco_small_384x288"):
        find_recipe("coco_small")
    with pytest.raises(ValueError, match=r"no recipe is called 'zzz'\. `hrformer train` lists all"):
        find_recipe("zzz")
