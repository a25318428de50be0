"""The classes of a set that brings its own: names given outright, or a text file as people and labelling tools write
it, with an id and a name per line, or names alone (labelme), or names and colours (CVAT).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from hrformer.data.class_names import Palette
from hrformer.data.label_ids import LabelTable, label_table
from hrformer.data.mask_reading import ColourTable
from hrformer.data.part_patterns import words_of
from hrformer.data.set_types import IGNORE, DataError
from hrformer.data.source_config import SegmentationSource
from hrformer.wording import counted, listed

CLASSES_FILE = "classes.txt"
"""Lies in the root of a set."""

_TOOL_FILES = ("labelmap.txt", "class_names.txt", "{train}/_classes.csv")
"""What CVAT, labelme and Roboflow call the file; looked for where there is no ``classes.txt``."""

_LIST_WORDS = frozenset("class classes label labels labelmap names obj categories category data".split())
"""By which other lists of classes are called."""

_HIGHEST_ID = 65535
_LINE = re.compile(r"(\d+)[\s:,]+(\S.*)")
_COLOUR_BEHIND = re.compile(r"(\S.*?)[\s,]+(\d+)[\s,]+(\d+)[\s,]+(\d+)")
_LABELMAP_LINE = re.compile(r"([^:]+):(?:(\d+),(\d+),(\d+))?:[^:]*:[^:]*")
_FORM = "'id name' or 'id name R G B'"
_VOID_NAMES = frozenset(
    "void ignore ignored unlabelled unlabeled unlabel unknown undefined nolabel dontcare donotcare border boundary "
    "edge contour ambiguous unannotated mask masked ignoreregion ignorelabel nodata na none null nothing noclass "
    "invalid outofroi".split()
)
"""Names that people give to 255 where it is no class, letters only."""

Row: TypeAlias = "tuple[str, tuple[int, int, int] | None]"
"""Name of a class and its colour, if it has one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassList:
    """Classes and the ids that stand for them in mask files.

    Attributes:
        rows: by id in the files; also of ids that are no class, negative ones among them.
        ignored: ids of no class, 255 among them unless it is a class.
        origin: where the names come from, for messages.
        by_colour: whether colours stand in place of ids, so that masks can only be told by them.

    Raises:
        DataError: there are too many classes, none or one only, or two have one name.
    """

    rows: Mapping[int, Row]
    ignored: tuple[int, ...]
    origin: str = "classes"
    by_colour: bool = False

    def __post_init__(self) -> None:
        if not 1 <= len(self.names) <= IGNORE:
            raise DataError(f"{self.origin}: a set has 1 to {IGNORE} classes, got {len(self.names)}")
        if repeated := sorted(name for name, count in Counter(self.names).items() if count > 1):
            raise DataError(
                f"{self.origin}: every class needs a name of its own; more than once: {', '.join(repeated)}"
            )
        if len(self.names) == 1:
            raise DataError(self._one_class())

    @property
    def classes(self) -> dict[int, Row]:
        """The rows that are classes, by ascending id: class number k is the k-th of them."""
        return {number: self.rows[number] for number in sorted(self.rows) if number >= 0 and number not in self.ignored}

    @property
    def names(self) -> tuple[str, ...]:
        """In the order of the class numbers."""
        return tuple(name for name, _ in self.classes.values())

    @property
    def palette(self) -> Palette:
        """A colour per class, or empty."""
        colours = tuple(colour for _, colour in self.classes.values() if colour is not None)
        return colours if len(colours) == len(self.classes) else ()

    def table(self, palette_masks: bool) -> LabelTable | ColourTable:
        """Class numbers by colour where the masks or the list have nothing else, else by id.

        Raises:
            DataError: masks are colours, and a class has none or two have the same.
        """
        return self._colour_table() if palette_masks or self.by_colour else self._id_table()

    def _id_table(self) -> LabelTable:
        ids = tuple(self.classes)
        plain = ids == tuple(range(ids[0], ids[-1] + 1))
        listed_ids = f"{ids[0]}..{ids[-1]}" if plain else ", ".join(map(str, ids))
        # 255 first, as everybody looks for it.
        nothing = ", ".join(map(str, sorted(self.ignored, key=lambda number: (number != IGNORE, number))))
        rest = f"{nothing} for none" if nothing else "no id is void"
        return label_table(
            ids,
            self.ignored,
            meaning=f"those of {self.origin}: {listed_ids} for classes; {rest}",
            advice="Name the ids there, or list those that belong to no class in SegmentationSource.ignore.",
            advice_on_zero=f"If 0 is what lies around them, add the line `0 background` to {self.origin}; else list it "
            "in SegmentationSource.ignore.",
            void=(),
        )

    def _colour_table(self) -> ColourTable:
        if not self.palette:
            colourless = [name for name, colour in self.classes.values() if colour is None]
            raise DataError(
                f"{self.origin}: masks of colours (SegmentationSource.palette_masks) need a colour for every class, "
                f"lines 'id name R G B'; without one: {listed(colourless, 8)}"
            )
        of_no_class = (self.rows[number][1] for number in self.rows if number not in self.classes)
        numbers: dict[tuple[int, int, int], int] = {}
        for number, colour in (*enumerate(self.palette), *((IGNORE, colour) for colour in of_no_class)):
            if colour is not None and numbers.setdefault(colour, number) != number:
                raise DataError(f"{self.origin}: two classes have the colour {colour}; colours must tell them apart")
        return ColourTable(numbers, self.origin)

    def _one_class(self) -> str:
        """Why a single class is refused: whatever a network says is right then, and every score is 1."""
        ((number, (name, _)),) = self.classes.items()
        only = f"{name!r} (id {number}), and nothing to tell it from, so every score would be 1"
        if left_out := [number for number in self.rows if number in self.ignored and number != IGNORE]:
            return (
                f"{self.origin}: only one class is left, {only}: take {', '.join(map(str, left_out))} out of "
                "SegmentationSource.ignore"
            )
        if number == 0:
            first = f"list `0 background` and `1 {name}`, and save the masks with these ids"
        else:
            first = "add `0 background`, if the masks hold 0 there"
        return (
            f"{self.origin}: there is one class only, {only}. What do the other pixels show? Name it as a class too: "
            f"{first}; where the masks hold {IGNORE} there, list `{IGNORE} background` and set "
            f"SegmentationSource.ignore none, since {IGNORE} is void otherwise"
        )


def class_list(source: SegmentationSource, default: ClassList | None = None) -> ClassList:
    """The classes a source speaks of.

    Names given outright belong to the ids 0, 1, 2 ... without those in ``source.ignore``. A file gives each id itself;
    lines whose id is in ``source.ignore``, and one of 255 with a name such as void, only say which colour belongs to no
    class. Empty lines and lines that begin with ``#`` are skipped. Where there is no ``classes.txt``, the files of CVAT
    (``labelmap.txt``, ``name:R,G,B::``, masks of colours), labelme (``class_names.txt``, a name per line from id 0 on,
    ``__ignore__`` being no class) and Roboflow (``train/_classes.csv``, a heading, then ``id, name``) are taken, which
    may also be named in ``source.classes``.

    Args:
        source: its ``classes``, ``ignore`` and ``root`` are used.
        default: taken where the file is the usual ``classes.txt`` and absent.

    Raises:
        DataError: the file is missing, a line of it cannot be understood, 255 has the name of a class but is void, or
            there is one class only.
    """
    ignored = void_ids(source)
    if not isinstance(source.classes, str):
        free = (number for number in range(2 * IGNORE + len(ignored)) if number not in ignored)
        return ClassList(rows={next(free): (name, None) for name in source.classes}, ignored=ignored)
    path = source.root / source.classes
    if not path.is_file() and source.classes == CLASSES_FILE:
        usual = (source.root / name.replace("{train}", source.train) for name in _TOOL_FILES)
        path = next((file for file in usual if file.is_file()), path)
    if path.is_file():
        return _read(path, source)
    if default is not None and source.classes == CLASSES_FILE:
        return default
    raise DataError(
        f"{path}: no such file. SegmentationSource.classes must be the names of the classes in the order of their "
        f"ids, such as sky road car, or a text file in SegmentationSource.root with {_FORM} per line"
        f"{_other_lists(source.root)}"
    )


def means_void(name: str) -> bool:
    """Whether people call pixels so that belong to no class: void, "don't care", ignore_region."""
    return re.sub(r"[^a-z]", "", name.lower()) in _VOID_NAMES


def void_ids(source: SegmentationSource) -> tuple[int, ...]:
    """Ids in the files that belong to no class, ascending: those of ``source.ignore`` and 255, or none at all.

    Raises:
        DataError: it is a text other than "none".
    """
    if source.ignore == "none":
        return ()
    if isinstance(source.ignore, str):
        raise DataError(f"SegmentationSource.ignore must be ids such as 0 255, or none, got {source.ignore!r}")
    return tuple(sorted({*source.ignore, IGNORE}))


def listed_classes(root: Path, given: Sequence[str]) -> tuple[str, ...]:
    """Classes of pictures: the names given, else those of ``classes.txt`` in ``root``, else none.

    The file has lines ``id name``; ``#`` begins a comment line.

    Raises:
        DataError: a line is not of that form, or the ids are not 0, 1, 2 … each once.
    """
    file = root / CLASSES_FILE
    if given or not file.is_file():
        return tuple(given)
    names = {number: name for number, (name, _) in _numbered(file, _lines(file), "'id name' such as '0 cat'").items()}
    if sorted(names) != list(range(len(names))) or not names:
        raise DataError(f"{file}: the ids must be 0, 1, 2 and so on without a gap, got {sorted(names)[:10]}")
    if len(set(names.values())) < len(names):
        raise DataError(f"{file}: two classes have the same name")
    return tuple(names[number] for number in range(len(names)))


def classes_of_ids(labels: NDArray[np.int64], names: Sequence[str], where: str) -> tuple[str, ...]:
    """Class names for labels of pictures that are numbers: ``names``, or "0", "1" … up to the highest label.

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


def _lines(path: Path) -> list[tuple[int, str]]:
    """Lines that say something, with their numbers."""
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as text: {error}") from error
    texts = ((number, line.strip()) for number, line in enumerate(lines, start=1))
    return [(number, text) for number, text in texts if text and not text.startswith("#")]


def _numbered(path: Path, lines: Sequence[tuple[int, str]], form: str) -> dict[int, tuple[str, str]]:
    """Rest and whole of each line by the id with which it begins."""
    rows: dict[int, tuple[str, str]] = {}
    for number, text in lines:
        match = _LINE.fullmatch(text)
        if not match:
            raise DataError(f"{path}:{number}: expected {form}, got {text[:60]!r}")
        if int(match[1]) in rows or int(match[1]) > _HIGHEST_ID:
            raise DataError(f"{path}:{number}: an id occurs once and is at most {_HIGHEST_ID}; got {text!r}")
        rows[int(match[1])] = match[2], text
    return rows


def _read(path: Path, source: SegmentationSource) -> ClassList:
    texts = _lines(path)
    if path.suffix == ".csv" and texts and not texts[0][1][0].isdigit():
        del texts[0]
    labelmap = [_LABELMAP_LINE.fullmatch(text) for _, text in texts]
    by_colour = bool(texts) and all(labelmap)
    rows: dict[int, Row]
    if by_colour:
        rows = {k: (match[1].strip(), _colour(match)) for k, match in enumerate(filter(None, labelmap))}
    elif texts and not any(text[0].isdigit() for _, text in texts):
        if len(texts) == 1 and re.search(r"[,;|\t]", texts[0][1]):
            raise DataError(f"{path}:{texts[0][0]}: each class needs a line of its own, got {texts[0][1][:60]!r}")
        first = int(texts[0][1] != "__ignore__") - 1
        rows = {k: (text, None) for k, (_, text) in enumerate(texts, start=first)}
    else:
        rows = {}
        for number, (name, text) in _numbered(path, texts, _FORM).items():
            behind = _COLOUR_BEHIND.fullmatch(name)
            rows[number] = (behind[1], _colour(behind)) if behind else (name, None)
            if max(rows[number][1] or (0,)) > 255:
                raise DataError(f"{path}: colours are 0..255; got {text!r}")
        _check_void(path, rows, source)
    return ClassList(rows=rows, ignored=void_ids(source), origin=str(path), by_colour=by_colour)


def _colour(match: re.Match[str]) -> tuple[int, int, int] | None:
    red, green, blue = match[2], match[3], match[4]
    return None if red is None else (int(red), int(green), int(blue))


def _check_void(path: Path, rows: Mapping[int, Row], source: SegmentationSource) -> None:
    """Refuse a class that nobody would ever learn: 255 is void unless the source says otherwise."""
    asked_for = source.ignore == "none" or IGNORE in source.ignore
    if IGNORE not in rows or asked_for or len(rows) > IGNORE + 1 or means_void(rows[IGNORE][0]):
        return
    name = rows[IGNORE][0]
    free = next(number for number in range(len(rows) + 1) if number not in rows)
    raise DataError(
        f"{path}: the line '{IGNORE} {name}' names a class, but {IGNORE} is void here: its pixels are neither learnt "
        f"nor scored. Save the class as {free} in the masks and list '{free} {name}', or let {IGNORE} be a class with "
        f"SegmentationSource.ignore none; if its pixels are to be left out, call the line '{IGNORE} void'"
    )


def _other_lists(root: Path) -> str:
    """What to say about files that may hold the names, by what they are called."""
    files = sorted(
        file for file in root.glob("*.*") if _LIST_WORDS.intersection(words_of(file.stem)) and file.is_file()
    )
    for file in files:
        if file.suffix in (".txt", ".names"):
            return f". If {file.name} there is the list: SegmentationSource.classes {file.name}"
        if file.suffix in (".json", ".yaml", ".yml", ".csv", ".xml"):
            return f". {file.name} there is not read: write its names into classes.txt, one per line"
    return ""
