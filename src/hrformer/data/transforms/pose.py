"""Crops of people, with heatmaps to learn from or without.

Everything random about an item is drawn first, as :class:`PoseParams`, and then applied to picture and joints at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from hrformer.data.order import mixed_seed
from hrformer.data.preprocess import crop_people, draw_wear, warp, worn
from hrformer.data.set_types import as_image, as_pixels
from hrformer.data.transforms.settings import PoseAugment
from hrformer.geometry.affine import crop_matrix, transform_points
from hrformer.geometry.boxes import BOX_PADDING, box_to_crop
from hrformer.geometry.flips import flip_keypoints
from hrformer.geometry.input_spec import InputSpec
from hrformer.geometry.skeletons import Skeleton

HALF_BODY_PADDING = 1.5
"""How much larger the crop is than the box around the joints of one half of the body (HRNet's value)."""

UPPER_SHARE = 0.7  # mmpose: probability of preferring the upper half
Item = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PoseParams:
    """What was drawn for one person."""

    flip: bool  # whether the picture is mirrored, before it is cropped
    center: NDArray[np.float32]  # (2,) middle of the crop, (x, y) in pixels of the picture as it was, not mirrored
    size: NDArray[np.float32]  # (2,) (width, height) of the crop in picture pixels, padded, of the crop's aspect ratio
    rotation: float  # degrees by which the crop's box is turned in the (mirrored) picture, see ``crop_matrix``
    gain: float = 1.0  # factor on the pixel values
    sharpness: float = 1.0  # share of its size to which the crop is shrunk before it is enlarged again
    grey: bool = False  # whether its colours are taken away
    bottom: int | None = None  # row at which the picture ends, below which there is nothing; None for all of it


class TrainPose:
    """Cuts a person out with a random place, size, angle and mirroring, and draws the target heatmaps.

    Draws come from numpy's global generator, but for the official code's centre jitter: it is drawn once when the
    data set is built, hence here from a generator seeded with the item's number. Of the skeleton the flip pairs count,
    and the upper body, without which there is no half-body augmentation.
    """

    def __init__(self, settings: PoseAugment, skeleton: Skeleton) -> None:
        if settings.brightness > 1:
            raise ValueError(f"augment.brightness must lie in [0, 1], got {settings.brightness}")
        self.settings, self.skeleton, self.codec = settings, skeleton, settings.codec()
        self._upper = np.isin(np.arange(skeleton.num_keypoints), skeleton.upper_body)

    def __call__(self, item: Item) -> Item:
        """Draw and :meth:`apply`; items are those of ``PoseSet.item``, with ``index``."""
        return self.apply(item, self.make_params(item))

    def make_params(self, item: Mapping[str, Any]) -> PoseParams:
        """Draw for one item, in the order of the code that ``style`` names."""
        settings = self.settings
        box, joints = item["box"].numpy(), _joints(item)
        shift = self._official_shift(int(item["index"])) if settings.style == "official" else np.zeros(2)
        # HRNet draws it last.
        flip = settings.style != "hrnet" and np.random.rand() < settings.flip
        padding, middle = BOX_PADDING, None
        half = self._draw_half(joints[:, 2] > 0)
        if half is not None and np.ptp(joints[half, :2], axis=0).any():
            low, high = joints[half, :2].min(axis=0), joints[half, :2].max(axis=0)
            box, padding, middle = np.concatenate([low, high - low]), HALF_BODY_PADDING, joints[half, :2].mean(axis=0)
        bottom = self._draw_bottom(joints)
        if bottom is not None:
            shown = joints[(joints[:, 2] > 0) & (joints[:, 1] < bottom), :2]
            low = shown.min(axis=0)
            box = np.concatenate([low, [np.ptp(shown[:, 0]), bottom - low[1]]])
            padding, middle = HALF_BODY_PADDING, None
        centers, sizes = box_to_crop(box[None], aspect=settings.size[1] / settings.size[0], padding=padding)
        # The crop of half a body is around its own joints, whatever the jitter of the box was.
        center = centers[0] + shift * box[2:] if middle is None else middle
        shift, factor, rotation = self._draw_change()
        center = center + shift * padding * box[2:]
        if settings.style == "hrnet":
            flip = np.random.rand() < settings.flip
        gain = 1 + settings.brightness * (2 * np.random.rand() - 1) if settings.brightness else 1.0
        sharpness, grey = draw_wear(settings.soften, settings.grey, np.random.rand)
        return PoseParams(
            flip=bool(flip),
            center=np.asarray(center, dtype=np.float32),
            size=(sizes[0] * factor).astype(np.float32),
            rotation=rotation,
            gain=gain,
            sharpness=sharpness,
            grey=grey,
            bottom=bottom,
        )

    def apply(self, item: Mapping[str, Any], params: PoseParams) -> Item:
        """Do what was drawn.

        Returns:
            ``image`` (3, h, w) uint8, ``targets`` (K, h/4, w/4) float32, ``weights`` (K,) float32 (0 for joints that
            are not labelled or too far outside the crop), ``index``.
        """
        pixels, joints, center = as_pixels(item["image"]), _joints(item), params.center
        if params.bottom is not None:
            pixels = pixels[: params.bottom]
            joints[joints[:, 1] >= params.bottom, 2] = 0
        if params.flip:
            width, pairs = pixels.shape[1], self.skeleton.flip_pairs
            pixels = np.asarray(cv2.flip(pixels, 1), dtype=np.uint8)
            joints, center = flip_keypoints(joints, width, pairs), flip_keypoints(center[None], width, ())[0]
        height, width = self.settings.size
        matrix = crop_matrix(center, params.size, (width, height), params.rotation, udp=self.codec.decoder == "udp")
        crop = warp(pixels, matrix, (width, height), antialiased=self.settings.interpolation == "antialiased")
        crop = worn(crop, params.sharpness, params.grey)
        if params.gain != 1:
            crop = np.asarray(cv2.convertScaleAbs(crop, alpha=params.gain), dtype=np.uint8)
        targets, weights = self.codec.encode(transform_points(joints[:, :2], matrix)[None], joints[None, :, 2])
        return {
            "image": as_image(crop),
            "targets": torch.from_numpy(targets[0]),
            "weights": torch.from_numpy(weights[0]),
            "index": item["index"],
        }

    def _official_shift(self, index: int) -> NDArray[np.float64]:
        """(2,) centre jitter as a share of the box."""
        settings = self.settings
        draw = np.random.default_rng(mixed_seed(index)).random if settings.shift_once else np.random.random
        if draw() >= settings.shift_probability:
            return np.zeros(2)
        return settings.shift * (2 * draw(2) - 1)

    def _draw_half(self, visible: NDArray[np.bool_]) -> NDArray[np.intp] | None:
        """Numbers of the labelled joints of one half of the body, or None for all of it."""
        settings = self.settings
        if not self.skeleton.upper_body or visible.sum() <= settings.half_body_joints:
            return None
        if np.random.rand() >= settings.half_body:
            return None
        upper, lower = np.flatnonzero(visible & self._upper), np.flatnonzero(visible & ~self._upper)
        if settings.style == "mmpose":
            chosen = upper if np.random.rand() < UPPER_SHARE else lower
            if len(lower) < 3:
                chosen = upper
            elif len(upper) < 2:
                chosen = lower
        else:
            # A normal draw, so that 69 % are upper halves: the codes of HRNet and HRFormer do so.
            chosen = upper if (np.random.randn() < 0.5 and len(upper) > 2) or len(lower) <= 2 else lower
        return chosen if len(chosen) >= 2 else None

    def _draw_bottom(self, joints: NDArray[np.float32]) -> int | None:
        """Row between the middle of the upper half and the top of the lower one, if the person stands or sits."""
        if not self.settings.portrait or np.random.rand() >= self.settings.portrait:
            return None
        visible = joints[:, 2] > 0
        upper, lower = joints[visible & self._upper, 1], joints[visible & ~self._upper, 1]
        if len(upper) < 3 or not len(lower) or lower.min() <= upper.mean() + 1:
            return None
        bottom = round(np.random.uniform(upper.mean(), lower.min()))
        return bottom if bottom > 0 and (upper < bottom).sum() >= 2 else None

    def _draw_change(self) -> tuple[NDArray[np.float64], float, float]:
        """Centre jitter (2,) as a share of the padded box before it got its aspect ratio, factor on the crop's size,
        and degrees."""
        settings, shift = self.settings, np.zeros(2)
        scale, rotation = settings.scale, settings.rotation
        if settings.style == "mmpose":
            draws = _truncated_normal(4)
            if np.random.rand() < settings.shift_probability:
                shift = draws[:2] * settings.shift
            factor, degrees = 1 + scale * draws[2], rotation * draws[3]
        else:
            factor = float(np.clip(np.random.randn() * scale + 1, 1 - scale, 1 + scale))
            degrees = float(np.clip(np.random.randn() * rotation, -2 * rotation, 2 * rotation))
        return shift, factor, degrees if np.random.rand() < settings.rotation_probability else 0.0


def prepare_person(item: Item, spec: InputSpec, udp: bool = False) -> Item:
    """In tests: a person of ``PoseSet.item`` cut out as :class:`PosePredictor` does; ``udp`` as in :func:`crop_matrix`.

    Returns:
        ``image`` (3, h, w) uint8 of ``spec.size``, ``index``, and ``center`` and ``size`` (2,) float32 of the padded
        box in picture pixels, which ``cells_to_image`` needs.
    """
    crops, centers, sizes = crop_people(as_pixels(item["image"]), item["box"].numpy()[None], spec, udp=udp)
    padded = {"center": torch.from_numpy(centers[0]), "size": torch.from_numpy(sizes[0])}
    return {"image": as_image(crops[0]), **padded, "index": item["index"]}


def _joints(item: Mapping[str, Any]) -> NDArray[np.float32]:
    """(K, 3) of x, y and flag."""
    points = item["keypoints"].as_subclass(torch.Tensor).numpy()
    return np.concatenate([points, item["visible"].numpy()[:, None]], axis=1)


def _truncated_normal(count: int) -> NDArray[np.float64]:
    """Standard normal draws that lie in [-1, 1]."""
    kept = np.empty(0)
    while len(kept) < count:
        draws = np.random.randn(2 * count)
        kept = np.concatenate([kept, draws[np.abs(draws) <= 1]])
    return kept[:count]
