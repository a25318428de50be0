"""Checks of masks: sizes, ids, void, how often the classes occur."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrformer.data.headers import read_header
from hrformer.data.images import ImageError
from hrformer.data.inspection.report import Finding, finding, grouped
from hrformer.data.inspection.scan import Look, evenly
from hrformer.data.loader import REPLACE
from hrformer.data.mask_reading import size_of_mask
from hrformer.data.set_types import IGNORE, SegmentationSet, size_advice
from hrformer.data.turned_masks import MOST_HEADERS
from hrformer.wording import counted

RARE = 1e-3  # classes with less than this share of the labelled pixels are mentioned
VOID_MATTERS = 0.02  # from this share of void pixels on, they may be a class that was saved as 255
_NAMED = 3  # so many classes are named that are missing beside the only one

_LEAST_STEP, _LIGHT = 15, 30
"""Grey levels lie at least so far apart, 18 of them over 0..255, and the highest is at least so light."""

_MANY = 64  # so many ids of no class in one set are no forgotten lines in a list
_FIX_COLOURS = (
    "save ids as grey PNG; or set --data.palette-masks with lines `id name R G B` in data.classes for every colour, id "
    f"{IGNORE} for those of no class"
)
_FIX_IDS = f"name all classes in data.classes, or list ids that are no class: --data.ignore ID; {IGNORE} is void anyway"

_FIXES = {
    "exif-turned": "nothing if pictures and masks fit in the samples; pictures saved upright need no option",
    "exif-unknown": "see in the samples whether pictures and masks fit; if not, set --data.exif apply",
    "exif-ignored": "nothing if pictures and masks fit in the samples; predictions turn such pictures upright",
    "box-only": "draw outlines of these objects, or remove them where they do not matter",
    "no-object": "outline the objects of this part; those that are no crowds need iscrowd 0",
    "flat-outline": "nothing if these are slips of the hand; else draw the objects again",
}
"""What to do about what the reader put right."""


def mask_findings(source: SegmentationSet, split: str, looks: Sequence[Look]) -> Iterator[Finding]:
    """What the reader put right, masks that cannot be used, void masks, missing and rare classes."""
    for note in source.notes:
        yield finding("warning", note.kind, note.text, _FIXES[note.kind])
    unusable = [look for look in looks if look.mask_problem and look.unknown_ids is None]
    for reason, files in grouped((source.mask_file(look.index), look.mask_problem) for look in unusable):
        what = f"{counted(len(files), 'mask')} cannot be used: {reason}"
        # The reader tells why at length; here it is only sorted.
        kind, fix = ("mask-ids", _FIX_COLOURS) if "colours" in reason else ("unreadable-mask", REPLACE)
        yield finding("error", kind, what, fix, files)
    sizes: dict[str, list[str]] = {}
    for index, mask, picture in _other_sizes(source, looks):
        name = "{} ({} x {}, picture {} {} x {})".format(source.mask_file(index), *mask, source.file(index), *picture)
        sizes.setdefault(size_advice(mask, picture), []).append(name)
    for fix, files in sizes.items():
        what = f"{counted(len(files), 'mask')} of another size than the picture"
        yield finding("error", "mask-size", what, fix, files)
    if unknown := _unknown_ids(source, looks):
        yield unknown
    usable = sum(bool(look.class_pixels) for look in looks)
    void = [source.mask_file(look.index) for look in looks if {*look.class_pixels} == {IGNORE}]
    if void:
        what = f"{len(void)} of {counted(usable, 'mask')} without any label: all is void ({IGNORE})"
        fix = "label these pictures or take them out of the set"
        if len(void) == usable:
            fix = f"{IGNORE} means void; save class ids 0..{len(source.classes) - 1} in the masks"
        yield finding("error" if len(void) == usable else "warning", "void-mask", what, fix, void)
    # While ids are unknown, nobody can say which class is where.
    if not unknown and len(void) < usable:
        yield from _class_findings(source, split, looks)


def _other_sizes(
    source: SegmentationSet, looks: Sequence[Look]
) -> Iterator[tuple[int, tuple[int, int], tuple[int, int]]]:
    """Item, size of its mask and of its picture, where they differ; by their headers where nobody decoded them."""
    for look in looks:
        if look.class_pixels and look.mask_size != look.size:
            yield look.index, look.mask_size, look.size
    seen = {look.index for look in looks}
    rest = [index for index in range(len(source)) if index not in seen]
    for index in evenly(rest, MOST_HEADERS):
        picture, mask = source.file(index), size_of_mask(Path(source.mask_file(index)))
        if mask is None or not Path(picture).is_file():
            continue
        try:
            header = read_header(picture)
        except ImageError:
            continue
        # Whether a mask lies on the stored pixels was found out when the set was opened.
        if mask not in (header.size, header.stored):
            yield index, mask, header.size


def _unknown_ids(source: SegmentationSet, looks: Sequence[Look]) -> Finding | None:
    """About all masks with ids of no class."""
    told = [(look.index, look.unknown_ids) for look in looks if look.unknown_ids is not None]
    if not told:
        return None
    listed = told[0][1].listed
    # Class numbers of the masks that could be used, as ids.
    used = {listed[number] for number in np.flatnonzero(_pixels(looks)[0][: len(listed)]).tolist()}
    found = sorted(used.union(*(ids.found for _, ids in told)))
    unknown = sorted({number for _, ids in told for number in ids.unknown})
    places = [
        f"{source.mask_file(index)} (id{'s' * (len(ids.unknown) > 1)} {_few(ids.unknown)})" for index, ids in told
    ]
    what = (
        f"{counted(len(places), 'mask holds', 'masks hold')} ids that are no class: {_few(unknown)}; the classes' ids "
        f"are {_few(listed)}"
    )
    return finding("error", "mask-ids", what, _advice(unknown, found, tuple(listed)), places)


def _advice(unknown: list[int], found: list[int], listed: tuple[int, ...]) -> str:
    """What to do about ids of no class (``unknown``) among those ``found``, said only where all masks make it sure.

    All are ascending; ``listed`` are the ids of the classes.
    """
    count = len(listed)
    if unknown == [0]:
        return "add `0 background` to the list of classes if 0 is what lies around them; else --data.ignore 0"
    if listed == tuple(range(count)) and unknown == [count]:
        if 0 not in found:
            return (
                f"labels count from 1: 0 is in no mask, and {count} has no class. List the classes as 1..{count} in "
                "data.classes, or subtract 1 from the ids in the masks"
            )
        return (
            f"the masks hold 0..{count}, one id more than the {count} classes of the list: list the missing one. "
            f"If labels count from 1 and 0 is no class, list the classes as 1..{count} and give --data.ignore 0"
        )
    if unknown == [IGNORE]:
        return f"leave --data.ignore none out, so that {IGNORE} is void; or name what it stands for in data.classes"
    # Values as far apart as what an editor shows as grey, such as 0 128 255, none of them an id but for 0.
    apart = all(after - before >= _LEAST_STEP for before, after in pairwise(found))
    if apart and found[-1] >= _LIGHT and not ({*found} & {*listed}) - {0}:
        levels = ", ".join(map(str, found))
        return (
            f"{levels} look like grey levels, not ids: save each class as its id, 0, 1, 2 ..., or list these values as "
            "the ids of the classes"
            + (f" ({IGNORE} counts as void unless --data.ignore none is given)" if IGNORE in found else "")
        )
    if listed == (0, 1) and unknown == list(range(2, 2 + len(unknown))):
        return (
            f"{_FIX_IDS}. If the numbers 1..{unknown[-1]} tell single objects of one class apart (instance masks), "
            "save 1 for all of them"
        )
    if len(unknown) >= _MANY:
        return (
            f"so many different values ({len(unknown)} of no class) are no ids of classes: pictures in grey, edges "
            "that were smoothed in resizing (use nearest neighbour), or numbers of single objects? Save the id of "
            "its class for every pixel"
        )
    return _FIX_IDS


def _pixels(looks: Iterable[Look]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(256,) pixels of each label in all masks, and the number of masks that have it."""
    pixels, masks = np.zeros(256, np.int64), np.zeros(256, np.int64)
    for look in looks:
        for label, count in look.class_pixels.items():
            pixels[label] += count
            masks[label] += 1
    return pixels, masks


def _class_findings(source: SegmentationSet, split: str, looks: Sequence[Look]) -> Iterator[Finding]:
    classes, masks = source.classes, sum(bool(look.class_pixels) for look in looks)
    looked = f"the {counted(masks, 'mask')} looked at"
    all_pixels, _ = _pixels(looks)
    pixels, void = all_pixels[: len(classes)], all_pixels[IGNORE] / all_pixels.sum()
    present = np.flatnonzero(pixels)
    if void > 0.5:
        what = f"{void:.0%} of the pixels have no label"
        fix = "see in the pictures whether something is missing: a class whose id is ignored, unfinished labelling"
        yield finding("warning", "void-share", what, fix)
    if len(present) == 1 and len(classes) > 1:
        yield _about_one_class(source, split, int(present[0]), looked, void, complete=masks == len(source))
        return
    absent = [name for name, count in zip(classes, pixels, strict=True) if not count]
    if absent:
        what = f"{len(absent)} of {counted(len(classes), 'class', 'classes')} nowhere to be seen in {looked}"
        fix = "look for pictures with these classes, or remove them from the list of classes"
        if absent == [classes[0]] and len(classes) > 2:
            fix += "; no mask holds the first id of the list: do the ids in the masks count from 1?"
        elif void >= VOID_MATTERS and split == "train":
            fix += f"; was one of them saved as {IGNORE}, which is void here ({void:.0%} of the pixels)?"
        yield finding("warning", "empty-class", what, fix, absent)
    share = pixels / all_pixels[:IGNORE].sum()
    rare = [f"{classes[k]} ({share[k]:.3%})" for k in present[np.argsort(share[present])] if share[k] < RARE]
    if rare and split == "train":
        number = counted(len(classes), "class", "classes")
        what = f"{len(rare)} of {number} with less than {RARE:.1%} of the labelled pixels"
        yield finding("warning", "imbalance", what, "let rare classes weigh more: --loss.class-weights auto", rare)


def _about_one_class(
    source: SegmentationSet, split: str, only: int, looked: str, void: float, *, complete: bool
) -> Finding:
    """An error, but in masks that are not the complete part, where others may hold more."""
    classes = source.classes
    others = [name for number, name in enumerate(classes) if number != only]
    what = f"all labelled pixels in {looked} have the class {classes[only]!r}: nothing to tell it from"
    fix = f"look at a mask: it must hold class ids 0..{len(classes) - 1}, neither colours nor grey levels"
    if getattr(source, "annotations", None) is not None:
        fix = "look at 'segmentation' and 'category_id' of the annotations: no outline covers pixels of another class"
    elif void >= VOID_MATTERS:
        what += f"; {void:.0%} of the pixels are {IGNORE}, which is void here"
        fix = (
            f"if {IGNORE} stands for a class in the masks, such as {others[0]!r}, save the class as its own id "
            f"({classes.index(others[0])} where ids count from 0), or list `{IGNORE} {others[0]}` in data.classes "
            "and give --data.ignore none"
        )
    if split != "train":
        what += f"; with nothing else in {split}, its score means nothing"
        named = ", ".join(map(repr, others[:_NAMED])) + " or others" * (len(others) > _NAMED)
        fix = f"move pictures with {named} to {split}, if train has them; else {fix}"
    for note in source.notes:
        if note.kind == "no-object":
            what, fix = note.text, _FIXES[note.kind]
    return finding("error" if split == "train" or complete else "warning", "one-class", what, fix)


def mask_statistics(source: SegmentationSet, looks: Sequence[Look]) -> dict[str, Any]:
    """``masks``, ``void`` (share of all pixels), ``classes``: rows of ``name``, ``share`` (of labelled pixels),
    ``pictures`` (that have it)."""
    pixels, masks = _pixels(looks)
    shares = (pixels / max(pixels[:IGNORE].sum(), 1)).tolist()
    rows = zip(source.classes, shares, masks.tolist(), strict=False)
    return {
        "masks": sum(bool(look.class_pixels) for look in looks),
        "void": round(float(pixels[IGNORE] / max(pixels.sum(), 1)), 6),
        "classes": [{"name": name, "share": round(share, 6), "pictures": count} for name, share, count in rows],
    }


def _few(numbers: Sequence[int]) -> str:
    """``0, 4, 7``, the first and last of many; ``0..10`` for what is whole."""
    if len(numbers) > 2 and list(numbers) == list(range(numbers[0], numbers[-1] + 1)):
        return f"{numbers[0]}..{numbers[-1]}"
    shown = ", ".join(map(str, numbers[:8]))
    return f"{shown} and {len(numbers) - 8} more, up to {numbers[-1]}" if len(numbers) > 8 else shown
