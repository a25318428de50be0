"""Labels of any form as files in COCO's form, one per part."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hrformer.data.annotation_files import coco_files
from hrformer.data.coco_boxes import boxes_around
from hrformer.data.coco_file import read_content, read_pictures
from hrformer.data.coco_pictures import find_pictures, picture_folders
from hrformer.data.labels.content import Content, Found, summary
from hrformer.data.labels.search import form_of, found_labels, parts_of, read_all
from hrformer.data.part_patterns import part_of
from hrformer.data.set_types import DataError
from hrformer.files import replacing
from hrformer.geometry.oks import MASK_SHARE
from hrformer.wording import counted, listed


@dataclass(frozen=True, kw_only=True, slots=True)
class Converted:
    """What was written: the file, what it holds in a few words, and what is to be said about the labels."""

    file: Path
    summary: str
    notes: tuple[str, ...]


def convert_labels(source: Path, out: Path) -> list[Converted]:
    """Write ``annotations/train.json``, ``val.json`` and ``test.json`` below ``out`` from labels of any form.

    Labels that speak of no part are those of "train". Names of pictures are relative to ``out``, so that a run with
    ``out`` as its root finds them where they are; where pictures are not found beside the labels, names stay as they
    are, which a note says. People without a box get the one around their joints that training would take.

    Args:
        source: a file, or a folder with labels of one form; files in COCO's form go before others.
        out: a folder, made if absent; it may be the set's own.

    Raises:
        DataError: the labels are not as they should be, or there are none; see the readers.
        ValueError: a file to be written is there with other labels.
    """
    if not source.exists():
        raise DataError(f"{source}: no such file or folder")
    root = source if source.is_dir() else source.parent
    contents, notes = _contents(source, root)
    texts: dict[Path, str] = {}
    told: list[Converted] = []
    for found, content in contents.items():
        file = out / "annotations" / f"{found.part or 'train'}.json"
        if file in texts:
            raise DataError(f"{source}: several labels of the {found.part or 'train'} part; convert one file at a time")
        names, note = _names(content, found, root, out)
        texts[file] = json.dumps(_written(content, names), ensure_ascii=False) + "\n"
        told.append(Converted(file=file, summary=summary(content), notes=(*notes, *note)))
    for file, text in texts.items():
        if file.exists() and file.read_text("utf-8") != text:
            raise ValueError(f"{file} is there and holds other labels; remove it, or take another folder")
    for file, text in texts.items():
        with replacing(file) as part:
            part.write_text(text, "utf-8")
    return told


def _contents(source: Path, root: Path) -> tuple[dict[Found, Content], tuple[str, ...]]:
    """Contents by what they were read from, and notes."""
    if source.is_dir():
        coco = [Found(*one) for one in coco_files(source)]
        founds = coco or found_labels(source)
        forms = {None if coco else form_of(one.path) for one in founds}
    else:
        forms = {form_of(source)}
        form = next(iter(forms))
        founds = parts_of(source, form, root) if form else [Found(source, part_of(source.stem))]
    if not founds:
        raise DataError(
            f"{source}: no labels here; looked for files in COCO's form, CVAT's XML, Label Studio's JSON, YOLO's YAML "
            "with text files, and labelme's JSON"
        )
    if len(forms) > 1:
        paths = listed(dict.fromkeys(one.path for one in founds))
        raise DataError(f"{source}: labels of several forms: {paths}; name the file or folder to convert")
    if (form := forms.pop()) is not None:
        read = read_all(form, founds, root)
        return read.contents, read.notes
    return {one: read_content(one.path, outlines=True) for one in founds}, ()


def _names(content: Content, found: Found, root: Path, out: Path) -> tuple[list[str], list[str]]:
    """Names of pictures as seen from ``out``, as they are where the pictures are not found, and what to say of that."""
    names = read_pictures(content, str(found.path)).names
    folders = picture_folders(root, [], found.part or "train", found.path)
    try:
        paths = find_pictures(names, folders, root, found.path, "Source", skip_broken=True)
    except DataError:
        paths = names
    there = [os.path.isfile(path) for path in paths]
    seen = [
        Path(os.path.relpath(path, out)).as_posix() if here else name
        for name, path, here in zip(names, paths, there, strict=True)
    ]
    lost = [name for name, here in zip(names, there, strict=True) if not here]
    if not lost:
        return seen, []
    what = f"{len(lost)} of {counted(len(names), 'picture')} not found, such as {lost[0]}"
    return seen, [f"{found.path}: {what}; names stay as they are there"]


def _written(content: Content, names: list[str]) -> dict[str, Any]:
    """The content with these names of pictures, and boxes for all people."""
    images = [
        {**{key: value for key, value in image.items() if key != "labels"}, "file_name": name}
        for image, name in zip(content["images"], names, strict=True)
    ]
    return {**content, "images": images, "annotations": [_boxed(one) for one in content.get("annotations") or ()]}


def _boxed(record: dict[str, Any]) -> dict[str, Any]:
    """A record of a person with the box and area that the reader gives one who has none."""
    joints, box = record.get("keypoints"), record.get("bbox")
    if not isinstance(joints, list) or not any(joints[2::3]) or (box and record.get("area")):
        return record
    box = box or boxes_around(np.array(joints, np.float64).reshape(1, -1, 3))[0].tolist()
    return {**record, "bbox": box, "area": record.get("area") or MASK_SHARE * (box[2] * box[3])}
