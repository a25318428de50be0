"""Checks of masks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hrformer.data.headers import read_header
from hrformer.data.images import ImageError
from hrformer.data.inspection.mask_ids import advice
from hrformer.data.inspection.report import Check, Finding, Places, Reasons, Severity
from hrformer.data.inspection.scan import Look, evenly
from hrformer.data.loader import REPLACE
from hrformer.data.mask_sizes import size_advice
from hrformer.data.masks import size_of_mask
from hrformer.data.sets import IGNORE, SegmentationSet
from hrformer.data.turned_masks import MOST_HEADERS
from hrformer.wording import counted

RARE = 1e-3
"""Classes with less than this share of the labelled pixels are mentioned."""

VOID_MATTERS = 0.02
"""From this share of void pixels on, they may be a class that was saved as 255."""

_NAMED = 3
"""So many classes are named that are missing beside the only one."""

_FIX_COLOURS = (
    "save ids as grey PNG; or set --data.palette-masks with lines `id name R G B` in data.classes for every colour, id "
    f"{IGNORE} for those of no class"
)

_FIXES = {
    "exif-turned": "nothing if pictures and masks fit in the samples; pictures saved upright need no option",
    "exif-unknown": "see in the samples whether pictures and masks fit; if not, set --data.exif apply",
    "exif-ignored": "nothing if pictures and masks fit in the samples; predictions turn such pictures upright",
    "box-only": "draw outlines of these objects, or remove them where they do not matter",
    "no-object": "outline the objects of this part; those that are no crowds need iscrowd 0",
    "flat-outline": "nothing if these are slips of the hand; else draw the objects again",
}
"""What to do about what the reader put right."""


class MaskCheck(Check):
    """Sizes, ids, void, how often the classes occur.

    Args:
        source: the set.
        split: part of the set.
    """

    def __init__(self, source: SegmentationSet, split: str) -> None:
        self.source, self.split = source, split
        self._unusable = Reasons()
        self._sizes: dict[str, Places] = {}
        self._outside, self._void = Places(), Places()
        self._unknown_ids: set[int] = set()
        self._found_ids: set[int] = set()
        self._listed_ids: tuple[int, ...] = tuple(range(len(source.classes)))
        self._pixels = np.zeros(256, np.int64)
        self._pictures = np.zeros(256, np.int64)
        self._masks = 0
        self._seen: set[int] = set()

    def add(self, look: Look) -> None:
        """Take in one mask."""
        name = self.source.mask_file(look.index)
        self._seen.add(look.index)
        if look.unknown_ids is not None:
            self._take_unknown(name, look.unknown_ids.unknown, look.unknown_ids.found)
            self._listed_ids = look.unknown_ids.listed
        elif look.mask_problem:
            self._unusable.add(name, look.mask_problem)
        if look.class_pixels is None:
            return
        self._masks += 1
        if look.size != (0, 0) and look.mask_size != look.size:
            self._take_sizes(look.index, look.mask_size, look.size)
        present = np.flatnonzero(look.class_pixels).tolist()
        outside = [number for number in present if len(self.source.classes) <= number < IGNORE]
        if outside:
            self._take_unknown(name, outside, present)
        if not look.class_pixels[:IGNORE].any():
            self._void.add(name)
        self._pixels += look.class_pixels
        self._pictures += look.class_pixels > 0

    def _take_sizes(self, index: int, mask: tuple[int, int], picture: tuple[int, int]) -> None:
        shown = (f"{width} x {height}" for width, height in (mask, picture))
        name = "{} ({}, picture {} {})".format(
            self.source.mask_file(index), next(shown), self.source.file(index), *shown
        )
        self._sizes.setdefault(size_advice(mask, picture), Places()).add(name)

    def _compare_unseen(self) -> None:
        """Sizes of the pairs that nobody decoded, by their headers."""
        rest = [index for index in range(len(self.source)) if index not in self._seen]
        for index in evenly(rest, MOST_HEADERS):
            picture, mask = self.source.file(index), size_of_mask(Path(self.source.mask_file(index)))
            if mask is None or not Path(picture).is_file():
                continue
            try:
                header = read_header(picture)
            except ImageError:
                continue
            # Whether a mask lies on the stored pixels was found out when the set was opened.
            if mask not in (header.size, header.stored):
                self._take_sizes(index, mask, header.size)
        self._seen.update(rest)

    def _take_unknown(self, name: str, unknown: Sequence[int], found: Sequence[int]) -> None:
        self._outside.add(f"{name} (id{'s' * (len(unknown) > 1)} {_few(unknown)})")
        self._unknown_ids.update(unknown)
        self._found_ids.update(found)

    def findings(self) -> Iterator[Finding]:
        """What the reader put right, masks that cannot be used, void masks, missing and rare classes."""
        for note in self.source.notes:
            yield Finding(severity="warning", kind=note.kind, split=self.split, what=note.text, fix=_FIXES[note.kind])
        self._compare_unseen()
        for reason, places in self._unusable:
            what = f"{counted(places.count, 'mask')} cannot be used: {reason}"
            # The reader tells why at length; here it is only sorted.
            if "colours" in reason:
                yield places.finding("error", "mask-ids", self.split, what, _FIX_COLOURS)
            else:
                yield places.finding("error", "unreadable-mask", self.split, what, REPLACE)
        for fix, places in self._sizes.items():
            what = f"{counted(places.count, 'mask')} of another size than the picture"
            yield places.finding("error", "mask-size", self.split, what, fix)
        if self._outside:
            yield self._about_ids()
        if not self._masks:
            return
        labelled = int(self._pixels[:IGNORE].sum())
        if self._void:
            everything = self._void.count == self._masks
            what = f"{self._void.count} of {counted(self._masks, 'mask')} without any label: all is void ({IGNORE})"
            fix = "label these pictures or take them out of the set"
            if everything:
                fix = f"{IGNORE} means void; save class ids 0..{len(self.source.classes) - 1} in the masks"
            yield self._void.finding("error" if everything else "warning", "void-mask", self.split, what, fix)
        # While ids are unknown, nobody can say which class is where.
        if labelled and not self._outside:
            yield from self._class_findings(labelled)

    def _about_ids(self) -> Finding:
        # Class numbers of the masks that could be used, as ids.
        used = np.flatnonzero(self._pixels[: len(self._listed_ids)])
        found = sorted(self._found_ids.union(self._listed_ids[number] for number in used))
        unknown = sorted(self._unknown_ids)
        what = (
            f"{counted(self._outside.count, 'mask holds', 'masks hold')} ids that are no class: {_few(unknown)}; the "
            f"classes' ids are {_few(self._listed_ids)}"
        )
        return self._outside.finding("error", "mask-ids", self.split, what, advice(unknown, found, self._listed_ids))

    def _class_findings(self, labelled: int) -> Iterator[Finding]:
        classes, looked = self.source.classes, f"the {counted(self._masks, 'mask')} looked at"
        pixels = self._pixels[: len(classes)]
        present = np.flatnonzero(pixels)
        void = self._pixels[IGNORE] / (labelled + self._pixels[IGNORE])
        if void > 0.5 and self._void.count < self._masks:
            what = f"{void:.0%} of the pixels have no label"
            fix = "see in the pictures whether something is missing: a class whose id is ignored, unfinished labelling"
            yield Finding(severity="warning", kind="void-share", split=self.split, what=what, fix=fix)
        if len(present) == 1 and len(classes) > 1:
            yield self._about_one_class(int(present[0]), looked, void)
            return
        absent = Places(name for name, count in zip(classes, pixels, strict=True) if not count)
        if absent:
            what = f"{absent.count} of {counted(len(classes), 'class', 'classes')} nowhere to be seen in {looked}"
            fix = "look for pictures with these classes, or remove them from the list of classes"
            if absent.first == [classes[0]] and len(classes) > 2:
                fix += "; no mask holds the first id of the list: do the ids in the masks count from 1?"
            elif void >= VOID_MATTERS and self.split == "train":
                fix += f"; was one of them saved as {IGNORE}, which is void here ({void:.0%} of the pixels)?"
            yield absent.finding("warning", "empty-class", self.split, what, fix)
        share = pixels / labelled
        rare = Places(f"{classes[k]} ({share[k]:.3%})" for k in present[np.argsort(share[present])] if share[k] < RARE)
        if rare and self.split == "train":
            all_ = counted(len(classes), "class", "classes")
            what = f"{rare.count} of {all_} with less than {RARE:.1%} of the labelled pixels"
            fix = "let rare classes weigh more: --loss.class-weights auto"
            yield rare.finding("warning", "imbalance", self.split, what, fix)

    def _about_one_class(self, only: int, looked: str, void: float) -> Finding:
        classes = self.source.classes
        others = [name for number, name in enumerate(classes) if number != only]
        what = f"all labelled pixels in {looked} have the class {classes[only]!r}: nothing to tell it from"
        fix = f"look at a mask: it must hold class ids 0..{len(classes) - 1}, neither colours nor grey levels"
        if getattr(self.source, "annotations", None) is not None:
            fix = (
                "look at 'segmentation' and 'category_id' of the annotations: no outline covers pixels of another class"
            )
        elif void >= VOID_MATTERS:
            what += f"; {void:.0%} of the pixels are {IGNORE}, which is void here"
            fix = (
                f"if {IGNORE} stands for a class in the masks, such as {others[0]!r}, save the class as its own id "
                f"({classes.index(others[0])} where ids count from 0), or list `{IGNORE} {others[0]}` in data.classes "
                "and give --data.ignore none"
            )
        empty = next((note for note in self.source.notes if note.kind == "no-object"), None)
        severity: Severity = "error"
        if self.split != "train":
            what += f"; with nothing else in {self.split}, its score means nothing"
            named = ", ".join(map(repr, others[:_NAMED])) + " or others" * (len(others) > _NAMED)
            fix = f"move pictures with {named} to {self.split}, if train has them; else {fix}"
            # Among masks that nobody looked at there may be others.
            severity = "error" if self._masks == len(self.source) else "warning"
        if empty is not None:
            what, fix = empty.text, _FIXES[empty.kind]
        return Finding(severity=severity, kind="one-class", split=self.split, what=what, fix=fix)

    def statistics(self) -> dict[str, Any]:
        """``masks``, ``void`` (share of all pixels), ``classes``: rows of ``name``, ``share`` (of labelled pixels),
        ``pictures`` (that have it)."""
        labelled = max(int(self._pixels[:IGNORE].sum()), 1)
        return {
            "masks": self._masks,
            "void": round(float(self._pixels[IGNORE] / max(self._pixels.sum(), 1)), 6),
            "classes": [
                {
                    "name": name,
                    "share": round(float(self._pixels[k] / labelled), 6),
                    "pictures": int(self._pictures[k]),
                }
                for k, name in enumerate(self.source.classes)
            ],
        }


def _few(numbers: Sequence[int]) -> str:
    """``0, 4, 7``, the first and last of many; ``0..10`` for what is whole."""
    if len(numbers) > 2 and list(numbers) == list(range(numbers[0], numbers[-1] + 1)):
        return f"{numbers[0]}..{numbers[-1]}"
    shown = ", ".join(map(str, numbers[:8]))
    return f"{shown} and {len(numbers) - 8} more, up to {numbers[-1]}" if len(numbers) > 8 else shown
