"""YOLO's text files with their YAML, as Ultralytics reads and Roboflow writes them (https://docs.ultralytics.com/
datasets/pose/ and .../segment/): a file per picture, a line per thing.

A line is the number of the class and, as shares of the picture's width and height, a box (middle, width, height) with
the joints behind it where the YAML has ``kpt_shape``, or a polygon.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hrformer.data.coco_file import as_number, said, shown
from hrformer.data.headers import read_header
from hrformer.data.images import SUFFIXES, ImageError
from hrformer.data.labels.content import Category, Collected, Found, LabelSet
from hrformer.data.labels.shapes import Joints, Thing, around, polygon
from hrformer.data.set_types import DataError
from hrformer.data.source_config import Split
from hrformer.geometry.skeletons import COCO17
from hrformer.wording import listed

_FIELDS: dict[Split, tuple[str, ...]] = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
_NAMES, _MORE = (re.compile(text, re.MULTILINE) for text in (r"^names\s*:", r"^(train|val|valid|test|nc)\s*:"))
_MOST_JOINTS = 10_000
_SLACK = 0.02
"""By what share of the picture boxes and outlines may reach over its edge: what rounding and augmentation leave."""


def is_yolo(file: Path) -> bool:
    """Whether a YAML file describes a set: it names classes, and a part or their number."""
    try:
        text = file.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return False
    return bool(_NAMES.search(text) and _MORE.search(text))


def parts_of(file: Path) -> list[Found]:
    """The parts that a YAML names; val and test only where their files are there.

    Where it names none, as supervision writes it, everything in ``images`` beside it is of no part.
    """
    table = _table(file)
    if not any(_given(table, part) for part in _FIELDS):
        return [Found(file, None)] if (file.parent / "images").is_dir() else []
    return [
        Found(file, part)
        for part in _FIELDS
        if _given(table, part) and (part == "train" or any(one.exists() for one in _places(table, part, file)))
    ]


def read(founds: Sequence[Found], root: Path, *, skip_broken: bool = False) -> LabelSet:
    """Parts of a set; ``root`` is its folder. With ``skip_broken`` pictures that cannot be read are left out.

    Raises:
        DataError: the YAML, a line or a picture is not as it should be; file, line and field are named.
    """
    collected = Collected("YOLO")
    for found in founds:
        collected.open(found)
        table = _table(found.path)
        described = _described(table, found.path, collected)
        for name in described.names:
            collected.categories.setdefault(name, Category(**described.joints_of(name)))
        labelled = 0
        for picture in _pictures(table, found):
            try:
                size = read_header(picture).size
            except ImageError as error:
                if not skip_broken:
                    raise DataError(str(error)) from error
                collected.leave_out("picture that cannot be read")
                continue
            labels = label_file(picture)
            labelled += labels.is_file()
            shown_name = picture.relative_to(root) if picture.is_relative_to(root) else picture.absolute()
            number = collected.picture(found, shown_name.as_posix(), size, str(labels))
            collected.add(found, number, _things(labels, described, size) if labels.is_file() else ())
        if not labelled:
            first = next(_pictures(table, found), None)
            where = f"such as {label_file(first)}" if first else "and there are no pictures"
            raise DataError(f"{found.path}: no picture of the {found.part or 'only'} part has its labels, {where}")
    return collected.finished()


@dataclass(frozen=True, slots=True)
class _Described:
    """What a YAML says: names of classes and of K joints, numbers a joint has (2 or 3), pairs of joints, and whether
    the names mean anything."""

    names: tuple[str, ...]
    joints: tuple[str, ...]
    dims: int
    flip_pairs: list[tuple[str, str]] | None
    named: bool = True

    def joints_of(self, name: str) -> dict[str, Any]:
        """Of the class; every class has the same."""
        if not self.joints:
            return {}
        return {
            "joints": dict.fromkeys(self.joints),
            "flip_pairs": self.flip_pairs,
            "configured": True,
            "unnamed": not self.named,
        }


def _table(file: Path) -> dict[str, Any]:
    try:
        table = yaml.safe_load(file.read_text("utf-8-sig"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{file} is not YAML that can be read: {reason:.200}") from error
    if not isinstance(table, dict):
        raise DataError(f"{file} must hold names, train and val, as Ultralytics describes a set")
    return table


def _described(table: Mapping[str, Any], file: Path, collected: Collected) -> _Described:
    names = table.get("names")
    if isinstance(names, Mapping) and set(names) == set(range(len(names))):
        names = [names[number] for number in range(len(names))]
    if not isinstance(names, list) or not names or len(set(map(str, names))) != len(names):
        raise DataError(
            f"{file}: 'names' must be different names of classes, a list or by number from 0, got {said(names)}"
        )
    classes = tuple(map(str, names))
    shape = table.get("kpt_shape")
    if shape is None:
        return _Described(classes, (), 0, None)
    if not (isinstance(shape, list) and len(shape) == 2 and all(type(one) is int for one in shape)) or (
        not 0 < shape[0] <= _MOST_JOINTS or shape[1] not in (2, 3)
    ):
        raise DataError(f"{file}: 'kpt_shape' must be [number of joints, 2 or 3], got {shown(table, 'kpt_shape')}")
    flips = table.get("flip_idx")
    if flips is not None and (
        not isinstance(flips, list) or sorted(map(str, flips)) != sorted(map(str, range(shape[0])))
    ):
        raise DataError(
            f"{file}: 'flip_idx' must have each number from 0 to {shape[0] - 1} once, got {shown(table, 'flip_idx')}"
        )
    joints = _joint_names(table, shape[0], flips, file, collected)
    pairs = None
    # Roboflow writes 0, 1, 2 ... where nobody said anything, which is no knowledge.
    if flips is not None and flips != sorted(flips):
        pairs = [(joints[a], joints[b]) for a, b in enumerate(flips) if a < b and flips[b] == a]
    named = flips is not None or joints[0] != "joint_0"
    return _Described(classes, joints, shape[1], pairs, named)


def _joint_names(
    table: Mapping[str, Any], count: int, flips: list[int] | None, file: Path, collected: Collected
) -> tuple[str, ...]:
    """Names of the joints: the YAML's ``kpt_names``, else COCO's for its 17, else numbers."""
    names = table.get("kpt_names")
    if isinstance(names, Mapping):
        names = next(iter(names.values()), None)
    if names is not None:
        if not isinstance(names, list) or len(names) != count or len(set(map(str, names))) != count:
            raise DataError(f"{file}: 'kpt_names' must be {count} different names, got {shown(table, 'kpt_names')}")
        return tuple(map(str, names))
    mirror, same = list(range(count)), list(range(count))
    if count == COCO17.num_keypoints:
        for left, right in COCO17.flip_pairs:
            mirror[left], mirror[right] = right, left
        if flips in (None, mirror, same):
            collected.note(f"{file} does not name its joints ('kpt_names'); COCO's 17 are assumed")
            return COCO17.keypoints
    if flips is None:
        collected.note(f"{file} does not name its {count} joints; add a list of {count} names, kpt_names")
    else:
        collected.note(f"{file} does not name its joints ('kpt_names'); they are called joint_0, joint_1 and so on")
    return tuple(f"joint_{place}" for place in range(count))


def _given(table: Mapping[str, Any], part: Split | None) -> list[str]:
    """What a YAML says of a part: folders, lists or pictures."""
    if part is None:
        return ["images"]
    value = next((table[field] for field in _FIELDS[part] if table.get(field)), None)
    values = value if isinstance(value, list) else [value] if value else []
    return [str(one).replace("\\", "/") for one in values]


def _places(table: Mapping[str, Any], part: Split | None, file: Path) -> list[Path]:
    """Folders or files of a part: below ``path``, or beside the YAML, also where they are said to be above it."""
    beside = file.parent
    base = beside / str(table.get("path") or "")
    found = []
    for text in _given(table, part):
        options = [base / text, beside / text, beside / re.sub(r"^(\.\./)+", "", text)]
        found.append(next((one for one in options if one.exists()), options[-1]))
    return found


def _pictures(table: Mapping[str, Any], found: Found) -> Iterator[Path]:
    """Pictures of a part, folders sorted by name, lists in their order."""
    for place in _places(table, found.part, found.path):
        if place.is_dir():
            yield from sorted(one for one in place.rglob("[!.]*") if one.suffix.lower() in SUFFIXES)
        elif place.suffix.lower() in SUFFIXES and place.is_file():
            yield place
        elif place.is_file():
            for line in filter(None, map(str.strip, place.read_text("utf-8-sig").splitlines())):
                base = found.path.parent / str(table.get("path") or "")
                options = [place.parent / line, base / line, found.path.parent / line]
                yield next((one for one in options if one.exists()), options[0])
        else:
            given = listed(_given(table, found.part))
            raise DataError(
                f"{found.path}: {found.part or 'images'} is {given}, and there is no {place}; name a folder of "
                "pictures, or a list of them, relative to 'path' or to this file"
            )


def label_file(picture: Path) -> Path:
    """Where the labels of a picture lie: in ``labels`` in place of the last ``images`` of its path, else beside it."""
    beside, parts = picture.with_suffix(".txt"), list(picture.parts)
    for place in range(len(parts) - 2, -1, -1):
        if parts[place] == "images":
            parts[place] = "labels"
            apart = Path(*parts).with_suffix(".txt")
            # The folder may be one above the set, which the set knows nothing of.
            return beside if beside.is_file() and not apart.is_file() else apart
    return beside


def _things(file: Path, described: _Described, size: tuple[int, int]) -> Iterator[Thing]:
    try:
        lines = file.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: {getattr(error, 'strerror', None) or error}") from error
    for place, line in enumerate(lines, start=1):
        if line.strip():
            yield _thing(line.split(), described, size, f"{file}: line {place}")


def _thing(words: list[str], described: _Described, size: tuple[int, int], where: str) -> Thing:
    numbers = [as_number(word) for word in words]
    if not all(abs(one) < 1e9 for one in numbers):
        raise DataError(f"{where}: must be numbers with spaces between them, got {said(' '.join(words))}")
    kind, count, dims = numbers[0], len(described.joints), described.dims
    if not kind.is_integer() or not 0 <= kind < len(described.names):
        raise DataError(
            f"{where}: the class must be a number from 0 to {len(described.names) - 1}, as 'names' has them, got "
            f"{words[0]}"
        )
    values, name = numbers[1:], described.names[int(kind)]
    lengths = [4] + ([4 + count * dims] if count else [])
    outlined = not count and len(values) >= 6 and len(values) % 2 == 0
    if len(values) not in lengths and not outlined:
        joints = f", or with {count} joints of {dims} numbers each {1 + lengths[-1]}" if count else ""
        shape = "" if count else ", or a class and x, y of three points or more"
        raise DataError(
            f"{where}: must have 5 numbers (class and box){joints}{shape}, got {len(words)}"
            + (" or set 'kpt_shape' in the YAML if these are joints" if not count else "")
        )
    joints_at = 4 if len(values) > 4 and not outlined else len(values)
    _require_shares(values[:joints_at], where)
    width, height = size
    if outlined:
        points = [(x * width, y * height) for x, y in zip(values[::2], values[1::2], strict=True)]
        return Thing(name, around(points), polygon(points))
    x, y, across, down = values[:4]
    box = [(x - across / 2) * width, (y - down / 2) * height, across * width, down * height]
    return Thing(name, box, joints=_joints(values[4:], described, size, where))


def _joints(values: list[float], described: _Described, size: tuple[int, int], where: str) -> Joints:
    """Joints with a label. Without flags, one at 0, 0 or below 0 has none."""
    joints: Joints = {}
    dims = described.dims
    for place, name in enumerate(described.joints if values else ()):
        x, y, *flags = values[dims * place : dims * (place + 1)]
        flag = flags[0] if flags else 0 if min(x, y) < 0 or x == y == 0 else 2
        if flag not in (0, 1, 2):
            raise DataError(
                f"{where}: the flag of joint {name} must be 0 (not labelled), 1 (hidden) or 2 (visible), got {flag:g}"
            )
        if flag:
            _require_shares([x, y], f"{where}: joint {name}")
            joints[name] = (x * size[0], y * size[1], int(flag))
    return joints


def _require_shares(values: list[float], where: str) -> None:
    odd = [one for one in values if not -_SLACK <= one <= 1 + _SLACK]
    if odd:
        raise DataError(
            f"{where}: places must be shares of the picture's width and height, 0 to 1, got {odd[0]:g}; divide x by "
            "the width and y by the height"
        )
