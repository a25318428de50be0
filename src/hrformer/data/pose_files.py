"""Finds the annotation file of a part in the layouts that tools write."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from hrformer.data.part_words import folders_in, part_of
from hrformer.data.sets import DataError, NoPartError
from hrformer.data.sources import PoseSource, Split
from hrformer.data.val_share import own_part_error

_SHOWN = 8
_KNOWN = (
    "annotations/train.json, person_keypoints_train.json, person_keypoints_train2017.json, "
    "train/_annotations.coco.json (Roboflow), annotations/person_keypoints_default.json (CVAT), "
    "result.json (Label Studio) or annotations.json, and the same with val, valid, validation, dev, test or testing"
)
_DEFAULTS = {one.name: one.default for one in fields(PoseSource)}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Candidate:
    """A JSON file below the root: the part its path speaks of, and whether it has labels of joints."""

    file: Path
    part: Split | None
    jointed: bool


def labels_file(source: PoseSource, split: Split) -> Path:
    """Where the labels of a part lie.

    A file that the source names is taken as it is. Where it names none, or leaves the name at its default and there is
    no such file, the part is looked for: ``annotations/{split}.json``, then any file in COCO's format, at most two
    folders below the root, whose name or folder speaks of the part; for training also one that speaks of no part.

    Args:
        source: the set.
        split: the part; with ``val_share`` the labels of "val" are those of "train".

    Raises:
        DataError: there is none, or several fit.
    """
    if source.val_share and split == "val":
        split = "train"
    usual = usual_file(source, "", split)
    named = usual_file(source, _text(source, split), split)
    at_once = named if _typed(source, split) else next((file for file in (named, usual) if file.is_file()), None)
    if at_once is not None and not source.val_share:
        return at_once
    candidates = list(_candidates(source.root))
    _require_one_validation_part(source, candidates)
    if at_once is not None:
        return at_once
    own = [one for one in candidates if one.part == split]
    whole = [one for one in candidates if one.part is None]
    if own or (split == "train" and whole):
        return _only_one(own or whole, split)
    train = [one for one in candidates if one.part == "train"] or whole
    if split == "val" and (train or (source.root / _text(source, "train")).is_file()):
        test = [one.file.relative_to(source.root) for one in candidates if one.part == "test"]
        instead = f"a file in PoseSource.{split}_annotations" + (f", such as {test[0]}" if test else "")
        raise NoPartError(
            f"{source.root}: no labels of the validation part, only {_listed(train) or _text(source, 'train')}; "
            f"PoseSource.val_share 0.2 keeps about a fifth of the pictures for validation. Or name {instead}"
            f"{'' if test else _too_deep(source.root)}"
        )
    raise DataError(_nothing(source, split, candidates))


def usual_file(source: PoseSource, text: str, split: Split) -> Path:
    """The file that a field's text means; of an empty one, the first that is looked for."""
    return source.root / (text or f"annotations/{split}.json")


def _candidates(root: Path) -> Iterator[_Candidate]:
    """Files in COCO's format; of those with one part's name, files with joints only, if there are any."""
    found = []
    for file in json_files(root):
        has = has_joints(file)
        if has is not None:
            found.append(_Candidate(file=file, part=part_of(file.relative_to(root).with_suffix("")), jointed=has))
    parts = {one.part for one in found if one.jointed}
    return (one for one in found if one.jointed or one.part not in parts)


def json_files(root: Path) -> Iterator[Path]:
    """JSON files in a folder and at most two folders below it."""
    for folder in (root, *folders_in(root, 2)):
        try:
            names = sorted(os.listdir(folder))
        except OSError:
            continue
        yield from (folder / name for name in names if name.lower().endswith(".json") and not name.startswith("."))


def has_joints(file: Path) -> bool | None:
    """Whether a file in COCO's format has joints; None if it is of another format. It is not parsed."""
    try:
        with file.open("rb") as stream:
            # labelme's files, one per picture and with the picture in them, begin so.
            if b'"shapes"' in stream.read(4096):
                return None
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as text:
                if any(text.find(key) < 0 for key in (b'"images"', b'"annotations"', b'"file_name"')):
                    return None
                return text.find(b'"keypoints"') >= 0
    except (OSError, ValueError):
        return None


def _only_one(fitting: Sequence[_Candidate], split: Split) -> Path:
    if len(fitting) > 1:
        raise DataError(
            f"several files may hold the labels of the {split} part: {_listed(fitting)}; name one of them in "
            f"PoseSource.{split}_annotations"
        )
    return fitting[0].file


def _require_one_validation_part(source: PoseSource, candidates: Sequence[_Candidate]) -> None:
    """A set with ``val_share`` has no validation part of its own, unless its file to split was named."""
    if not source.val_share:
        return
    typed = _typed(source, "val")
    val = [] if _typed(source, "train") else [one for one in candidates if one.part == "val"]
    if typed or val:
        part = source.val_annotations if typed else _listed(val)
        instead = ", or name the file to split in PoseSource.train_annotations and none in PoseSource.val_annotations"
        raise own_part_error("PoseSource.val_share", source.val_share, part, instead)


def _text(source: PoseSource, split: Split) -> str:
    """The file of a part as the source names it; empty where it does not."""
    text: str = getattr(source, f"{split}_annotations")
    return text.replace("{split}", split)


def _typed(source: PoseSource, split: Split) -> bool:
    """Whether somebody named the file of a part."""
    field = f"{split}_annotations"
    return getattr(source, field) not in ("", _DEFAULTS[field])


def _too_deep(root: Path) -> str:
    """Advice for a root that is one part of a set: the folder above has labels of both parts, and no others."""
    here = root.resolve()
    part = part_of(here.name)
    found = [one for one in _candidates(here.parent) if one.part in ("train", "val")] if part else []
    own = [one.part for one in found if here in one.file.parents]
    other = [one.file.relative_to(here.parent).parts[0] for one in found if one.part != part]
    if own != [part] or len(found) != 2 or not other:
        return ""
    return f". PoseSource.root should be {here.parent}, the folder that holds {other[0]} too"


def _nothing(source: PoseSource, split: Split, candidates: Sequence[_Candidate]) -> str:
    """What to say where no file fits."""
    text = _text(source, split)
    names = [file.relative_to(source.root).as_posix() for file in json_files(source.root)]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    there = f"The JSON files there are {', '.join(names[:_SHOWN])}{more}" if names else "There are no JSON files"
    if names and not candidates:
        there += ", none of them in COCO's format"
    field = f"PoseSource.{split}_annotations"
    if split == "test":
        return f"the pose set in {source.root} has no part 'test': {field} is empty. {there}"
    missing = f"{source.root / text}: no such file" if text else f"{source.root}: no labels of the {split} part"
    return (
        f"{missing}, and none of another name. {there}. Looked for {_KNOWN}. Export the labels as COCO keypoints, or "
        f"name the file in {field}, relative to PoseSource.root"
    )


def _listed(fitting: Sequence[_Candidate]) -> str:
    names = [str(one.file) for one in fitting]
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
