"""Run configurations as JSON: every field by name, and errors that name the field and what it should be.

A file need not hold every field; what is missing takes its default. Paths stand there as text, tuples as lists, and
``task`` tells which of the three kinds of run it is.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, cast, get_args, get_origin, get_type_hints

from hrformer.files import write_file
from hrformer.geometry.skeletons import Skeleton
from hrformer.train.config import AnyRun, ClassificationRun, PoseRun, SegmentationRun

RUNS: dict[str, type[AnyRun]] = {
    "classification": ClassificationRun,
    "pose": PoseRun,
    "segmentation": SegmentationRun,
}
"""Kind of run by the ``task`` of its file."""

_PLAIN = {str: "a text", bool: "true or false", int: "a whole number", float: "a number", Path: "a path"}


def task_of(config: AnyRun) -> str:
    """The ``task`` that stands in the run's file."""
    return next(task for task, kind in RUNS.items() if isinstance(config, kind))


def to_dict(config: AnyRun) -> dict[str, Any]:
    """JSON types with every field; :func:`from_dict` reads it back."""
    return {"task": task_of(config), **_plain(config)}


def from_dict(values: Mapping[str, Any]) -> AnyRun:
    """Rebuild a run from :func:`to_dict` output, or from a part of it.

    Args:
        values: "task", and whatever differs from the defaults of its kind of run.

    Raises:
        ValueError: a field is unknown (the nearest one is named), of the wrong type, or out of range.
    """
    rest = dict(values)
    task = rest.pop("task", None)
    if not isinstance(task, str) or task not in RUNS:
        raise ValueError(f"task must be one of {', '.join(RUNS)}, got {task!r}{_close(task, RUNS)}")
    return cast(AnyRun, _build(RUNS[task], rest, "", RUNS[task]))


def read_config(path: Path) -> AnyRun:
    """Read a run from a JSON file.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no JSON object, or see :func:`from_dict`; the message names the file.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not a JSON file: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold one JSON object with the fields of a run, got {_described(values)}")
    try:
        return from_dict(values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def write_config(config: AnyRun, path: Path) -> Path:
    """Write a run as JSON, whole or not at all.

    Raises:
        OSError: the file cannot be written.
    """
    text = json.dumps(to_dict(config), indent=2, ensure_ascii=False) + "\n"
    write_file(path, lambda part: part.write_text(text, encoding="utf-8"))
    return path


def field_names(kind: type[Any], prefix: str = "") -> Iterator[str]:
    """Dotted names of all fields of a dataclass and of the dataclasses in it."""
    for name, hint in _hints(kind).items():
        if is_dataclass(hint):
            yield from field_names(cast(type[Any], hint), f"{prefix}{name}.")
        else:
            yield prefix + name


def _hints(kind: Any) -> dict[str, Any]:
    known = get_type_hints(kind)
    return {field.name: known[field.name] for field in fields(kind)}


def _plain(value: Any) -> Any:
    if isinstance(value, Skeleton):
        return value.to_dict()
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Path):
        return str(value)
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _build(kind: type[Any], values: Mapping[str, Any], path: str, run: type[Any]) -> Any:
    """A dataclass from a JSON object; ``path`` is its dotted name, empty for the run itself."""
    prefix = f"{path}." if path else ""
    hints = _hints(kind)
    for name in values:
        if name not in hints:
            raise ValueError(f"unknown field {prefix}{name}; {_suggestion(f'{prefix}{name}', kind, prefix, run)}")
    arguments = {name: _value(hints[name], value, prefix + name, run) for name, value in values.items()}
    try:
        return kind(**arguments)
    except ValueError as error:
        # The run's own classes name their fields in full, those of other packages do not know where they stand.
        raise error if not path or str(error).startswith(path) else ValueError(f"{path}: {error}") from error


def _value(hint: Any, value: Any, path: str, run: type[Any]) -> Any:
    """Check one JSON value against a field's type and turn it into that type."""
    origin, options = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return _one_of(options, value, path, run)
    if origin is Literal:
        if value not in options or isinstance(value, bool):
            raise ValueError(f"{path} must be {_expected(hint)}, got {value!r}{_close(value, options)}")
        return value
    if origin is tuple:
        return _tuple(options, hint, value, path, run)
    if is_dataclass(hint):
        if not isinstance(value, dict):
            raise ValueError(f"{path} must be an object with fields of its own, got {_described(value)}")
        if hint is Skeleton:
            return _skeleton(value, path)
        return _build(cast(type[Any], hint), value, path, run)
    if not _fits(hint, value):
        raise ValueError(f"{path} must be {_expected(hint)}, got {_described(value)}")
    return hint(value)


def _one_of(options: tuple[Any, ...], value: Any, path: str, run: type[Any]) -> Any:
    if value is None and NoneType in options:
        return None
    kinds = [option for option in options if option is not NoneType]
    # A union's members differ in the JSON type they come from, so at most one of them fits.
    for kind in kinds:
        if _fits(kind, value):
            return _value(kind, value, path, run)
    expected = " or ".join(_expected(option) for option in options)
    raise ValueError(f"{path} must be {expected}, got {_described(value)}")


def _tuple(options: tuple[Any, ...], hint: Any, value: Any, path: str, run: type[Any]) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise ValueError(f"{path} must be {_expected(hint)}, got {_described(value)}")
    if options[-1] is ...:
        return tuple(_value(options[0], item, f"{path}[{place}]", run) for place, item in enumerate(value))
    if len(value) != len(options):
        raise ValueError(f"{path} must be {_expected(hint)}, got {len(value)} values: {list(value)}")
    pairs = enumerate(zip(options, value, strict=True))
    return tuple(_value(option, item, f"{path}[{place}]", run) for place, (option, item) in pairs)


def _skeleton(value: dict[str, Any], path: str) -> Skeleton:
    try:
        return Skeleton.from_dict(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def _fits(hint: Any, value: Any) -> bool:
    """Whether a JSON value has the outer form of a type."""
    origin = get_origin(hint)
    if origin is Literal:
        return any(type(value) is type(option) for option in get_args(hint))
    if origin is tuple:
        return isinstance(value, list | tuple)
    if is_dataclass(hint):
        return isinstance(value, dict)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, str if hint is Path else hint)


def _expected(hint: Any) -> str:
    """What a field takes, in words."""
    origin, options = get_origin(hint), get_args(hint)
    if hint is NoneType:
        return "null"
    if origin in (Union, UnionType):
        return " or ".join(_expected(option) for option in options)
    if origin is Literal:
        return f"one of {', '.join(map(repr, options))}"
    if origin is tuple and options[-1] is ...:
        return f"a list, each {_expected(options[0])}"
    if origin is tuple:
        return f"a list of {len(options)} values, each {_expected(options[0])}"
    return _PLAIN.get(hint, "an object with fields of its own")


def _described(value: Any) -> str:
    names = {str: "text", bool: "true or false", int: "whole number", float: "number", list: "list", dict: "object"}
    text = repr(value)
    text = text if len(text) <= 160 else text[:157] + "..."
    return "null" if value is None else f"the {names.get(type(value), type(value).__name__)} {text}"


def _suggestion(unknown: str, kind: type[Any], prefix: str, run: type[Any]) -> str:
    """Which field was probably meant: one beside it that is spelt alike, else one elsewhere."""
    last = unknown.rpartition(".")[2]
    beside = list(_hints(kind))
    everywhere = list(field_names(run))
    close = [prefix + name for name in difflib.get_close_matches(last, beside, 1)]
    if not close:
        close = [name for name in everywhere if name.rpartition(".")[2] == last][:3]
    if not close:
        close = difflib.get_close_matches(unknown, everywhere, 1)
    if close:
        return f"did you mean {' or '.join(close)}?"
    return f"{prefix.rstrip('.') or 'a run'} has {', '.join(beside)}"


def _close(value: Any, options: Any) -> str:
    """The option spelt most alike, as the end of a message."""
    close = difflib.get_close_matches(str(value), [str(option) for option in options], 1)
    return f"; did you mean {close[0]!r}?" if close else ""
