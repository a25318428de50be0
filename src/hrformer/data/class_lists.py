"""The classes of a set that brings its own: names given outright, or a text file as people and labelling tools write
it, with an id and a name per line, or names alone (labelme), or names and colours (CVAT).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from hrformer.data.class_names import Palette
from hrformer.data.label_ids import LabelTable, label_table
from hrformer.data.masks import ColourTable
from hrformer.data.part_words import words_of
from hrformer.data.sets import IGNORE, DataError
from hrformer.data.sources import SegmentationSource

TOOL_FILES = ("labelmap.txt", "class_names.txt", "{train}/_classes.csv")
"""What CVAT, labelme and Roboflow call the file; looked for where there is no ``classes.txt``."""

_LIST_WORDS = frozenset("class classes label labels labelmap names obj categories category data".split())
"""By which other lists of classes are called."""

_LINE = re.compile(r"(\d+)[\s:,]+(\S.*?)(?:[\s,]+(\d+)[\s,]+(\d+)[\s,]+(\d+))?\s*")
_LABELMAP_LINE = re.compile(r"([^:]+):(?:(\d+),(\d+),(\d+))?:[^:]*:[^:]*")
_FORM = "'id name' or 'id name R G B'"
_VOID_NAMES = frozenset(
    "void ignore ignored unlabelled unlabeled unlabel unknown undefined nolabel dontcare donotcare border boundary "
    "edge contour ambiguous unannotated mask masked ignoreregion ignorelabel nodata na none null nothing noclass "
    "invalid outofroi".split()
)
"""Names that people give to 255 where it is no class, letters only."""

_Row = tuple[str, tuple[int, int, int] | None]


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassList:
    """Classes and the ids that stand for them in the files.

    Attributes:
        names: in the order of the class numbers.
        ids: of the classes in the files, ascending; class number k is the k-th of them.
        palette: a colour per class, or empty.
        ignored: ids of no class, 255 among them unless it is a class.
        ignored_colours: colours of no class.
        origin: where the names come from, for messages.
        by_colour: whether the file gives colours in place of ids, so that masks can only be told by them.
    """

    names: tuple[str, ...]
    ids: tuple[int, ...]
    palette: Palette = ()
    ignored: tuple[int, ...] = (IGNORE,)
    ignored_colours: Palette = ()
    origin: str = "classes"
    by_colour: bool = False
    colourless: tuple[str, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        if not 1 <= len(self.names) <= IGNORE:
            raise DataError(f"{self.origin}: a set has 1 to {IGNORE} classes, got {len(self.names)}")
        if repeated := sorted({name for name in self.names if self.names.count(name) > 1}):
            raise DataError(
                f"{self.origin}: every class needs a name of its own; more than once: {', '.join(repeated)}"
            )

    def table(self, palette_masks: bool) -> LabelTable | ColourTable:
        """Class numbers by colour where the masks or the list have nothing else, else by id; errors as below."""
        return self.colour_table() if palette_masks or self.by_colour else self.id_table()

    def id_table(self) -> LabelTable:
        """Class numbers by id."""
        count, highest = len(self.ids), self.ids[-1]
        plain = self.ids == tuple(range(self.ids[0], self.ids[0] + count))
        ids = f"{self.ids[0]}..{highest}" if plain and count > 1 else ", ".join(map(str, self.ids))
        # 255 first, as everybody looks for it.
        nothing = ", ".join(map(str, sorted(self.ignored, key=lambda number: (number != IGNORE, number))))
        rest = f"{nothing} for none" if nothing else "no id is void"
        return label_table(
            self.ids,
            self.ignored,
            meaning=f"those of {self.origin}: {ids} for classes; {rest}",
            advice="Name the ids there, or list those that belong to no class in SegmentationSource.ignore.",
            advice_on_zero=f"If 0 is what lies around them, add the line `0 background` to {self.origin}; else list it "
            "in SegmentationSource.ignore.",
            void=(),
        )

    def colour_table(self) -> ColourTable:
        """Class numbers by colour.

        Raises:
            DataError: a class has no colour, or two have the same.
        """
        if self.colourless or not self.palette:
            raise DataError(
                f"{self.origin}: masks of colours (SegmentationSource.palette_masks) need a colour for every class, "
                "lines 'id name R G B'"
                + (f"; without one: {', '.join(self.colourless[:8])}" if self.colourless else "")
            )
        numbers: dict[tuple[int, int, int], int] = {}
        for colour, number in (
            *zip(self.palette, range(len(self.palette)), strict=True),
            *((colour, IGNORE) for colour in self.ignored_colours),
        ):
            if numbers.setdefault(colour, number) != number:
                raise DataError(f"{self.origin}: two classes have the colour {colour}; colours must tell them apart")
        return ColourTable(numbers, self.origin)


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
        names = tuple(source.classes)
        return _more_than_one(ClassList(names=names, ids=tuple(next(free) for _ in names), ignored=ignored))
    path = source.root / source.classes
    if not path.is_file() and source.classes == "classes.txt":
        usual = (source.root / name.replace("{train}", source.train) for name in TOOL_FILES)
        path = next((file for file in usual if file.is_file()), path)
    if not path.is_file():
        if default is not None and source.classes == "classes.txt":
            return default
        raise DataError(
            f"{path}: no such file. SegmentationSource.classes must be the names of the classes in the order of their "
            f"ids, such as sky road car, or a text file in SegmentationSource.root with {_FORM} per line"
            f"{_other_lists(source.root)}"
        )
    return _read(path, ignored, source.ignore)


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


def _read(path: Path, ignored: tuple[int, ...], asked: Literal["none"] | tuple[int, ...]) -> ClassList:
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as text: {error}") from error
    texts = [(number, line.strip()) for number, line in enumerate(lines, start=1)]
    texts = [(number, text) for number, text in texts if text and not text.startswith("#")]
    if path.suffix == ".csv" and texts and not texts[0][1][0].isdigit():
        del texts[0]
    labelmap = [_LABELMAP_LINE.fullmatch(text) for _, text in texts]
    by_colour = bool(texts) and all(labelmap)
    nothing = {*ignored}
    if by_colour:
        rows = {k: (match[1].strip(), _colour(match, 2)) for k, match in enumerate(filter(None, labelmap))}
    elif texts and not any(text[0].isdigit() for _, text in texts):
        if len(texts) == 1 and re.search(r"[,;|\t]", texts[0][1]):
            raise DataError(f"{path}:{texts[0][0]}: each class needs a line of its own, got {texts[0][1][:60]!r}")
        first = int(texts[0][1] != "__ignore__") - 1
        rows = {k: (text, None) for k, (_, text) in enumerate(texts, start=first)}
        nothing.add(-1)
    else:
        rows = _numbered_rows(path, texts)
        _check_void(path, rows, ignored, asked)
    kept = {number: rows[number] for number in sorted(rows) if number not in nothing}
    colours = [colour for _, colour in kept.values() if colour is not None]
    classes = ClassList(
        names=tuple(name for name, _ in kept.values()),
        ids=tuple(kept),
        palette=tuple(colours) if len(colours) == len(kept) else (),
        ignored=ignored,
        ignored_colours=tuple(colour for n, (_, colour) in rows.items() if n in nothing and colour is not None),
        origin=str(path),
        by_colour=by_colour,
        colourless=tuple(name for name, colour in kept.values() if colour is None),
    )
    return _more_than_one(classes, [number for number in rows if number in nothing - {-1, IGNORE}])


def _numbered_rows(path: Path, texts: list[tuple[int, str]]) -> dict[int, _Row]:
    rows: dict[int, _Row] = {}
    for number, text in texts:
        match = _LINE.fullmatch(text)
        if not match:
            raise DataError(f"{path}:{number}: expected {_FORM}, got {text[:60]!r}")
        colour = _colour(match, 3)
        if int(match[1]) in rows or int(match[1]) > 65535 or max(colour or (0,)) > 255:
            raise DataError(
                f"{path}:{number}: an id occurs once and is at most 65535, colours are 0..255; got {text!r}"
            )
        rows[int(match[1])] = (match[2], colour)
    return rows


def _colour(match: re.Match[str], first: int) -> tuple[int, int, int] | None:
    red, green, blue = match[first], match[first + 1], match[first + 2]
    return None if red is None else (int(red), int(green), int(blue))


def _check_void(
    path: Path, rows: Mapping[int, _Row], ignored: Collection[int], asked: Literal["none"] | tuple[int, ...]
) -> None:
    """Refuse a class that nobody would ever learn: 255 is void unless the source says otherwise."""
    if IGNORE not in rows or IGNORE not in ignored or IGNORE in asked or len(rows) > IGNORE + 1:
        return
    name = rows[IGNORE][0]
    if means_void(name):
        return
    free = next(number for number in range(len(rows) + 1) if number not in rows)
    raise DataError(
        f"{path}: the line '{IGNORE} {name}' names a class, but {IGNORE} is void here: its pixels are neither learnt "
        f"nor scored. Save the class as {free} in the masks and list '{free} {name}', or let {IGNORE} be a class with "
        f"SegmentationSource.ignore none; if its pixels are to be left out, call the line '{IGNORE} void'"
    )


def _more_than_one(classes: ClassList, left_out: Sequence[int] = ()) -> ClassList:
    """Refuse a single class: whatever a network says is right then, and every score is 1.

    Args:
        classes: the classes.
        left_out: ids of the list that are to be ignored.
    """
    if len(classes.names) > 1:
        return classes
    name, number = classes.names[0], classes.ids[0]
    if left_out:
        raise DataError(
            f"{classes.origin}: only one class is left, {name!r} (id {number}), and nothing to tell it from, so every "
            f"score would be 1: take {', '.join(map(str, left_out))} out of SegmentationSource.ignore"
        )
    if number == 0:
        first = "list `0 background` and `1 " + name + "`, and save the masks with these ids"
    else:
        first = "add `0 background`, if the masks hold 0 there"
    raise DataError(
        f"{classes.origin}: there is one class only, {name!r} (id {number}), and nothing to tell it from, so every "
        f"score would be 1. What do the other pixels show? Name it as a class too: {first}; where the masks hold "
        f"{IGNORE} there, list `{IGNORE} background` and set SegmentationSource.ignore none, since {IGNORE} is void "
        "otherwise"
    )
