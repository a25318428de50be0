"""Sizes at which segmentation networks see a picture, multi-scale fusion, sliding windows, and the way back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import reduce

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

ELONGATED = 16
"""Pictures longer than so many times their short side are not enlarged as others: a line would become an acre."""

_CHUNK_ELEMENTS = 1 << 22
"""Logits resized at once: 16 MiB of float32, so that 150 classes on a large photograph fit in memory."""


def short_side_size(size: tuple[int, int], short: int = 520) -> tuple[int, int]:
    """(width, height) in pixels after bringing the short side to ``short`` with the aspect ratio kept.

    Each is rounded as Python does (halves to even), and at least 1; ValueError for a size that is not above 0.
    """
    if len(size) != 2 or min(size) < 1 or short < 1:
        raise ValueError(f"size must be (width, height) and short a length, all above 0; got {size} and {short}")
    ratio = short / min(size)
    return round(size[0] * ratio), round(size[1] * ratio)


def scaled_size(size: tuple[int, int], scale: float) -> tuple[int, int]:
    """(height, width) times ``scale``, rounded down; ValueError where nothing would be left of a side."""
    height, width = int(size[0] * scale), int(size[1] * scale)
    if height < 1 or width < 1:
        raise ValueError(f"{size[0]} x {size[1]} pixels (height x width) at scale {scale} leave nothing")
    return height, width


def pad_to_multiple(x: Tensor, multiple: int = 8) -> Tensor:
    """Pad (..., H, W) on the right and at the bottom with 0 until both sides are multiples of ``multiple``.

    0 is the mean colour of a normalised picture. ``x`` is returned as it is if it fits; ValueError where ``multiple``
    is not above 0 or ``x`` has fewer than two dimensions.
    """
    if multiple < 1 or x.ndim < 2:
        raise ValueError(f"need (..., H, W) and a multiple above 0, got {tuple(x.shape)} and {multiple}")
    below, right = -x.shape[-2] % multiple, -x.shape[-1] % multiple
    return F.pad(x, (0, right, 0, below)) if below or right else x


def fuse_scales(
    model: Callable[[Tensor], Tensor], x: Tensor, scales: Sequence[float] = (1.0,), flip: bool = False
) -> Tensor:
    """Sum of raw logits over scales and mirror images: the official multi-scale test.

    Every scaled input is resized from ``x``, every output back to the size of ``x``; both bilinear with
    ``align_corners=True``. Logits are summed as they are: neither probabilities nor a mean.

    Args:
        model: maps (B, 3, h, w) to logits (B, C, h', w') of any size.
        x: (B, 3, H, W) normalised and padded network input.
        scales: factors on H and W, see :func:`scaled_size`.
        flip: add the mirrored picture's logits at every scale.

    Returns:
        (B, C, H, W) logits. The caller cuts the padding off and resizes to the original picture.

    Raises:
        ValueError: ``x`` is not four-dimensional, there is no scale, or a scale leaves nothing.
    """
    if x.ndim != 4 or not scales:
        raise ValueError(f"need (B, 3, H, W) and at least one scale, got {tuple(x.shape)} and {scales}")
    height, width = x.shape[2:]

    def logits_at(scale: float) -> Tensor:
        scaled = _resized(x, scaled_size((height, width), scale))
        logits = _resized(model(scaled), (height, width))
        return logits + _resized(model(scaled.flip(-1)), (height, width)).flip(-1) if flip else logits

    return reduce(torch.add, map(logits_at, scales))


def fuse_windows(
    model: Callable[[Tensor], Tensor], x: Tensor, window: tuple[int, int], stride: tuple[int, int]
) -> Tensor:
    """Run a network window by window; where windows overlap, their logits are averaged.

    Args:
        model: maps (B, 3, h, w) to logits (B, C, h, w); all windows have one size.
        x: (B, 3, H, W) normalised and padded network input.
        window: see :func:`sliding_windows`, as for ``stride`` and errors.

    Returns:
        (B, C, H, W) logits.
    """
    total = torch.zeros(0)
    cover = x.new_zeros(x.shape[2:], dtype=torch.float32)
    for y0, x0, y1, x1 in sliding_windows((x.shape[2], x.shape[3]), window, stride):
        logits = model(x[:, :, y0:y1, x0:x1])
        if total.ndim == 1:
            total = logits.new_zeros((*logits.shape[:2], *x.shape[2:]))
        total[:, :, y0:y1, x0:x1] += logits
        cover[y0:y1, x0:x1] += 1
    return total / cover


def sliding_windows(
    size: tuple[int, int], window: tuple[int, int], stride: tuple[int, int]
) -> list[tuple[int, int, int, int]]:
    """Windows that cover a picture; the last of each row and column is moved back to end at the border.

    Args:
        size: (height, width) of the picture.
        window: (height, width) of a window; cut to the picture where that is smaller.
        stride: (down, right) step, at most the window so that nothing is left out.

    Returns:
        (y0, x0, y1, x1) row by row, ends not included, all of the same size. ValueError where a number is not above 0
        or a stride is larger than its window.
    """
    if min(*size, *window, *stride) < 1:
        raise ValueError(f"size, window and stride must be above 0, got {size}, {window} and {stride}")
    if stride[0] > window[0] or stride[1] > window[1]:
        raise ValueError(f"stride {stride} must not exceed the window {window}: pixels would be left out")
    rows, columns = _spans(size[0], window[0], stride[0]), _spans(size[1], window[1], stride[1])
    return [(y0, x0, y1, x1) for y0, y1 in rows for x0, x1 in columns]


def _spans(length: int, window: int, stride: int) -> list[tuple[int, int]]:
    last = max(length - window, 0)
    starts = [*range(0, last, stride), last]
    return [(start, min(start + window, length)) for start in starts]


def _resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear, corners aligned; nothing to do at the right size already."""
    return x if x.shape[2:] == size else F.interpolate(x, size=size, mode="bilinear", align_corners=True)


def blend_windows(
    model: Callable[..., Tensor], size: tuple[int, int], window: tuple[int, int], picture: tuple[int, int]
) -> Tensor:
    """Classes of a picture window by window, without ever holding its logits as a whole.

    Windows overlap by a quarter, at most 128 pixels, and a window's weight falls towards its edges, so that no seams
    are seen; :func:`fuse_windows`, of the published tests, weighs all pixels alike.

    Args:
        model: called with (y0, x0, y1, x1), a window of the network input; gives its logits (C, y1 - y0, x1 - x0).
        size: (height, width) of the network input; ValueError where it or ``window`` is not above 0.
        window: (height, width), cut to the network input.
        picture: (width, height) of the picture.

    Returns:
        (height, width) int32 class ids of the picture. In memory are the logits of one row of windows.
    """
    stride = (window[0] - min(window[0] // 4, 128), window[1] - min(window[1] // 4, 128))
    windows = sliding_windows(size, window, stride)
    tops, lefts = (sorted({place[axis] for place in windows}) for axis in (0, 1))
    height, width = windows[0][2] - windows[0][0], windows[0][3] - windows[0][1]
    down, across = _shares(tops, height, size[0]), _shares(lefts, width, size[1])

    def bands() -> Iterator[Tensor]:
        rows = torch.zeros(0)
        for top, below in zip(tops, [*tops[1:], size[0]], strict=True):
            for left in lefts:
                logits = model(top, left, top + height, left + width)
                if rows.ndim == 1:
                    rows = logits.new_zeros((len(logits), height, size[1]))
                rows[:, :, left : left + width] += logits * (down[top][:, None] * across[left]).to(logits)
            # The next row of windows adds nothing above its own top.
            yield rows[:, : below - top]
            rows = F.pad(rows[:, below - top :], (0, 0, 0, below - top))

    return _labels(bands(), size[0], picture)


def _shares(starts: list[int], window: int, length: int) -> dict[int, Tensor]:
    """Share of each window in each of its pixels, by where it starts: a ramp from both ends, over the sum of all."""
    ramp = torch.arange(1, window + 1, dtype=torch.float64)
    ramp = torch.minimum(ramp, ramp.flip(0))
    total = torch.zeros(length, dtype=torch.float64)
    for start in starts:
        total[start : start + window] += ramp
    return {start: ramp / total[start : start + window] for start in starts}


def _labels(bands: Iterable[Tensor], length: int, picture: tuple[int, int]) -> Tensor:
    """Best class of each pixel of a picture, from logits in bands (C, n, w) of ``length`` rows in all, from the top."""
    width, height = picture
    kept = torch.zeros(0)
    labels: list[Tensor] = []
    first = done = 0
    for band in bands:
        kept = torch.cat([kept, band], dim=1) if kept.ndim > 1 else band
        step = max(1, _CHUNK_ELEMENTS // (len(band) * width))
        while done < height:
            lines = torch.arange(done, min(done + step, height), dtype=torch.float64)
            # Where the picture's rows lie among those of the logits; OpenCV and PyTorch agree on it.
            places = (lines + 0.5) * (length / height) - 0.5
            above = places.floor().long()
            count = int(((above + 2).clamp(max=length - 1) < first + kept.shape[1]).sum())
            if not count:
                break
            around = [(above[:count] + offset).clamp(0, length - 1) - first for offset in (-1, 0, 1, 2)]
            part = kept[:, around[1]] if length == height else _cubic(kept, around, (places - above)[:count].to(kept))
            if part.shape[2] != width:
                part = F.interpolate(part[None], size=(count, width), mode="bicubic", align_corners=False)[0]
            labels.append(part.max(dim=0).indices.int())
            done += count
        unused = int((done + 0.5) * (length / height) - 0.5) - 2 - first
        unused = min(max(unused, 0), kept.shape[1])
        kept, first = kept[:, unused:], first + unused
    return torch.cat(labels)


def _cubic(rows: Tensor, around: list[Tensor], t: Tensor) -> Tensor:
    """Rows a share ``t`` behind the second of the four around, by the cubic of ``cv2.INTER_CUBIC`` (a = -0.75)."""
    first, *others = _cubic_shares(t)
    total = rows[:, around[0]] * first[:, None]
    for place, weight in zip(around[1:], others, strict=True):
        total.addcmul_(rows[:, place], weight[:, None])
    return total


def _cubic_shares(t: Tensor) -> list[Tensor]:
    """Shares of the four values around a place that lies ``t`` behind the second."""
    a = -0.75
    outer = [((a * x - 5 * a) * x + 8 * a) * x - 4 * a for x in (t + 1, 2 - t)]
    inner = [((a + 2) * x - (a + 3)) * x * x + 1 for x in (t, 1 - t)]
    return [outer[0], *inner, outer[1]]


def resize_cubic(x: Tensor, size: tuple[int, int]) -> Tensor:
    """(..., h, w) floating point to ``size`` (height, width) as ``cv2.INTER_CUBIC`` and :func:`best_classes` do it.

    By moved copies: ONNX Runtime's own cubic resizing takes ten times as long.
    """
    for axis in (1, 0):  # columns while there are few rows
        old, new = x.shape[axis - 2], size[axis]
        # Places in whole numbers and remainders, which stay exact for any length.
        steps = (2 * torch.arange(new, device=x.device) + 1) * old - new
        before = steps // (2 * new)
        shares = _cubic_shares((steps - before * (2 * new)).to(x.dtype) / (2 * new))
        parts = [
            x.index_select(axis - 2, (before + offset).clamp(0, old - 1)) * (share if axis else share[:, None])
            for offset, share in zip((-1, 0, 1, 2), shares, strict=True)
        ]
        x = parts[0] + parts[1] + parts[2] + parts[3]
    return x


@torch.inference_mode()
def best_classes(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize logits (C, h, w) to the picture, bicubic as ``cv2.INTER_CUBIC``, and take the best class of each pixel.

    For ``size`` (width, height) that is (height, width) int32 on the same device. The lowest id wins a tie.
    """
    return _labels([logits.float()], logits.shape[1], size)


def label_map(logits: Tensor, size: tuple[int, int]) -> NDArray[np.unsignedinteger]:
    """:func:`best_classes` as an array, see :func:`smallest_ids`."""
    return smallest_ids(best_classes(logits, size), len(logits))


def smallest_ids(ids: Tensor, num_classes: int) -> NDArray[np.unsignedinteger]:
    """Class ids as uint8 for up to 256 classes, else uint16."""
    return ids.cpu().numpy().astype(np.uint8 if num_classes <= 256 else np.uint16)
