"""Mask files as class numbers: ids in grey or palette pictures, colours, and MATLAB's ``.mat``.

Values are taken as they stand in the file. OpenCV would turn a palette into colours; Pillow stretches grey of fewer
than 8 bits, which is put back.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hrformer.data.images import DAMAGE
from hrformer.data.label_ids import LabelTable
from hrformer.data.set_types import DataError
from hrformer.wording import listed

MASK_SUFFIXES = frozenset(".png .bmp .tif .tiff .mat".split())
"""File endings taken for masks when a folder is searched. Not JPEG, which changes values, nor GIF, whose writers
renumber the colours."""

MAT_FIELDS = ("S", "LabelMap")
"""Fields of ``.mat`` files that hold ids: COCO-Stuff-10K's and PASCAL-Context's."""

_PNG = b"\x89PNG\r\n\x1a\n"
Ids: TypeAlias = "NDArray[np.uint8] | NDArray[np.uint16]"


class ColourTable:
    """Class number, or ``IGNORE``, of every colour (R, G, B); ``origin`` lists them, for messages."""

    def __init__(self, numbers: Mapping[tuple[int, int, int], int], origin: str) -> None:
        codes = np.array([red << 16 | green << 8 | blue for red, green, blue in numbers], np.uint32)
        order = np.argsort(codes)
        self._codes = codes[order]
        self._numbers = np.array(list(numbers.values()), np.uint8)[order]
        self._origin = origin

    def convert(self, colours: NDArray[np.uint8], name: str) -> NDArray[np.uint8]:
        """Class numbers of the mask (H, W, 3) RGB in a file; a colour that is not listed raises a ``DataError``."""
        red, green, blue = np.moveaxis(colours.astype(np.uint32), -1, 0)
        codes = red << 16 | green << 8 | blue
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
        return table.convert(np.asarray(_open(data, name).convert("RGB"), dtype=np.uint8), name)
    return table.convert(_decode_mat(data, name) if name.endswith(".mat") else decode_ids(data, name), name)


def decode_ids(data: bytes, name: str) -> Ids:
    """Ids of a grey or palette picture, as they stand in the file: (H, W) uint8, or uint16 for grey of 16 bits.

    Raises:
        DataError: it cannot be decoded, or is a picture of colours.
    """
    image = _open(data, name)
    if image.mode in ("RGB", "RGBA", "CMYK", "YCbCr", "LA", "PA"):
        values = np.asarray(image)
        grey = image.mode in ("RGB", "RGBA") and (values[..., :1] == values[..., :3]).all()
        also = ". Its channels are equal: if they hold ids, save one of them alone" if grey else ""
        raise DataError(
            f"{name}: the mask is a picture of colours (mode {image.mode}), not of ids. If colours stand for "
            "classes, set SegmentationSource.palette_masks and list R G B in the classes file; else save ids as "
            f"grey or palette PNG{also}"
        )
    values = np.asarray(image)
    # Bits and colour type, 0 being grey, of a PNG's header.
    if data.startswith(_PNG) and data[24] in (2, 4) and data[25] == 0:
        values = values // (255 // (2 ** data[24] - 1))
    return _as_ids(values, name)


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
    except DAMAGE:
        return None


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


def _open(data: bytes, name: str) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data))
        image.load()
    except DAMAGE as error:
        unknown = isinstance(error, Image.UnidentifiedImageError)
        reason = "not a picture, or only the beginning of one" if unknown else error
        raise DataError(
            f"{name}: cannot be decoded as a mask ({', '.join(sorted(MASK_SUFFIXES))}): {reason}"
        ) from error
    if image.format == "JPEG":
        raise DataError(f"{name}: JPEG changes values, so it cannot hold a mask; save masks as PNG")
    return image
