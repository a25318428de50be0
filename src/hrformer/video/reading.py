"""Frames of video files and cameras: upright, with the times that the file gives them."""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from hrformer.geometry.orientation import UPRIGHT, upright_pixels, upright_size

SUFFIXES = frozenset(".3gp .avi .flv .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .ogv .ts .webm .wmv".split())
"""Endings that are taken for videos."""

NO_PIXELS: NDArray[np.uint8] = np.empty((0, 0, 3), np.uint8)
"""Of frames whose picture is not needed any more."""

INSTALL = "videos need PyAV, pyarrow and scipy: pip install 'hrformer[video]'"

# What swaps axes, flips left and right, flips top and bottom -> EXIF orientation; see ``geometry.orientation``.
_ORIENTATIONS = {
    (False, False, False): 1, (False, True, False): 2, (False, True, True): 3, (False, False, True): 4,
    (True, False, False): 5, (True, True, False): 6, (True, True, True): 7, (True, False, True): 8,
}  # fmt: skip


class VideoError(ValueError):
    """A video or camera cannot be read or written; the message names it and says why."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Frame:
    """One picture of a video.

    Attributes:
        number: from 0, in the order of presentation.
        time: seconds, as the file has it; the first frame of a file need not be at 0. Of cameras, since the start.
        pixels: (H, W, 3) uint8 RGB, upright.
        mark: the file's own count of time; None where it has none.
    """

    number: int
    time: float
    pixels: NDArray[np.uint8]
    mark: int | None = None


class Video(ABC):
    """A source of frames, to be closed or used in ``with``.

    Attributes:
        name: of the file, or "camera 0".
        size: (width, height) of upright frames in pixels.
        rate: mean frames per second; 0 where unknown.
        expected: about how many frames there are; 0 where unknown.
        live: whether frames come as time goes by.
        problem: after the last frame, why there are fewer than there should be; "" for none.
    """

    name: str
    size: tuple[int, int]
    rate: float
    expected: int = 0
    live: bool = False
    problem: str = ""

    @abstractmethod
    def frames(self) -> Iterator[Frame]:
        """All frames, once."""

    @abstractmethod
    def close(self) -> None:
        """Give back what the system holds open."""

    def __enter__(self) -> Video:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def is_video(name: str) -> bool:
    """Whether ``name`` is a video file by its ending, or the number of a camera; a folder of that name goes first."""
    return _is_camera(name) or (Path(name).suffix.lower() in SUFFIXES and not os.path.isdir(name))


def _is_camera(name: str) -> bool:
    return name.isdecimal() and not os.path.exists(name)


def open_video(source: str | os.PathLike[str] | int) -> Video:
    """Open a file, or a camera by its number.

    Raises:
        VideoError: it cannot be opened, or holds no video.
        FileNotFoundError: there is no such file.
        ImportError: PyAV is not installed.
    """
    if isinstance(source, int) or (isinstance(source, str) and _is_camera(source)):
        if isinstance(source, bool) or int(source) < 0:
            raise VideoError(f"a camera has a number from 0 on, got {source!r}")
        return Camera(int(source))
    if isinstance(source, str) and "://" in source:
        raise VideoError(f"{source}: videos are read from files; download it first")
    return VideoFile(Path(source).expanduser())


class VideoFile(Video):
    """A file that PyAV reads. Arguments and errors as of :func:`open_video`.

    Packets that cannot be decoded are passed over, as players do.
    """

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such file")
        self.path, self._av = path, pyav()
        self.name = os.fsencode(path.name).decode(errors="backslashreplace")  # of names that are not UTF-8
        # FFmpeg takes what stands before a colon for a protocol.
        self.address = f"file:{os.path.abspath(path)}"
        try:
            self._container = self._av.open(self.address)
        except (self._av.FFmpegError, OSError) as error:
            raise VideoError(f"{path} cannot be read as a video: {_said(error)}") from error
        streams = [one for one in self._container.streams.video if one.codec_context is not None]
        # Cover pictures of music files are streams of one frame.
        streams = [one for one in streams if not int(one.disposition) & int(_attached(self._av))]
        if not streams:
            self._container.close()
            raise VideoError(f"{path} holds no video")
        self.stream = streams[0]
        self.stream.thread_type = "AUTO"
        self.rate = float(self.stream.average_rate or self.stream.guessed_rate or 0)
        self.seconds = float(self._container.duration or 0) / 1e6
        self.expected = int(self.stream.frames) or round(self._length() * self.rate)
        self._first = self._peek()
        self.orientation = orientation_of(self._first)
        self._stored = (int(self._first.width), int(self._first.height))
        self.size = upright_size(self._stored, self.orientation)

    def close(self) -> None:
        self._container.close()

    def _length(self) -> float:
        """Seconds from the first to the last frame, as far as the file says."""
        begins = float(self._container.start_time or 0) / 1e6 if "matroska" in self._container.format.name else 0.0
        return max(self.seconds - begins, 0.0)

    def sounds(self) -> list[str]:
        """Names of the codecs of its sound."""
        return [str(one.codec_context.name) for one in self._container.streams.audio if one.codec_context is not None]

    def _peek(self) -> Any:
        """The first frame, which tells how frames are turned."""
        for frame in self._decoded():
            return frame
        self._container.close()
        raise VideoError(f"{self.path} holds no frame that can be decoded{self._why()}")

    def _reopen(self) -> None:
        """Go back to the start, to which many files cannot seek."""
        number = self.stream.index
        self._container.close()
        self._container = self._av.open(self.address)
        self.stream = self._container.streams[number]
        self.stream.thread_type = "AUTO"

    def _decoded(self) -> Iterator[Any]:
        self._damaged, self._error, self._reached = 0, "", -np.inf
        # Sound, subtitles and other pictures are looked at, too: the file is as long as the longest of all.
        packets = self._container.demux()
        while True:
            try:
                packet = next(packets, None)
            except self._av.FFmpegError as error:  # the file ends within a packet
                self._error, packet = _said(error), None
            if packet is None:
                break
            if packet.pts is not None:
                end = float((packet.pts + (packet.duration or 0)) * packet.time_base)
                self._reached = max(self._reached, end)
            if packet.stream.index == self.stream.index:
                yield from self._frames_of(packet)
        if self._error:
            yield from self._frames_of(None)

    def _frames_of(self, packet: Any) -> Iterator[Any]:
        try:
            yield from self.stream.decode(packet)
        except self._av.EOFError:
            return
        except self._av.FFmpegError as error:
            self._damaged += 1
            self._error = self._error or _said(error)

    def _why(self) -> str:
        return f": {self._error}" if self._error else ""

    def frames(self, after: Frame | None = None) -> Iterator[Frame]:
        """All frames, or those after one that an earlier run saw, of which ``pixels`` are not looked at.

        All are decoded in any case: where to start for the same pictures, no file says for certain.

        Raises:
            VideoError: that frame is not in the file.
        """
        self._reopen()
        step = 1 / self.rate if self.rate else 1 / 30
        number, seconds = -1, -np.inf
        for number, decoded in enumerate(self._decoded()):
            seconds = self._time_of(decoded, seconds, step)
            if after is not None and number <= after.number:
                if number == after.number and seconds != after.time:
                    break
                continue
            yield Frame(number=number, time=seconds, pixels=self._upright(decoded), mark=decoded.pts)
        if after is not None and (number < after.number or (number == after.number and seconds != after.time)):
            raise VideoError(f"{self.path}: frame {after.number} at {after.time:g} s is not in this file")
        if number >= 0:
            self._conclude(number + 1, float(seconds))

    def _time_of(self, decoded: Any, last: float, step: float) -> float:
        """Seconds of a frame, later than the last: by a step where the file has none, by a tick where it is wrong."""
        base = float(self.stream.time_base)
        if decoded.pts is None:
            return 0.0 if last == -np.inf else last + step
        seconds = float(decoded.pts * self.stream.time_base)
        return seconds if seconds > last else last + min(base, step)

    def _upright(self, decoded: Any) -> NDArray[np.uint8]:
        if (decoded.width, decoded.height) != self._stored:
            decoded = decoded.reformat(*self._stored, format="rgb24")
        pixels: NDArray[np.uint8] = decoded.to_ndarray(format="rgb24")
        return pixels if self.orientation == UPRIGHT else upright_pixels(pixels, self.orientation)

    def _conclude(self, count: int, last: float) -> None:
        """Say in ``problem`` what was missing after so many frames, the last of them at a time."""
        self.problem = ""
        step = 1 / self.rate if self.rate else 0.04
        # The length of Matroska counts from 0, of others from the start.
        counted = "matroska" in self._container.format.name
        end = self.seconds + (0.0 if counted else float(self._container.start_time or 0) / 1e6)
        # Lengths in headers are rounded, some by a frame.
        if self.seconds and end - self._reached > max(2.5 * step, 0.1):
            self.problem = f"{self.path} ends at {last:.2f} s of {end:.2f} s, after {count} frames"
        elif self._damaged:
            self.problem = f"{self.path} is damaged in {self._damaged} places"
        if self.problem:
            self.problem += self._why()


class Camera(Video):
    """A camera by its number, read through OpenCV; ``VideoError`` where there is none."""

    live = True

    def __init__(self, number: int) -> None:
        self.name = f"camera {number}"
        self._capture = cv2.VideoCapture(number)
        if not self._capture.isOpened():
            raise VideoError(f"no {self.name} can be opened here; cameras count from 0")
        self.rate = float(self._capture.get(cv2.CAP_PROP_FPS) or 0)
        width, height = (self._capture.get(one) for one in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
        self.size = (int(width), int(height))

    def frames(self) -> Iterator[Frame]:
        begin, number = time.monotonic(), 0
        while True:
            there, pixels = self._capture.read()
            if not there:
                self.problem = f"{self.name} gives no more frames" if number else f"{self.name} gives no frames"
                return
            rgb = np.ascontiguousarray(pixels[:, :, ::-1]).astype(np.uint8, copy=False)
            self.size = (rgb.shape[1], rgb.shape[0])
            yield Frame(number=number, time=time.monotonic() - begin, pixels=rgb)
            number += 1

    def close(self) -> None:
        self._capture.release()


def orientation_of(frame: Any) -> int:
    """EXIF orientation that a decoded frame's display matrix stands for, rounded to quarter turns; 1 without one.

    The matrix (ISO/IEC 14496-12, 8.3.2) takes (x, y) to (a x + c y, b x + d y), with y pointing down.
    """
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return UPRIGHT
    matrix = np.frombuffer(bytes(data), np.int32)
    a, b, c, d = (int(matrix[place]) for place in (0, 1, 3, 4))
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return _ORIENTATIONS[False, a < 0, d < 0]
    return _ORIENTATIONS[True, c < 0, b < 0]


def _attached(av: Any) -> Any:
    return av.stream.Disposition.attached_pic


def _said(error: Exception) -> str:
    """What FFmpeg says, without its number and the file's name."""
    return str(getattr(error, "strerror", None) or error)


def pyav() -> Any:
    """PyAV, an optional package; ImportError without it."""
    try:
        import av
    except ImportError as error:
        raise ImportError(INSTALL) from error
    return av
