"""Says of a set that cannot be opened that it looks like one of another task, and which recipe is for that."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hrformer.data.annotation_files import coco_files, has_joints, has_outlines
from hrformer.data.images import SUFFIXES
from hrformer.data.mask_reading import MASK_SUFFIXES
from hrformer.data.mask_search import folders_below, holds, kind_of
from hrformer.data.part_patterns import folders_in, part_of
from hrformer.data.set_types import DataError

_NAMED = 3


@contextmanager
def telling_task(task: str, root: Path, *, layout_known: bool = False) -> Iterator[None]:
    """Add to a ``DataError`` that the set is one for another task, where it looks so.

    Args:
        task: "classification", "pose" or "segmentation", which the set was opened for.
        root: of the set.
        layout_known: whether the run names the folders of a certain set, so that one looks only for these.

    Raises:
        DataError: whatever the context raised, with or without that.
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
    """Refuse folders of pictures and of their masks as two classes.

    Raises:
        DataError: they are that.
    """
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
    if not labels and (classes := _class_folders(root)):
        found["classification"] = f"a folder per class ({', '.join(classes[:_NAMED])})"
    return found


def _class_folders(root: Path) -> list[str]:
    """Folders of pictures, several beside each other, unless one is called images: a class may be called mask."""
    for place in (root, *(one for one in folders_in(root) if part_of(one.name))):
        filled = [one for one in folders_in(place) if part_of(one.name) is None and holds(one, SUFFIXES, 1)]
        if len(filled) > 1 and all(kind_of(Path(one.name)) != "pictures" for one in filled):
            return [one.relative_to(root).as_posix() for one in filled]
    return []
