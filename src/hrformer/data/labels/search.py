"""Finds labels in the forms of labelling tools, and reads them as content in COCO's form."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

from hrformer.data.coco_file import read_content
from hrformer.data.labels import cvat, label_studio, labelme, yolo
from hrformer.data.labels.content import Found, LabelSet
from hrformer.data.part_patterns import folders_in, part_of
from hrformer.data.set_types import DataError
from hrformer.data.source_config import Split
from hrformer.wording import listed

Form: TypeAlias = Literal["cvat", "label_studio", "yolo", "labelme"]

_SUFFIXES = (".xml", ".json", ".yaml", ".yml")
_log = logging.getLogger(__name__)


def form_of(path: Path) -> Form | None:
    """Which tool's labels a file or folder holds; None for those in COCO's form and whatever else it is."""
    suffix = path.suffix.lower()
    if path.is_dir():
        return "labelme" if any(map(labelme.is_labelme, path.rglob("*.json"))) else None
    if suffix == ".xml":
        return "cvat" if cvat.is_cvat(path) else None
    if suffix in (".yaml", ".yml"):
        return "yolo" if yolo.is_yolo(path) else None
    if suffix != ".json":
        return None
    if labelme.is_labelme(path):
        return "labelme"
    return "label_studio" if label_studio.is_label_studio(path) else None


def found_labels(root: Path) -> list[Found]:
    """Labels of tools in a folder and at most two folders below it, COCO's form apart.

    labelme's files count by the folders that they lie in: those of a part, or the root for those of none.
    """
    found: list[Found] = []
    folders: dict[Split | None, list[Path]] = {}
    for file in _files(root):
        form = form_of(file)
        if form == "labelme":
            folders.setdefault(part_of(file.parent.relative_to(root)), []).append(file.parent)
        elif form is not None:
            found += parts_of(file, form, root)
    for part, places in folders.items():
        found.append(Found(root if part is None else Path(os.path.commonpath(places)), part))
    return found


def _files(root: Path) -> Iterator[Path]:
    for folder in (root, *folders_in(root, 2)):
        yield from sorted(one for one in folder.glob("[!.]*") if one.suffix.lower() in _SUFFIXES and one.is_file())


def parts_of(file: Path, form: Form, root: Path) -> list[Found]:
    """What one file of a form holds, by its own parts or what its path, relative to the root, says."""
    inner = file.relative_to(root) if file.is_relative_to(root) else Path(file.name)
    if form == "yolo":
        return yolo.parts_of(file)
    if form == "cvat":
        return cvat.parts_of(file, inner)
    return [Found(file, part_of(inner.with_suffix("")))]


def read_labels(
    file: Path, split: Split, root: Path, *, outlines: bool = False, skip_broken: bool = False
) -> dict[str, Any]:
    """Content of a part of a set, in COCO's form, whatever form the file or folder is in.

    Args:
        file: that holds the labels of the part, perhaps of other parts too.
        split: the part.
        root: folder of the set; files of the same form in it, being other parts, have the same categories and joints.
        outlines: see :func:`hrformer.data.coco_file.read_content`.
        skip_broken: leave out pictures that cannot be read where only they tell the size that places are shares of.

    Raises:
        DataError: the labels are not as they should be; names file, record and field.
    """
    form = form_of(file)
    if form is None:
        return read_content(file, outlines=outlines)
    around = [one for one in found_labels(root) if form_of(one.path) == form]
    here = [one for one in around if one.path == file] or parts_of(file, form, root)
    wanted = [one for one in here if one.part == split] or ([here[0]] if len(here) == 1 else [])
    if not wanted:
        there = listed([one.part for one in here if one.part])
        raise DataError(f"{file} has no {split} part; there are: {there}")
    # A YAML names all classes; elsewhere the other parts may have more of them.
    others = [] if form == "yolo" else [one for one in around if one not in wanted]
    read = read_all(form, sorted({*wanted, *others}, key=lambda one: (str(one.path), str(one.part))), root, skip_broken)
    for text in read.notes:
        _log.warning("%s", text)
    return read.contents[wanted[0]]


def kinds_of(found: Found, root: Path) -> dict[str, str]:
    """Tasks that labels are made for, and by what; none where they cannot be read."""
    form = form_of(found.path)
    try:
        records = read_all(form, [found], root).contents[found]["annotations"] if form else []
    except DataError:
        return {}
    words = {"pose": ("keypoints", "keypoints"), "segmentation": ("segmentation", "outlines of objects")}
    return {task: what for task, (field, what) in words.items() if any(one.get(field) for one in records)}


def read_all(form: Form, founds: Sequence[Found], root: Path, skip_broken: bool = False) -> LabelSet:
    """Contents of labels of one form, with the same categories; errors as in :func:`read_labels`."""
    if form == "yolo":
        return yolo.read(founds, root, skip_broken=skip_broken)
    if form == "cvat":
        return cvat.read(founds, root)
    return labelme.read(founds, root) if form == "labelme" else label_studio.read(founds, root)
