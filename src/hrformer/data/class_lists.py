"""The classes of a set that brings its own: names given outright, or a text file with an id and a name per line."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from hrformer.data.class_names import Palette
from hrformer.data.label_ids import LabelTable, label_table
from hrformer.data.masks import ColourTable
from hrformer.data.sets import IGNORE, DataError
from hrformer.data.sources import SegmentationSource

_LINE = re.compile(r"(\d+)[\s:,]+(\S.*?)(?:[\s,]+(\d+)[\s,]+(\d+)[\s,]+(\d+))?\s*")
_FORM = "'id name' or 'id name R G B'"


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassList:
    """Classes and the ids that stand for them in the files.

    Attributes:
        names: in the order of the class numbers.
        ids: of the classes in the files, ascending; class number k is the k-th of them.
        palette: a colour per class, or empty.
        ignored: ids of no class.
        ignored_colours: colours of no class.
        origin: where the names come from, for messages.
    """

    names: tuple[str, ...]
    ids: tuple[int, ...]
    palette: Palette = ()
    ignored: tuple[int, ...] = ()
    ignored_colours: Palette = ()
    origin: str = "classes"
    colourless: tuple[str, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        if not 1 <= len(self.names) <= IGNORE:
            raise DataError(f"{self.origin}: a set has 1 to {IGNORE} classes, got {len(self.names)}")
        if repeated := sorted({name for name in self.names if self.names.count(name) > 1}):
            raise DataError(
                f"{self.origin}: every class needs a name of its own; more than once: {', '.join(repeated)}"
            )

    def id_table(self) -> LabelTable:
        """Class numbers by id."""
        count, highest = len(self.ids), self.ids[-1]
        plain = self.ids == tuple(range(self.ids[0], self.ids[0] + count))
        ids = f"{self.ids[0]}..{highest}" if plain and count > 1 else ", ".join(map(str, self.ids))
        also = "".join(f", {number}" for number in self.ignored)
        return label_table(
            self.ids,
            self.ignored,
            meaning=f"those of {self.origin}: {ids} for classes; {IGNORE}{also} for none",
            advice="Name the ids there, or list those that belong to no class in SegmentationSource.ignore.",
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
    lines whose id is 255 or in ``source.ignore`` only say which colour belongs to no class. Empty lines and lines that
    begin with ``#`` are skipped.

    Args:
        source: its ``classes``, ``ignore`` and ``root`` are used.
        default: taken where the file is the usual ``classes.txt`` and absent.

    Raises:
        DataError: the file is missing or a line of it cannot be understood.
    """
    ignored = tuple(sorted(set(source.ignore) - {IGNORE}))
    if not isinstance(source.classes, str):
        free = (number for number in range(2 * IGNORE + len(ignored)) if number not in (*ignored, IGNORE))
        names = tuple(source.classes)
        return ClassList(names=names, ids=tuple(next(free) for _ in names), ignored=ignored)
    path = source.root / source.classes
    if not path.is_file():
        if default is not None and source.classes == "classes.txt":
            return default
        raise DataError(
            f"{path}: no such file. SegmentationSource.classes must be the names of the classes in the order of their "
            f"ids, such as sky road car, or a text file in SegmentationSource.root with {_FORM} per line"
        )
    return _read(path, ignored)


def _read(path: Path, ignored: Collection[int]) -> ClassList:
    rows: dict[int, tuple[str, tuple[int, int, int] | None]] = {}
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as text: {error}") from error
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        match = _LINE.fullmatch(text)
        if not match:
            raise DataError(f"{path}:{number}: expected {_FORM}, got {text[:60]!r}")
        colour = None if match[3] is None else (int(match[3]), int(match[4]), int(match[5]))
        if int(match[1]) in rows or int(match[1]) > 65535 or max(colour or (0,)) > 255:
            raise DataError(
                f"{path}:{number}: an id occurs once and is at most 65535, colours are 0..255; got {text!r}"
            )
        rows[int(match[1])] = (match[2], colour)
    nothing = {*ignored, IGNORE}
    kept = {number: rows[number] for number in sorted(rows) if number not in nothing}
    colours = [colour for _, colour in kept.values() if colour is not None]
    return ClassList(
        names=tuple(name for name, _ in kept.values()),
        ids=tuple(kept),
        palette=tuple(colours) if len(colours) == len(kept) else (),
        ignored=tuple(sorted(ignored)),
        ignored_colours=tuple(colour for n, (_, colour) in rows.items() if n in nothing and colour is not None),
        origin=str(path),
        colourless=tuple(name for name, colour in kept.values() if colour is None),
    )
