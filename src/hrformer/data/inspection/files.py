"""Headers of all files of a part: whether each is there, a picture, and whole. Nothing is decoded that looks sound."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from hrformer.data.headers import read_header
from hrformer.data.inspection.scan import reason_of
from hrformer.data.sets import ImageSet, SegmentationSet

_TOGETHER = 64


@dataclass(kw_only=True, slots=True)
class Headers:
    """What the headers say.

    Attributes:
        pixels: of all pictures together, as far as files tell; members of archives have no header of their own here.
        broken: (file, reason) by the number of the picture, for pictures and masks that cannot be read.
    """

    pixels: int = 0
    broken: dict[int, tuple[str, str]] = field(default_factory=dict)


def read_headers(
    source: ImageSet,
    items: Sequence[int],
    *,
    threads: int = 2,
    progress: Callable[[int, int], object] | None = None,
) -> Headers:
    """Read the headers of pictures, and of masks where there are some.

    Args:
        source: the set.
        items: one item per picture.
        threads: that read.
        progress: called with the number of pictures done, and of all.
    """
    found = Headers()
    groups = [items[low : low + _TOGETHER] for low in range(0, len(items), _TOGETHER)]
    done = 0
    for group, looks in zip(groups, _read(source, groups, threads), strict=True):
        for index, (pixels, file, reason) in zip(group, looks, strict=True):
            found.pixels += pixels
            if reason:
                found.broken[source.picture(index)] = (file, reason)
        done += len(group)
        if progress:
            progress(done, len(items))
    return found


def _read(source: ImageSet, groups: Sequence[Sequence[int]], threads: int) -> Iterator[list[tuple[int, str, str]]]:
    pool = ThreadPoolExecutor(threads)
    pending: deque[Future[list[tuple[int, str, str]]]] = deque()
    try:
        for group in groups:
            pending.append(pool.submit(lambda some: [_look(source, index) for index in some], group))
            if len(pending) > 4 * threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _look(source: ImageSet, index: int) -> tuple[int, str, str]:
    """Pixels of a picture, its file or that of its mask, and why that cannot be read."""
    file, pixels = source.file(index), 0
    try:
        if "::" not in file:
            header = read_header(file)
            pixels = header.stored[0] * header.stored[1]
            # Some programs leave the end out, or write something behind it.
            if header.cut_short:
                source.pixels(index)
        if isinstance(source, SegmentationSet) and source.labelled:
            file = source.mask_file(index)
            # Masks may be drawn from outlines, or lie in archives.
            if os.path.isfile(file) and not file.endswith(".mat") and read_header(file).cut_short:
                source.mask(index)
    except Exception as error:
        return pixels, file, reason_of(error, file)
    return pixels, file, ""
