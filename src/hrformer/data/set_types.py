"""What a data set is: numbered items with files behind them. Readers derive from the class of their task.

A set only reads; it neither augments nor resizes. Items are numbered from 0 in an order that depends on the files
alone, so that the same number means the same item on every machine.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision import tv_tensors

from hrformer.geometry.skeletons import Skeleton

IGNORE = 255
"""Label of pixels that belong to no class."""


class DataError(ValueError):
    """A data set is not as it should be; the message names the file or folder and says what would be right."""


class NoPartError(DataError):
    """A set is without a validation part; of several that are joined, others may have one."""


class PackedNames(Sequence[str]):
    """Names of files in one block of memory, read only.

    A million Python strings would be copied into every worker process, since reading one writes its reference count;
    one block stays shared. Undecodable bytes in file names survive.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = np.array([os.fsencode(name) for name in names], dtype=np.bytes_)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> str:  # type: ignore[override]
        return os.fsdecode(self._names[index])


class ImageSet(ABC):
    """Numbered items, each with one picture; ``name`` is that of the data set, such as "CamVid"."""

    name: str
    task: ClassVar[str]
    """"classification", "pose" or "segmentation"."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of items."""

    @abstractmethod
    def file(self, index: int) -> str:
        """What to call the item's picture: its path, or "<shard>::<member>" inside an archive."""

    @abstractmethod
    def pixels(self, index: int) -> NDArray[np.uint8]:
        """The item's picture, decoded: (H, W, 3) uint8 RGB, upright; an ``ImageError`` names one that is broken."""

    @abstractmethod
    def item(self, index: int, pixels: NDArray[np.uint8]) -> dict[str, Any]:
        """Picture and labels as torchvision's tv_tensors; ``pixels``, of :meth:`pixels`, are not to be written to."""

    def picture(self, index: int) -> int:
        """Number of the item's picture; items that share a picture share its number."""
        return index


class ClassificationSet(ImageSet):
    """One class per picture, of ``classes``, whose names stand in the order of their ids."""

    task = "classification"
    classes: tuple[str, ...]
    _labels: NDArray[np.int64]
    """(N,) class ids, set by readers."""

    def __len__(self) -> int:
        return len(self._labels)

    def label(self, index: int) -> int:
        """Class id of an item, 0..C - 1."""
        return int(self._labels[index])

    def item(self, index: int, pixels: NDArray[np.uint8]) -> dict[str, Any]:
        """``image`` (3, H, W) uint8 and ``label``."""
        return {"image": as_image(pixels), "label": self.label(index)}


class SegmentationSet(ImageSet):
    """One class per pixel.

    Attributes:
        classes: names, in the order of their ids.
        palette: an RGB colour per class, or empty.
        labelled: whether there are masks; test splits have none.
        notes: what was put right in the labels.
    """

    task = "segmentation"
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...] = ()
    labelled: bool = True
    notes: tuple[Note, ...] = ()

    @abstractmethod
    def mask(self, index: int) -> NDArray[np.uint8]:
        """(H, W) uint8: class ids 0..C - 1, or ``IGNORE``; a ``DataError`` where it cannot be read so."""

    def mask_file(self, index: int) -> str:
        """What to call the item's mask in messages."""
        return self.file(index)

    def item(self, index: int, pixels: NDArray[np.uint8]) -> dict[str, Any]:
        """``image`` (3, H, W) uint8 and, where there are labels, ``mask`` (H, W) uint8."""
        item: dict[str, Any] = {"image": as_image(pixels)}
        if self.labelled:
            mask = self.mask(index)
            if mask.shape != pixels.shape[:2]:
                ours, wanted = mask.shape[::-1], (pixels.shape[1], pixels.shape[0])
                raise DataError(
                    f"{self.mask_file(index)}: the mask is {ours[0]} x {ours[1]} pixels, its picture "
                    f"{self.file(index)} is {wanted[0]} x {wanted[1]}; they must have one size: "
                    f"{size_advice(ours, wanted)}"
                )
            item["mask"] = tv_tensors.Mask(torch.from_numpy(mask))
        return item


def size_advice(mask: tuple[int, int], picture: tuple[int, int]) -> str:
    """What to do about a mask of another (width, height) than the upright picture; resize only what keeps its shape."""
    if mask == (picture[1], picture[0]):
        return (
            "the sides are swapped: the mask was drawn on the picture as it is stored (EXIF orientation) or turned by "
            "hand; turn the mask by 90 degrees, and do not resize it"
        )
    across, down = mask[0] / picture[0], mask[1] / picture[1]
    # Shapes that differ by no more than 2% are equal but for rounding.
    if min(mask) < 1 or abs(across / down - 1) > 0.02:
        return (
            "the shapes differ too, so one of both was cut or turned, or the mask belongs to another picture: find the "
            "mask that was drawn on this picture, or draw it again, and do not resize it"
        )
    return f"resize the mask to {picture[0]} x {picture[1]} by nearest neighbour only, or save it so again"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Person:
    """One labelled person, or one detected box.

    Attributes:
        image_id: number of the picture in the annotation file.
        person_id: number of the annotation; -1 for a detection.
        box: (4,) (x, y, width, height) in picture pixels, as it goes to ``box_to_crop``: float64 for a labelled
            person, float32 for a detection.
        keypoints: (K, 3) float64 (x, y, v) in picture pixels, v = 0 not labelled, 1 hidden, 2 visible; all 0 for
            a detection.
        area: of the person's mask in square pixels; 0 where unknown.
        score: 1 for a labelled person, else the detector's.
        category_id: of the annotation file.
    """

    image_id: int
    person_id: int
    box: NDArray[np.floating]
    keypoints: NDArray[np.float64]
    area: float = 0.0
    score: float = 1.0
    category_id: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Note:
    """Something odd in the labels that was put right: one sentence, which names the file.

    ``kind`` is a short name that stays the same between versions, such as "no-area".
    """

    kind: str
    text: str


class PoseSet(ImageSet):
    """One person per item; several items may share a picture.

    Attributes:
        skeleton: joints in the order of the file.
        annotations: file with the labels; None where there are none.
        image_ids: numbers in the file of all pictures of the part, those without people too, in the order of
            :meth:`picture`; None where there is no file.
        notes: what was put right in the labels.
    """

    task = "pose"
    skeleton: Skeleton
    annotations: Path | None = None
    image_ids: tuple[int, ...] | None = None
    notes: tuple[Note, ...] = ()

    @abstractmethod
    def person(self, index: int) -> Person:
        """Labels of an item."""

    def truth(self) -> Path | Mapping[str, Any] | None:
        """What scores compare with: COCO's annotations as a file or its content; None where there are no labels."""
        return self.annotations

    def item(self, index: int, pixels: NDArray[np.uint8]) -> dict[str, Any]:
        """``image`` (3, H, W) uint8, ``keypoints`` (K, 2), ``visible`` (K,) with flags 0, 1, 2, and ``box`` (4,).

        Joints and flags are float32; the box is (x, y, width, height) of the person's precision, a plain tensor.
        """
        person, (height, width) = self.person(index), pixels.shape[:2]
        points = torch.from_numpy(person.keypoints.astype(np.float32))
        return {
            "image": as_image(pixels),
            "keypoints": tv_tensors.KeyPoints(points[:, :2], canvas_size=(height, width)),
            "visible": points[:, 2].clone(),
            "box": torch.from_numpy(person.box),
        }


def names_of(source: ImageSet) -> tuple[str, ...]:
    """Names of a set's classes or joints, in its order."""
    if isinstance(source, PoseSet):
        return source.skeleton.keypoints
    assert isinstance(source, ClassificationSet | SegmentationSet)
    return source.classes


def as_image(pixels: NDArray[np.uint8]) -> tv_tensors.Image:
    """(H, W, 3) array as a (3, H, W) tv_tensor over the same memory."""
    if not pixels.flags.writeable:
        # A cache is shared; torch would warn that writing to it is undefined, and nobody here writes.
        pixels = pixels.copy()
    return tv_tensors.Image(torch.from_numpy(pixels).permute(2, 0, 1))


def as_pixels(image: torch.Tensor) -> NDArray[np.uint8]:
    """(3, H, W) tensor as an (H, W, 3) array for OpenCV and Pillow; no copy if it came from :func:`as_image`."""
    return np.ascontiguousarray(image.as_subclass(torch.Tensor).permute(1, 2, 0).numpy())
