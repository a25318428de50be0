"""From ``RECIPE --section.field value ...`` to a typed run: the values of a recipe or a file, the typed ones on top."""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, make_dataclass
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import tyro

from hrformer.cli.messages import note
from hrformer.data.set_types import DataError
from hrformer.recipes.catalogue import RECIPES, find_recipe
from hrformer.train.config import ALTERNATIVES, DATA_ROOT, AnyRun, check, with_fields
from hrformer.train.config_file import read_config

CONFIG_FILE = "config.json"  # Where a run directory keeps its configuration

Options = TypeVar("Options")

_FIELD = re.compile(r"\b(?:Classification|Pose|Segmentation)Source\.(\w+)")


@dataclass(frozen=True, kw_only=True)
class RunCommand(Generic[Options]):
    """A command about one run."""

    options: Options  # of the command itself
    config: AnyRun  # the run, checked
    folder: Path | None = None  # of the run, where it was named by its directory or the file in there


def parse_run(
    options: Options, typed: Sequence[str], *, command: str, sections: Sequence[str] = ()
) -> RunCommand[Options]:
    """Parse a command line whose first word names a run; SystemExit after help and where tyro has told what is wrong.

    Args:
        options: the command's own options at their defaults; a dataclass whose positional field takes the first word.
        typed: what stands behind the command's name; the first word is no option.
        command: its name, for help and messages.
        sections: parts of the run that may be changed; empty for all.
    """
    name = typed[0]
    config, folder = find_run(name)
    # An empty name leaves the prefix out: --optim.lr, not --config.optim.lr.
    changeable = [(part, getattr(config, part), part) for part in sections] or [("config", config, "")]
    members = [("options", options, ""), *changeable]
    both = make_dataclass(
        "both",
        [(part, Annotated[type(value), tyro.conf.arg(name=prefix)]) for part, value, prefix in members],
        kw_only=True,
    )
    result: Any = tyro.cli(
        both,
        args=list(_several_roots(typed)),
        default=both(**{part: value for part, value, _ in members}),
        prog=f"hrformer {command} {name}",
        description=RECIPES[name].description if name in RECIPES else inspect.getdoc(type(config)),
        config=(tyro.conf.AvoidSubcommands,),
    )
    if sections:
        chosen = with_fields(config, {part: getattr(result, part) for part in sections})
    else:
        chosen = _settled(result.config, config)
    check(chosen, trained=not sections)
    return RunCommand(options=result.options, config=chosen, folder=folder)


def _several_roots(typed: Sequence[str]) -> Iterator[str]:
    """``--data.root A B`` as ``--data.root A --data.more-roots B``: readers know one root, sets are joined later."""
    roots = None
    for word in typed:
        if word.startswith("-"):
            roots = {"--data.root": 0}.get(word, 1 if word.startswith("--data.root=") else None)
        elif roots is not None:
            roots += 1
            if roots == 2:
                yield "--data.more-roots"
        yield word


def find_run(name: str) -> tuple[AnyRun, Path | None]:
    """The run of a recipe, of a JSON file that ``config_file`` reads, or of a run directory, and its directory if any.

    Raises:
        ValueError: there is none, or the file is not one of a run; the message names recipes spelt alike.
    """
    path = Path(name)
    if name in RECIPES:
        return find_recipe(name)(), None
    if path.is_dir():
        if not (path / CONFIG_FILE).is_file():
            raise ValueError(f"{name} is neither a recipe nor the directory of a run: it holds no {CONFIG_FILE}")
        return read_config(path / CONFIG_FILE), path
    if path.suffix == ".json":
        return read_config(path), path.parent if path.name == CONFIG_FILE else None
    if len(path.parts) > 1:
        raise ValueError(f"{name}: no such folder; a run is a folder that training has made, or a JSON file")
    return find_recipe(name)(), None


@contextmanager
def speaking_of_options(config: AnyRun) -> Iterator[None]:
    """Context of work with a run's data: errors and warnings name the options to set, not the fields of sources.

    A DataError has a hint where nobody said where the data is; remarks of readers are said once each.
    """
    log, handler = logging.getLogger("hrformer"), logging.Handler(logging.INFO)
    said: set[str] = set()

    def emit(record: logging.LogRecord) -> None:
        kind = f"{record.levelname.lower()}: " if record.levelno > logging.INFO else ""
        if (text := f"{kind}{option_names(record.getMessage())}") not in said:
            said.add(text)
            note(text)

    handler.emit = emit  # type: ignore[method-assign]
    level = log.level
    log.addHandler(handler)
    log.setLevel(min(log.getEffectiveLevel(), logging.INFO))
    try:
        yield
    except DataError as error:
        hint = " (there is no --data.root, so the data was looked for in the current folder)"
        raise DataError(f"{option_names(str(error))}{hint * (config.data.root == DATA_ROOT)}") from error
    finally:
        log.setLevel(level)
        log.removeHandler(handler)


def option_names(text: str) -> str:
    """A message to Python users, with options in place of fields: "PoseSource.val_images" is "--data.val-images"."""
    # A skeleton has too many parts for a command line.
    text = _FIELD.sub(lambda found: f"--data.{found[1].replace('_', '-')}", text)
    return text.replace("--data.skeleton", "data.skeleton in a JSON file of the run")


def _settled(config: AnyRun, before: AnyRun) -> AnyRun:
    """Give way to the one of two alternatives that was typed: ``--schedule.updates`` ends the recipe's ``epochs``."""
    for pair in ALTERNATIVES:
        new, old = attrgetter(*pair)(config), attrgetter(*pair)(before)
        unchanged = [name for name, value, was in zip(pair, new, old, strict=True) if value == was]
        if all(value > 0 for value in new) and len(unchanged) == 1:
            config = with_fields(config, {unchanged[0]: 0})
    return config
