"""One part of a data set, looked through with all checks of its task; and what two parts have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from hrformer.data.inspection.classification import ClassCheck, different_names
from hrformer.data.inspection.pictures import PictureCheck, shared_pictures
from hrformer.data.inspection.pose import LABEL_KINDS, PersonCheck
from hrformer.data.inspection.report import Check, Finding, Places
from hrformer.data.inspection.scan import evenly, pictures_of, scan
from hrformer.data.inspection.segmentation import MaskCheck
from hrformer.data.sets import ClassificationSet, ImageSet, PoseSet, SegmentationSet, names_of
from hrformer.wording import counted

_PEOPLE_PROBED = 200
"""So many people are asked whether they have any labelled joint."""

_EXPLAINED = {"box-beyond-picture": "box-spelling", "box-misses-person": "box-spelling", "no-object": "one-class"}
"""Warnings that another finding of the same part explains."""

Progress = Callable[[int, int], object]


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
        self._items = pictures_of(source)
        pose = isinstance(source, PoseSet)
        # A person's crop has the size of its box, whatever the picture's.
        self.pictures = PictureCheck(source, split, None if pose or may_enlarge else crop, short_side)
        self.checks: list[Check] = [self.pictures]
        if isinstance(source, ClassificationSet):
            self.checks.append(ClassCheck(source, split))
        elif isinstance(source, PoseSet):
            self.checks.append(PersonCheck(source, split, self._items, crop[1] / crop[0], self.labelled))
        elif isinstance(source, SegmentationSet) and source.labelled:
            self.checks.append(MaskCheck(source, split))
        self.looked_at = 0
        self.unusable: set[int] = set()
        """Numbers of pictures that cannot be read, or whose mask cannot be used."""
        self.unreadable: dict[int, tuple[str, str]] = {}
        """File and reason by the number of the picture, where the picture or its mask cannot be read at all."""

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

    def look_through(self, *, limit: int | None = None, threads: int = 2, progress: Progress | None = None) -> None:
        """Decode the pictures and check them.

        Args:
            limit: look at so many pictures only, spread over the set.
            threads: that decode.
            progress: called with the number of pictures done, and of all.
        """
        chosen = evenly(self.first_items, limit)
        for look in scan(self.source, chosen, threads=threads):
            for check in self.checks:
                check.add(look)
            self.looked_at += 1
            if look.problem or look.mask_problem or (look.class_pixels is not None and look.mask_size != look.size):
                self.unusable.add(self.source.picture(look.index))
            if look.problem:
                self.unreadable[self.source.picture(look.index)] = (look.file, look.problem)
            elif look.mask_broken and isinstance(self.source, SegmentationSet):
                self.unreadable[self.source.picture(look.index)] = (
                    self.source.mask_file(look.index),
                    look.mask_problem,
                )
            if progress:
                progress(self.looked_at, len(chosen))

    def findings(self) -> Iterator[Finding]:
        """What is wrong with this part."""
        for check in self.checks:
            yield from check.findings()

    def statistics(self) -> dict[str, Any]:
        """``items``, ``pictures``, ``looked_at`` (pictures), and the numbers of all checks."""
        numbers: dict[str, Any] = {
            "items": len(self.source),
            "pictures": len(self._items),
            "looked_at": self.looked_at,
        }
        for check in self.checks:
            numbers |= check.statistics()
        return numbers


def compare(train: Part, other: Part) -> Iterator[Finding]:
    """What does not fit between the training part and another one, both looked through."""
    names = [names_of(part.source) for part in (train, other)]
    kind = "joints" if isinstance(train.source, PoseSet) else "classes"
    yield from different_names(kind, names[0], names[1], other.split)
    yield from shared_pictures(train.pictures, other.pictures)
    if kind == "classes" and names[0] == names[1]:
        counts = [_pictures_by_class(part) for part in (train, other)]
        unseen = Places(name for name in names[0] if counts[1].get(name) and not counts[0].get(name))
        if unseen and counts[0]:
            limited = " in the pictures looked at" if train.looked_at < train.statistics()["pictures"] else ""
            what = (
                f"{counted(unseen.count, 'class occurs', 'classes occur')} in {other.split}, but not in train{limited}"
            )
            fix = "add such pictures to the training part, or move some over"
            yield unseen.finding("warning", "unseen-class", other.split, what, fix)


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


def _pictures_by_class(part: Part) -> dict[str, int]:
    return {row["name"]: row["pictures"] for row in part.statistics().get("classes", ())}
