"""Finds the labels of a part in the layouts that tools write: a file in COCO's form, else one of a labelling tool."""

from __future__ import annotations

import mmap
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

from hrformer.data.labels.search import found_labels
from hrformer.data.part_patterns import folders_in, part_of, words_of
from hrformer.data.set_types import DataError, NoPartError
from hrformer.data.source_config import PoseSource, SegmentationSource, Split
from hrformer.data.validation_split import own_part_error
from hrformer.wording import listed

_SHOWN = 8
_KNOWN = (
    "annotations/train.json, person_keypoints_train.json or instances_train2017.json, train/_annotations.coco.json "
    "(Roboflow), annotations/person_keypoints_default.json or instances_default.json (CVAT), result.json (Label "
    "Studio) or annotations.json, and the same with val, valid, validation, dev, test or testing"
)
_OTHER_FORMS = "and for CVAT's XML, Label Studio's JSON, YOLO's YAML with text files, and labelme's JSON"
_COCO = (rb'"images"', rb'"annotations"', rb'"file_name"')
_DRAWN = rb'"segmentation"\s*:\s*(?:\[\s*[\[\d]|\{)'
_OTHER_KINDS = re.compile(r"keypoint|caption|image_info|panoptic|stuff|predictions", re.IGNORECASE)
"""By which COCO names files without outlines to train on."""


class AnnotationFile(NamedTuple):
    """A file, of labelme a folder, and the part that its path or content speaks of."""

    path: Path
    part: Split | None


def json_files(root: Path) -> Iterator[Path]:
    """JSON files in a folder and at most two folders below it."""
    for folder in (root, *folders_in(root, 2)):
        yield from sorted(folder.glob("[!.]*.[jJ][sS][oO][nN]"))


def coco_files(root: Path) -> list[AnnotationFile]:
    """The JSON files that are in COCO's form."""
    found = (file for file in json_files(root) if _holds(file, *_COCO))
    return [AnnotationFile(file, part_of(file.relative_to(root).with_suffix(""))) for file in found]


def label_files(root: Path) -> list[AnnotationFile]:
    """The files in COCO's form, or where there are none the labels of tools in their own forms."""
    return coco_files(root) or [AnnotationFile(*one) for one in found_labels(root)]


def outline_files(root: Path) -> list[AnnotationFile]:
    """Those of :func:`label_files` that may have outlines; those that tell of other things by their names left out."""
    return [one for one in label_files(root) if not _OTHER_KINDS.search(one.path.name)]


def instance_files(root: Path) -> list[Path]:
    """Files in COCO's form that may have outlines."""
    return [one.path for one in coco_files(root) if not _OTHER_KINDS.search(one.path.name)]


def has_joints(file: Path) -> bool:
    """Whether a JSON file speaks of joints."""
    return _holds(file, rb'"keypoints"')


def has_outlines(file: Path, *, drawn: bool = False) -> bool:
    """Whether a JSON file speaks of outlines; with ``drawn`` whether an object has one, instead of an empty list."""
    return _holds(file, _DRAWN if drawn else rb'"segmentation"')


def _holds(file: Path, *patterns: bytes) -> bool:
    """Whether patterns occur in a file of annotations. It is not parsed."""
    try:
        with file.open("rb") as stream:
            # labelme's files, one per picture and with the picture in them, begin so.
            if b'"shapes"' in stream.read(4096):
                return False
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as text:
                return all(re.search(pattern, text) for pattern in patterns)
    except (OSError, ValueError):
        return False


def labels_file(source: PoseSource, split: Split) -> Path:
    """Where the labels of a part lie.

    A file that the source names is taken as it is. Where it names none, or leaves the name at its default and there is
    no such file, the part is looked for: ``annotations/{split}.json``, then any file in COCO's format, at most two
    folders below the root, whose name or folder speaks of the part; for training also one that speaks of no part. Where
    there is none in COCO's format, labels of tools are looked for in the same way. With ``val_share`` the labels of
    "val" are those of "train".

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
    found = label_files(source.root)
    if source.val_share and (_typed(source, "val") or not _typed(source, "train")):
        val = _of_part(found, "val", [has_joints])
        if _typed(source, "val") or val:
            part = source.val_annotations if _typed(source, "val") else listed(val, _SHOWN)
            instead = ", or name the file to split in PoseSource.train_annotations and none in "
            raise own_part_error(source, part, f"{instead}PoseSource.val_annotations")
    if at_once is not None:
        return at_once
    text, train = _text(source, split), source.root / _text(source, "train")
    if train.is_file() and train not in (one.path for one in found):
        found.append(AnnotationFile(train, "train"))
    missing = f"{source.root / text}: no such file, and none of another name" if text else ""
    return _only_one(source, split, found, [has_joints], f"PoseSource.{split}_annotations", missing)


def usual_file(source: PoseSource, text: str, split: Split) -> Path:
    """The file that a field's text means, the first that is looked for where it is empty."""
    return source.root / (text or f"annotations/{split}.json")


def _text(source: PoseSource, split: Split) -> str:
    """The file of a part as the source names it; empty where it does not."""
    text: str = getattr(source, f"{split}_annotations")
    return text.replace("{split}", split)


def _typed(source: PoseSource, split: Split) -> bool:
    """Whether somebody named the file of a part."""
    return bool(_text(source, split)) and not source.untouched(f"{split}_annotations")


def annotation_file(source: SegmentationSource, split: Split, part: str) -> Path:
    """The annotation file with the outlines of a part, which the source calls ``part``.

    ``source.masks`` may name it, ``{split}`` standing for the part. Else it is looked for as :func:`labels_file` does;
    of several those with outlines, and those called instances, go before others.

    Raises:
        DataError: there is none, or several fit.
    """
    if not source.untouched("masks"):
        named = source.root / source.masks.replace("{split}", part)
        if named.is_file():
            return named
        raise DataError(f"{named}: no such file; SegmentationSource.masks is the annotation file of the {split} part")
    found = outline_files(source.root)
    if part != split:
        ours = {one.path for one in found if part.lower() in words_of(str(one.path.relative_to(source.root)))}
        others = [one for one in found if one.path not in ours and one.part != split]
        found = [*others, *(AnnotationFile(file, split) for file in sorted(ours))]
    prefer = [has_outlines, lambda file: "instances" in file.name]
    return _only_one(source, split, found, prefer, "SegmentationSource.masks")


_Prefer: TypeAlias = "Sequence[Callable[[Path], bool]]"
"""Which of several files go before others."""


def _of_part(found: Sequence[AnnotationFile], part: Split | None, prefer: _Prefer) -> list[Path]:
    """Files of a part; of several those that are to be preferred, if there are such."""
    files = [one.path for one in found if one.part == part]
    for fits in prefer:
        if len(files) > 1:
            files = [file for file in files if fits(file)] or files
    return files


def _only_one(
    source: PoseSource | SegmentationSource,
    split: Split,
    found: Sequence[AnnotationFile],
    prefer: _Prefer,
    field: str,
    missing: str = "",
) -> Path:
    """The file of a part, for training also one of no part; ``field`` can name it, ``missing`` is what there is not."""
    root, kind = source.root, type(source).__name__
    files = _of_part(found, split, prefer) or (_of_part(found, None, prefer) if split == "train" else [])
    if len(files) == 1:
        return files[0]
    if files:
        names = listed(files, _SHOWN)
        raise DataError(f"several files may hold the labels of the {split} part: {names}; name one of them in {field}")
    others = _of_part(found, "train", prefer) or _of_part(found, None, prefer)
    if split == "val" and others:
        test = [file.relative_to(root) for file in _of_part(found, "test", prefer)]
        raise NoPartError(
            f"{root}: no labels of the validation part, only {listed(others, _SHOWN)}; {kind}.val_share 0.2 keeps "
            f"about a fifth of the pictures for validation. Or name a file in {field}"
            f"{f', such as {test[0]}' if test else _too_deep(root, kind)}"
        )
    there_are = [file.relative_to(root).as_posix() for file in json_files(root)]
    there = f"The JSON files there are {listed(there_are, _SHOWN)}" if there_are else "There are no JSON files"
    there += ", none of them in COCO's format" if there_are and not found else ""
    raise DataError(
        f"{missing or f'{root}: no labels of the {split} part'}. {there}. Looked for {_KNOWN}; {_OTHER_FORMS}. Export "
        f"the labels in one of these formats, or name the file in {field}, relative to {kind}.root"
    )


def _too_deep(root: Path, source: str) -> str:
    """Advice for a root that is one part of a set: the folder above has labels of both parts, and no others."""
    here = root.resolve()
    part = part_of(here.name)
    found = [one for one in coco_files(here.parent) if one.part in ("train", "val")] if part else []
    own = {one.part for one in found if here in one.path.parents}
    others = {(one.part, one.path.relative_to(here.parent).parts[0]) for one in found if here not in one.path.parents}
    if own != {part} or len(others) != 1 or part in next(iter(others)):
        return ""
    return f". {source}.root should be {here.parent}, the folder that holds {next(iter(others))[1]} too"
