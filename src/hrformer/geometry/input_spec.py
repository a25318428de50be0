"""What a set of weights expects of its input: the one home of size, statistics and channel order."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, get_args

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

ChannelOrder = Literal["RGB", "BGR"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "antialiased"]


@dataclass(frozen=True, kw_only=True, slots=True)
class InputSpec:
    """Input contract of one set of weights.

    Attributes:
        size: (height, width) in pixels. Classification: the centre crop. Pose: the person crop. Segmentation: the
            training crop; its shorter side is the side test images are resized to.
        mean: Per-channel mean subtracted from pixels in [0, 1], in the order of the tensor's channels; their number
            is the number of channels: 1 is grey, 3 RGB, 4 RGB and alpha. The default is ImageNet's, as all published
            weights use.
        std: Per-channel standard deviation, same order and range.
        channel_order: Order of the tensor's channels. Official segmentation weights want "BGR" with the statistics
            left in RGB order (HRFormer repository, ``seg/``).
        interpolation: Filter used when test images are resized. "antialiased" is bilinear with a filter that widens
            where pictures are shrunk, so that fine patterns of large photographs do not become coarse ones of the
            input; no published protocol of pose or segmentation has it. Pose: of the crop, which is otherwise bilinear.
        crop_ratio: Classification only: the centre crop's share of the resized short side, in (0, 1].
    """

    size: tuple[int, int] = (224, 224)
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    channel_order: ChannelOrder = "RGB"
    interpolation: Interpolation = "bilinear"
    crop_ratio: float = 0.875

    def __post_init__(self) -> None:
        if len(self.size) != 2 or min(self.size) < 1:
            raise ValueError(f"size must be (height, width) in positive pixels, got {self.size}")
        if not self.mean or len(self.mean) != len(self.std) or min(self.std) <= 0:
            raise ValueError(
                f"mean and std need a value per channel, std above 0; got mean={self.mean}, std={self.std}"
            )
        if self.channel_order not in ("RGB", "BGR"):
            raise ValueError(f"channel_order must be 'RGB' or 'BGR', got {self.channel_order!r}")
        if self.interpolation not in get_args(Interpolation):
            raise ValueError(f"interpolation must be one of {get_args(Interpolation)}, got {self.interpolation!r}")
        if not 0 < self.crop_ratio <= 1:
            raise ValueError(f"crop_ratio must lie in (0, 1], got {self.crop_ratio}")

    def for_channels(self, number: int) -> InputSpec:
        """This contract for another number of channels.

        Grey takes the mean of all channels' statistics, as timm does; channels beyond are taken to lie around 0.5.
        """
        if number == len(self.mean):
            return self
        if number == 1:
            return replace(self, mean=(sum(self.mean) / len(self.mean),), std=(sum(self.std) / len(self.std),))
        more = (0.5,) * number
        return replace(self, mean=(*self.mean, *more)[:number], std=(*self.std, *more)[:number])

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; ``from_dict`` reads it back."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> InputSpec:
        """Rebuild from ``to_dict`` output; ValueError for a key that is unknown and a value that is out of range."""
        known = {f.name for f in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ValueError(f"unknown InputSpec field(s) {unknown}; known: {sorted(known)}")
        arguments: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**arguments)
