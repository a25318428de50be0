"""Sizes at which segmentation networks see a picture, multi-scale fusion, sliding windows, and the way back."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from hrformer.geometry.flips import flip_image

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


def pad_to_multiple(x: Tensor, multiple: int = 8, value: float = 0.0) -> Tensor:
    """Pad on the right and at the bottom until both sides are multiples of ``multiple``.

    Args:
        x: (..., H, W) normalised picture, so that the default 0 is the mean colour; returned as it is if it fits.
        multiple: in pixels.
        value: what to pad with.

    Raises:
        ValueError: ``multiple`` is not above 0 or ``x`` has fewer than two dimensions.
    """
    if multiple < 1 or x.ndim < 2:
        raise ValueError(f"need (..., H, W) and a multiple above 0, got {tuple(x.shape)} and {multiple}")
    below, right = -x.shape[-2] % multiple, -x.shape[-1] % multiple
    return F.pad(x, (0, right, 0, below), value=value) if below or right else x


def fuse_scales(
    model: Callable[[Tensor], Tensor], x: Tensor, scales: Sequence[float] = (1.0,), flip: bool = False
) -> Tensor:
    """Sum of raw logits over scales and mirror images: the official multi-scale test.

    Every scaled input is resized from ``x``, every output back to the size of ``x``; both bilinear
    with ``align_corners=True``. Logits are summed as they are: neither probabilities nor a mean.

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
    total: Tensor | None = None
    for scale in scales:
        scaled = _resized(x, scaled_size((height, width), scale))
        logits = _resized(model(scaled), (height, width))
        if flip:
            logits = logits + flip_image(_resized(model(flip_image(scaled)), (height, width)))
        total = logits if total is None else total + logits
    assert total is not None
    return total


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
    total: Tensor | None = None
    cover = x.new_zeros(x.shape[2:], dtype=torch.float32)
    for y0, x0, y1, x1 in sliding_windows((x.shape[2], x.shape[3]), window, stride):
        logits = model(x[:, :, y0:y1, x0:x1])
        if total is None:
            total = logits.new_zeros((*logits.shape[:2], *x.shape[2:]))
        total[:, :, y0:y1, x0:x1] += logits
        cover[y0:y1, x0:x1] += 1
    assert total is not None
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
        (y0, x0, y1, x1) row by row, ends not included, all of the same size.

    Raises:
        ValueError: a number is not above 0 or a stride is larger than its window.
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
    model: Callable[[int, int, int, int], Tensor],
    size: tuple[int, int],
    window: tuple[int, int],
    picture: tuple[int, int],
) -> Tensor:
    """Classes of a picture window by window, without ever holding its logits as a whole.

    Windows overlap by a quarter, at most 128 pixels, and a window's weight falls towards its edges, so that no seams
    are seen; :func:`fuse_windows`, of the published tests, weighs all pixels alike.

    Args:
        model: called with (y0, x0, y1, x1), a window of the network input; gives its logits (C, y1 - y0, x1 - x0).
        size: (height, width) of the network input.
        window: (height, width), cut to the network input.
        picture: (width, height) of the picture.

    Returns:
        (height, width) int32 class ids of the picture. In memory are the logits of one row of windows.

    Raises:
        ValueError: a size is not above 0.
    """
    windows = sliding_windows(
        size, window, (window[0] - min(window[0] // 4, 128), window[1] - min(window[1] // 4, 128))
    )
    tops, lefts = (sorted({place[axis] for place in windows}) for axis in (0, 1))
    height, width = windows[0][2] - windows[0][0], windows[0][3] - windows[0][1]
    down, across = _shares(tops, height, size[0]), _shares(lefts, width, size[1])
    labels: _LabelRows | None = None
    rows = torch.zeros(0)
    for top, below in zip(tops, [*tops[1:], size[0]], strict=True):
        for left in lefts:
            logits = model(top, left, top + height, left + width)
            if labels is None:
                labels = _LabelRows(size, picture, logits.device)
                rows = logits.new_zeros((len(logits), height, size[1]))
            share = (down[top][:, None] * across[left]).to(logits)
            rows[:, :, left : left + width] += logits * share
        assert labels is not None
        # The next row of windows adds nothing above its own top.
        labels.add(rows[:, : below - top])
        rows = torch.cat([rows[:, below - top :], rows.new_zeros((len(rows), below - top, size[1]))], dim=1)
    assert labels is not None
    return labels.ids


def _shares(starts: list[int], window: int, length: int) -> dict[int, Tensor]:
    """Share of each window in each of its pixels, by where it starts: a ramp from both ends, over the sum of all."""
    ramp = torch.arange(1, window + 1, dtype=torch.float64)
    ramp = torch.minimum(ramp, ramp.flip(0))
    total = torch.zeros(length, dtype=torch.float64)
    for start in starts:
        total[start : start + window] += ramp
    return {start: ramp / total[start : start + window] for start in starts}


class _LabelRows:
    """Takes logits from top to bottom and keeps the best class of each pixel of the picture."""

    def __init__(self, size: tuple[int, int], picture: tuple[int, int], device: torch.device) -> None:
        self.height, self.picture = size[0], picture
        self.ids = torch.zeros((picture[1], picture[0]), dtype=torch.int32, device=device)
        self._kept: Tensor | None = None
        self._first = self._done = 0

    def add(self, rows: Tensor) -> None:
        """Take the next rows (C, n, w) and label what lies in their reach."""
        width, height = self.picture
        kept = rows if self._kept is None else torch.cat([self._kept, rows], dim=1)
        ready = self._first + kept.shape[1]
        step = max(1, _CHUNK_ELEMENTS // (len(rows) * width))
        while self._done < height:
            lines = torch.arange(self._done, min(self._done + step, height), dtype=torch.float64)
            # Where the picture's rows lie among those of the logits; OpenCV and PyTorch agree on it.
            places = (lines + 0.5) * (self.height / height) - 0.5
            above = places.floor().long()
            fits = (above + 2).clamp(max=self.height - 1) < ready
            count = int(fits.sum())
            if not count:
                break
            part = self._between(kept, above[:count], (places - above)[:count].to(kept))
            if part.shape[2] != width:
                part = F.interpolate(part[None], size=(count, width), mode="bicubic", align_corners=False)[0]
            self.ids[self._done : self._done + count] = part.max(dim=0).indices
            self._done += count
        first = int((self._done + 0.5) * (self.height / height) - 0.5) - 2
        unused = min(max(first - self._first, 0), kept.shape[1])
        self._kept, self._first = kept[:, unused:], self._first + unused

    def _between(self, kept: Tensor, above: Tensor, t: Tensor) -> Tensor:
        """Rows between rows, by the cubic of ``cv2.INTER_CUBIC`` (a = -0.75)."""
        if self.height == self.picture[1]:
            return kept[:, above - self._first]
        a, far = -0.75, (t + 1, t, 1 - t, 2 - t)
        outer = [((a * x - 5 * a) * x + 8 * a) * x - 4 * a for x in (far[0], far[3])]
        inner = [((a + 2) * x - (a + 3)) * x * x + 1 for x in (far[1], far[2])]
        total = torch.zeros(0)
        for offset, weight in zip((-1, 0, 1, 2), (outer[0], *inner, outer[1]), strict=True):
            taken = kept[:, (above + offset).clamp(0, self.height - 1) - self._first]
            total = taken * weight[:, None] if offset == -1 else total.addcmul_(taken, weight[:, None])
        return total


@torch.inference_mode()
def best_classes(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize logits to the picture, bicubic as ``cv2.INTER_CUBIC``, and take the best class of each pixel.

    Args:
        logits: (C, h, w) on any device.
        size: (width, height) of the picture.

    Returns:
        (height, width) int32 class ids on the same device. The lowest id wins a tie.
    """
    labels = _LabelRows((logits.shape[1], logits.shape[2]), size, logits.device)
    labels.add(logits.float())
    return labels.ids


def label_map(logits: Tensor, size: tuple[int, int]) -> NDArray[np.unsignedinteger]:
    """:func:`best_classes` as an array, see :func:`smallest_ids`."""
    return smallest_ids(best_classes(logits, size), len(logits))


def smallest_ids(ids: Tensor, num_classes: int) -> NDArray[np.unsignedinteger]:
    """Class ids as uint8 for up to 256 classes, else uint16."""
    return ids.cpu().numpy().astype(np.uint8 if num_classes <= 256 else np.uint16)
