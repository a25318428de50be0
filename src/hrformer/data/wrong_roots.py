"""Advice for a set that cannot be opened: a root that is one folder too deep or too high, or a set of another task."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePath

from hrformer.data.annotation_files import coco_files, has_joints, has_outlines
from hrformer.data.images import SUFFIXES
from hrformer.data.labels.search import found_labels, kinds_of
from hrformer.data.mask_reading import MASK_SUFFIXES
from hrformer.data.mask_search import folders_below, holds, kind_of
from hrformer.data.part_patterns import folders_in, part_of
from hrformer.data.set_types import DataError
from hrformer.wording import listed


@contextmanager
def advising(field: str, root: Path, inside: Sequence[str]) -> Iterator[None]:
    """Add to a ``DataError`` which root, in ``field`` of the source, would be right, where that can be seen.

    ``inside`` are files and folders, relative to ``root``, of which the set has some; patterns are allowed.
    """
    try:
        yield
    except DataError as error:
        better = better_root(root, inside)
        if better is None:
            raise
        raise DataError(f"{error}. {field} should be {better[0]}, the folder that holds {better[1]}") from error


def better_root(root: Path, inside: Sequence[str]) -> tuple[Path, str] | None:
    """A folder above or in ``root`` that holds one of ``inside``, and which; None if ``root`` has one, or none does.

    Of a pattern the folders before its first wildcard count.
    """
    fixed = [re.split(r"[^/]*[*?\[{]", path)[0].strip("/") for path in inside if not PurePath(path).is_absolute()]
    names = [name for name in fixed if name]
    if not root.is_dir() or any((root / name).exists() for name in names):
        return None
    folders = [root.resolve().parent, *folders_in(root)]
    return next(((folder, name) for folder in folders for name in names if (folder / name).exists()), None)


@contextmanager
def telling_task(task: str, root: Path, *, layout_known: bool = False) -> Iterator[None]:
    """Add to a ``DataError`` that the set, opened for ``task``, is one for another task, where it looks so.

    With ``layout_known`` the run names the folders of a certain set, so that one looks only for these.
    """
    try:
        yield
    except DataError as error:
        found = {} if layout_known else _kinds(root)
        if task in found or not found:
            raise
        other, what = next(iter(found.items()))
        # What follows the first sentence would lead astray.
        lacks = re.split(r"[;.] ", str(error))[0]
        raise DataError(
            f"{root} looks like {what}, which `hrformer train finetune_{other}` is for. Not for {task}: {lacks}"
        ) from error


def require_classes(folder: Path, classes: Sequence[str]) -> None:
    """Refuse folders of pictures and of their masks as two classes, by a ``DataError``."""
    kinds = {kind: folder / name for name in classes if (kind := kind_of(Path(name))) is not None}
    if len(kinds) < 2:
        return
    pictures, masks = ({file.stem for file in kinds[kind].rglob("*.*")} for kind in ("pictures", "masks"))
    if 2 * sum(any(name in mask for mask in masks) for name in pictures) > len(pictures):
        raise DataError(
            f"{folder}: {kinds['pictures'].name} and {kinds['masks'].name} hold files of the same names, so they are "
            "pictures and their masks, not two classes"
        )


def _kinds(root: Path) -> dict[str, str]:
    """Tasks that a set looks made for, and by what; the likeliest first."""
    found: dict[str, str] = {}
    labels = [one.path for one in coco_files(root)]
    for file in labels:
        if has_joints(file):
            found.setdefault("pose", f"keypoints ({file.relative_to(root)})")
        if has_outlines(file, drawn=True):
            found.setdefault("segmentation", f"outlines of objects ({file.relative_to(root)})")
    folders = list(folders_below(root))
    masks = [one.path for one in folders if one.kind == "masks" and holds(one.path, MASK_SUFFIXES)]
    if masks and any(one.kind == "pictures" and holds(one.path, SUFFIXES) for one in folders):
        found.setdefault("segmentation", f"masks ({masks[0].relative_to(root)})")
    others = [] if labels else found_labels(root)
    for one in others:
        kinds = kinds_of(one, root)
        found |= {kind: f"{what} ({one.path.relative_to(root)})" for kind, what in kinds.items() if kind not in found}
    if not labels and not others and (classes := _class_folders(root)):
        found["classification"] = f"a folder per class ({listed(classes, 3)})"
    return found


def _class_folders(root: Path) -> list[str]:
    """Folders of pictures, several beside each other, unless one is called images: a class may be called mask."""
    for place in (root, *(one for one in folders_in(root) if part_of(one.name))):
        filled = [one for one in folders_in(place) if part_of(one.name) is None and holds(one, SUFFIXES, 1)]
        if len(filled) > 1 and all(kind_of(Path(one.name)) != "pictures" for one in filled):
            return [one.relative_to(root).as_posix() for one in filled]
    return []
