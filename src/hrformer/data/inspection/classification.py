"""Checks of class labels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hrformer.data.inspection.report import Check, Finding, Places
from hrformer.data.inspection.scan import Look
from hrformer.data.sets import ClassificationSet
from hrformer.wording import counted

IMBALANCE = 10
"""The largest class may have so many times the pictures of the smallest before it is mentioned."""


class ClassCheck(Check):
    """Label range, empty and rare classes, equal pictures with different classes.

    All labels are counted, also where only some of the pictures are looked at, but those of pictures that cannot be
    read.

    Args:
        source: the set.
        split: part of the set.
    """

    def __init__(self, source: ClassificationSet, split: str) -> None:
        self.source, self.split = source, split
        self._counts, self._broken = [0] * len(source.classes), [0] * len(source.classes)
        self._outside, self._contradictions = Places(), Places()
        self._first_with: dict[bytes, int] = {}
        for index in range(len(source)):
            label = source.label(index)
            if 0 <= label < len(self._counts):
                self._counts[label] += 1
            else:
                self._outside.add(f"{source.file(index)} (label {label})")

    def add(self, look: Look) -> None:
        """Take in one picture."""
        if look.problem:
            label = self.source.label(look.index)
            if 0 <= label < len(self._counts):
                self._counts[label] -= 1
                self._broken[label] += 1
            return
        first = self._first_with.setdefault(look.digest, look.index)
        labels = self.source.label(first), self.source.label(look.index)
        if labels[0] != labels[1]:
            names = [self.source.classes[label] if 0 <= label < len(self._counts) else str(label) for label in labels]
            self._contradictions.add(f"{self.source.file(first)} ({names[0]}) = {look.file} ({names[1]})")

    def findings(self) -> Iterator[Finding]:
        """Labels that are no class, classes without pictures, one class only, imbalance, contradictions."""
        classes = self.source.classes
        if self._outside:
            last = len(classes) - 1
            what = f"{counted(self._outside.count, 'label is', 'labels are')} no class; ids must lie in 0..{last}"
            fix = "correct the labels: ids count from 0; or list the names of all classes in data.classes"
            yield self._outside.finding("error", "label-range", self.split, what, fix)
        present = {name: count for name, count in zip(classes, self._counts, strict=True) if count}
        if len(present) == 1 and self.split == "train":
            what = f"all pictures have the class {next(iter(present))!r}: there is nothing to tell apart"
            fix = "point data.root at the folder that holds one folder per class, not at a single class"
            yield Finding(severity="error", kind="one-class", split=self.split, what=what, fix=fix)
        rows = list(zip(classes, self._counts, self._broken, strict=True))
        lost = Places(name for name, count, broken in rows if broken and not count)
        if lost:
            what = f"{counted(lost.count, 'class has', 'classes have')} no picture that can be read ({lost.first[0]})"
            fix = "put good files in their place; otherwise these classes are not learnt, or not scored"
            yield lost.finding("warning", "lost-class", self.split, what, fix)
        empty = Places(name for name, count, broken in rows if not count + broken)
        if empty and (len(present) > 1 or self.split != "train"):
            count = len(classes)
            what = f"{counted(empty.count, f'class of {count} has', f'classes of {count} have')} no picture"
            fix = "add pictures of these classes, or remove them from the list of classes and from all parts"
            yield empty.finding("warning", "empty-class", self.split, what, fix)
        if self.split == "train" and len(present) > 1 and max(present.values()) > IMBALANCE * min(present.values()):
            rare = sorted(present, key=lambda name: present[name])
            common = rare[-1]
            rare = [name for name in rare if IMBALANCE * present[name] < present[common]]
            what = (
                f"classes differ in size more than {IMBALANCE} times: {common!r} has {present[common]} pictures, "
                f"{rare[0]!r} has {present[rare[0]]}"
            )
            fix = "collect more pictures of the rare classes, and read the score of each class, not only the mean"
            yield Places(rare).finding("warning", "imbalance", self.split, what, fix)
        if self._contradictions:
            what = f"{counted(self._contradictions.count, 'picture occurs', 'pictures occur')} again with another class"
            fix = "keep each picture in one class only"
            yield self._contradictions.finding("warning", "contradiction", self.split, what, fix)

    def statistics(self) -> dict[str, Any]:
        """``classes``: rows of ``name``, ``pictures`` and ``share``."""
        total = max(sum(self._counts), 1)
        return {
            "classes": [
                {"name": name, "pictures": count, "share": round(count / total, 6)}
                for name, count in zip(self.source.classes, self._counts, strict=True)
            ]
        }


def different_names(kind: str, train: tuple[str, ...], other: tuple[str, ...], split: str) -> Iterator[Finding]:
    """Lists of classes or joints that are not the same in two parts of a set."""
    if train == other:
        return
    places = Places([f"{name} (only in train)" for name in train if name not in other])
    for name in other:
        if name not in train:
            places.add(f"{name} (only in {split})")
    order = "" if places else ", only in another order"
    what = f"the {kind} of the train part ({len(train)}) and of the {split} part ({len(other)}) differ{order}"
    fix = f"give both parts the same {kind} in the same order; ids mean nothing otherwise"
    yield places.finding("error", "different-names", split, what, fix)
