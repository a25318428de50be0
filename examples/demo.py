"""Predict on photographs with the bundled models of all three tasks, and write a page to look at.

    python examples/demo.py [PICTURE ...] [--out demo]

The photographs come with scikit-image, scikit-learn and matplotlib (extra "demo"); pictures named on the command line
are added.
Nothing is downloaded, unless a picture is given as a URL. Takes less than two minutes on two processor cores.

Exit code: 0; 1 if a picture named on the command line could not be read (the page is written all the same); 2 for
other errors; 130 after Ctrl-C.
"""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import hrformer
from demo_overview import overview
from demo_page import ModelCard, Prediction, page
from demo_photos import Photograph, package_photographs
from hrformer.checkpoints.registry import bundled_folder, find_weights
from hrformer.data.images import ImageError, load_image
from hrformer.predict.predictors import AnyPredictor
from hrformer.predict.results import Result, write_bytes, write_picture

MODELS = {
    "classification": "hrformer_tiny_things",
    "pose": "hrformer_tiny_people17",
    "segmentation": "hrformer_tiny_petspeople",
}

LONGEST_SIDE = 1200
"""Pictures on the page are shrunk to this many pixels; the models see them whole."""


@dataclass(frozen=True, kw_only=True)
class Args:
    """Predict all three tasks on photographs and write index.html."""

    pictures: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="[PICTURE ...]")] = ()
    """Further pictures: files or http(s) URLs."""
    out: Path = Path("demo")
    """Folder to write to; made if absent."""


@dataclass(kw_only=True)
class Demo:
    """One run: predictors, what they found, and what could not be read."""

    out: Path
    predictors: dict[str, AnyPredictor] = field(default_factory=dict)
    predictions: list[Prediction] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)

    def load(self, task: str) -> None:
        """Load the task's model and run it once, so that no prediction's time holds the start-up."""
        self.predictors[task] = hrformer.load(MODELS[task])
        self.predictors[task](np.zeros((64, 64, 3), dtype=np.uint8))

    def predict(self, photograph: Photograph) -> Iterator[str]:
        """Run a photograph's tasks, all of them on one's own, and write their files; yields each task when done."""
        original = f"pictures/{photograph.name}.jpg"
        write_picture(self.out / original, shrunk(photograph.pixels))
        for task, predictor in self.predictors.items():
            if task not in photograph.tasks and not photograph.own:
                continue
            start = time.perf_counter()
            result: Result = predictor(photograph.pixels)
            seconds = time.perf_counter() - start
            name = f"{photograph.name}-{task}"
            picture, numbers = f"pictures/{name}.jpg", f"numbers/{name}.json"
            write_picture(self.out / picture, shrunk(result.draw()))
            (self.out / numbers).parent.mkdir(exist_ok=True)
            result.save(self.out / numbers)
            self.predictions.append(
                Prediction(
                    photograph=photograph,
                    task=task,
                    result=result,
                    seconds=seconds,
                    original=original,
                    picture=picture,
                    json=numbers,
                )
            )
            yield task


def shrunk(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A copy whose longer side is at most ``LONGEST_SIDE``."""
    factor = LONGEST_SIDE / max(pixels.shape[:2])
    if factor >= 1:
        return pixels
    size = (max(1, round(pixels.shape[1] * factor)), max(1, round(pixels.shape[0] * factor)))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def own_photographs(names: Sequence[str], unreadable: dict[str, str]) -> list[Photograph]:
    """The pictures named on the command line; those that cannot be read go to ``unreadable`` with the reason."""
    photographs = []
    for number, name in enumerate(names, start=1):
        try:
            pixels = load_image(name).pixels
        except ImageError as error:
            unreadable[name] = str(error).removeprefix(f"{name}: ")
        else:
            photographs.append(Photograph(name=f"own-{number}", title=Path(name).name, pixels=pixels, own=True))
    return photographs


def read_card(path: Path) -> dict[str, str]:
    """Front matter of a model card, the ``key: value`` lines between two lines of dashes; empty without a file."""
    if not path.is_file():
        return {}
    head = path.read_text(encoding="utf-8").split("---\n")[1]
    return dict(line.split(": ", 1) for line in head.splitlines() if ": " in line)


def model_card(predictor: AnyPredictor, name: str, out: Path) -> ModelCard:
    """What to say of a model; its card, if it has one, is copied beside the page as text that browsers show."""
    entry = find_weights(name)
    source = bundled_folder() / f"{name}.md"
    card, file = read_card(source), ""
    if card:
        file = f"cards/{name}.txt"
        write_bytes(out / file, source.read_bytes())
    parameters = sum(parameter.numel() for parameter in predictor.model.parameters())
    height, width = predictor.info.input_spec.size
    facts = {
        "Weights": f"{name}: {parameters / 1e6:.2f} million parameters, for inputs about {width} x {height}",
        "Trained on": card.get("data", entry.dataset),
        "Terms": card.get("terms", entry.licence),
        "Score": card.get("score", entry.score),
    }
    return ModelCard(name=name, facts=facts, file=file)


def run_demo(args: Args, console: Console) -> Demo:
    """Predict, and write everything.

    Raises:
        ModuleNotFoundError: scikit-image, scikit-learn or matplotlib is not installed.
        ValueError: the bundled weights are not there.
        OSError: the folder cannot be written to.
    """
    start = time.perf_counter()
    args.out.mkdir(parents=True, exist_ok=True)
    demo = Demo(out=args.out)
    photographs = package_photographs() + own_photographs(args.pictures, demo.unreadable)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        pictures = sum(len(MODELS) if one.own else len(one.tasks) for one in photographs)
        bar = progress.add_task("loading", total=len(MODELS) + pictures)
        for task in MODELS:
            demo.load(task)
            progress.advance(bar)
        for photograph in photographs:
            for task in demo.predict(photograph):
                progress.update(bar, advance=1, description=f"{photograph.title}: {task}")
        progress.update(bar, description="predictions")
    write_picture(args.out / "pictures" / "overview.jpg", overview(demo.predictions))
    cards = {task: model_card(demo.predictors[task], name, args.out) for task, name in MODELS.items()}
    device = next(iter(demo.predictors.values())).device
    about = (
        f"Written {datetime.now():%Y-%m-%d %H:%M}: {len(demo.predictions)} predictions and their pictures in "
        f"{time.perf_counter() - start:.1f} s, with loading the models, without importing the libraries. "
        f"Device {device}, threads {torch.get_num_threads()}, processor cores {os.cpu_count()}; "
        f"hrformer {hrformer.__version__}, torch {torch.__version__}, Python {platform.python_version()}. "
        "Times under the pictures run from picture to result."
    )
    html = page(demo.predictions, cards, about, demo.unreadable)
    # Last: the page never points to pictures that are not there yet.
    write_bytes(args.out / "index.html", html.encode())
    return demo


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; see the module's text for the exit codes."""
    args = tyro.cli(Args, args=arguments, prog="demo.py")
    console = Console(stderr=True)
    # OpenCV's own remarks on broken pictures would tear the progress bar.
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        demo = run_demo(args, console)
    except KeyboardInterrupt:
        print(f"interrupted; {args.out / 'index.html'} was not written", file=sys.stderr)
        return 130
    except ModuleNotFoundError as error:
        print(f"error: {error}; the demo's photographs need it: pip install '.[demo]'", file=sys.stderr)
        return 2
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for name, reason in demo.unreadable.items():
        print(f"could not be read: {name}: {reason}", file=sys.stderr)
    print(f"Open {args.out / 'index.html'} in a browser.")
    return 1 if demo.unreadable else 0


if __name__ == "__main__":
    sys.exit(main())
