"""Opens the pose sets that a :class:`PoseSource` describes."""

from __future__ import annotations

from pathlib import Path

from hrformer.data.coco_keypoints import CocoPeople
from hrformer.data.places import advising
from hrformer.data.sets import DataError, PoseSet
from hrformer.data.sources import PoseSource, Split
from hrformer.data.views import open_joined


def open_pose(
    source: PoseSource, split: Split, *, detections: Path | None = None, box_threshold: float = 0.0
) -> PoseSet:
    """Read one part of a pose set.

    Args:
        source: where it lies.
        split: which part.
        detections: file of person boxes to take instead of the labelled people, as it stands or relative to the
            source's root. A part without labels takes the source's own file if none is given.
        box_threshold: detections scored below it are left out.

    Raises:
        DataError: the source names no such part, or its files are not as they should be; see :class:`CocoPeople`.
    """
    if source.more_roots:
        if detections or source.detections:
            raise DataError("detected boxes are of one set: give one PoseSource.root with detections")
        return open_joined(source, lambda one: open_pose(one, split))
    file, folders = {
        "train": (source.train_annotations, source.train_images),
        "val": (source.val_annotations, source.val_images),
        "test": (source.test_annotations, source.test_images),
    }[split]
    if not file:
        raise DataError(f"the pose set in {source.root} has no part {split!r}: PoseSource.{split}_annotations is empty")
    place, file = f"PoseSource.{split}_annotations", file.replace("{split}", split)
    with advising("PoseSource.root", source.root, [file]):
        if not source.root.is_dir():
            raise DataError(f"{source.root}: no such folder; PoseSource.root is the folder of the set")
        if not (source.root / file).exists():
            raise DataError(f"{source.root / file}: no such file; {place} is {file}, relative to PoseSource.root")
        return CocoPeople(
            source.root / file,
            # Names in the file may hold the folder, hence the root itself.
            [*(source.root / folder.replace("{split}", split) for folder in folders), source.root],
            source,
            detections=detections,
            box_threshold=box_threshold,
        )
