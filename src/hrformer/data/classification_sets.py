"""Opens a classification set in whichever layout its source names."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

from hrformer.data.archives import TarShards, ZipPictures
from hrformer.data.class_lists import listed_classes
from hrformer.data.huggingface import HuggingFaceClassification
from hrformer.data.image_folder import ImageFolder, class_folders
from hrformer.data.images import SUFFIXES
from hrformer.data.other_tasks import require_classes, telling_task
from hrformer.data.part_files import part_files
from hrformer.data.part_words import WORDS, folders_in
from hrformer.data.places import advising
from hrformer.data.sets import ClassificationSet, DataError, NoPartError
from hrformer.data.sources import ClassificationSource, Split
from hrformer.data.val_share import names_below, own_part_error, split_part
from hrformer.data.views import open_joined

_REMEDY = "ClassificationSource.val_share 0.2 keeps a fifth of each class for validation"

_log = logging.getLogger(__name__)


def open_classification(source: ClassificationSource, split: Split) -> ClassificationSet:
    """Open one part of a set.

    Class names come from ``source.classes``, else from ``classes.txt`` in the root, else from the files; with
    "folders" from the training part's, so that a part without some class keeps the others' ids. Where several of
    these speak, they must agree. "folders" without a folder of the part, but with ``<part>.zip``, is
    :class:`~hrformer.data.archives.ZipPictures`. Where a part's folder is not named and not there, one of its other
    usual names is taken (``training``, ``valid``, ``validation``, ``dev``, ``testing``), and for training a root that
    holds the class folders itself. With ``val_share`` train and val are views of the training part, class by class.

    Raises:
        DataError: there is no such part, or it is not as it should be.
        ImportError: a Hugging Face set without the package ``datasets``.
    """
    if source.more_roots:
        return open_joined(source, lambda one: open_classification(one, split))
    shared = bool(source.val_share) and split != "test"
    with telling_task("classification", source.root):
        if shared:
            _refuse_validation_part(source)
        opened = _opened(source, "train" if shared else split)
    opened.name = source.name or opened.name
    if not shared:
        return opened
    labels = [opened.label(index) for index in range(len(opened))]
    names = names_below(opened, source.root)
    return split_part(opened, split, names, source.val_share, "ClassificationSource.val_share", labels)


def _opened(source: ClassificationSource, split: Split) -> ClassificationSet:
    part: str = getattr(source, split)
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
        classes = listed_classes(root, source.classes)
        if layout == "huggingface":
            columns = {"image_column": source.image_column, "label_column": source.label_column}
            return HuggingFaceClassification(root, part, **columns, classes=classes)
        name = root.resolve().name
        if layout == "webdataset":
            return TarShards(part_files(root, part, (".tar",)), classes, label_key=source.label_column, name=name)
        if (archive := root / f"{part}.zip").is_file() and not (root / part).is_dir():
            return ZipPictures(archive, classes, name)
        return ImageFolder(*_folder_and_classes(source, split, root, classes), name)


def _folder_and_classes(
    source: ClassificationSource, split: Split, root: Path, classes: tuple[str, ...]
) -> tuple[Path, tuple[str, ...]]:
    """Folder of a part, and the classes that it is to have, those of the training part where nobody named them."""
    folder = _folder(source, split, root)
    if split != "train":
        if split == "val" and source.val_root is None and not folder.is_dir():
            raise NoPartError(_without_validation_part(source, folder))
        if not classes and (training := _folder(source, "train", source.root)).is_dir():
            classes = class_folders(training)
        return folder, classes
    found = class_folders(folder)
    require_classes(folder, found)
    if absent := sorted(set(classes) - set(found)):
        raise DataError(f"{folder}: {len(absent)} of {len(classes)} classes without a folder, such as {absent[0]}")
    if folder == root and len(found) < 2:
        raise DataError(
            f"{root}: its only folder is {found[0]}, and one class cannot be told from others; "
            "ClassificationSource.root must hold one folder of pictures per class"
        )
    if folder != root / source.train:
        _log.info("%s: taken for the train part", folder)
    return folder, classes


def _folder(source: ClassificationSource, split: Split, root: Path) -> Path:
    """Folder of a part: as it is named, else called otherwise, else for training the root with its class folders."""
    part: str = getattr(source, split)
    named = root / part
    if part != split and not source.untouched(split):
        return named
    whole = _holds_classes(root)
    if named.is_dir() and not whole:
        return named
    others = list(_called(root, split))
    if len(others) > 1:
        raise DataError(
            f"{root}: several folders may hold the {split} part: {', '.join(map(str, others))}; say which in "
            f"ClassificationSource.{split}"
        )
    return others[0] if others else root if whole and split == "train" else named


def _called(root: Path, split: Split) -> Iterator[Path]:
    """Folders that are called like a part and hold class folders."""
    return (one for one in folders_in(root) if one.name.lower() in WORDS[split] and next(folders_in(one), None))


def _holds_classes(root: Path) -> bool:
    """Whether folders of pictures, and none of parts, lie in the root; a class may be called "train"."""
    if any(True for split in WORDS for _ in _called(root, split)):
        return False
    words = {word for several in WORDS.values() for word in several}
    return any(
        file.suffix.lower() in SUFFIXES and not file.name.startswith(".")
        for one in folders_in(root)
        if one.name.lower() not in words
        for place in (one, *folders_in(one))
        for file in place.iterdir()
    )


def _without_validation_part(source: ClassificationSource, folder: Path) -> str:
    if _folder(source, "train", source.root) == source.root:
        return f"{source.root}: holds the class folders themselves, and no validation part; {_REMEDY}"
    test = next(_called(source.root, "test"), None)
    other = f"; or ClassificationSource.val {test.name} scores on the pictures in {test}" if test is not None else ""
    return f"{folder}: no such folder; it must hold one folder of pictures per class. Without one, {_REMEDY}{other}"


def _refuse_validation_part(source: ClassificationSource) -> None:
    """A set with ``val_share`` has no validation part of its own."""
    if source.format != "folders" or not source.val:
        return
    named = source.root / source.val
    there = source.val_root or (named if named.is_dir() else next(_called(source.root, "val"), None))
    if there is not None:
        instead = ", or empty ClassificationSource.val"
        raise own_part_error("ClassificationSource.val_share", source.val_share, there, instead)
