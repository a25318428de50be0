"""Writing results: complete files only, never half of one under its final name."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from hrformer.files import write_file

JPEG_QUALITY = 92

JPEG_SIDE = 65500
"""Longest side in pixels that libjpeg writes."""


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write through a temporary file in the same folder, made if absent, and move it into place.

    Raises:
        OSError: the folder cannot be written to.
    """
    write_file(Path(path), lambda part: part.write_bytes(data))


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write JSON with a final newline; bytes of file names that are not UTF-8 become escapes that JSON reads back."""
    write_bytes(path, (json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n").encode(errors="backslashreplace"))


def write_picture(path: str | os.PathLike[str], pixels: NDArray[np.unsignedinteger]) -> None:
    """Write a picture in the format its suffix names.

    Args:
        path: ends in .png, .jpg, .webp, .bmp or another suffix OpenCV writes.
        pixels: (H, W, 3) uint8 RGB, or (H, W) uint8 or uint16 (PNG and TIFF only).

    Raises:
        ValueError: the suffix is not one of a picture format, or the format has no place for so many pixels.
    """
    suffix = Path(path).suffix.lower()
    if not suffix or not cv2.haveImageWriter(f"x{suffix}"):
        raise ValueError(f"cannot write {os.fspath(path)}: use a suffix such as .png or .jpg")
    stored = pixels[:, :, ::-1] if pixels.ndim == 3 else pixels
    flags = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if suffix in (".jpg", ".jpeg") else []
    done, data = cv2.imencode(suffix, stored, flags)
    if not done:
        raise ValueError(f"OpenCV could not encode {os.fspath(path)}, {pixels.shape[1]} x {pixels.shape[0]} pixels")
    write_bytes(path, data.tobytes())
