"""Opens a classification set in whichever layout its source names."""

from __future__ import annotations

from pathlib import Path

from hrformer.data.huggingface import HuggingFaceClassification
from hrformer.data.image_folder import ImageFolder, class_folders
from hrformer.data.label_names import listed_classes
from hrformer.data.part_files import part_files
from hrformer.data.places import advising
from hrformer.data.sets import ClassificationSet, DataError
from hrformer.data.sources import ClassificationFormat, ClassificationSource, Split
from hrformer.data.views import open_joined
from hrformer.data.webdataset import TarShards
from hrformer.data.zip_archive import ZipPictures


def open_classification(source: ClassificationSource, split: Split) -> ClassificationSet:
    """Open one part of a set.

    Class names come from ``source.classes``, else from ``classes.txt`` in the root, else from the files; with
    "folders" from the training part's, so that a part without some class keeps the others' ids. Where several of
    these speak, they must agree. "folders" without a folder of the part, but with ``<part>.zip``, is
    :class:`~hrformer.data.zip_archive.ZipPictures`.

    Raises:
        DataError: there is no such part, or it is not as it should be.
        ImportError: a Hugging Face set without the package ``datasets``.
    """
    if source.more_roots:
        return open_joined(source, lambda one: open_classification(one, split))
    opened = _opened(source, split)
    opened.name = source.name or opened.name
    return opened


def _opened(source: ClassificationSource, split: Split) -> ClassificationSet:
    part = {"train": source.train, "val": source.val, "test": source.test}[split]
    if not part:
        raise DataError(f"{source.root}: the set has no part {split!r}: ClassificationSource.{split} is empty")
    root, layout, field = source.root, source.format, "ClassificationSource.root"
    if split == "val":
        layout = source.val_format or layout
        if source.val_root is not None:
            root, field = source.val_root, "ClassificationSource.val_root"
    with advising(field, root, [part, f"{part}.zip"]):
        if layout != "huggingface" and not root.is_dir():
            raise DataError(f"{root}: no such folder; {field} is that of a set in the layout {layout!r}")
        return _read(source, split, root, layout, part)


def _read(
    source: ClassificationSource, split: Split, root: Path, layout: ClassificationFormat, part: str
) -> ClassificationSet:
    if layout == "huggingface":
        return HuggingFaceClassification(
            root,
            part,
            image_column=source.image_column,
            label_column=source.label_column,
            classes=listed_classes(root, source.classes),
        )
    classes, name = listed_classes(root, source.classes), root.resolve().name
    if layout == "webdataset":
        return TarShards(part_files(root, part, (".tar",)), classes, label_key=source.label_column, name=name)
    if (archive := root / f"{part}.zip").is_file() and not (root / part).is_dir():
        return ZipPictures(archive, classes, name)
    if split != "train":
        return ImageFolder(root / part, classes or _training_classes(root / source.train), name)
    if absent := sorted(set(classes) - set(class_folders(root / part))):
        raise DataError(f"{root / part}: no folder for the class(es) {absent[:5]}, {len(absent)} of {len(classes)}")
    return ImageFolder(root / part, classes, name)


def _training_classes(folder: Path) -> tuple[str, ...]:
    return class_folders(folder) if folder.is_dir() else ()
