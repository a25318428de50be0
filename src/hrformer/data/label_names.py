"""Names of the classes of a classification set."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hrformer.data.sets import DataError
from hrformer.wording import counted

CLASSES_FILE = "classes.txt"
"""Lies in the root of a set: ``id name`` per line."""


def read_classes(path: Path) -> tuple[str, ...]:
    """Class names in the order of their ids, from lines ``id name``; ``#`` begins a comment line.

    Raises:
        DataError: a line is not of that form, or the ids are not 0, 1, 2 … each once.
    """
    names: dict[int, str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        match = re.fullmatch(r"(\d+)[\s:,]+(\S.*)", text)
        if match is None:
            raise DataError(f"{path}, line {number}: must be 'id name' such as '0 cat', got {text!r}")
        if int(match[1]) in names:
            raise DataError(f"{path}, line {number}: id {match[1]} occurs twice")
        names[int(match[1])] = match[2]
    if sorted(names) != list(range(len(names))) or not names:
        raise DataError(f"{path}: the ids must be 0, 1, 2 and so on without a gap, got {sorted(names)[:10]}")
    if len(set(names.values())) < len(names):
        raise DataError(f"{path}: two classes have the same name")
    return tuple(names[number] for number in range(len(names)))


def listed_classes(root: Path, given: Sequence[str]) -> tuple[str, ...]:
    """The names given, else those of ``classes.txt`` in ``root``, else none.

    Raises:
        DataError: see :func:`read_classes`.
    """
    file = root / CLASSES_FILE
    return tuple(given) if given or not file.is_file() else read_classes(file)


def classes_of_ids(labels: NDArray[np.int64], names: Sequence[str], where: str) -> tuple[str, ...]:
    """Class names for labels that are numbers: ``names``, or "0", "1" … up to the highest label.

    Args:
        labels: (N,) class ids.
        names: in the order of the ids; empty where nobody knows.
        where: what to call the labels in an error.

    Raises:
        DataError: there are no labels, or one is no class.
    """
    if not len(labels):
        raise DataError(f"{where}: holds no pictures")
    low, high = int(labels.min()), int(labels.max())
    if low < 0:
        row = int(labels.argmin())
        raise DataError(f"{where}: item {row} has the label {low}; labels count from 0, and a test part has none")
    if names and high >= len(names):
        row = int(labels.argmax())
        raise DataError(
            f"{where}: item {row} has the label {high}, but there are only {counted(len(names), 'class name')}"
        )
    return tuple(names) or tuple(map(str, range(high + 1)))
