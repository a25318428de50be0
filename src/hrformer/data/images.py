"""Pictures in every form a caller may hold, as upright RGB uint8 arrays."""

from __future__ import annotations

import http.client
import io
import os
import re
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from os import PathLike, fspath
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps
from PIL import TiffImagePlugin as tiff

from hrformer.data.addresses import fetch
from hrformer.geometry.orientation import UPRIGHT, upright_pixels
from hrformer.wording import listed

URL_TIMEOUT = 30.0
"""Seconds without an answer after which a download is given up."""

SUFFIXES = frozenset(".bmp .dib .gif .jp2 .jpe .jpeg .jpg .pbm .pgm .png .pnm .ppm .tif .tiff .webp .avif".split())
"""File endings taken for pictures when a folder is searched; a file named outright is always tried."""

UNREAD = frozenset(".arw .cr2 .cr3 .dng .heic .heif .jxl .nef .psd .svg".split())
"""Endings of pictures that are not read here; told where a folder holds some, such as what phones write."""

_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)

_BY_OPENCV = ("JPEG", "MPO", "PNG", "BMP", "DIB", "WEBP")

_INVERSE = {6: 8, 8: 6}
"""EXIF orientation -> the one that undoes it; all others undo themselves."""

DAMAGE = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)
"""What Pillow raises on pictures it cannot read or convert."""

_MOST_BYTES = 2**31 - 1
"""OpenCV counts in 32 bits, and reads elsewhere in memory without a word beyond."""

Picture: TypeAlias = "str | PathLike[str] | bytes | Image.Image | NDArray[np.generic] | torch.Tensor | LoadedImage"
Pictures: TypeAlias = "Picture | Iterable[Picture]"


class ImageError(ValueError):
    """A picture could not be read; the message names it and says why."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LoadedImage:
    """One decoded picture.

    Attributes:
        pixels: (H, W, 3) uint8, RGB, turned upright by the EXIF orientation unless read as stored.
        path: the file or URL it came from; None for pictures that were handed over in memory.
        alpha: (H, W) uint8, 255 is opaque; None where nothing is transparent.
    """

    pixels: NDArray[np.uint8]
    path: str | None = None
    alpha: NDArray[np.uint8] | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.pixels.shape[1], self.pixels.shape[0]

    def for_channels(self, number: int) -> NDArray[np.uint8]:
        """(H, W, 4) with alpha for a network of four channels, else ``pixels``."""
        if number != 4:
            return self.pixels
        alpha = np.full(self.pixels.shape[:2], 255, np.uint8) if self.alpha is None else self.alpha
        return np.dstack([self.pixels, alpha])


def unread_below(folder: Path) -> list[str]:
    """Pictures in a folder, and in those in it, that are of a kind not read here, sorted."""
    return sorted(
        os.path.join(place, name)
        for place, _, files in os.walk(folder)
        for name in files
        if os.path.splitext(name)[1].lower() in UNREAD and not name.startswith(".")
    )


def unread_text(files: Sequence[str]) -> str:
    """What to say about pictures of a kind that is not read here; empty for none."""
    if not files:
        return ""
    kinds = sorted({os.path.splitext(name)[1][1:].upper() for name in files})
    return f"{listed(files, 1)}: {' and '.join(kinds)} is not read here; save such pictures as JPEG"


def unknown_format(name: str) -> str:
    """Why a file is not read whose format is unknown here."""
    known = os.path.splitext(name)[1].lower() in UNREAD
    return unread_text([name]) if known else f"{name}: not a picture in a format known here"


def is_url(name: str) -> bool:
    """Whether ``name`` is an address, such as https://host/a.jpg and s3://bucket/a.jpg, and no path."""
    return _ADDRESS.match(name) is not None


def is_web(name: str) -> bool:
    """Whether ``name`` is an address that begins with http:// or https://."""
    return name.lower().startswith(("http://", "https://"))


def is_single(source: Pictures) -> bool:
    """Whether ``source`` is one picture, to be answered by one result, and not a collection of them."""
    if isinstance(source, np.ndarray | torch.Tensor):
        return source.ndim != 4
    return isinstance(source, str | PathLike | bytes | Image.Image | LoadedImage)


def load_images(source: Pictures) -> Iterator[LoadedImage]:
    """Decode pictures one after another, so that only those in use are in memory.

    Args:
        source: a file name, an http(s) URL or another address that fsspec knows, such as s3://bucket/a.jpg, a file's
            bytes, a PIL image of any mode, an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) in RGB order, a tensor
            (1 or 3 or 4, H, W), a batch of either with one more dimension in front, or any iterable of these. Arrays
            and tensors are uint8, uint16 (the upper byte is used, as in files of 16 bits; the largest value is above
            255), bool, or floating point in [0, 1].
            Transparency is for networks of four channels; colours are taken as they are below it. Of several frames
            the first is used.

    Raises:
        ImageError: a picture cannot be read, or an array is not one of the above.
    """
    several = not is_single(source) and isinstance(source, Iterable)
    for one in source if several else [source]:  # type: ignore[union-attr]
        yield load_image(one)  # type: ignore[arg-type]


def load_image(source: Picture, *, upright: bool = True) -> LoadedImage:
    """Decode one picture; see :func:`load_images` for what ``source`` may be.

    Files, bytes and PIL images are turned by their EXIF orientation if ``upright``, else left as stored.

    Raises:
        ImageError: it cannot be read.
    """
    if isinstance(source, LoadedImage):
        return source
    if isinstance(source, Image.Image):
        try:
            return _from_pil(source, upright)
        except DAMAGE as error:
            raise ImageError(f"PIL image: {error}") from error
    if isinstance(source, bytes):
        return _decode(source, "bytes", upright)
    if isinstance(source, torch.Tensor | np.ndarray):
        try:
            return _from_tensor(source) if isinstance(source, torch.Tensor) else _from_array(np.asarray(source))
        except (TypeError, RuntimeError) as error:
            raise ImageError(f"a picture cannot be made from this {type(source).__name__}: {error}") from error
    if isinstance(source, str | PathLike):
        name = str(fspath(source))
        return replace(_decode(_read(name), name, upright), path=name)
    raise ImageError(f"a picture cannot be made from a {type(source).__name__}")


def decode(data: bytes, name: str) -> NDArray[np.uint8]:
    """Decode a picture file held in memory.

    OpenCV decodes JPEG, PNG, BMP and WebP, as in the code that produced the published figures. Pillow decodes other
    formats, of which OpenCV misses scales, orientations or channels, and whatever is transparent or animated. More
    pixels than twice ``PIL.Image.MAX_IMAGE_PIXELS`` are refused, as Pillow does.

    Returns:
        (H, W, 3) uint8, RGB, turned by its EXIF orientation.

    Raises:
        ImageError: ``data`` is no picture, or only part of one; the message begins with ``name``.
    """
    return _decode(data, name, upright=True).pixels


def _decode(data: bytes, name: str, upright: bool) -> LoadedImage:
    if not data:
        raise ImageError(f"{name}: the file is empty")
    try:
        with Image.open(io.BytesIO(data)) as image:
            # A JPEG without end marker behind its last scan: some OpenCV versions fill the rest with grey, silently.
            cut_short = data[:2] == b"\xff\xd8" and data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda")
            special = image.has_transparency_data or getattr(image, "is_animated", False) or cut_short
            plain = image.format in _BY_OPENCV and not image.mode.startswith("I") and not special
            return (_decode_by_opencv(data, upright) if plain else None) or _from_pil(image, upright)
    except Image.UnidentifiedImageError:
        # Of portable arbitrary maps OpenCV mixes the channels up.
        if data[:2] != b"P7" and (found := _decode_by_opencv(data, upright)):
            return found
        raise ImageError(unknown_format(name)) from None
    except DAMAGE as error:
        raise ImageError(f"{name}: {error}") from error


def _decode_by_opencv(data: bytes, upright: bool) -> LoadedImage | None:
    """None where OpenCV cannot read it."""
    try:
        # Floating point of a portable map would be cut off to 0 and 1; other formats are scaled by OpenCV.
        depth = cv2.IMREAD_ANYDEPTH if data[:2] in (b"PF", b"Pf") else 0
        turn = 0 if upright else cv2.IMREAD_IGNORE_ORIENTATION
        bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | depth | turn)
        return None if bgr is None else _from_array(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB))
    except cv2.error:
        return None


def _read(name: str) -> bytes:
    if is_web(name):
        return _download(name)
    if is_url(name):
        try:
            return fetch(name)
        except FileNotFoundError:
            raise ImageError(f"{name}: no such file") from None
        except (ImportError, OSError, ValueError) as error:
            raise ImageError(f"{name}: {str(error).removeprefix(f'{name}: ')}") from error
    path = Path(os.path.expanduser(name))
    if os.path.isdir(path):
        raise ImageError(f"{name}: is a folder; give the pictures in it, such as Path(...).glob('*.jpg')")
    if os.path.exists(path) and not os.path.isfile(path):
        raise ImageError(f"{name}: is a pipe, socket or device; give a regular file")
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ImageError(f"{name}: no such file") from None
    except (OSError, ValueError) as error:
        raise ImageError(f"{name}: {getattr(error, 'strerror', None) or error}") from error


def _download(url: str) -> bytes:
    try:
        # Some servers turn away the default "Python-urllib" agent.
        request = urllib.request.Request(url, headers={"User-Agent": "hrformer"})
        with urllib.request.urlopen(request, timeout=URL_TIMEOUT) as response:
            return bytes(response.read())
    except urllib.error.HTTPError as error:
        raise ImageError(f"{url}: the server answered {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise ImageError(f"{url}: {getattr(error, 'reason', None) or error}") from error


def _from_pil(image: Image.Image, upright: bool) -> LoadedImage:
    # Pillow turns TIFF files while it loads them, and others only when asked.
    turned = UPRIGHT if upright or image.format != "TIFF" else image.getexif().get(ExifTags.Base.Orientation, UPRIGHT)
    plain = _as_tags_say(image)
    values = _values(ImageOps.exif_transpose(plain) if upright else plain)
    return _from_array(upright_pixels(values, _INVERSE.get(turned, turned)) if turned in range(2, 9) else values)


def _values(image: Image.Image) -> NDArray[np.generic]:
    """A picture of any mode as :func:`_from_array` takes it."""
    if image.mode == "I":
        values = np.asarray(image)
        if values.size and not 0 <= values.min() <= values.max() <= 65535:
            raise ImageError(
                f"integer pictures must lie in 0 to 65535, got {values.min()} to {values.max()}; scale the values to "
                "that, or save them with 8 bits"
            )
        return values.astype(np.uint16)
    if image.mode == "F" or image.mode.startswith("I;16"):
        return np.asarray(image)
    if image.mode in ("RGBa", "La"):
        image = image.convert(image.mode.upper())
    return np.asarray(image.convert("RGBA" if image.has_transparency_data else "RGB"))


def _as_tags_say(image: Image.Image) -> Image.Image:
    """A deep grey TIFF in 16 bits whose 0 is black, which Pillow leaves to its readers; others as they are."""
    tags = getattr(image, "tag_v2", {})
    # White at 0 is TIFF 6.0, section 8.
    bits, inverted = tags.get(tiff.BITSPERSAMPLE, (16,))[0], tags.get(tiff.PHOTOMETRIC_INTERPRETATION) == 0
    if not image.mode.startswith("I;16") or (bits == 16 and not inverted):
        return image
    values = np.asarray(image).astype(np.uint16) << (16 - bits)
    deep = Image.fromarray(65535 - values if inverted else values)
    deep.info = image.info
    return deep


def _from_tensor(tensor: torch.Tensor) -> LoadedImage:
    values, shape = tensor.detach().cpu(), tuple(tensor.shape)
    if values.ndim not in (2, 3):
        raise ImageError(f"a picture tensor must have shape (3, H, W) or (B, 3, H, W), got {shape}")
    if values.ndim == 3:
        if shape[0] not in (1, 3, 4):
            raise ImageError(
                f"a picture tensor must have shape (3, H, W), channels first; got {shape}. "
                "Channels last is the form for numpy arrays"
            )
        values = values.permute(1, 2, 0)
    # numpy has no bfloat16.
    return _from_array((values.float() if values.is_floating_point() else values).numpy())


def _from_array(array: NDArray[np.generic]) -> LoadedImage:
    values = array[:, :, None] if array.ndim == 2 else array
    if values.ndim != 3 or values.shape[2] not in (1, 3, 4):
        raise ImageError(f"a picture array must have shape (H, W), (H, W, 3) or (H, W, 4), got {array.shape}")
    if 0 in values.shape:
        raise ImageError(f"the picture has no pixels: shape {array.shape}")
    if 4 * values.shape[0] * values.shape[1] > _MOST_BYTES:
        raise ImageError(f"the picture has more than {_MOST_BYTES // 4} pixels, {array.shape}: cut it into parts")
    if np.issubdtype(values.dtype, np.floating):
        values = _bytes_from_unit_range(values)
    elif values.dtype == bool:
        values = np.where(values, np.uint8(255), np.uint8(0))
    elif values.dtype.newbyteorder("=") == np.uint16:
        if 0 < (most := int(values.max())) <= 255:
            raise ImageError(
                f"values of 16 bits end at {most} and would be black: scale them to 0..65535, or save them with 8 bits "
                "(uint8, mode 'L')"
            )
        values = np.right_shift(values, 8)  # as OpenCV reads files of 16 bits
    elif values.dtype != np.uint8:
        raise ImageError(f"picture values must be uint8, uint16, bool, or floating point in [0, 1]; got {values.dtype}")
    colour = np.repeat(values, 3, axis=2) if values.shape[2] == 1 else values[:, :, :3]
    return LoadedImage(
        # Writable: torch warns about arrays over Pillow's memory.
        pixels=np.require(colour, np.uint8, ["C", "W"]),
        alpha=np.ascontiguousarray(values[:, :, 3], dtype=np.uint8) if values.shape[2] == 4 else None,
    )


def _bytes_from_unit_range(values: NDArray[Any]) -> NDArray[np.uint8]:
    low, high = float(values.min()), float(values.max())
    # Also false for NaN. The slack is for arithmetic that lands a hair outside, such as resizing.
    if not (low >= -1e-3 and high <= 1 + 1e-3):
        raise ImageError(
            f"floating-point pictures must lie in [0, 1], got values from {low:g} to {high:g}; "
            "give 0 to 255 as uint8, and pictures before normalisation"
        )
    return np.round(np.clip(values, 0, 1) * 255).astype(np.uint8)
