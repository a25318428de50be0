"""Run configurations as JSON: every field by name, and errors that name the field and what it should be.

A file need not hold every field; what is missing takes its default. Paths stand there as text, tuples as lists, and
``task`` tells which of the three kinds of run it is.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

from hrformer.files import write_file
from hrformer.train.config import AnyRun, ClassificationRun, PoseRun, SegmentationRun
from hrformer.train.ranges import nearest
from hrformer.wording import shortened

RUNS: dict[str, type[AnyRun]] = {"classification": ClassificationRun, "pose": PoseRun, "segmentation": SegmentationRun}
"""Kind of run by the ``task`` of its file."""


def task_of(config: AnyRun) -> str:
    """The ``task`` that stands in the run's file."""
    return next(task for task, kind in RUNS.items() if isinstance(config, kind))


def to_dict(config: AnyRun) -> dict[str, Any]:
    """JSON types with every field; :func:`from_dict` reads it back."""
    return {"task": task_of(config), **_plain(config)}


def from_dict(values: Mapping[str, Any]) -> AnyRun:
    """Rebuild a run from JSON types: "task", and whatever differs from the defaults of its kind of run.

    Raises:
        ValueError: a field is unknown (the nearest one is named), of the wrong type, or out of range.
    """
    # Imported here, as a borrowed machine that only trains recipes may be without it.
    from pydantic import ValidationError

    rest = dict(values)
    task = rest.pop("task", None)
    if not isinstance(task, str) or task not in RUNS:
        raise ValueError(f"task must be one of {', '.join(RUNS)}, got {task!r}{nearest(task, RUNS)}")
    try:
        # From JSON, whose lists and texts are strict types for tuples and paths.
        return cast(AnyRun, _reader(task).validate_json(json.dumps(rest), strict=True, extra="forbid"))
    except ValidationError as error:
        raise ValueError(_in_one_line(error.errors(include_url=False), task)) from error


def read_config(path: Path) -> AnyRun:
    """Read a run from a JSON file; OSError, or a ValueError that names the file, where that cannot be."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not a JSON file: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold one JSON object with the fields of a run, got {_shown(values)}")
    try:
        return from_dict(values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def write_config(config: AnyRun, path: Path) -> Path:
    """Write a run as JSON, whole or not at all."""
    text = json.dumps(to_dict(config), indent=2, ensure_ascii=False) + "\n"
    write_file(path, lambda part: part.write_text(text, encoding="utf-8"))
    return path


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Path):
        return str(value)
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


@cache
def _reader(task: str) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(RUNS[task])


def _in_one_line(errors: list[Any], task: str) -> str:
    """The first of pydantic's errors: the field, what it must be and what it is."""
    names = [_field_name(error["loc"]) for error in errors]
    # A field of several types has an error for each; what went wrong deeper inside one of them tells most.
    name = max((name for name in names if name.startswith(names[0])), key=len)
    errors = [error for error, field in zip(errors, names, strict=True) if field == name]
    kind, message, value = errors[0]["type"], errors[0]["msg"], errors[0]["input"]
    if kind == "unexpected_keyword_argument":
        return f"unknown field {name}; {_suggestion(name, task)}"
    if kind == "value_error":
        # The run's own classes name their fields in full, those of other packages do not know where they stand.
        text = str(errors[0]["ctx"]["error"])
        return text if not name or text.startswith(name) else f"{name}: {text}"
    if not message.startswith("Input should be "):
        return f"{name}: {message}, got {_shown(value)}"
    wanted = " or ".join(error["msg"].removeprefix("Input should be ") for error in errors)
    options = re.findall("'([^']*)'", wanted)
    return f"{name} must be {wanted}, got {_shown(value)}{nearest(value, options)}"


def _field_name(place: tuple[int | str, ...]) -> str:
    """``("augment", "size", 1)`` as "augment.size[1]", without the types that pydantic puts between for unions."""
    steps = [step for step in place if not re.fullmatch(r"str|\w+\[.*\]", str(step))]
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps).lstrip(".")


def _shown(value: Any) -> str:
    return shortened(json.dumps(value, ensure_ascii=False), 160)


def _names(values: dict[str, Any], section: str = "") -> Iterator[str]:
    """Dotted names of all fields and of the sections that hold them."""
    for name, value in values.items():
        yield section + name
        if isinstance(value, dict):
            yield from _names(value, f"{section}{name}.")


def _suggestion(unknown: str, task: str) -> str:
    """Which field was probably meant: one beside it that is spelt alike, else one elsewhere."""
    names = list(_names(_plain(RUNS[task]())))
    section, _, last = unknown.rpartition(".")
    beside = [name.rpartition(".")[2] for name in names if name.rpartition(".")[0] == section]
    close = [f"{section}.{name}".lstrip(".") for name in difflib.get_close_matches(last, beside, 1)]
    close = close or [name for name in names if name.rpartition(".")[2] == last][:3]
    close = close or difflib.get_close_matches(unknown, names, 1)
    return f"did you mean {' or '.join(close)}?" if close else f"{section or 'a run'} has {', '.join(beside)}"
