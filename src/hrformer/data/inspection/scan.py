"""Going through all pictures of a set in parallel, each decoded once."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from hrformer.data.label_ids import UnknownIds
from hrformer.data.sets import ImageSet, SegmentationSet

_SAMPLED_PIXELS = 16_384
"""About so many pixels of each picture go into mean and standard deviation."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Look:
    """What one picture and its mask are like.

    Attributes:
        index: of the first item that has this picture.
        file: of the picture.
        size: (width, height); (0, 0) if it cannot be read.
        digest: equal for pictures with equal pixels; empty if it cannot be read.
        mean: (3,) of the channels, 0..1.
        square: (3,) mean of the squared channels.
        problem: why the picture cannot be read; empty if it can.
        mask_size: (width, height) of the mask, if there is one.
        class_pixels: (256,) pixels of each label, 255 being those without one; None where there is no mask.
        mask_problem: why the mask cannot be used; empty if it can.
        unknown_ids: the ids of no class that are the reason, with all ids of the mask and of the classes.
    """

    index: int
    file: str
    size: tuple[int, int] = (0, 0)
    digest: bytes = b""
    mean: NDArray[np.float64] | None = None
    square: NDArray[np.float64] | None = None
    problem: str = ""
    mask_size: tuple[int, int] = (0, 0)
    class_pixels: NDArray[np.int64] | None = None
    mask_problem: str = ""
    unknown_ids: UnknownIds | None = None

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
    """Decode pictures and masks.

    Args:
        source: the set.
        items: one item per picture.
        threads: that decode; no more than a few pictures per thread are in memory.

    Yields:
        One look per item, in the order given. Errors of reading are part of the look.
    """
    pool = ThreadPoolExecutor(threads)
    pending: deque[Future[Look]] = deque()
    try:
        for index in items:
            pending.append(pool.submit(look_at, source, index))
            if len(pending) >= 4 * threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        # After Ctrl-C nobody waits for the pictures that have not been begun.
        pool.shutdown(cancel_futures=True)


def look_at(source: ImageSet, index: int) -> Look:
    """Decode one picture, and its mask where there is one."""
    file = source.file(index)
    try:
        pixels = source.pixels(index)
    except Exception as error:
        return Look(index=index, file=file, problem=reason_of(error, file))
    step = max(1, int((pixels.shape[0] * pixels.shape[1] / _SAMPLED_PIXELS) ** 0.5))
    mean, deviation = (values.ravel() / 255 for values in cv2.meanStdDev(pixels[::step, ::step]))
    mask_size, class_pixels, mask_problem, unknown_ids = (0, 0), None, "", None
    if isinstance(source, SegmentationSet) and source.labelled:
        try:
            mask = source.mask(index)
            mask_size, class_pixels = (mask.shape[1], mask.shape[0]), np.bincount(mask.ravel(), minlength=256)
        except Exception as error:
            mask_problem = reason_of(error, source.mask_file(index))
            unknown_ids = error if isinstance(error, UnknownIds) else None
    return Look(
        index=index,
        file=file,
        size=(pixels.shape[1], pixels.shape[0]),
        digest=hashlib.blake2b(
            np.ascontiguousarray(pixels).data, digest_size=12, key=repr(pixels.shape).encode()
        ).digest(),
        mean=mean,
        square=deviation**2 + mean**2,
        mask_size=mask_size,
        class_pixels=class_pixels,
        mask_problem=mask_problem,
        unknown_ids=unknown_ids,
    )


def reason_of(error: Exception, file: str) -> str:
    """The error's text without the file's name, which stands beside it; its kind where the text says too little."""
    text = str(error).removeprefix(f"{file}: ")
    return text if isinstance(error, ValueError) and text else f"{type(error).__name__}: {text}"
