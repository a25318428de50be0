"""Going through the files of a set in parallel: headers of all, and pictures and masks, each decoded once."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from hrformer.data.headers import read_header
from hrformer.data.label_ids import UnknownIds
from hrformer.data.set_types import ImageSet, SegmentationSet

Progress = Callable[[int, int], object]  # called with the number of pictures done, and of all
Thing = TypeVar("Thing")
Result = TypeVar("Result")
_SAMPLED_PIXELS = 16_384  # about so many pixels of each picture go into mean and standard deviation
_TOGETHER = 64  # headers are read so quickly that a thread gets so many at once


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Look:
    """What one picture and its mask are like."""

    index: int  # of the first item that has this picture
    file: str
    size: tuple[int, int] = (0, 0)  # (width, height); (0, 0) if the picture cannot be read
    digest: bytes = b""  # equal for pictures with equal pixels
    mean: NDArray[np.float64] | None = None  # (3,) of the channels, 0..1
    square: NDArray[np.float64] | None = None  # (3,) mean of the squared channels
    problem: str = ""  # why the picture cannot be read
    mask_size: tuple[int, int] = (0, 0)  # (width, height) of the mask, if there is one
    class_pixels: Mapping[int, int] = field(default_factory=dict)  # pixels of each label that occurs, 255 void
    mask_problem: str = ""  # why the mask cannot be used
    unknown_ids: UnknownIds | None = None  # where ids of no class are the reason

    @property
    def unusable(self) -> bool:
        """Whether training would stop here."""
        return bool(self.problem or self.mask_problem or (self.class_pixels and self.mask_size != self.size))

    @property
    def mask_broken(self) -> bool:
        """Whether the mask cannot be read; one that holds something else than ids of classes can."""
        return bool(self.mask_problem) and self.unknown_ids is None and "colours" not in self.mask_problem


def pictures_of(source: ImageSet) -> dict[int, list[int]]:
    """Items by the number of their picture, in the order of the items."""
    items: dict[int, list[int]] = {}
    for index in range(len(source)):
        items.setdefault(source.picture(index), []).append(index)
    return items


def evenly(numbers: Sequence[int], limit: int | None) -> list[int]:
    """At most ``limit`` of the numbers, spread over all of them: sets are often sorted by class."""
    if limit is None or limit >= len(numbers):
        return list(numbers)
    return [numbers[position * len(numbers) // limit] for position in range(limit)]


def scan(source: ImageSet, items: Sequence[int], *, threads: int = 2) -> Iterator[Look]:
    """Decode pictures and masks, one item per picture; errors of reading are part of the look at it."""
    return _in_threads(lambda index: look_at(source, index), items, threads)


def look_at(source: ImageSet, index: int) -> Look:
    """Decode one picture, and its mask where there is one."""
    file = source.file(index)
    try:
        pixels = source.pixels(index)
    except Exception as error:
        return Look(index=index, file=file, problem=_reason(error, file))
    step = max(1, int((pixels.shape[0] * pixels.shape[1] / _SAMPLED_PIXELS) ** 0.5))
    mean, deviation = (values.ravel() / 255 for values in cv2.meanStdDev(pixels[::step, ::step]))
    digest = hashlib.blake2b(np.ascontiguousarray(pixels).data, digest_size=12, key=repr(pixels.shape).encode())
    of_mask: dict[str, Any] = {}
    if isinstance(source, SegmentationSet) and source.labelled:
        try:
            mask = source.mask(index)
            counts = np.bincount(mask.ravel())
            of_mask["mask_size"] = mask.shape[1], mask.shape[0]
            of_mask["class_pixels"] = {label: int(counts[label]) for label in np.flatnonzero(counts).tolist()}
        except Exception as error:
            of_mask["mask_problem"] = _reason(error, source.mask_file(index))
            of_mask["unknown_ids"] = error if isinstance(error, UnknownIds) else None
    return Look(
        index=index,
        file=file,
        size=(pixels.shape[1], pixels.shape[0]),
        digest=digest.digest(),
        mean=mean,
        square=deviation**2 + mean**2,
        **of_mask,
    )


def read_headers(
    source: ImageSet, items: Sequence[int], *, threads: int = 2, progress: Progress | None = None
) -> tuple[int, dict[int, tuple[str, str]]]:
    """Read the headers of pictures, one item per picture, and of masks; nothing is decoded that looks sound.

    Returns:
        Pixels of all pictures together, as far as files tell (members of archives have no header of their own here);
        and (file, reason) by the number of the picture, for pictures and masks that cannot be read.
    """
    pixels, broken, done = 0, {}, 0
    groups = [items[low : low + _TOGETHER] for low in range(0, len(items), _TOGETHER)]
    for group in _in_threads(lambda some: [(one, *_read_header(source, one)) for one in some], groups, threads):
        for index, size, file, reason in group:
            pixels += size
            if reason:
                broken[source.picture(index)] = (file, reason)
        done += len(group)
        if progress:
            progress(done, len(items))
    return pixels, broken


def _read_header(source: ImageSet, index: int) -> tuple[int, str, str]:
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
        return pixels, file, _reason(error, file)
    return pixels, file, ""


def _reason(error: Exception, file: str) -> str:
    """The error's text without the file's name, which stands beside it; its kind where the text says too little."""
    text = str(error).removeprefix(f"{file}: ")
    return text if isinstance(error, ValueError) and text else f"{type(error).__name__}: {text}"


def _in_threads(function: Callable[[Thing], Result], things: Iterable[Thing], threads: int) -> Iterator[Result]:
    """Results in the order of the things; no more than a few per thread are in memory."""
    pool = ThreadPoolExecutor(threads)
    pending: deque[Future[Result]] = deque()
    try:
        for thing in things:
            pending.append(pool.submit(function, thing))
            if len(pending) >= 4 * threads:
                yield pending.popleft().result()
        yield from (future.result() for future in pending)
    finally:
        # After Ctrl-C nobody waits for what has not been begun.
        pool.shutdown(cancel_futures=True)
