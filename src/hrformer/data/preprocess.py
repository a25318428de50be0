"""What happens to a picture before the network: crops, resizing, normalisation. Pictures are (H, W, 3) uint8 RGB,
or (H, W, 4) with alpha for networks that take it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from torch import Tensor

from hrformer.geometry.affine import crop_batch, crop_matrix
from hrformer.geometry.boxes import box_to_crop
from hrformer.geometry.input_spec import InputSpec
from hrformer.geometry.tiles import ELONGATED

_OPENCV_FILTERS = {"nearest": cv2.INTER_NEAREST, "bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC}
# Pillow's filters widen where pictures are shrunk.
_PILLOW_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "antialiased": Image.Resampling.BILINEAR,
}

SAMPLES = 4
"""Bilinear samples per direction whose mean is a pixel of an antialiased crop."""

_AT_ONCE = 16  # people cut out on a device in one call

SOFTEST = 0.35
"""Least share of its size to which augmentation shrinks a picture before it enlarges it again."""


def crop_people(
    pixels: NDArray[np.uint8], boxes_xywh: ArrayLike, spec: InputSpec, *, udp: bool = False
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32]]:
    """Cut people out of a picture by :func:`warp`: bilinear or antialiased, black outside. The reference path.

    Args:
        pixels: (H, W, 3) picture.
        boxes_xywh: (N, 4) boxes (x, y, width, height) in picture pixels; grown by 1.25 here.
        spec: its ``size`` is the crop's, and its ``interpolation`` says whether that is antialiased.
        udp: see :func:`crop_matrix`.

    Returns:
        Crops (N, height, width, 3) uint8; middle (N, 2) and (width, height) (N, 2) of each padded box, picture pixels.

    Raises:
        ValueError: a box has no extent or holds values that are not finite.
    """
    height, width = spec.size
    centers, sizes = box_to_crop(boxes_xywh, aspect=width / height)
    crops = np.empty((len(centers), height, width, pixels.shape[2]), dtype=np.uint8)
    for row, (center, size) in enumerate(zip(centers, sizes, strict=True)):
        matrix = crop_matrix(center, size, (width, height), udp=udp)
        crops[row] = warp(pixels, matrix, (width, height), antialiased=spec.interpolation == "antialiased")
    return crops, centers, sizes


def warp(
    pixels: NDArray[np.uint8], matrix: NDArray[np.float64], size: tuple[int, int], *, antialiased: bool = False
) -> NDArray[np.uint8]:
    """Move a picture (H, W, 3) by a (2, 3) matrix to a crop of (width, height): bilinear, black outside.

    OpenCV 5 interpolates exactly, version 4 at positions rounded to 1/32 pixel. With ``antialiased`` each pixel of the
    crop is the mean of ``SAMPLES`` x ``SAMPLES`` such samples, spread evenly over its area.
    """
    if antialiased:
        fine = cv2.warpAffine(pixels, _finer(matrix), (SAMPLES * size[0], SAMPLES * size[1]), flags=cv2.INTER_LINEAR)
        return np.asarray(cv2.resize(fine, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    return np.asarray(cv2.warpAffine(pixels, matrix, size, flags=cv2.INTER_LINEAR), dtype=np.uint8)


def _finer(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """(..., 2, 3) to a crop with ``SAMPLES`` times as many pixels a side, whose outer edges are the same."""
    finer = matrix * SAMPLES
    finer[..., 2] += (SAMPLES - 1) / 2
    return finer


def crop_people_on_device(
    pixels: NDArray[np.uint8], boxes_xywh: ArrayLike, spec: InputSpec, device: torch.device, *, udp: bool = False
) -> tuple[Tensor, NDArray[np.float32], NDArray[np.float32]]:
    """:func:`crop_people` by ``grid_sample`` on ``device``, where the crops stay.

    All people in one call; antialiased ``_AT_ONCE``, so that a crowd does not take gigabytes.
    """
    height, width = spec.size
    centers, sizes = box_to_crop(boxes_xywh, aspect=width / height)
    if not len(centers):
        return torch.empty((0, height, width, 3), dtype=torch.uint8, device=device), centers, sizes
    matrices = np.stack(
        [crop_matrix(center, size, (width, height), udp=udp) for center, size in zip(centers, sizes, strict=True)]
    )
    planes = torch.from_numpy(pixels).to(device).permute(2, 0, 1)
    if spec.interpolation == "antialiased":
        size = SAMPLES * width, SAMPLES * height
        parts = [_finer(matrices[start : start + _AT_ONCE]) for start in range(0, len(matrices), _AT_ONCE)]
        means = torch.cat([F.avg_pool2d(crop_batch(planes, part, size), SAMPLES) for part in parts])
        crops = means.round()  # halves to even, as OpenCV
    else:
        crops = crop_batch(planes, matrices, (width, height))
    return crops.to(torch.uint8).permute(0, 2, 3, 1), centers, sizes


def centre_crop(pixels: NDArray[np.uint8], spec: InputSpec) -> NDArray[np.uint8]:
    """Resize the short side and cut out the middle, as ImageNet models are tested.

    Pillow resizes (its filters widen when shrinking, OpenCV's do not), because the training code behind the
    published figures used it. The short side becomes ``floor(crop / crop_ratio)``, timm's rounding, 256 for 224.

    ``spec.size``, ``crop_ratio`` and ``interpolation`` are used; ``pixels`` are (H, W, 3) of any size.
    """
    height, width = pixels.shape[:2]
    (new_height, new_width), (top, left) = centre_plan((height, width), spec)
    bottom, right = top + spec.size[0], left + spec.size[1]
    picture, filter_ = Image.fromarray(pixels), _PILLOW_FILTERS[spec.interpolation]
    if max(height, width) <= ELONGATED * min(height, width):
        return np.asarray(picture.resize((new_width, new_height), filter_))[top:bottom, left:right]
    # The whole would take up to a gigabyte; the part alone is rounded otherwise by at most 1 of 255.
    x, y = width / new_width, height / new_height
    return np.asarray(picture.resize(spec.size[::-1], filter_, box=(left * x, top * y, right * x, bottom * y)))


def centre_plan(size: tuple[int, int], spec: InputSpec) -> tuple[tuple[int, int], tuple[int, int]]:
    """(height, width) that :func:`centre_crop` brings a picture of ``size`` to, and the crop's (top, left) in there.

    Whole numbers without a condition, so that a graph for any size can hold the same arithmetic.
    """
    (height, width), (rows, columns) = size, (math.floor(side / spec.crop_ratio) for side in spec.size)
    # The side that needs the larger factor hits its target; the other follows, cut off like torchvision does.
    new: Any = torch.sym_max(rows, columns * height // width), torch.sym_max(columns, rows * width // height)
    # Half of what is left over, halves to even.
    top, left = ((rest := side - kept) // 2 + rest % 4 // 3 for side, kept in zip(new, spec.size, strict=True))
    return new, (top, left)


def resize(values: NDArray[np.uint8], size: tuple[int, int], interpolation: str) -> NDArray[np.uint8]:
    """Resize a picture (H, W, 3) or a mask (H, W) to (width, height); as it is where it has that size.

    ``interpolation`` is "nearest", "bilinear" or "bicubic", by OpenCV, or "antialiased", by Pillow.
    """
    if size == (values.shape[1], values.shape[0]):
        return values
    if interpolation == "antialiased":
        return np.asarray(Image.fromarray(values).resize(size, _PILLOW_FILTERS[interpolation]))
    return np.asarray(cv2.resize(values, size, interpolation=_OPENCV_FILTERS[interpolation]), dtype=np.uint8)


def softened(pixels: NDArray[np.uint8], factor: float) -> NDArray[np.uint8]:
    """(H, W, 3) shrunk by ``factor`` in (0, 1], a side of at least one pixel, and enlarged to its size again."""
    height, width = pixels.shape[:2]
    small = max(round(width * factor), 1), max(round(height * factor), 1)
    shrunk = cv2.resize(pixels, small, interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(shrunk, (width, height), interpolation=cv2.INTER_LINEAR), dtype=np.uint8)


def draw_wear(soften: float, grey: float, random: Callable[[], float]) -> tuple[float, bool]:
    """What happens to a crop with these probabilities: a factor for ``softened``, and whether it becomes grey.

    ``random`` draws from [0, 1); it is not called for what never happens.
    """
    sharpness = SOFTEST + (1 - SOFTEST) * random() if soften > 0 and random() < soften else 1.0
    return sharpness, grey > 0 and random() < grey


def worn(pixels: NDArray[np.uint8], sharpness: float, grey: bool) -> NDArray[np.uint8]:
    """(H, W, 3 or 4) uint8 RGB softened by ``sharpness``, and without its colours if ``grey``."""
    if sharpness != 1:
        pixels = softened(pixels, sharpness)
    if grey:
        light = cv2.cvtColor(np.ascontiguousarray(pixels[..., :3]), cv2.COLOR_RGB2GRAY)
        pixels = pixels.copy()
        pixels[..., :3] = light[..., None]
    return pixels


def normalise(pixels: Tensor, spec: InputSpec) -> Tensor:
    """RGB bytes (B, H, W, 3) as the network's input; see :func:`normalise_planes`."""
    return normalise_planes(pixels.permute(0, 3, 1, 2), spec)


def normalise_planes(
    planes: Tensor, spec: InputSpec, memory_format: torch.memory_format = torch.contiguous_format
) -> Tensor:
    """Turn RGB bytes into the network's input: ``(pixels / 255 - mean) / std``.

    Args:
        planes: (B, 3, H, W) uint8, RGB, or (B, 4, H, W) with alpha, on any device.
        spec: channel order, mean and std. With "BGR" the channels are swapped first, and mean and std apply to the
            swapped channels in the order given. For one channel pictures become grey by Pillow's weights; for four,
            pictures without alpha are opaque.
        memory_format: of the result.

    Returns:
        (B, C, H, W) float32 on the same device, with as many channels as ``spec`` has means.

    Raises:
        ValueError: pictures cannot be made into so many channels.
    """
    wanted = len(spec.mean)
    if wanted not in (1, 3, 4):
        raise ValueError(f"the model takes {wanted} channels; pictures have 1 (grey), 3 (RGB) or 4 (RGB and alpha)")
    colours, alpha = planes[:, :3], planes[:, 3:]
    if wanted == 1:
        red, green, blue = colours.int().unbind(1)
        # ITU-R 601-2 in 16 bits, as Pillow's convert("L").
        planes = ((19595 * red + 38470 * green + 7471 * blue + 32768) >> 16)[:, None]
    else:
        planes = colours.flip(1) if spec.channel_order == "BGR" else colours
    if wanted == 4:
        planes = torch.cat([planes, alpha if alpha.shape[1] else torch.full_like(planes[:, :1], 255)], dim=1)
    mean, std = (torch.tensor(values, device=planes.device).view(1, -1, 1, 1) for values in (spec.mean, spec.std))
    return planes.to(torch.float32, memory_format=memory_format).div_(255).sub_(mean).div_(std)
