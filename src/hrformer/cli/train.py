"""``hrformer train``: a recipe, or a saved configuration, to a folder with weights."""

from __future__ import annotations

import shlex
from pathlib import Path

from rich.table import Table

from hrformer.cli.arguments import TrainArguments
from hrformer.cli.messages import INTERRUPTED, note, say, wide_console
from hrformer.cli.runs import RunCommand, speaking_of_options
from hrformer.recipes.catalogue import RECIPES
from hrformer.train.loop import train
from hrformer.train.progress import bars, score_text
from hrformer.train.rate_finder import PICTURE, draw_search, find_rate
from hrformer.train.run_folder import checkpoint_path
from hrformer.wording import counted

RUNS = Path("runs")  # Where runs go that are given no ``--out``


def run_train(command: RunCommand[TrainArguments] | TrainArguments) -> int:
    """Train, or list the recipes where none is named; 130 if a signal ended the run before its time, else 0."""
    if isinstance(command, TrainArguments):
        if command.out is not None or command.resume:
            raise ValueError(
                "name the recipe first: hrformer train RECIPE [options], or a run's folder: hrformer train FOLDER "
                "--resume; `hrformer train` lists the recipes"
            )
        show_recipes()
        return 0
    out = run_folder(command)
    if command.options.find_rate:
        return _search_rate(command, out)
    if command.options.resume and not checkpoint_path(out).exists():
        note(f"{out} holds no checkpoint to go on from, so this is a new run")
    with speaking_of_options(command.config):
        result = train(command.config, out, resume=command.options.resume)
    if result.interrupted:
        note(f"stopped by {result.interrupted} after {counted(result.update, 'update')}")
        note(f"to go on: {shlex.join(['hrformer', 'train', str(out), '--resume'])}")
        return INTERRUPTED
    if result.best is not None:
        score = score_text(result.main, result.best)
        if result.best_update:
            say(f"best {score}, after {counted(result.best_update, 'update')}")
        else:
            say(
                f"best {score}, before training: nothing better came; try more updates, another --optim.lr or more data"
            )
    say(f"weights: {out / 'best.safetensors'}; summary: {out / 'summary.html'}")
    return 0


def _search_rate(command: RunCommand[TrainArguments], out: Path) -> int:
    """Search the rate of a run, draw, and tell what was found."""
    with speaking_of_options(command.config), bars() as progress:
        search = find_rate(command.config, progress=progress)
    if search is None:
        note("interrupted before the loss ran away, so no rate can be suggested")
        return INTERRUPTED
    picture = out / PICTURE
    picture.parent.mkdir(parents=True, exist_ok=True)
    draw_search(search, picture)
    say(f"loss is lowest at a rate of {search.lowest:.1g} and falls fastest at {search.steepest:.1g}: {picture}")
    say(
        f"to try a tenth of the rate with the lowest loss: --optim.lr {search.suggested:.1g}, at --batch.total "
        f"{search.batch}; the run itself would choose {search.chosen:.1g}"
    )
    return 0


def run_folder(command: RunCommand[TrainArguments]) -> Path:
    """Where the run goes: ``--out``, the directory that is to be resumed, or a folder named like the recipe."""
    options = command.options
    if options.out is not None:
        return options.out
    if options.resume and command.folder is not None:
        return command.folder
    return RUNS / (command.config.recipe or Path(options.run).stem)


def show_recipes() -> None:
    """Print all recipes."""
    table = Table("name", "task", "what it trains", "score", title="Recipes", title_justify="left")
    table.columns[0].no_wrap = True
    for recipe in RECIPES.values():
        table.add_row(recipe.name, recipe.task, recipe.title, recipe.score)
    wide_console().print(table)
    say("Start one with `hrformer train NAME --data.root FOLDER`; `hrformer train NAME --help` shows every field.")
