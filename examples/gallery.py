"""``make gallery``: what the bundled models say about validation pictures, beside what is labelled.

    python examples/gallery.py --data ../shared/data --out gallery

For each bundled model whose card names its recipe: twelve items of its val part, six of them its worst by score, in one
picture.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import tyro
from numpy.typing import NDArray

from hrformer.checkpoints.checkpoint import load_model
from hrformer.checkpoints.registry import bundled_folder
from hrformer.cli.evaluate import open_set
from hrformer.evaluate.evaluate import evaluate
from hrformer.fast.optimize import optimize
from hrformer.files import write_file
from hrformer.recipes.catalogue import find_recipe
from hrformer.train.config import with_fields
from hrformer.train.progress import bars, share_text
from hrformer.train.summary_pictures import ValidationPicture, choose_items, draw_examples, predict_examples

HALF, COLUMNS = 6, 3
CELL, LINE = (400, 250), 22  # (width, height) of an item and height of a line of text, in pixels


@dataclass(frozen=True)
class Args:
    """Where the data is, and where the pictures go."""

    data: Path = Path("../shared/data")  # folder that holds things/, people17/ and petspeople/
    out: Path = Path("gallery")  # made if absent


def recipes(folder: Path) -> dict[str, str]:
    """Bundled weights whose card names the recipe that trained them, with it."""
    found = {card.stem: re.search(r"^recipe: (\S+)$", card.read_text("utf-8"), re.M) for card in folder.glob("*.md")}
    return {name: match[1] for name, match in sorted(found.items()) if match}


def cell(picture: ValidationPicture, note: str) -> NDArray[np.uint8]:
    """One item: its panels side by side, then its name, score and text."""
    decoded = [cv2.imdecode(np.frombuffer(base64.b64decode(one.jpeg), np.uint8), 1) for one in picture.panels]
    panels = decoded[-2:]  # of three the picture itself is the first
    width, height = CELL[0] // len(panels), CELL[1] - 2 * LINE
    canvas = np.full((CELL[1], CELL[0], 3), 255, np.uint8)
    for place, panel in enumerate(panels):
        scale = min((width - 4) / panel.shape[1], height / panel.shape[0])
        shown = cv2.resize(panel, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        left = place * width + (width - shown.shape[1]) // 2
        canvas[: shown.shape[0], left : left + shown.shape[1]] = shown
    score = "" if picture.score is None else f", {share_text(picture.score)}"
    for row, text in enumerate((f"{note}{score}: {Path(picture.file).name}", picture.text)):
        place = (4, height + LINE * (row + 1) - 6)
        cv2.putText(canvas, text[:58], place, cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1, cv2.LINE_AA)
    return canvas


def sheet(name: str, recipe: str, data: Path, limit: int | None = None) -> NDArray[np.uint8]:
    """Twelve items of a model's val part, its worst last; the worst of the first ``limit`` if that is given."""
    config = with_fields(find_recipe(recipe).run, {"data.root": data})
    model, source = optimize(load_model(bundled_folder() / f"{name}.safetensors")[0]), open_set(config, "val")
    with bars() as progress:
        tell = partial(progress, name)
        worst = evaluate(model, source, config.evaluation, limit=limit, worst=HALF, progress=tell).worst
    taken = {one.index for one in worst}
    chosen = [index for index in choose_items(source, 2 * HALF, seed=0) if index not in taken][:HALF]
    some = predict_examples(model, source, chosen, replace(config.evaluation, batch_size=1))
    drawn = [(one, "any") for one in draw_examples(source, some)]
    drawn += [(one, "worst") for one in draw_examples(source, worst)]
    cells = [cell(picture, note) for picture, note in drawn]
    return np.concatenate([np.concatenate(cells[i : i + COLUMNS], axis=1) for i in range(0, len(cells), COLUMNS)])


def main(args: Args) -> None:
    """Draw all sheets and say where they are."""
    args.out.mkdir(parents=True, exist_ok=True)
    for name, recipe in recipes(bundled_folder()).items():
        picture, file = sheet(name, recipe, args.data), args.out / f"{name}.jpg"
        write_file(file, lambda part, picture=picture: part.write_bytes(cv2.imencode(".jpg", picture)[1].tobytes()))
        print(file)


if __name__ == "__main__":
    main(tyro.cli(Args))
