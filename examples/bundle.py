"""Make a bundled model out of a finished run: 16-bit weights, scores, card and training log.

    python examples/bundle.py runs/things_tiny hrformer_tiny_things --data ../shared/data --input-size 112 112

Writes NAME.safetensors and the scores in NAME.md to ``src/hrformer/weights``, and the curves of the run, and of those
that it went on from, to ``docs/training``, as JSON and as a picture. A classifier's temperature is fitted to val. The
words of a card outside the two marks are left as they are; a new card gets the front matter alone. All scores are those
of the file that ships.
"""

from __future__ import annotations

import datetime
import json
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import tyro
from matplotlib.figure import Figure

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
    earlier: tuple[Path, ...] = ()  # run folders that this one went on from, first to last
    resumed: bool = False  # the run went on from the bundled weights of this name, whose curves stay before its own
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
    return "; ".join(
        f"{part}: {shares(outcome, outcome.main)}{limbs(part, outcome)}" for part, outcome in found.items()
    )


def limbs(part: str, outcome: Evaluation) -> str:
    """PCK of LSPET's limb joints alone: people labelled those, a network the nose, eyes and ears."""
    if "lspet" not in part:
        return ""
    rows = [row for row in outcome.scores["per_joint"] if not row["name"].endswith(("nose", "_eye", "_ear"))]
    joints = sum(row["joints"] for row in rows)
    right = sum(row["pck"] * row["joints"] for row in rows)
    return f", {len(rows)} limb joints {share_text(right / joints)}"


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
        lines += ["", f"**{part}**, {outcome.items} items: {shares(outcome)}{limbs(part, outcome)}."]
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


def log_of(run: Path) -> dict[str, Any]:
    """Losses, rates and scores of a run, as lists."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    content: dict[str, Any] = {"start": next(row for row in rows if row["event"] == "start")}
    for event in ("train", "validation"):
        chosen = [row for row in rows if row["event"] == event]
        keys = dict.fromkeys(k for row in chosen for k, v in row.items() if isinstance(v, int | float))
        content[event] = {key: [_short(row.get(key)) for row in chosen] for key in keys}
    return content


def curves(logs: list[dict[str, Any]], found: dict[str, Evaluation]) -> Figure:
    """Loss and main score by pictures seen, run after run, and how often each confidence is right."""
    main = next(iter(found.values())).main
    charts = [("loss", "train", "loss"), (label_of(main), "validation", "value")]
    reliable = {part: rows for part, outcome in found.items() if (rows := outcome.scores.get("reliability"))}
    figure = Figure(figsize=(4.2 * (2 + bool(reliable)), 3.4), layout="constrained")
    axes = figure.subplots(1, 2 + bool(reliable))
    for place, (title, event, key) in zip(axes, charts, strict=False):
        seen = 0
        for log in logs:
            batch, name = log["start"]["batch"], f"run {logs.index(log) + 1}" if len(logs) > 1 else ""
            pictures = [(seen + update * batch) / 1000 for update in log[event]["update"]]
            place.plot(pictures, log[event][key], marker="." if event == "validation" else "", label=name)
            seen += log["train"]["update"][-1] * batch  # a run may have been stopped before its end
        place.set(xlabel="training pictures, thousands", title=title)
        if len(logs) > 1:
            place.legend()
    for part, rows in reliable.items():
        axes[2].plot([row["confidence"] for row in rows], [row["right"] for row in rows], marker=".", label=part)
    if reliable:
        axes[2].plot([0, 1], [0, 1], color="grey", linewidth=0.8)
        axes[2].set(xlabel="confidence", title="share that is right")
        axes[2].legend()
    return figure


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
    log = args.log / f"{args.name}.json"
    logs = json.loads(log.read_text(encoding="utf-8"))["runs"] if args.resumed else []
    logs += [log_of(run) for run in (*args.earlier, args.run)]
    args.log.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"runs": logs}) + "\n"
    write_file(log, lambda part: part.write_text(text, encoding="utf-8"))
    write_file(args.log / f"{args.name}.png", lambda part: curves(logs, found).savefig(part, format="png", dpi=80))
    print(f"{file}: {words}")


if __name__ == "__main__":
    main(tyro.cli(Args))
