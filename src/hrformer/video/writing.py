"""Drawn videos: frames with their own times, and the sound of the video that they come from, copied unchanged."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from hrformer.files import replacing
from hrformer.video.reading import VideoError, VideoFile, pyav

Codec: TypeAlias = Literal["h264", "vp9", "av1"]

# FFmpeg's encoder and its options: quality that looks like the source at a speed near that of small networks. x264's
# trees of macroblocks make files differ from run to run.
_ENCODERS: dict[str, tuple[str, dict[str, str]]] = {
    "h264": ("libx264", {"crf": "20", "preset": "veryfast", "x264-params": "mbtree=0"}),
    "vp9": ("libvpx-vp9", {"crf": "32", "b": "0", "deadline": "realtime", "cpu-used": "6", "row-mt": "1"}),
    "av1": ("libsvtav1", {"crf": "35", "preset": "9"}),
}

IN_MP4 = frozenset({"aac", "ac3", "alac", "eac3", "flac", "mp3", "opus"})
"""Sound that players expect in MP4 files; any other goes into Matroska."""


def suffix_for(video: VideoFile | None) -> str:
    """Ending of a drawn video that can hold the sound of its source."""
    sounds = video.sounds() if video is not None else []
    return ".mp4" if IN_MP4.issuperset(sounds) else ".mkv"


@contextmanager
def video_writer(
    path: Path,
    source: VideoFile | None,
    codec: Codec = "h264",
    rate: float = 0.0,
    *,
    about: str = "",
    told: Callable[[str], object] = lambda text: None,
) -> Iterator[Any]:
    """A function that appends a frame: its time in seconds, its own count of time or None, and (H, W, 3) uint8 RGB.

    Frames are of one size; odd sides get one more row or column. The file is there when the context ends without an
    error.

    Args:
        path: what to write, .mp4 or .mkv.
        source: whose sound and count of time are taken; None for cameras.
        codec: how pictures are packed.
        rate: about how many frames there are in a second; players do not depend on it.
        about: a text that :func:`about_video` reads back.
        told: is called with a sentence on sound that the container cannot hold, which is left out.

    Raises:
        VideoError: this build of FFmpeg has no such encoder.
    """
    av, (encoder, options) = pyav(), _ENCODERS[codec]
    os.environ.setdefault("SVT_LOG", "1")  # else it writes about itself on standard error
    if encoder not in av.codec.codecs_available:
        known = ", ".join(name for name, (one, _) in _ENCODERS.items() if one in av.codec.codecs_available)
        raise VideoError(f"this PyAV cannot write {codec}: it lacks {encoder}; it has {known or 'none of our codecs'}")
    kind = {".mp4": "mp4", ".mkv": "matroska"}[path.suffix]
    with replacing(path) as part, av.open(str(part), "w", format=kind) as container:
        container.metadata["comment"] = about
        drawn = _Drawn(av, container, source, encoder, options, rate, told)
        yield drawn.write
        drawn.finish()


def about_video(path: Path) -> str | None:
    """The text that was written with a drawn video; None for whatever else the file is."""
    av = pyav()
    try:
        with av.open(f"file:{os.path.abspath(path)}") as container:
            return next((value for key, value in container.metadata.items() if key.lower() == "comment"), None)
    except (av.FFmpegError, OSError):
        return None


class _Drawn:
    """A container that is being filled."""

    def __init__(
        self,
        av: Any,
        container: Any,
        source: VideoFile | None,
        encoder: str,
        options: dict[str, str],
        rate: float,
        told: Callable[[str], object],
    ) -> None:
        self._av, self._container, self._told = av, container, told
        self._encoder, self._options = encoder, options
        self._base = source.stream.time_base if source is not None else Fraction(1, 1000)
        self._rate = Fraction(rate or 30).limit_denominator(1001)
        self._stream: Any = None
        self._last: int | None = None
        self._packets: Iterator[Any] = iter(())
        self._sound = av.open(source.address) if source is not None else None
        self._streams: dict[int, Any] = {}
        if self._sound is not None and self._sound.streams.audio:
            self._packets = self._sound.demux(*self._sound.streams.audio)
        self._waiting: Any = None

    def _begin(self, pixels: NDArray[np.uint8]) -> None:
        stream = self._container.add_stream(self._encoder, rate=self._rate, options=self._options)
        stream.width, stream.height, stream.pix_fmt = pixels.shape[1], pixels.shape[0], "yuv420p"
        stream.time_base = stream.codec_context.time_base = self._base
        self._stream = stream
        if self._sound is not None:
            for sound in self._sound.streams.audio:
                try:
                    kept = self._container.add_stream_from_template(sound)
                except (ValueError, self._av.FFmpegError):
                    self._told(f"sound of the kind {sound.codec_context.name} cannot be copied, and is left out")
                    continue
                kept.metadata.update({"language": sound.language} if sound.language else {})
                self._streams[sound.index] = kept

    def write(self, seconds: float, mark: int | None, pixels: NDArray[np.uint8]) -> None:
        pixels = cv2.copyMakeBorder(  # type: ignore[assignment]
            pixels, 0, pixels.shape[0] % 2, 0, pixels.shape[1] % 2, cv2.BORDER_REPLICATE
        )
        if self._stream is None:
            self._begin(pixels)
        count = round(Fraction(seconds) / self._base) if mark is None else mark
        count = count if self._last is None else max(count, self._last + 1)
        self._copy_sound(seconds)
        frame = self._av.VideoFrame.from_ndarray(pixels, format="rgb24")
        frame.pts, frame.time_base, self._last = count, self._base, count
        self._container.mux(self._stream.encode(frame))

    def _copy_sound(self, until: float) -> None:
        """Packets up to a time, so that players find sound beside its picture."""
        while True:
            packet, self._waiting = self._waiting, None
            try:
                packet = packet or next(self._packets, None)
            except self._av.FFmpegError:  # the source ends within a packet
                packet, self._packets = None, iter(())
            if packet is None:
                return
            if packet.dts is None:  # the end of a stream
                continue
            if float(packet.dts * packet.time_base) > until:
                self._waiting = packet
                return
            if packet.stream.index in self._streams:
                packet.stream = self._streams[packet.stream.index]
                self._container.mux(packet)

    def finish(self) -> None:
        if self._stream is not None:
            self._container.mux(self._stream.encode(None))
            self._copy_sound(float("inf"))
        if self._sound is not None:
            self._sound.close()
