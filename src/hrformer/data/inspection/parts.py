"""One part of a data set, looked through with all checks of its task; the checks of pictures and classes are here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from hrformer.data.inspection.masks import mask_findings, mask_statistics
from hrformer.data.inspection.people import LABEL_KINDS, people_seen, person_findings, person_statistics
from hrformer.data.inspection.report import Finding, finding, grouped, spread
from hrformer.data.inspection.scan import Look, Progress, evenly, pictures_of, read_headers, scan
from hrformer.data.loader import REPLACE
from hrformer.data.set_types import ClassificationSet, ImageSet, PoseSet, SegmentationSet, names_of
from hrformer.geometry.tiles import short_side_size
from hrformer.wording import counted

IMBALANCE = 10  # the largest class may have so many times the pictures of the smallest before it is mentioned
_PEOPLE_PROBED = 200  # so many people are asked whether they have any labelled joint
_EXPLAINED = {"box-beyond-picture": "box-spelling", "box-misses-person": "box-spelling", "no-object": "one-class"}
"""Warnings that another finding of the same part explains."""


class Part:
    """A set and what was found in it.

    Training cuts a ``crop`` (height, width) out of pictures, or out of what they are once their short side is resized
    to ``short_side``; smaller ones are enlarged to it on purpose where they ``may_enlarge``.
    """

    def __init__(
        self,
        source: ImageSet,
        split: str,
        *,
        crop: tuple[int, int],
        may_enlarge: bool = False,
        short_side: int | None = None,
    ) -> None:
        self.source, self.split = source, split
        self.looks: list[Look] = []
        self.pixels = 0  # of all pictures together, as far as their headers tell
        self._broken_headers: dict[int, tuple[str, str]] = {}
        self._crop, self._may_enlarge, self._short_side = crop, may_enlarge, short_side
        self._items = pictures_of(source)
        self.first_items = [items[0] for items in self._items.values()]  # one of each picture
        self._labels: list[int] = []
        if isinstance(source, ClassificationSet):
            self._labels = [source.label(index) for index in range(len(source))]

    @property
    def labelled(self) -> bool:
        """Whether there are labels; test parts may have none."""
        source = self.source
        if isinstance(source, PoseSet) and self.split == "test":
            probed = evenly(range(len(source)), _PEOPLE_PROBED)
            return any((source.person(index).keypoints[:, 2] > 0).any() for index in probed)
        return not isinstance(source, SegmentationSet) or source.labelled

    def read_headers(self, *, threads: int = 2, progress: Progress | None = None) -> None:
        """See which files are whole without decoding them; see :func:`scan.read_headers`."""
        found = read_headers(self.source, self.first_items, threads=threads, progress=progress)
        self.pixels, self._broken_headers = found

    def look_through(self, *, limit: int | None = None, threads: int = 2, progress: Progress | None = None) -> None:
        """Decode the pictures, at most ``limit`` of them, spread over the set."""
        chosen = evenly(self.first_items, limit)
        for look in scan(self.source, chosen, threads=threads):
            self.looks.append(look)
            if progress:
                progress(len(self.looks), len(chosen))

    def unusable(self) -> set[int]:
        """Numbers of pictures that cannot be read, or whose mask cannot be used."""
        return {self.source.picture(look.index) for look in self.looks if look.unusable}

    def unreadable(self) -> dict[int, tuple[str, str]]:
        """File and reason by the number of the picture, where the picture or its mask cannot be read at all."""
        found, source = dict(self._broken_headers), self.source
        for look in self.looks:
            if look.problem:
                found[source.picture(look.index)] = look.file, look.problem
            elif look.mask_broken and isinstance(source, SegmentationSet):
                found[source.picture(look.index)] = source.mask_file(look.index), look.mask_problem
        return found

    def findings(self) -> list[Finding]:
        """What is wrong with this part."""
        # A person's crop has the size of its box, whatever the picture's.
        crop = None if isinstance(self.source, PoseSet) or self._may_enlarge else self._crop
        of_pictures = picture_findings(self.source, self.looks, crop, self._short_side)
        found = (*of_pictures, *self._of_labels[0], *self._not_decoded())
        return [replace(one, split=self.split) for one in found]

    @cached_property
    def _of_labels(self) -> tuple[list[Finding], dict[str, Any]]:
        """Findings and numbers of the task's own checks."""
        source, looks = self.source, self.looks
        if isinstance(source, ClassificationSet):
            found = class_findings(source, self.split, looks, self._labels)
            return list(found), class_statistics(source, looks, self._labels)
        if isinstance(source, PoseSet):
            people, pictures = people_seen(source, self._items, looks), sum(not look.problem for look in looks)
            found = person_findings(source, people, self._crop[1] / self._crop[0], self.labelled)
            return list(found), person_statistics(source, people, pictures)
        if isinstance(source, SegmentationSet) and source.labelled:
            return list(mask_findings(source, self.split, looks)), mask_statistics(source, looks)
        return [], {}

    def _not_decoded(self) -> Iterator[Finding]:
        """Broken files that only their headers tell of."""
        decoded = {self.source.picture(look.index) for look in self.looks if look.problem or look.mask_broken}
        files = [file for number, file in self._broken_headers.items() if number not in decoded]
        if files:
            what = f"{counted(len(files), 'file')} cannot be read: {files[0][1]}"
            yield finding("error", "broken-file", what, REPLACE, [name for name, _ in files])

    def statistics(self) -> dict[str, Any]:
        """``items``, ``pictures``, ``looked_at`` (pictures), and the numbers of all checks."""
        numbers = {"items": len(self.source), "pictures": len(self._items), "looked_at": len(self.looks)}
        return numbers | picture_statistics(self.looks) | self._of_labels[1]


def picture_findings(
    source: ImageSet, looks: Sequence[Look], crop: tuple[int, int] | None, short_side: int | None
) -> Iterator[Finding]:
    """Unreadable, small and repeated pictures; no ``crop`` where enlarging is intended."""
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
    widths, heights = zip(*(look.size for look in good), strict=True)
    return {
        "width": spread(widths),
        "height": spread(heights),
        "mean": mean.round(4).tolist(),
        "std": np.sqrt(np.maximum(square - mean**2, 0)).round(4).tolist(),
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
        what = f"{counted(len(empty), f'class of {len(classes)} has', f'classes of {len(classes)} have')} no picture"
        fix = "add pictures of these classes, or remove them from the list of classes and from all parts"
        yield finding("warning", "empty-class", what, fix, empty)
    by_count = sorted(present, key=lambda name: present[name])
    rare = [name for name in by_count if IMBALANCE * present[name] < present[by_count[-1]]]
    if train and rare:
        common = by_count[-1]
        what = (
            f"classes differ in size more than {IMBALANCE} times: {common!r} has {present[common]} pictures, "
            f"{rare[0]!r} has {present[rare[0]]}"
        )
        fix = "collect more pictures of the rare classes, and read the score of each class, not only the mean"
        yield finding("warning", "imbalance", what, fix, rare)
    contradictions, firsts, names = [], first_with_pixels(looks), dict(enumerate(classes))
    for look in looks:
        first = firsts.get(look.digest, look.index)
        if (one := labels[first]) != (other := labels[look.index]):
            pair = f"{source.file(first)} ({names.get(one, one)}) = {look.file} ({names.get(other, other)})"
            contradictions.append(pair)
    if contradictions:
        what = f"{counted(len(contradictions), 'picture occurs', 'pictures occur')} again with another class"
        yield finding("warning", "contradiction", what, "keep each picture in one class only", contradictions)


def _readable(looks: Iterable[Look], labels: Sequence[int]) -> Counter[int]:
    """Pictures of each label, less those that are known not to be readable."""
    return Counter(labels) - Counter(labels[look.index] for look in looks if look.problem)


def class_statistics(source: ClassificationSet, looks: Iterable[Look], labels: Sequence[int]) -> dict[str, Any]:
    """``classes``: rows of ``name``, ``pictures`` and ``share``."""
    counts = _readable(looks, labels)
    rows = [(name, counts[number]) for number, name in enumerate(source.classes)]
    total = max(sum(count for _, count in rows), 1)
    return {"classes": [{"name": name, "pictures": count, "share": round(count / total, 6)} for name, count in rows]}


def compare(train: Part, other: Part) -> Iterator[Finding]:
    """What does not fit between the training part and another one, both looked through."""
    split, names, others = other.split, names_of(train.source), names_of(other.source)
    kind = "joints" if isinstance(train.source, PoseSet) else "classes"
    if names != others:
        places = [f"{name} (only in train)" for name in names if name not in others]
        places += [f"{name} (only in {split})" for name in others if name not in names]
        order = "" if places else ", only in another order"
        what = f"the {kind} of the train part ({len(names)}) and of the {split} part ({len(others)}) differ{order}"
        fix = f"give both parts the same {kind} in the same order; ids mean nothing otherwise"
        yield finding("error", "different-names", what, fix, places, split=split)
    firsts = first_with_pixels(train.looks)
    twice = [(index, firsts[digest]) for digest, index in first_with_pixels(other.looks).items() if digest in firsts]
    if shared := [f"{other.source.file(index)} = {train.source.file(first)}" for index, first in twice]:
        number = counted(len(shared), "picture")
        what = f"{number} of {split} can be seen in train too, pixel for pixel, which flatters the score"
        fix = "remove them from one of the two parts"
        yield finding("warning", "shared-picture", what, fix, shared, split=split)
    tables = [part.statistics().get("classes", ()) for part in (train, other)]
    if names == others and tables[0]:
        seen, wanted = ({row["name"] for row in table if row["pictures"]} for table in tables)
        if unseen := [name for name in names if name in wanted - seen]:
            limited = " in the pictures looked at" if len(train.looks) < len(train.first_items) else ""
            what = f"{counted(len(unseen), 'class occurs', 'classes occur')} in {split}, but not in train{limited}"
            fix = "add such pictures to the training part, or move some over"
            yield finding("warning", "unseen-class", what, fix, unseen, split=split)


def told_once(findings: Iterable[Finding], one_file: bool) -> list[Finding]:
    """Findings of all parts, train's first, without what repeats another one.

    Where parts share ``one_file`` of labels (``val_share``), what is wrong with these is told of train only.
    """
    found, seen, kept = list(findings), set(), []
    there = {(one.split, one.kind) for one in found}
    for one in found:
        error = one.severity == "error"
        if not error and (one.split, _EXPLAINED.get(one.kind)) in there:
            continue
        said = (one.kind,) if error and one.kind in LABEL_KINDS else (one.kind, one.what, one.where)
        if one_file and one.split == "val" and said in seen:
            continue
        seen.add(said)
        kept.append(one)
    return kept
