"""One Gaussian per joint, and back: the heatmap codecs of HRNet and HRFormer, and mmpose's DARK and UDP.

N people, K joints, h and w rows and columns of the heatmap. Points are (x, y).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

Decoder = Literal["official", "mmpose", "dark", "udp"]
DECODERS: tuple[Decoder, ...] = get_args(Decoder)


@dataclass(frozen=True, kw_only=True, slots=True)
class HeatmapCodec:
    """Turns joints into training targets and network outputs into joints.

    Attributes:
        input_size: (height, width) of the crop in pixels.
        heatmap_size: (height, width) of the maps in cells; left out, a quarter of the input rounded up, which is what
            the stride-4 networks return.
        sigma: standard deviation of the Gaussians in cells. Published weights were trained with 2 at 256x192 and 3 at
            384x288.
        decoder: how a peak is refined, see :meth:`decode`. "dark" and "udp" also draw their Gaussians around the
            joint itself rather than its cell, and the cells of "udp" are steps between pixel centres: the first and
            last cell are the first and last pixel.
        blur_kernel: odd size in cells of the blur before "dark" and "udp": 11 for sigma 2, 17 for sigma 3.
    """

    input_size: tuple[int, int] = (256, 192)
    heatmap_size: tuple[int, int] = (0, 0)
    sigma: float = 2.0
    decoder: Decoder = "official"
    blur_kernel: int = 11

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
        check_decoder(self.decoder, self.blur_kernel)

    @property
    def steps(self) -> tuple[int, int]:
        """(height, width) of the map in the unit of its cells, as :func:`cells_to_image` wants it."""
        height, width = self.heatmap_size
        return (height - 1, width - 1) if self.decoder == "udp" else (height, width)

    def encode(self, keypoints: ArrayLike, visible: ArrayLike) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Target maps: a Gaussian of peak 1 and radius 3 sigma around each joint's cell.

        The cell is ``int(x / stride + 0.5)``, truncated toward zero. A joint whose patch lies wholly outside has
        weight 0, but with the gap of the reference codes: a patch that ends one cell left of or above the map keeps
        weight 1 over an empty map. "dark" fills the map without a radius.

        Args:
            keypoints: (N, K, 2) in crop pixels.
            visible: (N, K); joints at 0.5 or above are drawn, so COCO's flags 1 and 2 both are.

        Returns:
            Targets, (N, K, h, w) float32 in [0, 1], and weights, (N, K) float32, 1 or 0. ValueError where shapes do
            not fit together or a visible joint is not finite.
        """
        points, shown = np.asarray(keypoints, dtype=np.float32), np.asarray(visible) >= 0.5
        if points.ndim != 3 or points.shape[2] != 2 or shown.shape != points.shape[:2]:
            raise ValueError(f"keypoints must be (N, K, 2) and visible (N, K), got {points.shape} and {shown.shape}")
        if not np.isfinite(points[shown]).all():
            raise ValueError("a visible joint has coordinates that are not finite")
        radius: float = int(3 * self.sigma + 0.5)
        height, width = self.heatmap_size
        size = np.subtract(self.input_size, self.decoder == "udp")
        stride = (size / self.steps).astype(np.float32)[::-1]
        # Far outside is far outside: the clip only keeps the conversion to integers defined.
        exact = np.clip(np.where(shown[..., None], points, 0) / stride, -1e6, 1e6)
        cells = (exact + np.float32(0.5)).astype(np.int64)
        dark = self.decoder == "dark"
        patch, reach = (exact, 3 * self.sigma) if dark else (cells, radius)
        touches = (patch - reach < (width, height)) & (patch + reach + 1 >= 0)
        weights = (shown & touches.all(axis=2)).astype(np.float32)
        middle = exact if dark or self.decoder == "udp" else cells
        radius = np.inf if dark else radius
        across = self._bell(middle[..., 0], cells[..., 0], width, radius)
        down = self._bell(middle[..., 1], cells[..., 1], height, radius) * weights[..., None]
        return down[..., :, None] * across[..., None, :], weights

    def _bell(
        self, middle: NDArray[np.number], cells: NDArray[np.int64], length: int, radius: float
    ) -> NDArray[np.float32]:
        """(N, K, length) one-dimensional Gaussians, 0 where more than ``radius`` away from the cell."""
        places = np.arange(length)
        distance = (places - middle[..., None]).astype(np.float32)
        curve = np.exp(-(distance**2) / np.float32(2 * self.sigma**2))
        return np.where(np.abs(places - cells[..., None]) <= radius, curve, np.float32(0))

    @torch.no_grad()
    def decode(self, heatmaps: Tensor) -> tuple[Tensor, Tensor]:
        """Cell of each map's maximum, refined.

        The first maximum in reading order counts. "official" and "mmpose" move it a quarter cell towards the larger
        neighbour: "official" where 1 < x < w - 1 and 1 < y < h - 1; "mmpose" moves x if 1 < x < w - 1 and y > 0,
        y if 1 < y < h - 1 and x > 0. "dark" and "udp" go to the top of a Gaussian through the blurred map's logarithm,
        by mmpose 1.x's ``refine_keypoints_dark`` (two cells or more inside the map) and ``refine_keypoints_dark_udp``.
        A map without a positive value gives cell (-1, -1).

        Args:
            heatmaps: (N, K, h, w) on any device, which is not waited for.

        Returns:
            Cells, (N, K, 2) float32 (x, y), and scores, (N, K) float32: each map's maximum, also where it is not
            positive. ValueError for maps that are not of ``heatmap_size``.
        """
        if heatmaps.ndim != 4 or tuple(heatmaps.shape[2:]) != tuple(self.heatmap_size):
            raise ValueError(
                f"heatmaps must be (N, K, {self.heatmap_size[0]}, {self.heatmap_size[1]}), got {tuple(heatmaps.shape)}"
            )
        width = self.heatmap_size[1]
        flat = heatmaps.float().flatten(2)
        peak = flat.argmax(dim=2, keepdim=True)
        scores = flat.gather(2, peak)
        place = torch.cat([peak % width, peak // width], dim=2)
        x, y = place.unbind(2)
        if self.decoder in ("dark", "udp"):
            step = self._newton_step(heatmaps, x, y).float()
        else:
            step = self._quarter_step(flat, peak, x, y)
        return (place + step).where(scores > 0, -1.0), scores.squeeze(2)

    def _quarter_step(self, flat: Tensor, peak: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """(N, K, 2) from cell (x, y), number ``peak`` of a flat map, a quarter cell towards its larger neighbours."""
        height, width = self.heatmap_size
        around = torch.cat([peak + 1, peak - 1, peak + width, peak - width], dim=2).clamp(0, height * width - 1)
        right, left, below, above = flat.gather(2, around).unbind(2)
        inside_x, inside_y = (x > 1) & (x < width - 1), (y > 1) & (y < height - 1)
        if self.decoder == "official":
            move_x = move_y = inside_x & inside_y
        else:
            move_x, move_y = inside_x & (y > 0), inside_y & (x > 0)
        # Comparisons rather than the sign of a difference: two infinite neighbours give 0, not NaN.
        step_x = ((right > left).float() - (right < left).float()) * 0.25 * move_x
        step_y = ((below > above).float() - (below < above).float()) * 0.25 * move_y
        return torch.stack([step_x, step_y], dim=2)

    def _newton_step(self, maps: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """(N, K, 2) from cell (x, y) to where the parabola through the blurred map's logarithm is highest."""
        height, width = self.heatmap_size
        udp = self.decoder == "udp"
        # Near a flat top the step magnifies rounding; Apple's GPUs know no double precision.
        blurred = _blur(maps.float() if maps.device.type == "mps" else maps.double(), self.blur_kernel)
        logs = (blurred.clamp(1e-3, 50) if udp else blurred.clamp(min=1e-10)).log().flatten(2)

        def at(right: int, down: int) -> Tensor:
            place = (y + down).clamp(0, height - 1) * width + (x + right).clamp(0, width - 1)
            return logs.gather(2, place[..., None])[..., 0]

        middle = at(0, 0)
        dx, dy = (at(1, 0) - at(-1, 0)) / 2, (at(0, 1) - at(0, -1)) / 2
        if udp:
            eps = torch.finfo(torch.float32).eps
            dxx, dyy = at(1, 0) - 2 * middle + at(-1, 0) + eps, at(0, 1) - 2 * middle + at(0, -1) + eps
            dxy = at(1, 1) - at(1, 0) - at(0, 1) + 2 * middle - at(-1, 0) - at(0, -1) + at(-1, -1)
            dxy, moves = dxy / 2, torch.ones_like(middle, dtype=torch.bool)
        else:
            dxx, dyy = (at(2, 0) - 2 * middle + at(-2, 0)) / 4, (at(0, 2) - 2 * middle + at(0, -2)) / 4
            dxy = (at(1, 1) - at(1, -1) - at(-1, 1) + at(-1, -1)) / 4
            moves = (x > 1) & (x < width - 2) & (y > 1) & (y < height - 2)
        determinant = dxx * dyy - dxy**2
        step = torch.stack([dxy * dy - dyy * dx, dxy * dx - dxx * dy], dim=2) / determinant[..., None]
        return step.where((moves & (determinant != 0))[..., None], 0.0)


def check_decoder(decoder: str, blur_kernel: int) -> None:
    """ValueError for a decoder that is not known, or a kernel that is not odd and above 1."""
    if decoder not in DECODERS:
        raise ValueError(f"decoder must be one of {', '.join(DECODERS)}, got {decoder!r}")
    if blur_kernel < 3 or blur_kernel % 2 == 0:
        raise ValueError(f"blur_kernel must be an odd number of cells above 1, got {blur_kernel}")


def _blur(maps: Tensor, size: int) -> Tensor:
    """Gaussian blur as OpenCV does it, zeros outside, each map scaled back to its old maximum."""
    short = {3: (1, 2, 1), 5: (1, 4, 6, 4, 1), 7: (2, 7, 14, 18, 14, 7, 2)}
    sigma = 0.3 * ((size - 1) / 2 - 1) + 0.8
    weights = np.array(short.get(size, np.exp(-((np.arange(size) - size // 2) ** 2) / (2 * sigma**2))))
    taps = (weights / weights.sum()).tolist()
    height, width = maps.shape[2:]
    padded = F.pad(maps, (size // 2,) * 4)
    # Sums of moved maps: a convolution on a GPU may round to 10-bit mantissas.
    rows = sum((tap * padded[:, :, i : i + height] for i, tap in enumerate(taps)), torch.zeros(()).to(maps))
    both = sum((tap * rows[..., i : i + width] for i, tap in enumerate(taps)), torch.zeros(()).to(maps))
    return both * (maps.amax(dim=(2, 3), keepdim=True) / both.amax(dim=(2, 3), keepdim=True))


def cells_to_image(
    cells: NDArray[np.floating] | Tensor, centers: ArrayLike, sizes: ArrayLike, heatmap_size: tuple[int, int]
) -> NDArray[np.floating]:
    """Heatmap cells to picture pixels: ``cell * size / heatmap size + center - size / 2``.

    Args:
        cells: (N, K, 2) from :meth:`HeatmapCodec.decode`. Cell (-1, -1) of a joint that was not found is mapped like
            any other, to one cell outside the crop's top-left corner.
        centers: (N, 2) middle of each padded box, (x, y) in picture pixels.
        sizes: (N, 2) padded (width, height) in picture pixels.
        heatmap_size: (height, width) in cells, :attr:`HeatmapCodec.steps`.

    Returns:
        (N, K, 2) in the dtype of ``cells``. ValueError where shapes do not fit together.
    """
    places = np.asarray(cells)
    if places.ndim != 3 or places.shape[2] != 2 or not np.issubdtype(places.dtype, np.floating):
        raise ValueError(f"cells must be floating point (N, K, 2), got {places.shape} {places.dtype}")
    if len(heatmap_size) != 2 or min(heatmap_size) < 1:
        raise ValueError(f"heatmap_size must be (height, width) in positive cells, got {heatmap_size}")
    middle, extent = np.asarray(centers, places.dtype), np.asarray(sizes, places.dtype)
    if not middle.shape == extent.shape == (len(places), 2):
        raise ValueError(f"centers and sizes must be {len(places), 2}, got {middle.shape} and {extent.shape}")
    return cells_in_picture(places, middle, extent, np.array(heatmap_size[::-1], places.dtype))


def cells_in_picture(cells: Any, centers: Any, sizes: Any, steps: Any) -> Any:
    """The same for arrays or tensors that fit together; ``steps`` are (width, height) in cells."""
    return cells * (sizes / steps)[:, None] + centers[:, None] - sizes[:, None] * 0.5
