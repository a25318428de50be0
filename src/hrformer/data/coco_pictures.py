"""Finds the pictures that an annotation file lists.

Names in such files hold whatever the tool knew: a folder of the labelling server, a path of another machine, Windows'
backslashes, a URL. A name is taken as it stands first; whatever does not lead to a file so is looked for under less and
less of it.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache, cached_property
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from hrformer.data.images import SUFFIXES, UNREAD, unread_below, unread_text
from hrformer.data.part_patterns import MASK_WORDS, PICTURE_WORDS, ROBOFLOW_MARK, folders_in, part_of, walked, words_of
from hrformer.data.set_types import DataError
from hrformer.data.source_config import Split
from hrformer.wording import listed

_UPLOAD = re.compile(r"^(?:[0-9a-f]{8}|(?=[0-9]*[a-f])(?=[a-f]*[0-9])[0-9a-f]{4,7})-(?=.)")
"""What Label Studio puts before the name of an uploaded file; a year or a word of these letters is none."""

_DEEPEST = 6
"""Folders below the root that are searched by name."""

_SHOWN = 4
_POSE = "PoseSource.train_images, PoseSource.val_images and PoseSource.test_images say where they are"

_log = logging.getLogger(__name__)


def picture_folders(root: Path, named: Sequence[Path], split: Split, file: Path) -> list[Path]:
    """Folders that may hold the pictures of a part, the likelier ones first: those that its source names, the root.

    Pictures may lie beside the annotations ``file`` too; one that speaks of no part may list pictures of all.
    """
    # labelme's labels are a folder of files.
    file = file / "labels" if file.is_dir() else file
    bases = [base for base in (root, file.parent, file.parent.parent) if base.is_relative_to(root)]
    below = [(one, one.relative_to(base)) for base in bases for one in folders_in(base, 2)]
    around = [(part_of(inner), one) for one, inner in below if MASK_WORDS.isdisjoint(words_of(inner.as_posix()))]
    whole = part_of(file.relative_to(root) if file.is_relative_to(root) else file.name) is None
    own = [one for part, one in around if part == split]
    neutral = [one for part, one in around if part is None]
    others = [one for part, one in around if part not in (split, None)] if whole else []
    return list(dict.fromkeys([*named, root, file.parent, *own, *neutral, *others]))


def find_pictures(
    names: Sequence[str],
    folders: Sequence[Path],
    root: Path,
    file: Path,
    advice: str = _POSE,
    *,
    skip_broken: bool = False,
) -> list[str]:
    """A path for each picture.

    In this order: the name as it stands, in each of the folders; without leading folders, backslashes, percent signs
    and what belongs to a URL; with another ending, or another case of it; without the mark of an upload to Label
    Studio or of an export from Roboflow; at last by the file's own name anywhere below the root, if only one has it.

    Args:
        names: ``file_name`` of each picture.
        folders: that may hold them, the likelier ones first.
        root: of the set.
        file: that lists them, for messages.
        advice: which field of a source says where pictures are.
        skip_broken: take the paths that names of missing pictures mean: who looks for broken files finds them.

    Raises:
        DataError: pictures are missing, with ``skip_broken`` all of them; one could be several files, or two would be
            one.
    """
    search = _Search(folders, root, file, advice)
    paths = [search.as_it_stands(name) for name in names]
    lost = [place for place, path in enumerate(paths) if path is None]
    for place in lost:
        paths[place] = search.elsewhere(names[place])
    missing = [names[place] for place in lost if paths[place] is None]
    if missing and not (skip_broken and len(missing) < len(names)):
        raise DataError(search.complaint(missing, len(names)))
    elsewhere = [place for place in lost if paths[place] is not None]
    found = [path or os.path.join(search.folders[0], name) for name, path in zip(names, paths, strict=True)]
    if elsewhere:
        owners: dict[str, str] = {}
        for name, path in zip(names, found, strict=True):
            other = owners.setdefault(path, name)
            if plain_name(other) != plain_name(name):
                raise DataError(
                    f"{file} lists the pictures {other} and {name}, of which only one is here: both would be {path}; "
                    f"{advice}"
                )
        _log.info(
            "%s: %d of its %d pictures are not where it says and were found by their names, such as %s at %s",
            *(file, len(elsewhere), len(names), names[elsewhere[0]], found[elsewhere[0]]),
        )
    return found


def plain_name(name: str) -> str:
    """A picture's name by which tools agree: with slashes, without server, drive, ``./`` and percent signs."""
    text = name.strip()
    if "://" in text or re.match(r"/?data/local-files/?\?", text):
        parts = urlsplit(text)
        # Label Studio serves local files as ?d=FOLDER/NAME.
        text = parse_qs(parts.query).get("d", [unquote(parts.path)])[0]
    elif "%" in text:
        text = unquote(text)
    components = text.replace("\\", "/").split("/")
    return "/".join(one for one in components if one not in ("", ".", "..") and not re.fullmatch("[A-Za-z]:", one))


class _Search:
    """Looks for pictures; every folder is listed once, a fraction of the time of asking for each file."""

    def __init__(self, folders: Sequence[Path], root: Path, file: Path, advice: str) -> None:
        # Absolute names need no folder, but one to start from.
        there = [one for one in folders if one.is_dir()] or [root]
        self.folders, self.root, self.file = [os.fspath(one) for one in there], root, file
        self._asked = ", ".join(dict.fromkeys(map(str, folders)))
        self._advice, self._source = advice, advice.partition(".")[0]
        self._names = cache(_names_in)
        self._by_stem = cache(lambda folder: _by_stem((name, name) for name in self._names(folder)))

    def as_it_stands(self, name: str) -> str | None:
        """Path of the name in the first folder that has it."""
        for folder in self.folders:
            path = os.path.join(folder, name)
            parent, last = os.path.split(path)
            if last in self._names(parent):
                return path
        return None

    def elsewhere(self, name: str) -> str | None:
        """Path of what the name can only mean, None for nothing; a DataError where it could be several files."""
        whole = plain_name(name)
        if not whole:
            return None
        folder, slash, last = whole.rpartition("/")
        for one in dict.fromkeys((whole, folder + slash + _UPLOAD.sub("", last))):
            for look in (self.as_it_stands, self._with_any_ending):
                for tail in _tails(one):
                    if path := look(tail):
                        return path
            if path := self._anywhere(one, name):
                return path
        return None

    def complaint(self, missing: Sequence[str], total: int) -> str:
        """What to say about missing pictures."""
        there = sorted({path for paths in self._index.values() for path in paths})
        held = f"pictures ({len(there)} in all), such as {', '.join(there[:_SHOWN])}" if there else "no pictures"
        above = self.root.resolve().parent
        beside = [one for one in folders_in(above, 2) if PICTURE_WORDS & {*words_of(one.relative_to(above).parts[0])}]
        if beside and _Search(beside, self.root, self.file, self._advice).elsewhere(missing[0]):
            # As with annotations/ for the root, beside images/.
            held += f"; it is in {above}, which {self._source}.root should be"
        stems = {_stem(plain_name(name).rpartition("/")[2]) for name in missing}
        unread = [one for one in unread_below(self.root) if _stem(os.path.basename(one)) in stems]
        return (
            f"{self.root} lacks {len(missing)} of the {total} pictures of {self.file}, such as {missing[0]}, which is "
            f"in none of {self._asked}, nor by its name anywhere below {self.root}, where there are {held}; fetch the "
            f"missing ones, remove them from the file, or leave them out with {self._source}.skip_broken. "
            f"{f'{unread_text(unread)}. ' if unread else ''}{self._advice}"
        )

    def _with_any_ending(self, tail: str) -> str | None:
        for folder in self.folders:
            parent, last = os.path.split(os.path.join(folder, tail))
            options = _narrowed(self._by_stem(parent).get(_stem(last), []), last)
            if len(options) == 1:
                return os.path.join(parent, options[0])
        return None

    def _anywhere(self, whole: str, name: str) -> str | None:
        last = whole.rpartition("/")[2]
        options = _narrowed(self._index.get(_stem(last), []), last)
        for tail in _tails(whole):
            ending = f"/{tail}".casefold()
            if fits := [path for path in options if path.replace(os.sep, "/").casefold().endswith(ending)]:
                options = fits
                break
        if len(options) > 1:
            could = listed(sorted(options), _SHOWN)
            raise DataError(f"{self.file} lists the picture {name}, which could be any of {could}; {self._advice}")
        return options[0] if options else None

    @cached_property
    def _index(self) -> dict[str, list[str]]:
        """Paths of all pictures below the root, by their names without ending."""
        top, found = os.fspath(self.root), []
        for place, folders, files in walked(top):
            deep = len(Path(place).relative_to(top).parts)
            # A mask has its picture's name, so that folders of masks count no more than hidden ones.
            fitting = [one for one in folders if not one.startswith(".") and MASK_WORDS.isdisjoint(words_of(one))]
            folders[:] = fitting if deep < _DEEPEST else []
            found += [os.path.join(place, name) for name in files if not name.startswith(".")]
        return _by_stem((path, os.path.basename(path)) for path in found)


def _names_in(folder: str) -> set[str]:
    try:
        return set(os.listdir(folder))
    except (OSError, ValueError):
        return set()


def _by_stem(named: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Pictures by name without ending, in lower case; those of Roboflow also without its mark."""
    found: dict[str, list[str]] = {}
    for value, name in named:
        if os.path.splitext(name)[1].lower() in SUFFIXES:
            for stem in {_stem(name), _stem(ROBOFLOW_MARK.sub("", name))}:
                found.setdefault(stem, []).append(value)
    return found


def _narrowed(options: list[str], name: str) -> list[str]:
    """Of files that fit loosely those that fit best."""
    ending, folded = f"{os.path.splitext(name)[0]}.", name.casefold()
    options = [one for one in options if os.path.basename(one) == name] or options
    options = [one for one in options if os.path.basename(one).casefold() == folded] or options
    return [one for one in options if os.path.basename(one).startswith(ending)] or options


def _stem(name: str) -> str:
    stem, ending = os.path.splitext(name)
    # Labels may name what was converted to JPEG since.
    return (stem if ending.lower() in SUFFIXES | UNREAD else name).casefold()


def _tails(path: str) -> Iterator[str]:
    """``a/b/c``, ``b/c``, ``c``."""
    while path:
        yield path
        path = path.partition("/")[2]
