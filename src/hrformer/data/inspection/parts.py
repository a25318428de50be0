"""One part of a data set, looked through with all checks of its task; and what two parts have in common."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from hrformer.data.inspection.masks import mask_findings, mask_statistics
from hrformer.data.inspection.people import LABEL_KINDS, people_seen, person_findings, person_statistics
from hrformer.data.inspection.pictures import (
    class_findings,
    class_statistics,
    first_with_pixels,
    picture_findings,
    picture_statistics,
)
from hrformer.data.inspection.report import Finding, finding
from hrformer.data.inspection.scan import Look, Progress, evenly, pictures_of, read_headers, scan
from hrformer.data.loader import REPLACE
from hrformer.data.set_types import ClassificationSet, ImageSet, PoseSet, SegmentationSet, names_of
from hrformer.wording import counted

_PEOPLE_PROBED = 200
"""So many people are asked whether they have any labelled joint."""

_EXPLAINED = {"box-beyond-picture": "box-spelling", "box-misses-person": "box-spelling", "no-object": "one-class"}
"""Warnings that another finding of the same part explains."""


class Part:
    """A set and what was found in it.

    Args:
        source: the set.
        split: part of the set.
        crop: (height, width) of the training crop.
        may_enlarge: whether it is intended that pictures smaller than the crop are enlarged to it.
        short_side: segmentation: what training resizes the short side to before.
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
        self.pixels = 0
        """Of all pictures together, as far as their headers tell."""
        self._broken_headers: dict[int, tuple[str, str]] = {}
        self._crop, self._may_enlarge, self._short_side = crop, may_enlarge, short_side
        self._items = pictures_of(source)
        self._labels: list[int] = []
        if isinstance(source, ClassificationSet):
            self._labels = [source.label(index) for index in range(len(source))]

    @property
    def first_items(self) -> list[int]:
        """One item of each picture."""
        return [items[0] for items in self._items.values()]

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
        self.pixels, self._broken_headers = read_headers(
            self.source, self.first_items, threads=threads, progress=progress
        )

    def look_through(self, *, limit: int | None = None, threads: int = 2, progress: Progress | None = None) -> None:
        """Decode the pictures and check them.

        Args:
            limit: look at so many pictures only, spread over the set.
            threads: that decode.
            progress: called with the number of pictures done, and of all.
        """
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

    def findings(self) -> Iterator[Finding]:
        """What is wrong with this part."""
        source, looks = self.source, self.looks
        # A person's crop has the size of its box, whatever the picture's.
        crop = None if isinstance(source, PoseSet) or self._may_enlarge else self._crop
        found = [picture_findings(source, looks, crop, self._short_side)]
        if isinstance(source, ClassificationSet):
            found.append(class_findings(source, self.split, looks, self._labels))
        elif isinstance(source, PoseSet):
            aspect = self._crop[1] / self._crop[0]
            found.append(person_findings(source, people_seen(source, self._items, looks), aspect, self.labelled))
        elif isinstance(source, SegmentationSet) and source.labelled:
            found.append(mask_findings(source, self.split, looks))
        found.append(self._not_decoded())
        for check in found:
            yield from (replace(one, split=self.split) for one in check)

    def _not_decoded(self) -> Iterator[Finding]:
        """Broken files that only their headers tell of."""
        decoded = {self.source.picture(look.index) for look in self.looks if look.problem or look.mask_broken}
        files = [file for number, file in self._broken_headers.items() if number not in decoded]
        if files:
            what = f"{counted(len(files), 'file')} cannot be read: {files[0][1]}"
            yield finding("error", "broken-file", what, REPLACE, [name for name, _ in files])

    def statistics(self) -> dict[str, Any]:
        """``items``, ``pictures``, ``looked_at`` (pictures), and the numbers of all checks."""
        source, looks = self.source, self.looks
        numbers: dict[str, Any] = {"items": len(source), "pictures": len(self._items), "looked_at": len(looks)}
        numbers |= picture_statistics(looks)
        if isinstance(source, ClassificationSet):
            numbers |= class_statistics(source, looks, self._labels)
        elif isinstance(source, PoseSet):
            read = sum(not look.problem for look in looks)
            numbers |= person_statistics(source, people_seen(source, self._items, looks), read)
        elif isinstance(source, SegmentationSet) and source.labelled:
            numbers |= mask_statistics(source, looks)
        return numbers


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
    shared = [
        f"{other.source.file(index)} = {train.source.file(firsts[digest])}"
        for digest, index in first_with_pixels(other.looks).items()
        if digest in firsts
    ]
    if shared:
        what = (
            f"{counted(len(shared), 'picture')} of {split} can be seen in train too, pixel for pixel, "
            "which flatters the score"
        )
        fix = "remove them from one of the two parts"
        yield finding("warning", "shared-picture", what, fix, shared, split=split)
    if kind == "classes" and names == others:
        numbers, other_numbers = train.statistics(), other.statistics()
        seen, wanted = (
            {row["name"] for row in part.get("classes", ()) if row["pictures"]} for part in (numbers, other_numbers)
        )
        unseen = [name for name in names if name in wanted - seen]
        if unseen and "classes" in numbers:
            limited = " in the pictures looked at" if numbers["looked_at"] < numbers["pictures"] else ""
            what = f"{counted(len(unseen), 'class occurs', 'classes occur')} in {split}, but not in train{limited}"
            fix = "add such pictures to the training part, or move some over"
            yield finding("warning", "unseen-class", what, fix, unseen, split=split)


def told_once(findings: Iterable[Finding], one_file: bool) -> list[Finding]:
    """Findings without what repeats another one.

    Args:
        findings: of all parts, those of train first.
        one_file: whether the parts share their labels (``val_share``): what is wrong with these is told of train only.
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
