"""Frames of videos through the predictors: one result per frame, in shared batches; people with boxes and tracks."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import Any, Generic, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from hrformer.data.images import LoadedImage
from hrformer.geometry.skeleton_inference import DEFAULT_SIGMA
from hrformer.predict.boxes import PersonBoxes
from hrformer.predict.results import Keypoints, Result
from hrformer.video.boxes import BoxLinks
from hrformer.video.reading import NO_PIXELS, Frame, Video, open_video
from hrformer.video.smoothing import OneEuro
from hrformer.video.tracking import Tracker, TrackOptions

ResultT = TypeVar("ResultT", bound=Result)
VideoSource: TypeAlias = "str | os.PathLike[str] | int | Video"

EVERY = 5
"""The detector looks at every so many frames; between its looks boxes move in straight lines."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class VideoFrame(Generic[ResultT]):
    """What a predictor found in one frame.

    Attributes:
        number: of the frame, from 0.
        time: seconds, as the file has it; of cameras since the start.
        result: as for a picture; its ``image`` is the upright frame.
        tracks: (N,) int64 numbers of the result's people, from 1, the same for the same person; empty for other tasks.
    """

    number: int
    time: float
    result: ResultT
    tracks: NDArray[np.int64]


def opened(source: VideoSource) -> Video:
    """A video from a file, a camera's number, or one that is open; errors as of ``open_video``."""
    return source if isinstance(source, Video) else open_video(source)


def results_of(
    stream: Callable[[Iterable[LoadedImage]], Iterator[ResultT]], frames: Iterable[Frame]
) -> Iterator[tuple[Frame, ResultT]]:
    """Each frame with its result, in the order of the frames."""
    waiting: deque[Frame] = deque()

    def pictures() -> Iterator[LoadedImage]:
        for frame in frames:
            waiting.append(replace(frame, pixels=NO_PIXELS))  # the result has the pixels
            yield LoadedImage(pixels=frame.pixels)

    for result in stream(pictures()):
        yield waiting.popleft(), result


class FramePeople:
    """People of a video's frames: a detector's boxes at every N-th frame and the last one, linked between them.

    Args:
        frames: of the video, in order.
        finder: what a frame's people are, given the frame.
        every: how many frames there are from one look of the finder to the next.
        links: empty, or of an earlier run that stopped before the first of ``frames``.
    """

    def __init__(
        self, frames: Iterable[Frame], finder: Callable[[Frame], PersonBoxes], every: int, links: BoxLinks
    ) -> None:
        if every < 1:
            raise ValueError(f"every must be at least 1 frame, got {every}")
        self._frames, self._finder, self._every, self._links = iter(frames), finder, every, links
        self._ready: deque[tuple[Frame, PersonBoxes]] = deque()
        self._key: Frame | None = None
        self._ended = False

    def __iter__(self) -> Iterator[tuple[Frame, PersonBoxes]]:
        while self._fill():
            yield self._ready.popleft()

    def take(self, count: int) -> Iterator[tuple[Frame, PersonBoxes]]:
        """The next frames; where ``count`` is a multiple of ``every``, ``links`` then stand at the frame after them."""
        return islice(self, count)

    def _fill(self) -> bool:
        """Whether a frame is ready, after looking further if none is."""
        if self._ready or self._ended:
            return bool(self._ready)
        if self._key is None:
            self._key = next(self._frames, None)
            if self._key is None:
                self._ended = True
                return False
            if self._links.time != self._key.time:
                found = self._finder(self._key)
                self._links.begin(self._key.time, found.boxes, found.scores)
        between = list(islice(self._frames, self._every))
        if not between:  # the last look was at the last frame
            self._ended = True
            boxes, scores = self._links.now()
            self._ready.append((self._key, _boxes(boxes, scores)))
            return True
        found = self._finder(between[-1])
        span = self._links.look(between[-1].time, found.boxes, found.scores)
        self._ready.extend((frame, _boxes(*span.at(frame.time))) for frame in chain([self._key], between[:-1]))
        self._key = between[-1]
        return True


def _boxes(boxes: NDArray[np.float64], scores: NDArray[np.float64]) -> PersonBoxes:
    return PersonBoxes(boxes=boxes, scores=scores, compete=True)


def joints_of(
    stream: Callable[..., Iterator[Keypoints]], people: Iterable[tuple[Frame, PersonBoxes]], **options: Any
) -> Iterator[tuple[Frame, Keypoints]]:
    """Each frame with the joints of its people; crops of many frames share a batch."""
    boxes, scores = deque[NDArray[np.floating]](), deque[NDArray[np.floating]]()

    def frames() -> Iterator[Frame]:
        for frame, found in people:
            boxes.append(found.boxes)
            scores.append(found.scores)
            yield frame

    def taken(queue: deque[NDArray[np.floating]]) -> Iterator[NDArray[np.floating]]:
        # Asked once for each picture, after it.
        while queue:
            yield queue.popleft()

    def run(pictures: Iterable[LoadedImage]) -> Iterator[Keypoints]:
        return stream(pictures, boxes=taken(boxes), box_scores=taken(scores), **options)

    yield from results_of(run, frames())


def joints_live(
    predict: Callable[..., Keypoints], frames: Iterable[Frame], finder: Callable[[Frame], PersonBoxes], every: int
) -> Iterator[tuple[Frame, Keypoints]]:
    """Like :func:`joints_of` without looking ahead: between the detector's looks, boxes follow the joints."""
    boxes, scores = np.empty((0, 4)), np.empty(0)
    for frame in frames:
        if frame.number % every == 0:
            found = finder(frame)
            boxes, scores = np.asarray(found.boxes, np.float64), np.asarray(found.scores, np.float64)
        result = predict(LoadedImage(pixels=frame.pixels), boxes=boxes, box_scores=scores, nms="hard")
        moved = np.median(result.keypoints[..., :2].astype(np.float64), axis=1)
        if frame.number % every == 0:
            offsets = result.boxes[:, :2] - moved
        else:
            kept = [int(np.flatnonzero((boxes == box).all(axis=1))[0]) for box in result.boxes]
            offsets = offsets[kept]
        boxes, scores = np.hstack([moved + offsets, result.boxes[:, 2:]]), result.box_scores
        yield frame, result


class Follower:
    """Tracks for people who were found frame by frame, and calmer joints where that is wanted.

    Args:
        sigmas: (K,) as in ``Skeleton.sigmas``; None where joints have no names.
        joints: K.
        options: when tracks start and end.
        smooth: whether joints go through :class:`OneEuro`.
    """

    def __init__(
        self, sigmas: tuple[float, ...] | None, joints: int, options: TrackOptions | None = None, smooth: bool = False
    ) -> None:
        self._tracker = Tracker(sigmas or (DEFAULT_SIGMA,) * joints, options)
        self._filter = OneEuro() if smooth else None

    def follow(
        self, time: float, keypoints: NDArray[np.float32], boxes: NDArray[np.float64], scores: NDArray[np.float64]
    ) -> tuple[NDArray[np.int64], NDArray[np.intp], NDArray[np.float32]]:
        """Numbers (N,) of those who have a track, rising; their rows; and their joints (N, K, 3)."""
        numbers = self._tracker.update(time, keypoints, boxes, scores)
        rows = np.argsort(numbers, kind="stable")
        rows = rows[numbers[rows] > 0]
        numbers, joints = numbers[rows], keypoints[rows]
        if self._filter is not None:
            joints = self._filter.update(time, numbers, joints, np.sqrt(boxes[rows, 2:].prod(axis=1)))
        return numbers, rows, joints

    def frame(self, frame: Frame, result: Keypoints) -> VideoFrame[Keypoints]:
        """The result of a frame with those alone who have a track, by their numbers."""
        numbers, rows, joints = self.follow(frame.time, result.keypoints, result.boxes, result.scores)
        kept: dict[str, Any] = {name: getattr(result, name)[rows] for name in ("scores", "boxes", "box_scores")}
        return VideoFrame(
            number=frame.number, time=frame.time, result=replace(result, keypoints=joints, **kept), tracks=numbers
        )
