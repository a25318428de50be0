"""Checks that all tasks share: pictures that can be read, their sizes and colours, copies."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from hrformer.data.inspection.report import Check, Finding, Places, Reasons, spread
from hrformer.data.inspection.scan import Look
from hrformer.data.loader import REPLACE
from hrformer.data.sets import ImageSet
from hrformer.geometry.tiles import short_side_size
from hrformer.wording import counted


class PictureCheck(Check):
    """Reads, sizes, colours, copies.

    Args:
        source: the set.
        split: part of the set.
        crop: (height, width) that training cuts out of pictures, where enlarging them is not intended; else None.
        short_side: what training resizes the short side to before; None for no resizing.
    """

    def __init__(
        self, source: ImageSet, split: str, crop: tuple[int, int] | None = None, short_side: int | None = None
    ) -> None:
        self.source, self.split, self.crop, self.short_side = source, split, crop, short_side
        self.first_with: dict[bytes, int] = {}
        """Number of the first item with these pixels, by their digest."""
        self._broken, self._small, self._copies = Reasons(), Places(), Places()
        self._widths: list[float] = []
        self._heights: list[float] = []
        self._smallest = crop or (0, 0)
        self._mean, self._square = np.zeros(3), np.zeros(3)

    def add(self, look: Look) -> None:
        """Take in one picture."""
        if look.problem or look.mean is None or look.square is None:
            self._broken.add(look.file, look.problem)
            return
        width, height = look.size
        self._widths.append(width)
        self._heights.append(height)
        if self.short_side is not None:
            width, height = short_side_size(look.size, self.short_side)
        if self.crop is not None and (height < self.crop[0] or width < self.crop[1]):
            self._small.add(f"{look.file} ({width} x {height})")
            self._smallest = (min(self._smallest[0], height), min(self._smallest[1], width))
        self._mean += look.mean
        self._square += look.square
        first = self.first_with.setdefault(look.digest, look.index)
        if first != look.index:
            self._copies.add(f"{look.file} = {self.source.file(first)}")

    def findings(self) -> Iterator[Finding]:
        """Unreadable, small and repeated pictures."""
        for reason, places in self._broken:
            what = f"{counted(places.count, 'picture')} cannot be read: {reason}"
            yield places.finding("error", "unreadable-picture", self.split, what, REPLACE)
        if self._small and self.crop is not None:
            (height, width), seen = self.crop, len(self._widths)
            what = (
                f"{self._small.count} of {counted(seen, 'picture')} smaller than the training crop of "
                f"{width} x {height}"
            )
            smallest = " ".join(map(str, self._smallest))
            fix = f"train on a smaller crop, --augment.size {smallest} fits all; or take larger pictures"
            yield self._small.finding("warning", "small-picture", self.split, what, fix)
        if self._copies:
            what = f"{counted(self._copies.count, 'picture repeats', 'pictures repeat')} another one, pixel for pixel"
            fix = "remove the copies: what is there twice counts twice"
            yield self._copies.finding("warning", "copies", self.split, what, fix)

    def statistics(self) -> dict[str, Any]:
        """``width``, ``height`` (smallest, median, largest), ``mean`` and ``std`` of the channels in 0..1."""
        if not self._widths:
            return {}
        mean = self._mean / len(self._widths)
        std = np.sqrt(np.maximum(self._square / len(self._widths) - mean**2, 0))
        return {
            "width": spread(self._widths),
            "height": spread(self._heights),
            "mean": [round(float(value), 4) for value in mean],
            "std": [round(float(value), 4) for value in std],
        }


def shared_pictures(train: PictureCheck, other: PictureCheck) -> Iterator[Finding]:
    """Pictures of another part that training sees too."""
    shared = Places(
        f"{other.source.file(index)} = {train.source.file(train.first_with[digest])}"
        for digest, index in other.first_with.items()
        if digest in train.first_with
    )
    if shared:
        what = (
            f"{counted(shared.count, 'picture')} of {other.split} can be seen in {train.split} too, pixel for pixel, "
            "which flatters the score"
        )
        yield shared.finding("warning", "shared-picture", other.split, what, "remove them from one of the two parts")
