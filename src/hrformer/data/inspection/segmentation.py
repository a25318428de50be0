"""Checks of masks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from hrformer.data.inspection.pictures import RESTORE
from hrformer.data.inspection.report import Check, Finding, Places, Reasons, Severity, counted
from hrformer.data.inspection.scan import Look
from hrformer.data.sets import IGNORE, SegmentationSet

RARE = 1e-3
"""Classes with less than this share of the labelled pixels are mentioned."""

_FIX_IDS = f"name all classes in data.classes, or list ids that are no class: --data.ignore ID; {IGNORE} is void anyway"
_FIX_SIZES = "make these masks again at the pictures' sizes, resizing by nearest neighbour only"


class MaskCheck(Check):
    """Sizes, ids, void, how often the classes occur.

    Args:
        source: the set.
        split: part of the set.
    """

    def __init__(self, source: SegmentationSet, split: str) -> None:
        self.source, self.split = source, split
        self._unusable = Reasons()
        self._sizes, self._outside, self._void = Places(), Places(), Places()
        self._outside_ids: set[int] = set()
        self._pixels = np.zeros(256, np.int64)
        self._pictures = np.zeros(256, np.int64)
        self._masks = 0

    def add(self, look: Look) -> None:
        """Take in one mask."""
        name = self.source.mask_file(look.index)
        if look.mask_problem:
            self._unusable.add(name, look.mask_problem)
        if look.class_pixels is None:
            return
        self._masks += 1
        if look.mask_size != look.size:
            mask, picture = (f"{width} x {height}" for width, height in (look.mask_size, look.size))
            self._sizes.add(f"{name} ({mask}, picture {picture})")
        outside = np.flatnonzero(look.class_pixels[len(self.source.classes) : IGNORE]) + len(self.source.classes)
        if outside.size:
            self._outside_ids.update(outside.tolist())
            self._outside.add(f"{name} (id {', '.join(map(str, outside[:5]))})")
        if not look.class_pixels[:IGNORE].any():
            self._void.add(name)
        self._pixels += look.class_pixels
        self._pictures += look.class_pixels > 0

    def findings(self) -> Iterator[Finding]:
        """Masks that cannot be used, void masks, missing and rare classes."""
        last = len(self.source.classes) - 1
        for reason, places in self._unusable:
            what = f"{counted(places.count, 'mask')} cannot be used: {reason}"
            # The reader tells why at length; here it is only sorted.
            if " hold " in reason or "colours" in reason:
                yield places.finding("error", "mask-ids", self.split, what, self._fix_for_ids())
            elif " x " in reason:
                yield places.finding("error", "mask-size", self.split, what, _FIX_SIZES)
            else:
                yield places.finding("error", "unreadable-mask", self.split, what, RESTORE)
        if self._sizes:
            what = f"{counted(self._sizes.count, 'mask')} of another size than the picture"
            yield self._sizes.finding("error", "mask-size", self.split, what, _FIX_SIZES)
        if self._outside:
            ids = ", ".join(map(str, sorted(self._outside_ids)[:10]))
            what = f"{counted(self._outside.count, 'mask')} with ids that are no class: {ids}; classes are 0..{last}"
            yield self._outside.finding("error", "mask-ids", self.split, what, self._fix_for_ids())
        if not self._masks:
            return
        labelled = int(self._pixels[:IGNORE].sum())
        if self._void:
            everything = self._void.count == self._masks
            what = f"{self._void.count} of {counted(self._masks, 'mask')} without any label: all is void ({IGNORE})"
            fix = "label these pictures or take them out of the set"
            if everything:
                fix = f"{IGNORE} means void; save class ids 0..{last} in the masks"
            yield self._void.finding("error" if everything else "warning", "void-mask", self.split, what, fix)
        if labelled:
            yield from self._class_findings(labelled)

    def _fix_for_ids(self) -> str:
        count = len(self.source.classes)
        if self._outside_ids == {count} and not self._pixels[0]:
            return "ids seem to count from 1: subtract 1 from them, or make the first class 'background'"
        return _FIX_IDS

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
            what = f"all labelled pixels in {looked} have the class {classes[present[0]]!r}"
            fix = f"look at a mask: it must hold class ids 0..{len(classes) - 1}, neither colours nor grey levels"
            severity: Severity = "error" if self.split == "train" else "warning"
            yield Finding(severity=severity, kind="one-class", split=self.split, what=what, fix=fix)
            return
        absent = Places(name for name, count in zip(classes, pixels, strict=True) if not count)
        if absent:
            what = f"{absent.count} of {counted(len(classes), 'class', 'classes')} nowhere to be seen in {looked}"
            fix = "look for pictures with these classes, or remove them from the list of classes"
            yield absent.finding("warning", "empty-class", self.split, what, fix)
        share = pixels / labelled
        rare = Places(f"{classes[k]} ({share[k]:.3%})" for k in present[np.argsort(share[present])] if share[k] < RARE)
        if rare and self.split == "train":
            all_ = counted(len(classes), "class", "classes")
            what = f"{rare.count} of {all_} with less than {RARE:.1%} of the labelled pixels"
            fix = "let rare classes weigh more: --loss.class-weights balanced"
            yield rare.finding("warning", "imbalance", self.split, what, fix)

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
