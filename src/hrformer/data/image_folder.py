"""One folder of pictures per class: ``train/CLASS/*.jpg``, which is also ImageNet's ``train/WNID/*.JPEG``."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hrformer.data.images import SUFFIXES, UNREAD, load_image, unread_text
from hrformer.data.packed_names import PackedNames
from hrformer.data.part_words import walked
from hrformer.data.sets import ClassificationSet, DataError
from hrformer.wording import counted

_log = logging.getLogger(__name__)


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
    """Pictures in class folders, sorted by class and path.

    Args:
        folder: of the part, such as ``imagenet/train``. Each folder in it is a class, with pictures at any depth.
        classes: names of the folders in the order of their ids, some of which may be absent; empty: sorted by name.
        name: of the data set; default the name of the folder above.

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
        counts, present = [], set(found)
        for name_of_class in self.classes:
            pictures = sorted(_pictures_below(folder, name_of_class, unread)) if name_of_class in present else []
            if not pictures and name_of_class in present:
                own = [file for file in unread if file.startswith(f"{name_of_class}/")]
                what = unread_text(own) or loose or "put some there, or remove the folder"
                raise DataError(f"{folder / name_of_class}: holds no pictures that can be read; {what}")
            names += pictures
            counts.append(len(pictures))
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


def _pictures_below(folder: Path, name: str, unread: list[str]) -> Iterator[str]:
    """Paths relative to ``folder`` of the pictures in its folder ``name``, at any depth; adds to the unread ones."""
    above = os.path.join(folder, "")
    for place, _, files in walked(above + name, _raise):
        inner = place[len(above) :].replace(os.sep, "/")
        for file in files:
            suffix = os.path.splitext(file)[1].lower()
            if suffix in SUFFIXES and not file.startswith("."):
                yield f"{inner}/{file}"
            elif suffix in UNREAD:
                unread.append(f"{inner}/{file}")


def _loose_pictures(folder: Path) -> str:
    """What to say about pictures that lie beside the class folders; empty for none."""
    with os.scandir(folder) as entries:
        files = (one for one in entries if os.path.splitext(one.name)[1].lower() in SUFFIXES and one.is_file())
        loose = sorted(one.name for one in files if not one.name.startswith("."))
    if not loose:
        return ""
    lie = counted(len(loose), "picture lies", "pictures lie")
    return f"{folder}: {lie} in no class folder and will not be used, such as {loose[0]}: move each to its class"


def _raise(error: OSError) -> None:
    raise DataError(f"{error.filename}: {error.strerror}") from error
