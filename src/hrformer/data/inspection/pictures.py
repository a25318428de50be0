"""Checks of pictures, which all tasks share, and of their classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from hrformer.data.inspection.report import Finding, finding, grouped, spread
from hrformer.data.inspection.scan import Look
from hrformer.data.loader import REPLACE
from hrformer.data.set_types import ClassificationSet, ImageSet
from hrformer.geometry.tiles import short_side_size
from hrformer.wording import counted

IMBALANCE = 10
"""The largest class may have so many times the pictures of the smallest before it is mentioned."""


def picture_findings(
    source: ImageSet, looks: Sequence[Look], crop: tuple[int, int] | None = None, short_side: int | None = None
) -> Iterator[Finding]:
    """Unreadable, small and repeated pictures.

    Args:
        source: the set.
        looks: at its pictures.
        crop: (height, width) that training cuts out of pictures; None where enlarging them is intended.
        short_side: what training resizes the short side to before; None for no resizing.
    """
    for reason, files in grouped((look.file, look.problem) for look in looks if look.problem):
        what = f"{counted(len(files), 'picture')} cannot be read: {reason}"
        yield finding("error", "unreadable-picture", what, REPLACE, files)
    good = [look for look in looks if not look.problem]
    if crop is not None:
        height, width = crop
        sizes = [look.size if short_side is None else short_side_size(look.size, short_side) for look in good]
        small = [(look.file, w, h) for look, (w, h) in zip(good, sizes, strict=True) if w < width or h < height]
        if small:
            what = (
                f"{len(small)} of {counted(len(good), 'picture')} smaller than the training crop of {width} x {height}"
            )
            height, width = min(height, *(h for *_, h in small)), min(width, *(w for _, w, _ in small))
            fix = f"train on a smaller crop, --augment.size {height} {width} fits all; or take larger pictures"
            yield finding("warning", "small-picture", what, fix, [f"{file} ({w} x {h})" for file, w, h in small])
    firsts = first_with_pixels(looks)
    copies = [f"{look.file} = {source.file(firsts[look.digest])}" for look in good if firsts[look.digest] != look.index]
    if copies:
        what = f"{counted(len(copies), 'picture repeats', 'pictures repeat')} another one, pixel for pixel"
        yield finding("warning", "copies", what, "remove the copies: what is there twice counts twice", copies)


def first_with_pixels(looks: Sequence[Look]) -> dict[bytes, int]:
    """Number of the first item with these pixels, by their digest."""
    firsts: dict[bytes, int] = {}
    for look in looks:
        if not look.problem:
            firsts.setdefault(look.digest, look.index)
    return firsts


def picture_statistics(looks: Iterable[Look]) -> dict[str, Any]:
    """``width``, ``height`` (smallest, median, largest), ``mean`` and ``std`` of the channels in 0..1."""
    good = [look for look in looks if not look.problem]
    if not good:
        return {}
    mean, square = (np.mean([getattr(look, name) for look in good], axis=0) for name in ("mean", "square"))
    return {
        "width": spread(look.size[0] for look in good),
        "height": spread(look.size[1] for look in good),
        "mean": [round(float(value), 4) for value in mean],
        "std": [round(float(value), 4) for value in np.sqrt(np.maximum(square - mean**2, 0))],
    }


def class_findings(
    source: ClassificationSet, split: str, looks: Sequence[Look], labels: Sequence[int]
) -> Iterator[Finding]:
    """Labels that are no class, classes without pictures, one class only, imbalance, contradictions.

    ``labels`` are those of all items, also where only some of the pictures are looked at.
    """
    classes, train = source.classes, split == "train"
    outside = [
        f"{source.file(index)} (label {label})" for index, label in enumerate(labels) if not 0 <= label < len(classes)
    ]
    if outside:
        what = f"{counted(len(outside), 'label is', 'labels are')} no class; ids must lie in 0..{len(classes) - 1}"
        fix = "correct the labels: ids count from 0; or list the names of all classes in data.classes"
        yield finding("error", "label-range", what, fix, outside)
    counts, listed = _readable(looks, labels), set(labels)
    present = {name: counts[number] for number, name in enumerate(classes) if counts[number]}
    if len(present) == 1 and train:
        what = f"all pictures have the class {next(iter(present))!r}: there is nothing to tell apart"
        fix = "point data.root at the folder that holds one folder per class, not at a single class"
        yield finding("error", "one-class", what, fix)
    lost = [name for number, name in enumerate(classes) if number in listed and not counts[number]]
    if lost:
        what = f"{counted(len(lost), 'class has', 'classes have')} no picture that can be read ({lost[0]})"
        fix = "put good files in their place; otherwise these classes are not learnt, or not scored"
        yield finding("warning", "lost-class", what, fix, lost)
    empty = [name for number, name in enumerate(classes) if number not in listed]
    if empty and (len(present) > 1 or not train):
        all_ = len(classes)
        what = f"{counted(len(empty), f'class of {all_} has', f'classes of {all_} have')} no picture"
        fix = "add pictures of these classes, or remove them from the list of classes and from all parts"
        yield finding("warning", "empty-class", what, fix, empty)
    if train and len(present) > 1 and max(present.values()) > IMBALANCE * min(present.values()):
        by_count = sorted(present, key=lambda name: present[name])
        common = by_count[-1]
        rare = [name for name in by_count if IMBALANCE * present[name] < present[common]]
        what = (
            f"classes differ in size more than {IMBALANCE} times: {common!r} has {present[common]} pictures, "
            f"{rare[0]!r} has {present[rare[0]]}"
        )
        fix = "collect more pictures of the rare classes, and read the score of each class, not only the mean"
        yield finding("warning", "imbalance", what, fix, rare)
    if contradictions := list(_contradictions(source, looks, labels)):
        what = f"{counted(len(contradictions), 'picture occurs', 'pictures occur')} again with another class"
        yield finding("warning", "contradiction", what, "keep each picture in one class only", contradictions)


def _readable(looks: Iterable[Look], labels: Sequence[int]) -> Counter[int]:
    """Pictures of each label, less those that are known not to be readable."""
    return Counter(labels) - Counter(labels[look.index] for look in looks if look.problem)


def _contradictions(source: ClassificationSet, looks: Sequence[Look], labels: Sequence[int]) -> Iterator[str]:
    names, firsts = dict(enumerate(source.classes)), first_with_pixels(looks)
    for look in looks:
        first = firsts.get(look.digest, look.index)
        one, other = labels[first], labels[look.index]
        if one != other:
            yield f"{source.file(first)} ({names.get(one, one)}) = {look.file} ({names.get(other, other)})"


def class_statistics(source: ClassificationSet, looks: Iterable[Look], labels: Sequence[int]) -> dict[str, Any]:
    """``classes``: rows of ``name``, ``pictures`` and ``share``."""
    counts = _readable(looks, labels)
    total = max(sum(counts[number] for number in range(len(source.classes))), 1)
    return {
        "classes": [
            {"name": name, "pictures": counts[number], "share": round(counts[number] / total, 6)}
            for number, name in enumerate(source.classes)
        ]
    }
