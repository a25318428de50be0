"""Runs that leave things open: what is fitted to the number of items, the start weights and the machine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hrformer.recipes.finetune import finetune_classification, finetune_pose, finetune_segmentation
from hrformer.train.config import AnyRun, BatchConfig, OptimConfig, PoseRun, ScheduleConfig, check
from hrformer.train.config_file import from_dict, read_config, to_dict
from hrformer.train.fitting import as_before, fit_text, fitted, val_text
from hrformer.train.loop import train
from hrformer.train.optim import rate_at
from hrformer.train.run_folder import ResumeError
from hrformer.train.start_weights import find_start

RECIPES = (finetune_classification, finetune_pose, finetune_segmentation)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("items", [1, 2, 7, 16, 20, 99, 200, 2000, 100_000])
def test_nothing_stays_open_whatever_the_size_of_the_set(recipe, items: int) -> None:
    config = fitted(recipe(), items, 4, gpu=False)
    check(config)
    assert not config.fit
    assert 1 <= config.batch.total <= items
    assert config.schedule.updates >= 1
    assert 1 <= config.validate_updates <= config.schedule.updates
    assert from_dict(to_dict(config)) == config
    assert fitted(config, 3, 3, gpu=False) is config
    rates = [rate_at(update, config, items // config.batch.total) for update in range(config.schedule.updates)]
    assert max(rates) == pytest.approx(config.optim.lr, rel=0.05)


@pytest.mark.parametrize("recipe", RECIPES)
def test_larger_sets_are_seen_longer_but_less_often(recipe) -> None:
    runs = [fitted(recipe(), items, 10, gpu=False) for items in (20, 200, 2000)]
    seen = [run.schedule.updates * run.batch.total for run in runs]
    assert seen[0] < seen[1] < seen[2]
    assert seen[0] / 20 > seen[1] / 200 > seen[2] / 2000


def test_what_was_set_stays() -> None:
    config = replace(
        finetune_pose(),
        model=replace(finetune_pose().model, drop_path_rate=0.0),
        optim=OptimConfig(lr=0.5),
        schedule=ScheduleConfig(epochs=3),
        batch=BatchConfig(total=5),
        validate_epochs=2.0,
        augment=replace(finetune_pose().augment, size=(64, 64), sigma=1.5),
    )
    found = fitted(config, 40, 4, gpu=False)
    assert (found.optim.lr, found.schedule.epochs, found.schedule.updates) == (0.5, 3, 0)
    assert (found.batch.total, found.validate_epochs, found.validate_updates) == (5, 2.0, 0)
    assert (found.augment.size, found.augment.sigma) == ((64, 64), 1.5)
    assert found.model.drop_path_rate == 0.0


def test_sizes_are_those_of_the_start_weights() -> None:
    pose = fitted(finetune_pose(), 16, 4, gpu=False)
    assert (pose.model.name, pose.model.init) == ("hrformer_tiny", "hrformer_tiny_people17")
    assert (pose.augment.size, pose.augment.sigma) == ((160, 120), 2.0)
    streets = fitted(finetune_segmentation(), 16, 4, gpu=False)
    assert (streets.augment.size, streets.augment.short_side, streets.evaluation.short_side) == ((144, 144), 144, 144)
    assert (streets.model.ocr_channels, streets.model.ocr_key_channels) == (128, 64)
    things = fitted(finetune_classification(), 16, 4, gpu=False)
    assert (things.augment.size, things.model.head_planes, things.model.head_width) == ((84, 84), None, None)


def test_pictures_that_are_seen_often_are_changed_more() -> None:
    few, many = (fitted(finetune_pose(), items, 4, gpu=False).augment.rotation for items in (16, 5000))
    assert (few, many) == (40.0, 20.0)
    streets = replace(finetune_segmentation(), schedule=ScheduleConfig(epochs=100))
    assert fitted(streets, 16, 4, gpu=False).augment.scale == (0.5, 2.0)
    assert fitted(replace(streets, schedule=ScheduleConfig(epochs=5)), 16, 4, gpu=False).augment.scale == (0.67, 1.5)
    assert fitted(finetune_classification(), 16, 4, gpu=False).augment.area == (0.3, 1.0)
    set_by_hand = replace(finetune_pose(), augment=replace(finetune_pose().augment, rotation=0.0))
    assert fitted(set_by_hand, 16, 4, gpu=False).augment.rotation == 0.0


def test_what_is_known_by_name_is_trained_at_a_lower_rate() -> None:
    known = find_start(finetune_pose().model, "pose", gpu=False).names
    assert len(known) == 17
    rates = [fitted(finetune_pose(), 16, 4, gpu=False, names=names).optim.lr for names in (known, known[:3])]
    assert rates == pytest.approx([6e-5, 6e-5])
    assert fitted(finetune_pose(), 16, 4, gpu=False, names=(*known, "beak")).optim.lr == pytest.approx(4e-4)
    fresh = replace(finetune_pose(), model=replace(finetune_pose().model, fresh=("head",)))
    assert fitted(fresh, 16, 4, gpu=False, names=known).optim.lr == pytest.approx(4e-4)


def test_norms_of_fresh_weights_are_trained() -> None:
    assert fitted(finetune_pose(), 16, 4, gpu=False).model.frozen == ("norms",)
    fresh = replace(finetune_pose(), model=replace(finetune_pose().model, name="hrformer_nano", init=""))
    first = fitted(fresh, 16, 4, gpu=False)
    assert first.model.frozen == ()
    assert as_before(fresh, first) == first


def test_batches_are_shared_evenly_by_the_processes() -> None:
    assert fitted(finetune_pose(), 16, 4, gpu=False, processes=3).batch.total == 6
    assert fitted(finetune_pose(), 7, 4, gpu=False, processes=2).batch.total == 6


def test_large_validation_sets_are_looked_at_less_often() -> None:
    counts = []
    for val in (4, 400, 40_000):
        config = fitted(finetune_pose(), 16, val, gpu=False)
        counts.append(-(-config.schedule.updates // config.validate_updates))
    assert counts[0] == 10
    assert counts[0] > counts[1] >= counts[2] == 1


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_run_that_is_taken_up_again_is_as_it_was(recipe) -> None:
    first: AnyRun = fitted(recipe(), 16, 4, gpu=False)
    assert as_before(recipe(), first) == first
    other = as_before(replace(recipe(), optim=replace(recipe().optim, lr=0.5)), first)
    assert other == replace(first, optim=replace(first.optim, lr=0.5))


def test_a_folder_of_another_task_is_refused() -> None:
    saved = fitted(finetune_pose(), 16, 4, gpu=False)
    with pytest.raises(ValueError, match="the folder holds a run for pose, this one is for segmentation"):
        as_before(finetune_segmentation(), saved)


def test_a_run_says_what_it_found_and_goes_on_with_it(
    pose_run: PoseRun, small: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    recipe = finetune_pose()
    config = replace(
        pose_run,
        fit=True,
        model=replace(recipe.model, init=small["pose"]),
        optim=recipe.optim,
        batch=recipe.batch,
        schedule=replace(recipe.schedule, updates=2),
        validate_updates=0,
        augment=replace(recipe.augment, size=(64, 64)),
    )
    assert train(config, tmp_path).update == 2
    told = capsys.readouterr()
    lines = (told.out + told.err).splitlines()
    (found,) = [line for line in lines if line.startswith("fitted to")]
    assert found.startswith(
        "fitted to 16 people: batch 8, 2 updates, rate 6e-05, crops 64 x 64 turned by up to 40 degrees"
    )
    assert "seconds here" in found
    assert any(line.startswith("warning: val has 6 people") for line in lines)
    saved = read_config(tmp_path / "config.json")
    assert (saved.fit, saved.batch.total, saved.model.name, saved.optim.lr) == (False, 8, "hrformer_nano", 6e-5)
    # Neither the recipe's own words nor the folder's file make it another run.
    for same in (config, saved):
        assert train(same, tmp_path, resume=True).update == 2
    with pytest.raises(ResumeError, match=r"optim\.lr: 6e-05 -> 0\.5"):
        train(replace(config, optim=replace(config.optim, lr=0.5)), tmp_path, resume=True)


def test_one_line_says_what_was_found() -> None:
    config = fitted(finetune_pose(), 16, 4, gpu=False)
    text = fit_text(config, 16, 170.0)
    assert text.startswith(
        f"fitted to 16 people: batch 8, {config.schedule.updates} updates, rate 0.0004, crops 160 x 120 turned by up"
    )
    assert text.endswith("from hrformer_tiny_people17, about 3 minutes here")
    assert fit_text(config, 16, 33.0).endswith("about 30 seconds here")
    assert "here" not in fit_text(config, 16)


def test_small_validation_sets_are_warned_of() -> None:
    assert val_text(finetune_pose(), 4).startswith("warning: val has 4 people: one person is about 25 points")
    assert val_text(finetune_segmentation(), 1).startswith("warning: val has 1 picture: this one decides")
    assert val_text(finetune_classification(), 20) == ""
