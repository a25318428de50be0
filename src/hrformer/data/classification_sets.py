"""Opens a classification set in whichever layout its source names; reads one folder of pictures per class."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hrformer.data.archives import TarShards, ZipPictures
from hrformer.data.class_lists import listed_classes
from hrformer.data.huggingface import HuggingFaceClassification
from hrformer.data.images import SUFFIXES, UNREAD, load_image, unread_text
from hrformer.data.mask_search import holds
from hrformer.data.other_tasks import require_classes, telling_task
from hrformer.data.part_patterns import WORDS, folders_in, part_files, walked
from hrformer.data.places import advising
from hrformer.data.set_types import ClassificationSet, DataError, NoPartError, PackedNames
from hrformer.data.source_config import ClassificationSource, Split
from hrformer.data.validation_split import own_part_error, split_part
from hrformer.data.views import open_joined
from hrformer.wording import counted

_REMEDY = "ClassificationSource.val_share 0.2 keeps a fifth of each class for validation"

_log = logging.getLogger(__name__)


def open_classification(source: ClassificationSource, split: Split) -> ClassificationSet:
    """Open one part of a set.

    Class names come from ``source.classes``, else from ``classes.txt`` in the root, else from the files; with
    "folders" from the training part's, so that a part without some class keeps the others' ids. Where several of
    these speak, they must agree. "folders" without a folder of the part, but with ``<part>.zip``, is
    :class:`~hrformer.data.archives.ZipPictures`. Where a part's folder is not named and not there, one of its other
    usual names is taken, and for training a root that holds the class folders itself. With ``val_share`` train and val
    are views of the training part, class by class.

    Raises:
        DataError: there is no such part, or it is not as it should be.
        ImportError: a Hugging Face set without the package ``datasets``.
    """
    if source.more_roots:
        return open_joined(source, lambda one: open_classification(one, split))
    shared = bool(source.val_share) and split != "test"
    with telling_task("classification", source.root):
        if shared and source.format == "folders" and source.val:
            places = [source.val_root or source.root / source.val, *_called(source.root, "val")]
            if there := [place for place in places if place.is_dir() or place == source.val_root]:
                raise own_part_error(source, there[0], ", or empty ClassificationSource.val")
        opened = _opened(source, "train" if shared else split)
    opened.name = source.name or opened.name
    if not shared:
        return opened
    return split_part(opened, split, source, groups=[opened.label(index) for index in range(len(opened))])


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
            return HuggingFaceClassification(root, part, source, classes)
        name = root.resolve().name
        if layout == "webdataset":
            return TarShards(part_files(root, part, (".tar",)), classes, label_key=source.label_column, name=name)
        if (archive := root / f"{part}.zip").is_file() and not (root / part).is_dir():
            return ZipPictures(archive, classes, name)
        return _image_folder(source, split, root, classes)


def _image_folder(source: ClassificationSource, split: Split, root: Path, classes: tuple[str, ...]) -> ImageFolder:
    """A part of class folders; where nobody named the classes they are those of the training part."""
    folder, name = _folder(source, split, root), root.resolve().name
    if split != "train":
        if split == "val" and source.val_root is None and not folder.is_dir():
            raise NoPartError(_without_validation_part(source, folder))
        if not classes and (training := _folder(source, "train", source.root)).is_dir():
            classes = class_folders(training)
        return ImageFolder(folder, classes, name)
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
    return ImageFolder(folder, classes, name)


def _folder(source: ClassificationSource, split: Split, root: Path) -> Path:
    """Folder of a part: as it is named, else called otherwise, else for training the root with its class folders."""
    part: str = getattr(source, split)
    named = root / part
    if part != split and not source.untouched(split):
        return named
    whole = _holds_classes(root)
    if named.is_dir() and not whole:
        return named
    others = _called(root, split)
    if len(others) > 1:
        raise DataError(
            f"{root}: several folders may hold the {split} part: {', '.join(map(str, others))}; say which in "
            f"ClassificationSource.{split}"
        )
    return others[0] if others else root if whole and split == "train" else named


def _called(root: Path, split: Split) -> list[Path]:
    """Folders that are called like a part and hold class folders."""
    return [one for one in folders_in(root) if one.name.lower() in WORDS[split] and next(folders_in(one), None)]


def _holds_classes(root: Path) -> bool:
    """Whether folders of pictures, and none of parts, lie in the root; a class may be called "train"."""
    if any(_called(root, split) for split in WORDS):
        return False
    words = {word for several in WORDS.values() for word in several}
    folders = (one for one in folders_in(root) if one.name.lower() not in words)
    return any(holds(one, SUFFIXES, 2) for one in folders)


def _without_validation_part(source: ClassificationSource, folder: Path) -> str:
    root = source.root
    if _folder(source, "train", root) == root:
        return f"{root}: holds the class folders themselves, and no validation part; {_REMEDY}"
    tests = _called(root, "test")[:1]
    other = "".join(f"; or ClassificationSource.val {one.name} scores on the pictures in {one}" for one in tests)
    return f"{folder}: no such folder; it must hold one folder of pictures per class. Without one, {_REMEDY}{other}"


def class_folders(folder: Path) -> tuple[str, ...]:
    """Names of the folders in ``folder``, sorted; hidden ones do not count.

    Raises:
        DataError: there is no such folder.
    """
    try:
        with os.scandir(folder) as entries:
            # The second is what macOS puts into archives.
            names = (one.name for one in entries if one.is_dir() and not one.name.startswith((".", "__MACOSX")))
            return tuple(sorted(names))
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{folder}: no such folder; it must hold one folder of pictures per class") from None


class ImageFolder(ClassificationSet):
    """Pictures in class folders, sorted by class and path; also ImageNet's ``train/WNID/*.JPEG``.

    Each folder in ``folder``, such as ``imagenet/train``, is a class, with pictures at any depth. ``classes`` names
    them in the order of their ids, and some may be absent; default all, sorted by name.

    Raises:
        DataError: a folder is no class or holds no pictures, or there are none at all.
    """

    def __init__(self, folder: Path, classes: Sequence[str] = (), name: str = "") -> None:
        found = class_folders(folder)
        self.name = name or folder.resolve().parent.name
        self.classes = tuple(classes) or found
        self._folder = folder
        _require_known(folder, found, self.classes)
        loose = _loose_pictures(folder)
        names: list[str] = []
        unread: list[str] = []
        counts, present = [0] * len(self.classes), set(found)
        for number, name_of_class in enumerate(self.classes):
            if name_of_class not in present:
                continue
            files = _files_below(folder, name_of_class)
            pictures = sorted(file for file in files if _suffix(file) in SUFFIXES)
            own = [file for file in files if _suffix(file) in UNREAD]
            if not pictures:
                what = unread_text(own) or loose or "put some there, or remove the folder"
                raise DataError(f"{folder / name_of_class}: holds no pictures that can be read; {what}")
            names += pictures
            unread += own
            counts[number] = len(pictures)
        if loose:
            _log.warning("%s", loose)
        if unread:
            _log.warning("%s: left out %s", folder, unread_text(unread))
        self._names = PackedNames(names)
        self._labels = np.repeat(np.arange(len(counts)), counts)

    def file(self, index: int) -> str:
        return str(self._folder / self._names[index])

    def pixels(self, index: int) -> NDArray[np.uint8]:
        return load_image(self.file(index)).pixels


def _require_known(folder: Path, found: Sequence[str], classes: Sequence[str]) -> None:
    """Refuse a part without class folders, and folders of no class."""
    if not found:
        raise DataError(
            f"{folder}: has no class folders; the pictures of class X must lie in {folder / 'X'}. "
            "ImageNet's validation pictures come unsorted and must be moved into folders first"
        )
    if unknown := sorted(set(found) - set(classes)):
        known = {name.casefold(): name for name in classes}
        pairs = [f"{name} as {known[name.casefold()]}" for name in unknown if name.casefold() in known]
        letters = f". Small and capital letters differ: rename {', '.join(pairs)}" if pairs else ""
        raise DataError(
            f"{folder}: {counted(len(unknown), 'folder')} of no class, such as {unknown[0]}; the classes are "
            f"{', '.join(classes[:5])}{' ...' if len(classes) > 5 else ''}{letters}"
        )


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _files_below(folder: Path, name: str) -> list[str]:
    """Paths relative to ``folder`` of the files in its folder ``name``, at any depth; hidden ones do not count."""
    above = os.path.join(folder, "")

    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename}: {error.strerror}") from error

    return [
        f"{place[len(above) :].replace(os.sep, '/')}/{file}"
        for place, _, files in walked(above + name, refuse)
        for file in files
        if not file.startswith(".")
    ]


def _loose_pictures(folder: Path) -> str:
    """What to say about pictures that lie beside the class folders; empty for none."""
    files = (one for one in folder.iterdir() if _suffix(one.name) in SUFFIXES and one.is_file())
    loose = sorted(one.name for one in files if not one.name.startswith("."))
    if not loose:
        return ""
    lie = counted(len(loose), "picture lies", "pictures lie")
    return f"{folder}: {lie} in no class folder and will not be used, such as {loose[0]}: move each to its class"
