"""Reading predictions from files that any program may have written, and finding whose they are by names of files."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, TypeVar

from hrformer.data.coco_file import read_json
from hrformer.data.mask_reading import MASK_SUFFIXES
from hrformer.data.set_types import DataError
from hrformer.wording import listed

PREDICTIONS, IMAGES = "predictions.json", "images.json"
"""What ``hrformer predict`` calls its results and its list of pictures."""

_FILE_KEYS = ("file", "file_name", "filename", "path", "image", "picture")
_CLASS_KEYS = ("predictions", "class_ids", "class_id", "classes", "class", "labels", "label")

Entry = TypeVar("Entry")


def entries_for(files: Sequence[str], entries: Iterable[tuple[str, Entry]], kind: str, where: str) -> list[Entry]:
    """What stands under the names of pictures; entries for other pictures are passed over.

    A picture's entry has the same file name but for the ending. Where several have, as many folders above as
    possible must agree too, so that ``cat/1.png`` is found for ``val/cat/1.jpg`` beside a ``dog/1.png``.

    Args:
        files: of the pictures.
        entries: names, with or without folders and endings, and what stands under them.
        kind: what they are, for messages, such as "mask".
        where: they come from, for messages.

    Returns:
        One entry per file, in the order of the files.

    Raises:
        ValueError: a name comes twice, a file has no entry, or it cannot be told which one.
    """
    known: dict[str, Entry] = {}
    by_stem: defaultdict[str, list[str]] = defaultdict(list)
    for name, entry in entries:
        if name in known:
            raise ValueError(f"{where}: there are two entries for {name}")
        known[name] = entry
        by_stem[_parts(name)[-1]].append(name)
    # Of several files that would take one entry, it belongs to the one whose folders agree best.
    found: list[tuple[int, str]] = []
    owners: dict[str, tuple[int, str]] = {}
    for file in files:
        agreeing = {name: _agreement(file, name) for name in ([file] if file in known else by_stem[_parts(file)[-1]])}
        most = max(agreeing.values(), default=0)
        best = [name for name, length in agreeing.items() if length == most]
        if len(best) > 1:
            raise ValueError(f"{where}: {len(best)} {kind}s may belong to {file}; name them with their folders")
        found.append((most, best[0] if best else ""))
        if best and most > owners.get(best[0], (0, ""))[0]:
            owners[best[0]] = most, file
    missing = []
    for file, (length, name) in zip(files, found, strict=True):
        if not length or length < owners[name][0]:
            missing.append(file)
        elif owners[name][1] != file:
            raise ValueError(
                f"{where}: one {kind} would belong to both {owners[name][1]} and {file}; name it with its folder"
            )
    if missing:
        raise ValueError(f"{where}: {len(missing)} of {len(files)} pictures have no {kind}: {listed(missing)}")
    return [known[name] for _, name in found]


def _parts(name: str) -> tuple[str, ...]:
    """Folders and file name without its ending; members of archives ("shard.tar::a.jpg") count as files in a folder."""
    path = PurePath(name.replace("\\", "/").replace("::", "/"))
    return (*path.parts[:-1], path.stem)


def _agreement(file: str, name: str) -> int:
    """How many parts agree, from the end on; one more for the very same name, ending and all."""
    ours, theirs = _parts(file), _parts(name)
    pairs = list(zip(reversed(ours), reversed(theirs), strict=False))
    return next((i for i, (a, b) in enumerate(pairs) if a != b), len(pairs)) + (file == name)


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


def _json_rows(path: Path) -> Iterator[tuple[str, list[Any]]]:
    content = existing_json(path)
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
        rows = [row for row in csv.reader(file) if row]
    columns: list[int] | None = None
    if rows and rows[0][0].strip().lower() in _FILE_KEYS:
        header = rows.pop(0)
        wanted = ("class", "label", "prediction")
        columns = [i for i, name in enumerate(header) if name.strip().lower().startswith(wanted)]
        if not columns:
            raise ValueError(f"{path}: no column begins with class, label or prediction; found {header}")
    for row in rows:
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


def find_masks(folder: Path) -> Iterator[tuple[str, Path]]:
    """Names of pictures and the masks made for them, in a folder of ``hrformer predict`` or of any masks.

    Raises:
        hrformer.data.set_types.DataError: there is no such folder.
        ValueError: the folder's pictures were not segmented.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; give one with a mask for every picture")
    listing = folder / IMAGES
    if listing.is_file():
        for row in read_json(listing)["images"]:
            if not row.get("mask"):
                raise ValueError(f"{listing}: {row.get('file_name')} has no mask; were these pictures segmented?")
            yield str(row["source"]), folder / row["mask"]
        return
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in MASK_SUFFIXES - {".mat"} and path.is_file():
            yield PurePath(path.relative_to(folder)).as_posix(), path


def existing_json(path: Path) -> Any:
    """Content of a JSON file that a user named; FileNotFoundError where there is none, ValueError if it is no JSON."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    return read_json(path)
