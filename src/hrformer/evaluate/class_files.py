"""Files that say which classes each picture shows: JSON and CSV in, and the two forms that are written."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hrformer.files import write_file

_FILE_KEYS = ("file", "file_name", "filename", "path", "image", "picture")
_CLASS_KEYS = ("predictions", "class_ids", "class_id", "classes", "class", "labels", "label")


def read_class_file(path: Path, classes: Sequence[str]) -> Iterator[tuple[str, list[int]]]:
    """Pictures and their classes, best first.

    JSON is a mapping from file names to a class or a list of them, or a list of records with a file name ("file",
    "file_name" ...) and classes ("class_ids", "class_id", "label" ..., or "predictions" as ``hrformer predict`` writes
    them). CSV has a file name and then classes in each row; with a header, only columns whose names begin with
    "class", "label" or "prediction" count. A class is its number or its name.

    Args:
        path: ends in .json or .csv.
        classes: names, in the order of the ids.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not of these forms, or names what is no class.
    """
    rows = _csv_rows(path) if path.suffix.lower() == ".csv" else _json_rows(path)
    numbers = {name: number for number, name in enumerate(classes)}
    for place, (name, values) in enumerate(rows):
        ids = [_class_id(value, numbers, f"{path}, entry {place} ({name})") for value in values]
        if not ids or len(set(ids)) < len(ids):
            raise ValueError(f"{path}, entry {place} ({name}): needs different classes, at least one; got {values}")
        yield name, ids


def write_class_table(path: Path, names: Sequence[str], rows: Sequence[Sequence[int]]) -> None:
    """CSV that :func:`read_class_file` reads.

    Args:
        path: file to write, whole or not at all.
        names: of the pictures.
        rows: class ids of each, best first, equally many.
    """

    def write(part: Path) -> None:
        with part.open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file)
            table.writerow(["file", *(f"class_id_{place + 1}" for place in range(len(rows[0]) if rows else 0))])
            table.writerows([name, *row] for name, row in zip(names, rows, strict=True))

    write_file(path, write)


def write_top_classes(path: Path, rows: Sequence[Sequence[int]], ids: Sequence[int] | None = None) -> None:
    """One line of class numbers per picture, best first, as ImageNet's evaluation server takes them.

    Args:
        path: file to write, whole or not at all.
        rows: class ids of each picture, best first, in the order of the server's pictures.
        ids: what the server calls each class; None writes our numbers, from 0 in the order of the classes. ImageNet's
            server wants ILSVRC2012_ID, 1..1000 in the order of the development kit, which is not that of the folders.

    Raises:
        ValueError: ``ids`` lacks a class.
    """
    highest = max((number for row in rows for number in row), default=-1)
    if ids is not None and highest >= len(ids):
        raise ValueError(f"there are server ids for {len(ids)} classes, but class {highest} occurs")
    lines = [" ".join(str(number if ids is None else ids[number]) for number in row) + "\n" for row in rows]
    write_file(path, lambda part: part.write_text("".join(lines), encoding="utf-8"))


def _json_rows(path: Path) -> Iterator[tuple[str, list[Any]]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if isinstance(content, Mapping):
        for name, value in content.items():
            yield str(name), value if isinstance(value, list) else [value]
        return
    for place, record in enumerate(content if isinstance(content, list) else [content]):
        keys = record if isinstance(record, Mapping) else {}
        name = next((keys[key] for key in _FILE_KEYS if key in keys), None)
        value = next((keys[key] for key in _CLASS_KEYS if key in keys), None)
        if name is None or value is None:
            raise ValueError(
                f"{path}, entry {place}: needs a file name and classes, such as {{'file': 'a.jpg', 'class_id': 3}}"
            )
        values = value if isinstance(value, list) else [value]
        yield str(name), [one["class_id"] if isinstance(one, Mapping) and "class_id" in one else one for one in values]


def _csv_rows(path: Path) -> Iterator[tuple[str, list[Any]]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        columns: list[int] | None = None
        for place, row in enumerate(line for line in csv.reader(file) if line):
            if place == 0 and row[0].strip().lower() in _FILE_KEYS:
                names = [name.strip().lower() for name in row]
                columns = [i for i, name in enumerate(names) if name.startswith(("class", "label", "prediction"))]
                if not columns:
                    raise ValueError(f"{path}: no column begins with class, label or prediction; found {row}")
                continue
            values = row[1:] if columns is None else [row[i] for i in columns if i < len(row)]
            yield row[0], [value.strip() for value in values if value.strip()]


def _class_id(value: Any, numbers: Mapping[str, int], where: str) -> int:
    if isinstance(value, str) and value in numbers:
        return numbers[value]
    if isinstance(value, str) and value.isdecimal():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(numbers):
        return value
    raise ValueError(f"{where}: {value!r} is neither a class name nor a number in 0..{len(numbers) - 1}")
