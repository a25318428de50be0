"""What the first bytes of a picture file tell without decoding it, and whether its end is there."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import BinaryIO

from PIL import ExifTags, Image
from PIL import TiffImagePlugin as tiff

from hrformer.data.images import DAMAGE, ImageError, unknown_format
from hrformer.geometry.orientation import UPRIGHT, upright_size

_TAIL = 4096
_ENDS = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "JPEG2000": b"\xff\xd9", "PNG": b"IEND", "GIF": b";"}
"""What stands near the end of whole files."""

_TIFF_PIECES = ((tiff.STRIPOFFSETS, tiff.STRIPBYTECOUNTS), (tiff.TILEOFFSETS, tiff.TILEBYTECOUNTS))
"""Where strips and tiles begin and how long they are (TIFF 6.0, sections 3 and 15)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Header:
    """A picture file's header.

    Attributes:
        stored: (width, height) of the pixels as they are stored.
        orientation: of EXIF, 1 to 8; 1 where the file does not say.
        cut_short: whether the end that files of its format have is missing, or less is there than the header announces.
    """

    stored: tuple[int, int]
    orientation: int = UPRIGHT
    cut_short: bool = False

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the upright picture, the way it is read."""
        return upright_size(self.stored, self.orientation)


def read_header(path: str | os.PathLike[str]) -> Header:
    """Read size, orientation and end of a picture file, in about a tenth of a millisecond.

    Raises:
        ImageError: it cannot be read or is no picture; the message names it.
    """
    name = os.fspath(path)
    try:
        with open(path, "rb") as file, Image.open(file) as image:
            orientation = image.getexif().get(ExifTags.Base.Orientation, UPRIGHT)
            length = file.seek(0, os.SEEK_END)
            file.seek(max(length - _TAIL, 0))
            tail, end = file.read(), _ENDS.get(image.format or "", b"")
            # A single byte stands elsewhere too; some writers fill up with zeros.
            ends = end in tail if len(end) != 1 else tail.rstrip(b"\0").endswith(end)
            # Pillow gives the upright size of TIFF files alone.
            tags = getattr(image, "tag_v2", {})
            return Header(
                stored=(int(tags[tiff.IMAGEWIDTH]), int(tags[tiff.IMAGELENGTH])) if tags else image.size,
                orientation=orientation if orientation in range(1, 9) else UPRIGHT,
                cut_short=not ends or length < _announced(image, file),
            )
    except Image.UnidentifiedImageError:
        raise ImageError(unknown_format(name)) from None
    except FileNotFoundError:
        raise ImageError(f"{name}: no such file") from None
    except DAMAGE as error:
        raise ImageError(f"{name}: {getattr(error, 'strerror', None) or error}") from error


def _announced(image: Image.Image, file: BinaryIO) -> int:
    """Bytes that a file has at least, by its header; 0 for formats that do not say."""
    file.seek(0)
    start = file.read(16)
    if image.format in ("BMP", "DIB") and start[:2] == b"BM":
        return int.from_bytes(start[2:6], "little")
    if image.format == "WEBP":
        return 8 + int.from_bytes(start[4:8], "little")
    if image.format == "TIFF":
        tags = getattr(image, "tag_v2", {})
        pieces = (zip(tags.get(start, ()), tags.get(length, ()), strict=False) for start, length in _TIFF_PIECES)
        return max((begin + count for piece in pieces for begin, count in piece), default=0)
    if image.format == "PPM" and start[:2] in (b"P5", b"P6"):
        width, height = image.size
        return width * height * (3 if start[:2] == b"P6" else 1) * (2 if image.mode.startswith("I") else 1)
    return _end_of_boxes(file) if image.format == "AVIF" else 0


def _end_of_boxes(file: BinaryIO) -> int:
    """Where the last box of a file of boxes ends (ISO/IEC 14496-12, section 4.2)."""
    place = 0
    while True:
        file.seek(place)
        start = file.read(16)
        size = int.from_bytes(start[:4], "big")
        if size == 1:
            size = int.from_bytes(start[8:16], "big")
        if len(start) < 8 or size < 8:
            return place
        place += size
