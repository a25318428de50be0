"""Advice for a set that is not where its source says: the root is often one folder too deep or too high."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePath

from hrformer.data.set_types import DataError


@contextmanager
def advising(field: str, root: Path, inside: Sequence[str]) -> Iterator[None]:
    """Add to a ``DataError`` which root would be right, where that can be seen.

    Args:
        field: that holds the root, such as "PoseSource.root".
        root: as given.
        inside: files and folders, relative to ``root``, of which the set has some; patterns are allowed.

    Raises:
        DataError: whatever the context raised, with or without advice.
    """
    try:
        yield
    except DataError as error:
        better = better_root(root, inside)
        if better is None:
            raise
        raise DataError(f"{error}. {field} should be {better[0]}, the folder that holds {better[1]}") from error


def better_root(root: Path, inside: Sequence[str]) -> tuple[Path, str] | None:
    """A folder above or in ``root`` that holds what ``root`` lacks.

    Args:
        root: as given.
        inside: relative to the root; of a pattern the part before its first wildcard counts.

    Returns:
        The folder, and which of ``inside`` it holds; None if ``root`` has one of them already, or nothing is found.
    """
    names = [name for name in map(_fixed, inside) if name]
    if not root.is_dir() or any((root / name).exists() for name in names):
        return None
    above = root.resolve().parent
    in_it = sorted(entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    return next(((folder, name) for folder in (above, *in_it) for name in names if (folder / name).exists()), None)


def _fixed(pattern: str) -> str:
    """The leading parts of a relative path without wildcards; empty where there are none."""
    fixed: list[str] = []
    for part in PurePath(pattern).parts:
        if any(sign in part for sign in "*?[{"):
            break
        fixed.append(part)
    return "" if PurePath(pattern).is_absolute() else "/".join(fixed)
