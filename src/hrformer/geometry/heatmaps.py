"""One Gaussian per joint, and back: the plain (neither DARK nor UDP) heatmap codec of HRNet and HRFormer.

N people, K joints, h and w rows and columns of the heatmap. Points are (x, y).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

BorderRule = Literal["official", "mmpose"]
Array = TypeVar("Array", NDArray[np.floating], Tensor)


@dataclass(frozen=True, kw_only=True, slots=True)
class HeatmapCodec:
    """Turns joints into training targets and network outputs into joints.

    Attributes:
        input_size: (height, width) of the crop in pixels.
        heatmap_size: (height, width) of the maps in cells; left out, a quarter of the input rounded
            up, which is what the stride-4 networks return.
        sigma: standard deviation of the Gaussians in cells. Published weights were trained with 2 at
            256x192 and 3 at 384x288.
        border: which peaks next to the border are moved by a quarter cell, see :meth:`decode`.
    """

    input_size: tuple[int, int] = (256, 192)
    heatmap_size: tuple[int, int] = (0, 0)
    sigma: float = 2.0
    border: BorderRule = "official"

    def __post_init__(self) -> None:
        if len(self.input_size) != 2 or min(self.input_size) < 1:
            raise ValueError(f"input_size must be (height, width) in positive pixels, got {self.input_size}")
        if self.heatmap_size == (0, 0):
            height, width = self.input_size
            object.__setattr__(self, "heatmap_size", (-(-height // 4), -(-width // 4)))
        if len(self.heatmap_size) != 2 or min(self.heatmap_size) < 1:
            raise ValueError(f"heatmap_size must be (height, width) in positive cells, got {self.heatmap_size}")
        if not 0 < self.sigma < np.inf:
            raise ValueError(f"sigma must be above 0 cells, got {self.sigma}")
        if self.border not in ("official", "mmpose"):
            raise ValueError(f"border must be 'official' or 'mmpose', got {self.border!r}")

    def encode(self, keypoints: ArrayLike, visible: ArrayLike) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Target maps: a Gaussian of peak 1 and radius 3 sigma around each joint's cell.

        The cell is ``int(x / stride + 0.5)``, truncated toward zero. A joint whose patch lies wholly
        outside has weight 0, but with the gap of the reference codes: a patch that ends one cell
        left of or above the map keeps weight 1 over an empty map.

        Args:
            keypoints: (N, K, 2) in crop pixels.
            visible: (N, K); joints at 0.5 or above are drawn, so COCO's flags 1 and 2 both are.

        Returns:
            targets: (N, K, h, w) float32 in [0, 1].
            weights: (N, K) float32, 1 or 0.

        Raises:
            ValueError: shapes do not fit together, or a visible joint is not finite.
        """
        points, shown = np.asarray(keypoints, dtype=np.float32), np.asarray(visible) >= 0.5
        if points.ndim != 3 or points.shape[2] != 2 or shown.shape != points.shape[:2]:
            raise ValueError(f"keypoints must be (N, K, 2) and visible (N, K), got {points.shape} and {shown.shape}")
        if not np.isfinite(points[shown]).all():
            raise ValueError("a visible joint has coordinates that are not finite")
        radius = int(3 * self.sigma + 0.5)
        height, width = self.heatmap_size
        stride = np.array([self.input_size[1] / width, self.input_size[0] / height], dtype=np.float32)
        # Far outside is far outside: the clip only keeps the conversion to integers defined.
        cells = np.clip(np.where(shown[..., None], points, 0) / stride + np.float32(0.5), -1e6, 1e6).astype(np.int64)
        touches = (cells - radius < (width, height)) & (cells + radius + 1 >= 0)
        weights = (shown & touches.all(axis=2)).astype(np.float32)
        across = self._bell(cells[..., 0], width, radius)
        down = self._bell(cells[..., 1], height, radius) * weights[..., None]
        return down[..., :, None] * across[..., None, :], weights

    def _bell(self, centers: NDArray[np.int64], length: int, radius: int) -> NDArray[np.float32]:
        """(N, K, length) one-dimensional Gaussians, 0 beyond ``radius`` cells."""
        distance = np.arange(length) - centers[..., None]
        curve = np.exp(-(distance.astype(np.float32) ** 2) / np.float32(2 * self.sigma**2))
        return np.where(np.abs(distance) <= radius, curve, np.float32(0))

    def decode(self, heatmaps: Array) -> tuple[Array, Array]:
        """Cell of each map's maximum, moved a quarter cell towards the larger neighbour.

        The first maximum in reading order counts. The border rule decides which peaks move: for
        "official" 1 < x < w - 1 and 1 < y < h - 1; for "mmpose" x moves if 1 < x < w - 1 and y > 0,
        y moves if 1 < y < h - 1 and x > 0. A map without a positive value gives cell (-1, -1).

        All maps are decoded at once on their own device, without waiting for it.

        Args:
            heatmaps: (N, K, h, w) tensor on any device, or array.

        Returns:
            cells: (N, K, 2) float32, (x, y) in cells, same kind as the input.
            scores: (N, K) float32, each map's maximum, also where it is not positive.

        Raises:
            ValueError: the maps are not (N, K) maps of ``heatmap_size``.
        """
        if heatmaps.ndim != 4 or tuple(heatmaps.shape[2:]) != tuple(self.heatmap_size):
            raise ValueError(
                f"heatmaps must be (N, K, {self.heatmap_size[0]}, {self.heatmap_size[1]}), got {tuple(heatmaps.shape)}"
            )
        if isinstance(heatmaps, Tensor):
            return self._decode(heatmaps)
        cells, scores = self._decode(torch.from_numpy(np.ascontiguousarray(heatmaps, dtype=np.float32)))
        return cells.numpy(), scores.numpy()

    @torch.no_grad()
    def _decode(self, heatmaps: Tensor) -> tuple[Tensor, Tensor]:
        height, width = self.heatmap_size
        flat = heatmaps.float().flatten(2)
        peak = flat.argmax(dim=2, keepdim=True)
        scores = flat.gather(2, peak)
        around = torch.cat([peak + 1, peak - 1, peak + width, peak - width], dim=2).clamp(0, height * width - 1)
        right, left, below, above = flat.gather(2, around).unbind(2)
        x, y = (peak % width).squeeze(2), torch.div(peak, width, rounding_mode="floor").squeeze(2)
        inside_x, inside_y = (x > 1) & (x < width - 1), (y > 1) & (y < height - 1)
        if self.border == "official":
            move_x = move_y = inside_x & inside_y
        else:
            move_x, move_y = inside_x & (y > 0), inside_y & (x > 0)
        # Comparisons rather than the sign of a difference: two infinite neighbours give 0, not NaN.
        offset_x = ((right > left).float() - (right < left).float()) * 0.25 * move_x
        offset_y = ((below > above).float() - (below < above).float()) * 0.25 * move_y
        cells = torch.stack([x + offset_x, y + offset_y], dim=2)
        return cells.where(scores > 0, -1.0), scores.squeeze(2)


def cells_to_image(
    cells: Array, centers: ArrayLike | Tensor, sizes: ArrayLike | Tensor, heatmap_size: tuple[int, int]
) -> Array:
    """Heatmap cells to picture pixels: ``cell * size / heatmap size + center - size / 2``.

    Args:
        cells: (N, K, 2) from :meth:`HeatmapCodec.decode`. Cell (-1, -1) of a joint that was not found
            is mapped like any other, to one cell outside the crop's top-left corner.
        centers: (N, 2) middle of each padded box, (x, y) in picture pixels.
        sizes: (N, 2) padded (width, height) in picture pixels.
        heatmap_size: (height, width) in cells.

    Returns:
        (N, K, 2) same kind as ``cells``, in its dtype and on its device.

    Raises:
        ValueError: shapes do not fit together.
    """
    floating = cells.is_floating_point() if isinstance(cells, Tensor) else np.issubdtype(cells.dtype, np.floating)
    if cells.ndim != 3 or cells.shape[2] != 2 or not floating:
        raise ValueError(f"cells must be floating point (N, K, 2), got {tuple(cells.shape)} {cells.dtype}")
    if len(heatmap_size) != 2 or min(heatmap_size) < 1:
        raise ValueError(f"heatmap_size must be (height, width) in positive cells, got {heatmap_size}")
    height, width = heatmap_size
    if isinstance(cells, Tensor):
        return _to_image(
            cells,
            torch.as_tensor(centers).to(cells),
            torch.as_tensor(sizes).to(cells),
            cells.new_tensor([width, height]),
        )
    dtype = cells.dtype
    return _to_image(cells, np.asarray(centers, dtype), np.asarray(sizes, dtype), np.asarray([width, height], dtype))


def _to_image(cells: Array, centers: Array, sizes: Array, grid: Array) -> Array:
    """``grid`` is the heatmap's (width, height)."""
    expected = (len(cells), 2)
    if tuple(centers.shape) != expected or tuple(sizes.shape) != expected:
        raise ValueError(f"centers and sizes must be {expected}, got {tuple(centers.shape)} and {tuple(sizes.shape)}")
    return cells * (sizes / grid)[:, None] + centers[:, None] - sizes[:, None] * 0.5
