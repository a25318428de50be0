"""The bundled models are what their cards say, and the script that makes them."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import cv2
import pytest
import torch
from safetensors import safe_open

import bundle
import gallery
import hrformer
from hrformer.checkpoints.registry import bundled_folder
from hrformer.data.source_config import ClassificationSource
from hrformer.data.transforms.settings import ClassificationAugment
from hrformer.evaluate.evaluate import evaluate
from hrformer.evaluate.protocols import Evaluation
from hrformer.fast.x86.library import find_half_library
from hrformer.recipes.catalogue import find_recipe
from hrformer.train.config import (
    AnyRun,
    BatchConfig,
    ClassificationRun,
    LogConfig,
    ModelConfig,
    RuntimeConfig,
    ScheduleConfig,
    with_fields,
)
from hrformer.train.loop import train

CARDS = [card for card in sorted(bundled_folder().glob("*.md")) if "\nrecipe: " in card.read_text(encoding="utf-8")]
POINT = 0.01


def shares_in(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"(\d+\.\d) %", text)]


@pytest.mark.slow
@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.stem)
def test_the_file_scores_what_its_card_says(data_dir: Path, card: Path) -> None:
    head = dict(line.split(": ", 1) for line in card.read_text(encoding="utf-8").split("---\n")[1].splitlines())
    config = with_fields(find_recipe(head["recipe"]).run, {"data.root": data_dir})
    if not Path(data_dir / config.data.name).is_dir():
        pytest.skip(f"{config.data.name} is not there")
    model = hrformer.load(card.with_suffix(".safetensors"), fast=True).model
    found = bundle.score(model, config)
    said = bundle.words_of(found)
    assert re.sub(r"\d", "", said) == re.sub(r"\d", "", head["score"])
    # On another processor a picture may fall on the other side.
    assert shares_in(said) == pytest.approx(shares_in(head["score"]), abs=0.3)
    text = card.read_text(encoding="utf-8")
    for outcome in found.values():
        for row in outcome.scores.get("per_class", outcome.scores.get("per_joint")):
            assert f"| {row['name']} |" in text
    half_scores_are_within_a_tenth_of_a_point(card, config, found)


def half_scores_are_within_a_tenth_of_a_point(card: Path, config: AnyRun, single: dict[str, Evaluation]) -> None:
    """Of the whole val set, in bfloat16, where the processor has it."""
    if find_half_library()[0] is None:
        return
    model = hrformer.load(card.with_suffix(".safetensors"), fast=True, precision="bf16").model
    whole = {name: source for name, source in bundle.parts_of(config).items() if "," not in name}
    for name, source in whole.items():
        half = evaluate(model, source, config.evaluation, bootstrap=0, worst=0)
        found = {"fp32": single[name].scores[half.main], "bf16": half.scores[half.main]}
        assert abs(found["bf16"] - found["fp32"]) <= 0.1 * POINT, (name, found)


@pytest.mark.slow
@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.stem)
def test_the_gallery_shows_twelve_items(data_dir: Path, card: Path) -> None:
    recipe = gallery.recipes(bundled_folder())[card.stem]
    if not (data_dir / find_recipe(recipe).run.data.name).is_dir():
        pytest.skip(f"{recipe}'s data is not there")
    sheet = gallery.sheet(card.stem, recipe, data_dir, limit=40)
    assert sheet.shape == (4 * gallery.CELL[1], 3 * gallery.CELL[0], 3)
    cells = [sheet[y : y + 200, x : x + 400] for y in range(0, 1000, 250) for x in range(0, 1200, 400)]
    assert len({part.tobytes() for part in cells}) == 12
    assert all(part.std() > 10 for part in cells)


def test_a_run_becomes_a_bundled_model(data_dir: Path, tmp_path: Path) -> None:
    for split, count in (("train", 6), ("val", 3)):
        for name in ("cat", "ship"):
            (tmp_path / "data" / split / name).mkdir(parents=True)
            for file in sorted((data_dir / "cifar10" / split / name).glob("*.jpg"))[:count]:
                (tmp_path / "data" / split / name / file.name).symlink_to(file)
    config = ClassificationRun(
        recipe="two_things",
        model=ModelConfig(name="hrformer_nano", head_planes=4, head_width=32),
        data=ClassificationSource(root=tmp_path / "data"),
        augment=ClassificationAugment(size=(32, 32), mixup=0, cutmix=0),
        schedule=ScheduleConfig(updates=2),
        batch=BatchConfig(total=4),
        runtime=RuntimeConfig(cpu=True, workers=0, threads=1),
        log=LogConfig(every_updates=1, trackers=(), pictures=0),
    )
    train(config, tmp_path / "run")
    args = bundle.Args(
        run=tmp_path / "run",
        name="mine",
        data=tmp_path / "data",
        input_size=(48, 48),
        weights=tmp_path / "weights",
        log=tmp_path / "log",
    )
    bundle.main(args)
    predictor = hrformer.load(args.weights / "mine.safetensors")
    assert predictor.info.input_spec.size == (48, 48)
    assert predictor.info.temperature != 1
    with safe_open(args.weights / "mine.safetensors", framework="pt") as file:
        assert file.get_tensor("backbone.conv1.weight").dtype == torch.float16
        assert file.metadata()["score"].startswith("val: top-1 accuracy ")
    (log,) = json.loads((args.log / "mine.json").read_text(encoding="utf-8"))["runs"]
    assert log["train"]["update"] == [1, 2]
    assert log["validation"]["update"] == [2]
    assert cv2.imread(str(args.log / "mine.png")).std() > 10
    card = args.weights / "mine.md"
    text = card.read_text(encoding="utf-8")
    assert "| cat | 3 |" in text
    # Words and fields of one's own stay, and the scores are those of the file again.
    card.write_text(text.replace("size: ", "terms: mine\nsize: ") + "\nWhat it cannot do.\n", encoding="utf-8")
    bundle.main(replace(args, resumed=True))
    assert json.loads((args.log / "mine.json").read_text(encoding="utf-8"))["runs"] == [log, log]
    assert card.read_text(encoding="utf-8") == text.replace("size: ", "terms: mine\nsize: ") + "\nWhat it cannot do.\n"
