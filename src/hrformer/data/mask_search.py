"""Finds folders of pictures and masks in the layouts that tools write, and pairs their files."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple

from hrformer.data.annotation_files import outline_files
from hrformer.data.images import SUFFIXES
from hrformer.data.mask_reading import MASK_SUFFIXES
from hrformer.data.mask_sets import NamedFiles, Pairs, find_folder, masks_below, paired, part_name, pictures_below
from hrformer.data.part_patterns import MASK_WORDS, PICTURE_WORDS, folders_in, part_of, words_of
from hrformer.data.set_types import DataError, NoPartError
from hrformer.data.source_config import SegmentationSource, Split
from hrformer.wording import listed

Kind = Literal["pictures", "masks"]

_TRIED = 50
"""Pictures from which is learned what names of masks have more."""

_MARK = "mask|masks|label|labels|gt|seg|segmentation|annotation"
_MARKED = re.compile(rf"^(?:{_MARK})[-_. ]|[-_. ](?:{_MARK})$", re.IGNORECASE)

_log = logging.getLogger(__name__)


class Folder(NamedTuple):
    """A folder of the set, and what its path says of it."""

    path: Path
    kind: Kind | None
    part: Split | None


def find_pairs(source: SegmentationSource, split: Split) -> Pairs:
    """Pictures and masks of a part, in the order of the pictures' names; None for a test part without masks.

    Folders are those that the source names. Where it leaves a name at its default and there is no such folder, one is
    taken whose path, of three folders at most, says that it holds pictures or masks, and of which part:
    ``train/images``, ``masks/Validation``, ``img`` beside ``ann``. Masks may lie beside the pictures (``a.jpg`` and
    ``a_mask.png``), and may have more in their names than the pictures.

    Raises:
        DataError: a folder or file is missing, or several fit.
    """
    part = part_name(source, split)
    pictures_at, masks_at = (text.replace("{split}", part) for text in (source.images, source.masks))
    layout = f"{pictures_at}/NAME.jpg and {masks_at}/NAME.png (SegmentationSource.images, SegmentationSource.masks)"
    named = source.root / pictures_at, source.root / masks_at
    pictures_in = named[0] if named[0].is_dir() else _found(source, split, "pictures", SUFFIXES)
    if pictures_in is None:
        hint = _hint(source, split)
        raising = NoPartError if hint else DataError
        pictures_in = find_folder(source.root, [pictures_at], "pictures", layout + hint, raising)
    masks_in = named[1] if named[1].is_dir() else _found(source, split, "masks", MASK_SUFFIXES)
    if masks_in is None and _beside_each_other(pictures_in)[1].files:
        masks_in = pictures_in
    if masks_in is None and source.untouched("masks"):
        # Told by the reader of masks: JPEG changes values, so it cannot hold them.
        masks_in = _found(source, split, "masks", SUFFIXES)
    if masks_in is None and split == "test":
        return list(pictures_below(pictures_in).files.values()), None
    if masks_in is None:
        masks_in = find_folder(source.root, [masks_at], "masks", layout)
    if (pictures_in, masks_in) != named:
        _log.info("%s part: pictures in %s, masks in %s", split, pictures_in, masks_in)
    if pictures_in == masks_in:
        pictures, masks = _beside_each_other(pictures_in)
    else:
        pictures, masks = pictures_below(pictures_in), masks_below(masks_in)
    renamed = replace(masks, files=names_of_pictures(pictures.files, masks.files))
    return paired(pictures, renamed, skip_broken=source.skip_broken)


def own_part(source: SegmentationSource, split: Split) -> Path | None:
    """The folder of pictures, or file of outlines, that a part has for itself; None where there is none."""
    part: str = getattr(source, split)
    named = source.root / source.images.replace("{split}", part)
    if part and "{split}" in source.images and named.is_dir():
        return named
    if not source.untouched("images"):
        return None
    files = (one.path for one in outline_files(source.root) if one.part == split)
    folders = (one.path for one in folders_below(source.root) if one.part == split and one.kind != "masks")
    return next(folders, None) or next(files, None)


def folders_below(root: Path) -> Iterator[Folder]:
    """Folders at most three below the root, with what their paths say."""
    for path in folders_in(root, 3):
        inner = path.relative_to(root)
        yield Folder(path, kind_of(inner), part_of(inner))


def kind_of(path: Path) -> Kind | None:
    """What a relative path says that a folder holds: its last component that says anything decides."""
    for words in (set(words_of(component)) for component in reversed(path.parts)):
        if words & MASK_WORDS:
            return "masks"
        if words & PICTURE_WORDS:
            return "pictures"
    return None


def holds(folder: Path, suffixes: Collection[str], depth: int = 4) -> bool:
    """Whether there is a file with one of these endings in the folder, or in folders below it."""
    return any(
        os.path.splitext(file.name)[1].lower() in suffixes
        for place in (folder, *(folders_in(folder, depth - 1) if depth > 1 else ()))
        for file in place.iterdir()
        if not file.name.startswith(".")
    )


def _found(source: SegmentationSource, split: Split, kind: Kind, ends: Collection[str]) -> Path | None:
    """The folder of the kind, which holds files with these endings, where the source leaves it open; None for none."""
    field = "images" if kind == "pictures" else "masks"
    if not source.untouched(field) or not (source.untouched(split) or getattr(source, split) == split):
        return None
    filled = [one for one in folders_below(source.root) if holds(one.path, ends)]
    of_kind = [one for one in filled if one.kind == kind]
    options = [one for one in of_kind if one.part == split]
    if not options and kind == "pictures":
        options = [one for one in filled if one.kind is None and one.part == split and holds(one.path, SUFFIXES, 1)]
    if not options and split == "train" and not any(one.part for one in of_kind):
        options = of_kind
    paths = {one.path for one in options}
    top = [path for path in (one.path for one in options) if paths.isdisjoint(path.parents)]
    if len(top) > 1:
        raise DataError(
            f"{source.root}: several folders may hold the {kind} of the {split} part: {listed(top, 8)}; "
            f"say which in SegmentationSource.{field}"
        )
    return top[0] if top else None


def _hint(source: SegmentationSource, split: Split) -> str:
    """What else may help where a part has no pictures."""
    named = (one for one in folders_below(source.root) if one.kind != "masks" and one.part != split)
    others = (one.path for one in named if holds(one.path, SUFFIXES, 1))
    if split != "val" or source.val_share or (other := next(others, None)) is None:
        return ""
    return (
        ". Where there is no validation part, SegmentationSource.val_share 0.2 keeps a fifth of the pictures for it, "
        f"of those in {other}"
    )


def _beside_each_other(folder: Path) -> tuple[NamedFiles, NamedFiles]:
    """Pictures, and masks that say so in their names or are PNG of the same name as a JPEG."""
    files = sorted(one for one in folder.iterdir() if one.is_file() and one.suffix.lower() in SUFFIXES)
    lossy = {one.stem for one in files if one.suffix.lower() in (".jpg", ".jpeg")}
    masks = {one for one in files if _MARKED.search(one.stem) or (one.suffix == ".png" and one.stem in lossy)}
    return (
        NamedFiles(what="picture", folder=folder, files={one.stem: one for one in files if one not in masks}),
        NamedFiles(what="mask", folder=folder, files={one.stem: one for one in files if one in masks}),
    )


def names_of_pictures(pictures: Mapping[str, Path], masks: Mapping[str, Path]) -> dict[str, Path]:
    """Masks by the names of their pictures, where names of masks have something more: ``a_mask``, ``gt-a``, ``a.jpg``.

    By their own names where most are called like pictures, or no rule fits most of them.

    Raises:
        DataError: two rules fit equally well.
    """
    if 2 * len(pictures.keys() & masks.keys()) >= len(pictures):
        return dict(masks)
    rules = Counter(rule for name in islice(pictures, _TRIED) for mask in masks for rule in _additions(name, mask))
    fits = {rule: sum(_with(name, *rule) in masks for name in pictures) for rule, _ in rules.most_common(4)}
    most = max(fits.values(), default=0)
    if 2 * most <= len(pictures):
        return _by_difference(pictures, masks)
    best = [rule for rule, count in fits.items() if count == most]
    best = [rule for rule in best if not MASK_WORDS.isdisjoint(words_of(" ".join(rule)))] or best
    if len(best) > 1:
        name = next(iter(pictures))
        both = " and ".join(_with(name, *rule) for rule in best[:2])
        raise DataError(f"{next(iter(masks.values())).parent}: {both} may both be the mask of {name}; keep one of them")
    before, after = best[0]
    _log.info("masks are called like their pictures, with %r before the name and %r behind it", before, after)
    renamed = {_with(name, before, after): name for name in pictures}
    return {renamed.get(mask, mask): path for mask, path in masks.items()}


def _additions(name: str, mask: str) -> Iterator[tuple[str, str]]:
    """What a mask's name may have more than a picture's, before and after it; both in one folder."""
    folder, _, stem = name.rpartition("/")
    mask_folder, _, mask_stem = mask.rpartition("/")
    if folder != mask_folder:
        return
    start = mask_stem.find(stem)
    while start >= 0:
        before, after = mask_stem[:start], mask_stem[start + len(stem) :]
        # Digits alone make another number: 12 is no mask of 2.
        if not f"{before}{after}".isdigit():
            yield before, after
        start = mask_stem.find(stem, start + 1)


def _with(name: str, before: str, after: str) -> str:
    folder, slash, stem = name.rpartition("/")
    return f"{folder}{slash}{before}{stem}{after}"


def _by_difference(pictures: Mapping[str, Path], masks: Mapping[str, Path]) -> dict[str, Path]:
    """Masks by their pictures' names where both have something of their own: ``a_img`` and ``a_mask``."""
    ours, our_mark = _different(pictures)
    theirs, their_mark = _different(masks)
    said = PICTURE_WORDS.intersection(words_of(our_mark)) or MASK_WORDS.intersection(words_of(their_mark))
    if not said or ours.keys() != theirs.keys() or len(ours) < len(pictures) or len(theirs) < len(masks):
        return dict(masks)
    return {ours[core]: masks[theirs[core]] for core in ours}


def _different(names: Iterable[str]) -> tuple[dict[str, str], str]:
    """Names by what is left of them without what all of them begin and end with, and that."""
    whole = list(names)
    start = _shared_start(whole)
    end = _shared_start([name[start:][::-1] for name in whole])
    mark = f"{whole[0][:start]} {whole[0][len(whole[0]) - end :]}"
    return {name[start : len(name) - end]: name for name in whole}, mark


def _shared_start(names: Sequence[str]) -> int:
    """Number of characters with which all names begin."""
    pairs = enumerate(zip(min(names), max(names), strict=False))
    return next((place for place, (a, b) in pairs if a != b), len(min(names)))
