"""Finding what was exported for each picture of a set, by the names of the files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import PurePath
from typing import Generic, TypeVar

from hrformer.wording import listed

Entry = TypeVar("Entry")

SHOWN = 5
"""Names that a message lists."""


class NamedEntries(Generic[Entry]):
    """Things that stand under names of pictures.

    A picture's thing has the same file name but for the ending. Where several have, as many folders above as
    possible must agree too, so that ``cat/1.png`` is found for ``val/cat/1.jpg`` beside a ``dog/1.png``.

    Args:
        entries: names, with or without folders and endings, and what stands under them.
        kind: what they are, for messages, such as "mask".
        where: they come from, for messages.

    Raises:
        ValueError: a name comes twice.
    """

    def __init__(self, entries: Iterable[tuple[str, Entry]], kind: str, where: str) -> None:
        self.kind, self.where = kind, where
        self._entries: list[Entry] = []
        self._by_name: dict[str, int] = {}
        self._by_stem: dict[str, list[tuple[tuple[str, ...], int]]] = {}
        for place, (name, entry) in enumerate(entries):
            if name in self._by_name:
                raise ValueError(f"{where}: there are two entries for {name}")
            self._entries.append(entry)
            self._by_name[name] = place
            parts = _parts(name)
            self._by_stem.setdefault(parts[-1], []).append((parts, place))

    def __len__(self) -> int:
        return len(self._by_name)

    def for_files(self, files: Sequence[str]) -> list[Entry]:
        """One entry per file, in the order of the files; entries for other pictures are passed over.

        Raises:
            ValueError: a file has no entry, or it cannot be told which one.
        """
        found = [self._candidate(file) for file in files]
        # Of several files that would take one entry, it belongs to the one whose folders agree best.
        owners: dict[int, tuple[int, str]] = {}
        for file, (length, place) in zip(files, found, strict=True):
            if place >= 0 and length > owners.get(place, (0, ""))[0]:
                owners[place] = length, file
        missing: list[str] = []
        for file, (length, place) in zip(files, found, strict=True):
            if place < 0 or length < owners[place][0]:
                missing.append(file)
            elif owners[place][1] != file:
                raise ValueError(
                    f"{self.where}: one {self.kind} would belong to both {owners[place][1]} and {file}; name it with "
                    "its folder"
                )
        if missing:
            raise ValueError(
                f"{self.where}: {len(missing)} of {len(files)} pictures have no {self.kind}: {listed(missing)}"
            )
        return [self._entries[place] for _, place in found]

    def _candidate(self, file: str) -> tuple[int, int]:
        """How many parts of the name agree with the best entry, and its place; (0, -1) if none does.

        Raises:
            ValueError: several agree equally.
        """
        parts = _parts(file)
        if file in self._by_name:
            return len(parts) + 1, self._by_name[file]
        rows = [(_common_end(parts, other), place) for other, place in self._by_stem.get(parts[-1], [])]
        most = max((length for length, _ in rows), default=0)
        best = [place for length, place in rows if length == most]
        if len(best) > 1:
            raise ValueError(
                f"{self.where}: {len(best)} {self.kind}s may belong to {file}; name them with their folders"
            )
        return (most, best[0]) if best else (0, -1)


def _parts(name: str) -> tuple[str, ...]:
    """Folders and file name without its ending; members of archives ("shard.tar::a.jpg") count as files in a folder."""
    path = PurePath(name.replace("\\", "/").replace("::", "/"))
    return (*path.parts[:-1], path.stem)


def _common_end(a: tuple[str, ...], b: tuple[str, ...]) -> int:
    length = 0
    for one, other in zip(reversed(a), reversed(b), strict=False):
        if one != other:
            break
        length += 1
    return length
