"""Mask files as class numbers: ids in grey or palette pictures, colours, and MATLAB's ``.mat``.

Values are taken as they stand in the file. OpenCV would turn a palette into colours and Pillow would stretch grey of
fewer than 8 bits, so the kind of a PNG is read from its header first.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias, cast

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hrformer.data.images import SUFFIXES
from hrformer.data.label_ids import LabelTable
from hrformer.data.set_types import DataError
from hrformer.wording import listed

MASK_SUFFIXES = frozenset(".png .bmp .tif .tiff .mat".split())
"""File endings taken for masks when a folder is searched. Not JPEG, which changes values, nor GIF, whose writers
renumber the colours."""

MAT_FIELDS = ("S", "LabelMap")
"""Fields of ``.mat`` files that hold ids: COCO-Stuff-10K's and PASCAL-Context's."""

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_END, _TAIL = b"IEND", 4096
_GREY = 0
"""Colour type of grey in a PNG's header."""

_EQUAL_CHANNELS = ". Its channels are equal: if they hold ids, save one of them alone"

Ids: TypeAlias = "NDArray[np.uint8] | NDArray[np.uint16]"


class ColourTable:
    """Class number of every colour.

    Args:
        numbers: class number, or ``IGNORE``, of each (R, G, B).
        origin: where the colours were listed, for messages.
    """

    def __init__(self, numbers: Mapping[tuple[int, int, int], int], origin: str) -> None:
        codes = np.array([_code(*colour) for colour in numbers], np.uint32)
        order = np.argsort(codes)
        self._codes = codes[order]
        self._numbers = np.array(list(numbers.values()), np.uint8)[order]
        self._origin = origin

    def convert(self, colours: NDArray[np.uint8], name: str) -> NDArray[np.uint8]:
        """Class numbers of a mask of (H, W, 3) RGB; ``name`` of the file is for messages.

        Raises:
            DataError: a colour that is not in the list.
        """
        codes = _code(*np.moveaxis(colours.astype(np.uint32), -1, 0))
        places = np.searchsorted(self._codes, codes).clip(max=len(self._codes) - 1)
        unknown = self._codes[places] != codes
        if unknown.any():
            found = ((code >> 16, code >> 8 & 255, code & 255) for code in np.unique(codes[unknown]).tolist())
            raise DataError(
                f"{name}: {int(unknown.sum())} of {unknown.size} pixels have colours (R, G, B) that {self._origin} "
                f"does not list: {listed(found, 8)}. Add them there, with id 255 if they belong to no class"
            )
        return self._numbers[places]


MaskTable: TypeAlias = "LabelTable | ColourTable"


def read_mask(path: Path, table: MaskTable) -> NDArray[np.uint8]:
    """Class numbers of a mask file, a picture or MATLAB's ``.mat``: (H, W) uint8.

    Raises:
        DataError: the file cannot be read, is of another kind, or holds what the table does not know.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    return decode_mask(data, str(path), table)


def decode_mask(data: bytes, name: str, table: MaskTable) -> NDArray[np.uint8]:
    """:func:`read_mask` of a file held in memory; ``name`` tells MATLAB's files by their ending."""
    _check_sums(data, name)
    if isinstance(table, ColourTable):
        return table.convert(_decode_colours(data, name), name)
    return table.convert(_decode_mat(data, name) if name.endswith(".mat") else decode_ids(data, name), name)


def decode_ids(data: bytes, name: str) -> Ids:
    """Ids of a grey or palette picture, as they stand in the file: (H, W) uint8, or uint16 for grey of 16 bits.

    Raises:
        DataError: it cannot be decoded, or is a picture of colours.
    """
    is_png = data[:8] == _PNG and len(data) > 25
    bits, kind = (data[24], data[25]) if is_png else (0, -1)
    # Some versions of OpenCV fill what is missing of a file with 0.
    if kind == _GREY and bits in (8, 16) and _PNG_END in data[-_TAIL:]:
        values = _decode_by_opencv(data)
        if values is not None:
            return values
    with _open(data, name) as image:
        if image.mode in ("RGB", "RGBA", "CMYK", "YCbCr", "LA", "PA"):
            raise DataError(
                f"{name}: the mask is a picture of colours (mode {image.mode}), not of ids. If colours stand for "
                "classes, set SegmentationSource.palette_masks and list R G B in the classes file; else save ids as "
                "grey or palette PNG" + _EQUAL_CHANNELS * _is_grey(image)
            )
        values = np.asarray(image)
    if kind == _GREY and bits in (2, 4):
        values = values // (255 // (2**bits - 1))
    return _as_ids(values, name)


def _decode_colours(data: bytes, name: str) -> NDArray[np.uint8]:
    """Colours of a mask, (H, W, 3) RGB."""
    with _open(data, name) as image:
        return np.asarray(image.convert("RGB"), dtype=np.uint8)


def _decode_mat(data: bytes, name: str) -> Ids:
    """Ids from the field ``S`` (COCO-Stuff-10K) or ``LabelMap`` (PASCAL-Context) of a MATLAB file."""
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise DataError(f"{name}: reading .mat files needs scipy: pip install scipy") from error
    try:
        fields: dict[str, Any] = loadmat(io.BytesIO(data), variable_names=MAT_FIELDS)
    # Whatever is broken in the file surfaces as one of many types.
    except Exception as error:
        raise DataError(f"{name}: cannot be read as a MATLAB file (version 7 or older): {error}") from error
    for field in MAT_FIELDS:
        if field in fields:
            return _as_ids(fields[field], name)
    raise DataError(f"{name}: has none of the fields {', '.join(MAT_FIELDS)}")


def size_of_mask(path: Path) -> tuple[int, int] | None:
    """(width, height) from the header of a mask file; None for ``.mat`` and for what cannot be read."""
    try:
        with Image.open(path) as image:
            return image.size
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError):
        return None


def _is_grey(image: Image.Image) -> bool:
    if image.mode not in ("RGB", "RGBA"):
        return False
    values = np.asarray(image)
    return bool((values[..., 0] == values[..., 1]).all() and (values[..., 0] == values[..., 2]).all())


def _check_sums(data: bytes, name: str) -> None:
    """Refuse a PNG with a changed byte, of which decoders make other ids, silently (PNG specification, section 5)."""
    place = len(_PNG) if data.startswith(_PNG) else len(data)
    while place + 12 <= len(data):
        end = place + 8 + int.from_bytes(data[place : place + 4], "big")
        expected, is_whole = data[end : end + 4], end + 4 <= len(data)
        is_critical = data[place + 4 : place + 8].isupper()
        if is_whole and is_critical and zlib.crc32(data[place + 4 : end]) != int.from_bytes(expected, "big"):
            raise DataError(f"{name}: the mask is damaged: the checksum of its contents is wrong")
        place = end + 4


def _code(red: Any, green: Any, blue: Any) -> Any:
    return red << 16 | green << 8 | blue


def _as_ids(values: NDArray[Any], name: str) -> Ids:
    if values.ndim != 2 or values.dtype.kind not in "buif":
        raise DataError(
            f"{name}: a mask must be one table of numbers (H, W), got shape {values.shape} of {values.dtype}"
        )
    if values.dtype in (np.uint8, np.uint16):
        return cast(Ids, values)
    with np.errstate(invalid="ignore"):
        whole = values.astype(np.int64)
    if whole.size and (whole.min() < 0 or whole.max() > 65535 or not np.array_equal(whole, values)):
        raise DataError(f"{name}: ids must be whole numbers in 0..65535, got {values.min():g} to {values.max():g}")
    return cast(Ids, whole.astype(np.uint8 if not whole.size or whole.max() <= 255 else np.uint16))


def _decode_by_opencv(data: bytes) -> Ids | None:
    try:
        values: Any = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return None
    return None if values is None or values.ndim != 2 else values


def _open(data: bytes, name: str) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data))
        image.load()
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        kinds = ", ".join(sorted(MASK_SUFFIXES & (SUFFIXES | {".mat"})))
        unknown = isinstance(error, Image.UnidentifiedImageError)
        reason = "not a picture, or only the beginning of one" if unknown else error
        raise DataError(f"{name}: cannot be decoded as a mask ({kinds}): {reason}") from error
    if image.format == "JPEG":
        raise DataError(f"{name}: JPEG changes values, so it cannot hold a mask; save masks as PNG")
    return image
