"""Make a bundled model out of a finished run: 16-bit weights, scores, card and training log.

    python examples/bundle.py runs/things_tiny hrformer_tiny_things --data ../shared/data --input-size 112 112

Writes NAME.safetensors and the scores in NAME.md to ``src/hrformer/weights``, and the curve to ``docs/training``. A
classifier's temperature is fitted to val. The words of a card outside the two marks are left as they are; a new card
gets the front matter alone. All scores are those of the file that ships.
"""

from __future__ import annotations

import datetime
import json
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import tyro

from hrformer.checkpoints.checkpoint import load_model, save_checkpoint
from hrformer.cli.evaluate import open_set
from hrformer.data.set_types import ClassificationSet, ImageSet
from hrformer.data.views import chosen, without
from hrformer.evaluate.calibration import calibrate
from hrformer.evaluate.evaluate import evaluate
from hrformer.evaluate.protocols import Evaluation
from hrformer.files import write_file
from hrformer.models.model import VisionModel
from hrformer.train.config import AnyRun, PoseRun, with_fields
from hrformer.train.config_file import read_config
from hrformer.train.progress import bars, label_of, share_text

BEGIN, END = "<!-- scores: written by examples/bundle.py -->", "<!-- end of scores -->"
SAMPLES = 1000  # of the bootstrap
LARGE = 96  # shorter side of the larger pictures of things, in pixels


@dataclass(frozen=True)
class Args:
    """Which run, and what it becomes."""

    run: tyro.conf.Positional[Path]  # run folder
    name: tyro.conf.Positional[str]  # of the weights
    data: Path  # folder that holds the sets
    input_size: tuple[int, int] | None = None  # (height, width) to use the model at; None for that of training
    crop_ratio: float | None = None  # share of the shorter side that a classifier looks at; None for that of training
    weights: Path = Path("src/hrformer/weights")
    log: Path = Path("docs/training")


def parts_of(config: AnyRun) -> dict[str, ImageSet]:
    """What is scored apart, by name: val, and of things and people17 the parts that their READMEs ask for."""
    if isinstance(config, PoseRun) and config.data.name == "people17":
        files = {half: f"people17/annotations/person_keypoints_val_{half}.json" for half in ("photos", "lspet")}
        halves = {half: with_fields(config, {"data.val_annotations": file}) for half, file in files.items()}
        return {f"val_{half}": open_set(one, "val") for half, one in halves.items()}
    source = open_set(config, "val")
    parts = {"val": source}
    if config.data.name == "things":
        large = [index for index in range(len(source)) if min(source.pixels(index).shape[:2]) >= LARGE]
        parts |= {f"val, {LARGE} px": chosen(source, large), "val, 64 px": without(source, large)}
    return parts


def score(model: VisionModel, config: AnyRun) -> dict[str, Evaluation]:
    """Scores of each part, with intervals."""
    found = {}
    for name, source in parts_of(config).items():
        with bars() as progress:
            tell = partial(progress, name)
            found[name] = evaluate(model, source, config.evaluation, bootstrap=SAMPLES, progress=tell)
    return found


def shares(outcome: Evaluation, *names: str) -> str:
    """The scores of these names, or all that have one, with their intervals, in words."""
    texts = []
    for name, ends in outcome.intervals.items():
        if names and name not in names:
            continue
        texts.append(
            f"{label_of(name)} {share_text(outcome.scores[name])} ({share_text(ends[0])} to {share_text(ends[1])})"
        )
    return ", ".join(texts)


def words_of(found: dict[str, Evaluation]) -> str:
    """The main score of each part, in one line."""
    return "; ".join(f"{part}: {shares(outcome, outcome.main)}" for part, outcome in found.items())


def tables(outcome: Evaluation) -> list[str]:
    """Score of each class or joint, and the reliability, as Markdown."""
    lines: list[str] = []
    for rows in (value for value in outcome.scores.values() if isinstance(value, list) and value):
        keys = [key for key in rows[0] if key not in ("coco_people", "pixels")]
        lines += ["", f"| {' | '.join(map(label_of, keys))} |", f"|{' --- |' * len(keys)}"]
        for row in rows:
            lines.append(
                "| " + " | ".join(share_text(v) if isinstance(v := row[k], float) else str(v) for k in keys) + " |"
            )
    return lines


def scores_text(name: str, recipe: str, found: dict[str, Evaluation]) -> str:
    """The part of the card between the marks."""
    lines = [BEGIN, f"Of the file itself, by `hrformer eval {recipe} --weights {name} --bootstrap {SAMPLES}`:"]
    for part, outcome in found.items():
        lines += ["", f"**{part}**, {outcome.items} items: {shares(outcome)}."]
        # Parts of the same items need no tables of their own.
        lines += tables(outcome) if "," not in part else []
    return "\n".join([*lines, END])


def write_card(path: Path, head: dict[str, str], text: str) -> None:
    """Replace scores, and the front matter's own fields, in a card; begin one where there is none."""
    if path.is_file():
        _, front, body = path.read_text(encoding="utf-8").split("---\n", 2)
        head = dict(line.split(": ", 1) for line in front.splitlines() if ": " in line) | head
        before, rest = body.split(BEGIN)
        body = before + text + rest.split(END, 1)[1]
    else:
        body = f"\n# {path.stem}\n\n{text}\n"
    front = "".join(f"{key}: {value}\n" for key, value in head.items())
    write_file(path, lambda part: part.write_text(f"---\n{front}---\n{body}", encoding="utf-8"))


def write_log(run: Path, path: Path) -> None:
    """Losses, rates and scores of a run, as lists."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    content: dict[str, Any] = {"start": next(row for row in rows if row["event"] == "start")}
    for event in ("train", "validation"):
        chosen = [row for row in rows if row["event"] == event]
        keys = dict.fromkeys(k for row in chosen for k, v in row.items() if isinstance(v, int | float))
        content[event] = {key: [_short(row.get(key)) for row in chosen] for key in keys}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, lambda part: part.write_text(json.dumps(content) + "\n", encoding="utf-8"))


def _short(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value


def main(args: Args) -> None:
    """Make the model and say what it scored."""
    config = with_fields(read_config(args.run / "config.json"), {"data.root": args.data})
    model, _ = load_model(args.run / "best.safetensors")
    wanted = {"size": args.input_size, "crop_ratio": args.crop_ratio}
    spec = replace(model.info.input_spec, **{name: value for name, value in wanted.items() if value is not None})
    model.info = replace(model.info, input_spec=spec)
    source = open_set(config, "val")
    if isinstance(source, ClassificationSet):
        calibrate(model, source, config.evaluation)
    file = args.weights / f"{args.name}.safetensors"
    save_checkpoint(model, file, half=True)
    found = score(load_model(file)[0], config)
    words = words_of(found)
    licence = "see the card: research and non-commercial use"
    save_checkpoint(model, file, half=True, metadata={"score": words, "licence": licence})
    head = {"name": args.name, "task": str(model.task), "score": words, "size": f"{file.stat().st_size / 1e6:.1f} MB"}
    head |= {"recipe": config.recipe, "date": datetime.date.today().isoformat()}
    write_card(args.weights / f"{args.name}.md", head, scores_text(args.name, config.recipe, found))
    write_log(args.run, args.log / f"{args.name}.json")
    print(f"{file}: {words}")


if __name__ == "__main__":
    main(tyro.cli(Args))
