"""Opens the pose sets that a :class:`PoseSource` describes."""

from __future__ import annotations

import logging
from pathlib import Path

from hrformer.data.annotation_files import labels_file, usual_file
from hrformer.data.coco_keypoints import CocoPeople
from hrformer.data.coco_pictures import picture_folders, plain_name
from hrformer.data.other_tasks import telling_task
from hrformer.data.places import advising
from hrformer.data.set_types import DataError, PoseSet
from hrformer.data.source_config import PoseSource, Split
from hrformer.data.validation_split import split_part
from hrformer.data.views import open_joined

_log = logging.getLogger(__name__)


def open_pose(
    source: PoseSource, split: Split, *, detections: Path | None = None, box_threshold: float = 0.0
) -> PoseSet:
    """Read one part of a pose set.

    Args:
        source: where it lies; its files are found as :func:`hrformer.data.annotation_files.labels_file` and
            :func:`hrformer.data.coco_pictures.find_pictures` say.
        split: which part.
        detections: file of person boxes to take instead of the labelled people, as it stands or relative to the
            source's root. A part without labels takes the source's own file if none is given.
        box_threshold: detections scored below it are left out.

    Returns:
        The part; with ``val_share`` a view of the training part, by pictures.

    Raises:
        DataError: the source names no such part, or its files are not as they should be; see :class:`CocoPeople`.
    """
    if source.more_roots:
        if detections or source.detections:
            raise DataError("detected boxes are of one set: give one PoseSource.root with detections")
        return open_joined(source, lambda one: open_pose(one, split))
    shared = bool(source.val_share) and split != "test"
    part: Split = "train" if shared else split
    text: str = getattr(source, f"{part}_annotations").replace("{split}", part)
    with (
        telling_task("pose", source.root, layout_known=bool(text) and text != PoseSource().train_annotations),
        advising("PoseSource.root", source.root, [text or f"annotations/{part}.json"]),
    ):
        if not source.root.is_dir():
            raise DataError(f"{source.root}: no such folder; PoseSource.root is the folder of the set")
        file = labels_file(source, split)
        if not file.exists():
            raise DataError(
                f"{file}: no such file; PoseSource.{part}_annotations is {text}, relative to PoseSource.root"
            )
        if file != usual_file(source, text, part):
            _log.info("%s: taken for the labels of the %s part", file, part)
        named = [source.root / folder.replace("{split}", part) for folder in getattr(source, f"{part}_images")]
        folders = picture_folders(source.root, named, part, file)
        people = CocoPeople(file, folders, source, detections=detections, box_threshold=box_threshold)
    if not shared:
        return people
    return split_part(people, split, source, [plain_name(name) for name in people.file_names])
