"""Parameters of the augmentations, with the values of the published runs as defaults."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hrformer.geometry.heatmaps import Decoder, HeatmapCodec


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassificationAugment:
    """The DeiT family of augmentations, as the HRFormer repository uses it on ImageNet."""

    size: tuple[int, int] = (224, 224)  # (height, width) of the training crop
    interpolation: Literal["bilinear", "bicubic"] = "bicubic"  # of resizing
    # "random_resized" (area and ratio drawn), or "padded" (pad by ``padding``, cut ``size`` out of the enlarged picture
    # at random: small pictures).
    crop: Literal["random_resized", "padded"] = "random_resized"
    area: tuple[float, float] = (0.08, 1.0)  # share of the picture that a random resized crop covers
    ratio: tuple[float, float] = (3 / 4, 4 / 3)  # width / height of the cut-out part
    padding: int = 4  # of "padded", in pixels of the picture before enlarging
    flip: float = 0.5  # probability of mirroring
    auto_augment: str = "rand-m9-mstd0.5-inc1"  # timm's policy string, such as RandAugment's; empty for none
    erasing: float = 0.25  # probability of random erasing, with noise per pixel
    mixup: float = 0.8  # alpha; 0 for none
    cutmix: float = 1.0  # alpha; 0 for none
    mix_probability: float = 1.0  # share of the batches that are mixed
    switch_probability: float = 0.5  # of cutmix, where both are on
    label_smoothing: float = 0.1  # share of the target spread over all classes
    # probability of shrinking the training crop to between 0.35 and 1 of its size and enlarging it again, so that sharp
    # and soft, large and small pictures look alike
    soften: float = 0.0
    grey: float = 0.0  # probability of taking the training crop's colours away


@dataclass(frozen=True, kw_only=True, slots=True)
class PoseAugment:
    """The augmentations of the HRFormer repository (``style`` "official") or of mmpose 1.x."""

    size: tuple[int, int] = (256, 192)  # (height, width) of the crop
    interpolation: Literal["bilinear", "antialiased"] = "bilinear"  # of the crop, in training and after
    sigma: float = 2.0  # of the targets in cells
    # of the targets: "plain", or mmpose's "dark" and "udp" (with its crops); see ``HeatmapCodec``.
    encoding: Literal["plain", "dark", "udp"] = "plain"
    # which code's distributions and order are followed: "official", "mmpose" or "hrnet" (rotation and scale after half
    # body, flip last, no centre jitter).
    style: Literal["official", "mmpose", "hrnet"] = "official"
    shift: float = 0.2  # largest centre jitter as a share of the box (official) or the padded box (mmpose)
    shift_probability: float = 0.3  # of the jitter
    shift_once: bool = True  # official: draw the jitter once per person and run, not in every epoch
    flip: float = 0.5  # probability of mirroring
    half_body: float = 0.3  # probability of keeping only the upper or lower body
    half_body_joints: int = 8  # more than this many joints must be visible for it
    # probability that the picture ends between the middle of the upper half and the top of the lower one, as portraits
    # do; people whose lower half is not below stay whole
    portrait: float = 0.0
    # official and hrnet: standard deviation of the scale factor's normal draw, centre 1, which is clipped to ``scale``
    # on either side. mmpose: half the range of the factor
    scale: float = 0.5
    # degrees; official and hrnet: standard deviation, clipped to twice that. mmpose: half of the range
    rotation: float = 40.0
    rotation_probability: float = 0.6  # of turning at all
    # largest factor on the pixel values is 1 + brightness, the smallest 1 - brightness; 0 for none
    brightness: float = 0.0
    # probability of shrinking the training crop to between 0.35 and 1 of its size and enlarging it again, so that sharp
    # and soft, large and small pictures look alike
    soften: float = 0.0
    grey: float = 0.0  # probability of taking the training crop's colours away

    def codec(self) -> HeatmapCodec:
        """Draws the targets; the weights are decoded by it too, plain ones by mmpose's rule if trained in its style."""
        plain: Decoder = "mmpose" if self.style == "mmpose" else "official"
        decoder = plain if self.encoding == "plain" else self.encoding
        # The kernel that OpenCV takes for this sigma, as mmpose's configurations do: 11 for 2, 17 for 3.
        kernel = 2 * max(round((self.sigma - 0.8) / 0.3 + 1), 1) + 1
        return HeatmapCodec(input_size=self.size, sigma=self.sigma, decoder=decoder, blur_kernel=kernel)


@dataclass(frozen=True, kw_only=True, slots=True)
class SegmentationAugment:
    """The augmentations of the HRFormer repository's segmentation runs (openseg.pytorch)."""

    size: tuple[int, int] = (512, 1024)  # (height, width) of the training crop
    interpolation: Literal["bilinear", "bicubic", "antialiased"] = "bicubic"  # of resizing, in training and after
    short_side: int | None = None  # first bring the short side to this many pixels; None keeps the size (Cityscapes)
    scale: tuple[float, float] = (0.5, 2.0)  # range of the factor of the random resizing, uniform
    aspect: tuple[float, float] = (0.9, 1.1)  # range of the aspect factor a: width times sqrt(a), height sqrt(1 / a)
    flip: float = 0.5  # probability of mirroring
    brightness: int = 10  # largest number added to all channels, one integer for the picture; 0 for none
    contrast: float = 0.0  # largest factor on the pixel values is 1 + contrast, the smallest 1 - contrast; 0 for none
    # probability of shrinking the training crop to between 0.35 and 1 of its size and enlarging it again, so that sharp
    # and soft, large and small pictures look alike
    soften: float = 0.0
    grey: float = 0.0  # probability of taking the training crop's colours away
