"""Pictures in rows with captions, a title and a legend: one picture to look at. All are (H, W, 3) uint8 RGB."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Pixels = NDArray[np.uint8]
Color = tuple[int, int, int]

TILE = 480
"""Pixels of a tile's longer side; drawings of this size are not enlarged any further."""

_GAP, _TEXT, _LINE = 12, 20, 30
_PAPER, _INK, _QUIET = (255, 255, 255), (20, 20, 20), (110, 110, 110)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Tile:
    """One drawn picture.

    Attributes:
        pixels: at most ``TILE`` wide and high.
        caption: one line below it; shortened if it is wider than its column.
    """

    pixels: Pixels
    caption: str = ""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Section:
    """Rows of tiles under a heading."""

    heading: str
    rows: tuple[tuple[Tile, ...], ...]


def fitted(pixels: Pixels, side: int = TILE) -> tuple[Pixels, float]:
    """Resized so that the longer side is ``side``, and the factor."""
    height, width = pixels.shape[:2]
    factor = side / max(height, width)
    size = (max(round(width * factor), 1), max(round(height * factor), 1))
    rule = cv2.INTER_CUBIC if factor > 1 else cv2.INTER_AREA
    return np.asarray(cv2.resize(pixels, size, interpolation=rule), np.uint8), factor


def contact_sheet(title: str, sections: Sequence[Section], legend: Iterable[tuple[str, Color]] = ()) -> Pixels:
    """Lay out tiles.

    Args:
        title: first line.
        sections: below each other; columns are as wide as their widest tile, rows as high as their highest.
        legend: names and colours, after the title.

    Returns:
        The sheet.
    """
    rows = [row for section in sections for row in section.rows]
    columns = max((len(row) for row in rows), default=0)
    widths = [
        max((row[column].pixels.shape[1] for row in rows if column < len(row)), default=0) for column in range(columns)
    ]
    width = max(sum(widths) + _GAP * (columns + 1), 2 * TILE)
    keys = _legend_lines(list(legend), width - 2 * _GAP)
    height = _GAP + _LINE * (1 + len(keys))
    for section in sections:
        height += _LINE + sum(max(tile.pixels.shape[0] for tile in row) + _LINE + _GAP for row in section.rows) + _GAP
    sheet = Image.new("RGB", (width, height), _PAPER)
    pen = ImageDraw.Draw(sheet)
    _write(pen, (_GAP, _GAP), title, width - 2 * _GAP, _INK)
    top = _GAP + _LINE
    for line in keys:
        for left, name, color in line:
            pen.rectangle((left, top + 3, left + _TEXT, top + 3 + _TEXT), fill=color, outline=_QUIET)
            _write(pen, (left + _TEXT + 8, top), name, width, _INK)
        top += _LINE
    for section in sections:
        _write(pen, (_GAP, top + 4), section.heading, width - 2 * _GAP, _QUIET)
        top += _LINE + _GAP
        for row in section.rows:
            left = _GAP
            for tile, room in zip(row, widths, strict=False):
                sheet.paste(Image.fromarray(tile.pixels), (left, top))
                below = top + tile.pixels.shape[0]
                _write(pen, (left, below + 2), tile.caption, room, _INK)
                left += room + _GAP
            top += max(tile.pixels.shape[0] for tile in row) + _LINE + _GAP
    return np.array(sheet)


def _legend_lines(legend: Sequence[tuple[str, Color]], room: int) -> list[list[tuple[int, str, Color]]]:
    """(left edge, name, colour) of the entries, broken into lines."""
    lines: list[list[tuple[int, str, Color]]] = []
    left = room + 1
    for name, color in legend:
        length = _TEXT + 8 + round(_font().getlength(name)) + 2 * _GAP
        if left + length > room:
            lines.append([])
            left = _GAP
        lines[-1].append((left, name, color))
        left += length
    return lines


def _write(pen: ImageDraw.ImageDraw, place: tuple[int, int], text: str, room: int, color: Color) -> None:
    """One line; what does not fit is taken out of its middle, where names differ least."""
    font, shown = _font(), text
    kept = len(text)
    while font.getlength(shown) > room and kept > 2:
        kept -= 1
        shown = f"{text[: kept // 2]}…{text[len(text) - (kept - kept // 2) :]}"
    pen.text(place, shown, fill=color, font=font)


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(_TEXT)
