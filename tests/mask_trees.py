"""Tiny segmentation sets on disk, in the layouts of the published ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

SIZE = (6, 8)
"""(height, width) of every picture."""


def write_picture(path: Path, seed: int = 0) -> None:
    """A picture of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), np.uint8)
    assert cv2.imwrite(str(path), pixels)


def write_mask(path: Path, values: Sequence[int], dtype: type = np.uint8) -> None:
    """A mask whose first pixels hold the values, the others the first of them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), mask_of(values, dtype))


def mask_of(values: Sequence[int], dtype: type = np.uint8) -> np.ndarray:
    """(6, 8) table that begins with the values."""
    mask = np.full(SIZE[0] * SIZE[1], values[0], dtype)
    mask[: len(values)] = values
    return mask.reshape(SIZE)


def write_text(path: Path, text: str) -> None:
    """A text file in a folder that may be new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def write_two_pairs(root: Path) -> Path:
    """Two pictures with masks, one pair in a folder below, and three classes; gives the root."""
    for name, values in (("b", [0, 1, 2, 255]), ("a/c", [2])):
        write_picture(root / "images/train" / f"{name}.jpg")
        write_mask(root / "labels/train" / f"{name}.png", values)
    write_text(root / "classes.txt", "# id name\n0 sky\n1 road\n\n2 traffic light\n")
    return root
