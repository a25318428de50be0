"""Where labelling tools put COCO's instances files."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

from hrformer.data.part_words import WORDS
from hrformer.data.sets import DataError, NoPartError
from hrformer.data.sources import SegmentationSource, Split

_OTHER_KINDS = re.compile(r"keypoint|caption|image_info|panoptic|stuff|predictions", re.IGNORECASE)
_DEFAULTS = {field.name: field.default for field in fields(SegmentationSource)}


def annotation_file(source: SegmentationSource, split: Split, part: str) -> Path:
    """The annotation file of a part.

    ``source.masks`` may name it, ``{split}`` standing for the part. Else it is the one JSON file in the set's folder,
    in ``annotations`` or in the part's own folder that has the part as a word in its path, such as
    ``instances_train2017.json``, ``annotations/val.json`` or ``train/_annotations.coco.json``. A single file of no part
    (CVAT's ``instances_default.json``, Label Studio's ``result.json``) is the training part's.

    Raises:
        DataError: there is none, or several.
    """
    if source.masks != _DEFAULTS["masks"]:
        named = source.root / source.masks.replace("{split}", part)
        if not named.is_file():
            raise DataError(
                f"{named}: no such file; SegmentationSource.masks is the annotation file of the {split} part"
            )
        return named
    found = instance_files(source.root)
    words = {part.lower(), *(WORDS[split] if part == split else ())}
    ours = [file for file in found if words & _words(file.relative_to(source.root))]
    if not ours:
        of_parts = {word for every in WORDS.values() for word in every}
        of_all = [file for file in found if not of_parts & _words(file.relative_to(source.root))]
        of_all = of_all if len(of_all) == 1 else [file for file in of_all if has_outlines(file)]
        if split == "train" and len(of_all) == 1:
            return of_all[0]
        if split == "val" and len(of_all) == 1:
            raise NoPartError(
                f"{source.root}: no annotation file of the val part, only {of_all[0].name} for all pictures; keep a "
                "share of them for validation, such as SegmentationSource.val_share 0.2"
            )
    best = ours if len(ours) == 1 else [file for file in ours if has_outlines(file)]
    best = [file for file in best if "instances" in file.name] or best
    if len(best) != 1:
        names = ", ".join(str(file.relative_to(source.root)) for file in (ours or found)[:8]) or "none"
        raise DataError(
            f"{source.root}: one annotation file of the {split} part is needed, such as "
            f"annotations/instances_{part}.json or {part}/_annotations.coco.json; found {names}. "
            "SegmentationSource.masks may name it"
        )
    return best[0]


def instance_files(root: Path) -> list[Path]:
    """JSON files where tools put annotations, sorted; those that tell of other things by their names left out."""
    patterns = ("*.json", "annotations/*.json", "annotations/*/*.json", "*/*.coco.json", "*/annotations.json")
    found = {file for pattern in patterns for file in root.glob(pattern) if file.is_file()}
    return sorted(file for file in found if not _OTHER_KINDS.search(file.name))


def has_outlines(file: Path) -> bool:
    """Whether a JSON file speaks of outlines, without parsing it."""
    tail = b""
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            if b'"segmentation"' in tail + block:
                return True
            tail = block[-16:]
    return False


def _words(path: Path) -> set[str]:
    """Words of a path in lower case, without the year: ``annotations/instances_train2017.json`` has ``train``."""
    return set(re.findall(r"[a-z]+", str(path.with_suffix("")).lower()))
