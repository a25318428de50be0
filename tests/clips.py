"""Small videos for tests: a window that moves over a photograph, in whatever container, codec and times are wanted."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from hrformer.data.images import load_image

PHOTOGRAPHS = Path(__file__).resolve().parents[1] / "src" / "hrformer" / "export" / "pictures"


def window(number: int, size: tuple[int, int] = (256, 192), photograph: str = "astronaut.jpg") -> NDArray[np.uint8]:
    """(H, W, 3) of the window's place in one frame; two pixels further in each."""
    file = PHOTOGRAPHS / photograph
    pixels = _photograph(str(file))
    left = abs((2 * number) % (2 * (pixels.shape[1] - size[0])) - (pixels.shape[1] - size[0]))
    return np.ascontiguousarray(pixels[: size[1], left : left + size[0]])


_READ: dict[str, NDArray[np.uint8]] = {}


def _photograph(file: str) -> NDArray[np.uint8]:
    if file not in _READ:
        _READ[file] = load_image(file).pixels
    return _READ[file]


def write_clip(
    path: Path,
    frames: Sequence[NDArray[np.uint8]],
    *,
    marks: Sequence[int] | None = None,
    rate: int = 25,
    base: Fraction = Fraction(1, 1000),
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    sound: bool = False,
) -> Path:
    """Write frames at ``marks`` times ``base`` seconds, else evenly; with a second of a tone for each second."""
    marks = marks or [round(number / rate / base) for number in range(len(frames))]
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=rate, options=options or {})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.time_base = stream.codec_context.time_base = base
        tone: Any = container.add_stream("aac", rate=48000, layout="mono") if sound else None
        for pixels, mark in zip(frames, marks, strict=True):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = mark, base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if sound:
            count = round(48000 * float(marks[-1] * base))
            for start in range(0, count, 1024):
                wave = np.sin(np.arange(start, start + 1024) * 2 * np.pi * 440 / 48000).astype(np.float32)[None]
                part = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
                part.sample_rate, part.pts, part.time_base = 48000, start, Fraction(1, 48000)
                container.mux(tone.encode(part))
            container.mux(tone.encode(None))
    return path
