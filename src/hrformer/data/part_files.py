"""Which files make up a part of a set: by folder, by pattern, or by the part's name in theirs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from hrformer.data.sets import DataError


def part_files(root: Path, part: str, suffixes: Sequence[str]) -> list[Path]:
    """Find the files of a part, sorted by name unless a brace pattern gives an order.

    Args:
        root: folder of the set.
        part: relative to ``root``: a folder, whose files with these suffixes are meant; a file or a pattern with
            ``*``, ``?``, ``[...]``, ``{000..146}`` (a range with its zeros) or ``{a,b}``; or a word, which must stand
            by itself in the names of files in ``root`` or ``root/data``: "train" finds
            ``data/train-00000-of-00004.parquet``.
        suffixes: endings with the dot.

    Raises:
        DataError: there is none, or a file that the pattern names is missing.
    """
    folder = root / part
    if folder.is_dir():
        found = _with_suffix(folder, suffixes)
    elif re.search(r"[{}*?\[\]]", part) or part.endswith(tuple(suffixes)):
        found = [path for one in expand_braces(part) for path in _matches(root, one)]
    else:
        word = re.compile(rf"(?<![0-9A-Za-z]){re.escape(part)}(?![0-9A-Za-z])")
        candidates = [*_with_suffix(root, suffixes), *_with_suffix(root / "data", suffixes)]
        found = [path for path in candidates if word.search(path.name.removesuffix(path.suffix))]
    if not found:
        endings = " or ".join(suffixes)
        raise DataError(
            f"{root}: no {endings} files for {part!r}; there must be a folder of that name, {endings} files with "
            f"{part!r} in their names, or a pattern such as {part + '-{000..146}' + suffixes[0]!r}"
        )
    return found


def expand_braces(pattern: str) -> Iterator[str]:
    """All strings that a pattern with ``{000..146}`` and ``{a,b}`` stands for, in order, as a shell would.

    Raises:
        DataError: a brace is not closed, or a range runs backwards.
    """
    opening = re.search(r"\{([^{}]*)\}", pattern)
    if opening is None:
        if "{" in pattern or "}" in pattern:
            raise DataError(f"{pattern!r}: the braces do not pair up; write {{000..146}} or {{a,b}}")
        yield pattern
        return
    before, after = pattern[: opening.start()], pattern[opening.end() :]
    limits = re.fullmatch(r"(\d+)\.\.(\d+)", opening[1])
    choices: Sequence[str] = opening[1].split(",")
    if limits:
        first, last = int(limits[1]), int(limits[2])
        if last < first:
            raise DataError(f"{pattern!r}: the range {opening[0]} runs backwards")
        choices = [str(number).zfill(len(limits[1])) for number in range(first, last + 1)]
    for choice in choices:
        for rest in expand_braces(after):
            yield before + choice + rest


def _matches(root: Path, pattern: str) -> list[Path]:
    if re.search(r"[*?\[]", pattern):
        return sorted(path for path in root.glob(pattern) if path.is_file())
    if not (root / pattern).is_file():
        raise DataError(f"{root / pattern}: no such file")
    return [root / pattern]


def _with_suffix(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix in suffixes and path.is_file())
