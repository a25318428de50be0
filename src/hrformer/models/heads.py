"""Task heads. Each reads channels and strides from the backbone's feature list, never from constants."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hrformer.models.blocks import Bottleneck, batch_norm, conv_bn_relu
from hrformer.models.fusion import resize_bilinear
from hrformer.models.trunk import FeatureInfo

Features = dict[str, Tensor]


def _size(x: Tensor) -> tuple[int, int]:
    return x.shape[-2], x.shape[-1]


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassificationConfig:
    """Shape of the classification head; the defaults are the published ones.

    Attributes:
        planes: of the bottleneck on the first feature, doubled for each further one (32, 64, 128, 256).
        width: channels before pooling.
        depthwise: depthwise 3x3 convolutions (HRFormer) or full ones (HRNet).
        drop_rate: dropout before the linear layer.
    """

    planes: int = 32
    width: int = 2048
    depthwise: bool = True
    drop_rate: float = 0.0

    def __post_init__(self) -> None:
        if self.planes < 1 or self.width < 1:
            raise ValueError(f"head_planes and head_width must be at least 1, got {self.planes} and {self.width}")
        if not 0 <= self.drop_rate < 1:
            raise ValueError(f"drop_rate must lie in [0, 1), got {self.drop_rate}")


class ClassificationHead(nn.Module):
    """Bottlenecks per feature, merged from fine to coarse, pooled, linear (HRFormer and HRNet repositories).

    Args:
        features: the backbone's list, finest first.
        num_classes: 0 leaves out the linear layer.
        config: shape.
    """

    def __init__(self, features: Sequence[FeatureInfo], num_classes: int, config: ClassificationConfig) -> None:
        super().__init__()
        self.names = [f.name for f in features]
        self.num_features = config.width
        self.drop_rate = config.drop_rate
        # Strides that double give equal sizes by themselves; those of other backbones may not.
        self.uneven = any(b.stride != 2 * a.stride for a, b in itertools.pairwise(features))
        planes = [config.planes * 2**i for i in range(len(features))]
        widths = [p * Bottleneck.expansion for p in planes]
        self.incre_modules = nn.ModuleList(
            nn.Sequential(Bottleneck(f.channels, p, depthwise=config.depthwise))
            for f, p in zip(features, planes, strict=True)
        )
        steps = [max(b.stride // a.stride, 1) for a, b in itertools.pairwise(features)]
        self.downsamp_modules = nn.ModuleList(
            self._merge(widths[i], widths[i + 1], step, config.depthwise) for i, step in enumerate(steps)
        )
        self.final_layer = nn.Sequential(*conv_bn_relu(widths[-1], config.width, bias=True))
        self.classifier = nn.Linear(config.width, num_classes) if num_classes > 0 else nn.Identity()

    @staticmethod
    def _merge(in_channels: int, out_channels: int, stride: int, depthwise: bool) -> nn.Sequential:
        if depthwise:
            return nn.Sequential(
                nn.Conv2d(in_channels, in_channels, 3, stride, 1, groups=in_channels),
                batch_norm(in_channels),
                *conv_bn_relu(in_channels, out_channels, bias=True),
            )
        return nn.Sequential(*conv_bn_relu(in_channels, out_channels, 3, stride=stride, bias=True))

    def forward_features(self, features: Features) -> Tensor:
        """Named maps -> (B, width, H / s, W / s), s the coarsest stride."""
        return self.merge([features[name] for name in self.names])

    def merge(self, maps: list[Tensor]) -> Tensor:
        """The same from a list, finest first."""
        ys: list[Tensor] = []
        for i, incre in enumerate(self.incre_modules):
            ys.append(incre(maps[i]))
        y = ys[0]
        for i, down in enumerate(self.downsamp_modules):
            y = down(y)
            if self.uneven:
                y = resize_bilinear(y, _size(ys[i + 1]), align_corners=False)
            y = ys[i + 1] + y
        return self.final_layer(y)

    def classify(self, x: Tensor) -> Tensor:
        """(B, width) -> logits (B, num_classes)."""
        return self.classifier(F.dropout(x, self.drop_rate, self.training))

    def forward(self, features: Features, image_size: tuple[int, int]) -> Tensor:
        """Named maps -> logits (B, num_classes)."""
        return self.classify(self.forward_features(features).mean((2, 3)))


class PoseHead(nn.Module):
    """One 1x1 convolution to heatmaps at stride 4; no deconvolution, no sigmoid.

    Published models have it on the finest branch alone. A backbone that publishes several maps has them
    resized to stride 4 and concatenated first.

    Args:
        features: the backbone's list.
        num_keypoints: K.
    """

    stride = 4

    def __init__(self, features: Sequence[FeatureInfo], num_keypoints: int) -> None:
        super().__init__()
        self.names = [f.name for f in features]
        self.final_layer = nn.Conv2d(sum(f.channels for f in features), num_keypoints, 1)

    def forward(self, features: Features, image_size: tuple[int, int]) -> Tensor:
        """Named maps -> heatmaps (B, K, ceil(H / 4), ceil(W / 4)); ``image_size`` is (H, W)."""
        # Rounded up, written as convolutions give it: the compiler then sees that the finest map has this size.
        size = ((image_size[0] - 1) // self.stride + 1, (image_size[1] - 1) // self.stride + 1)
        maps = [features[name] for name in self.names]
        maps = [m if _size(m) == size else resize_bilinear(m, size, align_corners=False) for m in maps]
        return self.final_layer(maps[0] if len(maps) == 1 else torch.cat(maps, 1))


@dataclass(frozen=True, kw_only=True, slots=True)
class OCRConfig:
    """Shape of the OCR head; the defaults are HRFormer's and openseg's.

    Attributes:
        channels: of pixel features and object regions.
        key_channels: of the object attention.
        aux_channels: hidden width of the auxiliary head; None keeps the input width, as HRNet's repository and
            openseg's first HRNet-W48 model do.
        aux_kernel: of the auxiliary head's first convolution: 3, or 1 in HRNet's repository.
        attention_bias: the attention's and the merge's convolutions carry a bias; not in HRNet's repository.
        dropout: channel dropout after merging.
    """

    channels: int = 512
    key_channels: int = 256
    aux_channels: int | None = 512
    aux_kernel: int = 3
    attention_bias: bool = True
    dropout: float = 0.05

    def __post_init__(self) -> None:
        widths = (self.channels, self.key_channels)
        if min(widths) < 1:
            raise ValueError(f"ocr_channels and ocr_key_channels must be at least 1, got {widths[0]} and {widths[1]}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), got {self.dropout}")


class ObjectAttention(nn.Module):
    """Attention from pixels to object regions (Yuan et al., ECCV 2020, section 3.2).

    Args:
        channels: of pixel features and regions.
        key_channels: of query, key and value.
        bias: the 1x1 convolutions carry a bias although BN follows (openseg, HRFormer), or none (HRNet).
    """

    def __init__(self, channels: int, key_channels: int, *, bias: bool = True) -> None:
        super().__init__()
        self.scale = key_channels**-0.5

        def two(width: int) -> nn.Sequential:
            first = conv_bn_relu(width, key_channels, bias=bias)
            return nn.Sequential(*first, *conv_bn_relu(key_channels, key_channels, bias=bias))

        self.pixel = two(channels)
        self.object = two(channels)
        self.value = nn.Sequential(*conv_bn_relu(channels, key_channels, bias=bias))
        self.up = nn.Sequential(*conv_bn_relu(key_channels, channels, bias=bias))

    def forward(self, pixels: Tensor, regions: Tensor) -> Tensor:
        """Pixels (B, C, H, W), regions (B, C, R, 1) -> context (B, C, H, W)."""
        query = self.pixel(pixels).flatten(2).transpose(1, 2)  # (B, HW, key)
        key = self.object(regions).flatten(2)  # (B, key, R)
        value = self.value(regions).flatten(2).transpose(1, 2)  # (B, R, key)
        weights = (torch.matmul(query, key) * self.scale).softmax(-1)
        context = torch.matmul(weights, value).transpose(1, 2)
        return self.up(context.reshape(pixels.shape[0], -1, *_size(pixels)))


class OCRHead(nn.Module):
    """Object-contextual representations with an auxiliary output ("v2" of the released numbers).

    Args:
        features: the backbone's list; all maps are resized to the first and concatenated.
        num_classes: of both outputs.
        config: shape.

    Attributes:
        align_corners: of every resizing; False in mmsegmentation alone.
    """

    def __init__(self, features: Sequence[FeatureInfo], num_classes: int, config: OCRConfig) -> None:
        super().__init__()
        self.names = [f.name for f in features]
        self.align_corners = True
        width = sum(f.channels for f in features)
        aux = config.aux_channels or width
        bias = config.attention_bias
        self.aux = nn.Sequential(
            *conv_bn_relu(width, aux, config.aux_kernel, bias=True), nn.Conv2d(aux, num_classes, 1)
        )
        self.pixel = nn.Sequential(*conv_bn_relu(width, config.channels, 3, bias=True))
        self.attention = ObjectAttention(config.channels, config.key_channels, bias=bias)
        self.merge = nn.Sequential(
            *conv_bn_relu(2 * config.channels, config.channels, bias=bias), nn.Dropout2d(config.dropout)
        )
        self.classifier = nn.Conv2d(config.channels, num_classes, 1)

    @staticmethod
    def gather(pixels: Tensor, logits: Tensor) -> Tensor:
        """Weighted mean of pixel features per class: (B, C, H, W), (B, R, H, W) -> (B, C, R, 1)."""
        weights = logits.flatten(2).softmax(-1)  # over all pixels
        regions = torch.matmul(weights, pixels.flatten(2).transpose(1, 2))  # (B, R, C)
        return regions.transpose(1, 2).unsqueeze(3)

    def forward(self, features: Features, image_size: tuple[int, int]) -> Tensor | tuple[Tensor, Tensor]:
        """Named maps -> logits (B, R, H, W) at ``image_size``; in training (auxiliary, main)."""
        maps = [features[name] for name in self.names]
        aligned = self.align_corners
        x = torch.cat(maps[:1] + [resize_bilinear(m, _size(maps[0]), align_corners=aligned) for m in maps[1:]], 1)
        aux = self.aux(x)
        pixels = self.pixel(x)
        context = self.attention(pixels, self.gather(pixels, aux))
        main = self.classifier(self.merge(torch.cat([context, pixels], 1)))
        main = resize_bilinear(main, image_size, align_corners=aligned)
        if not self.training:
            return main
        return resize_bilinear(aux, image_size, align_corners=aligned), main


class FCNHead(nn.Module):
    """Two 1x1 convolutions on the concatenated maps: HRNetV2 without OCR (HRNet-Semantic-Segmentation).

    Args:
        features: the backbone's list; all maps are resized to the first and concatenated.
        num_classes: R.

    Attributes:
        align_corners: of every resizing. The repository's runs use what its fusion units use, so
            ``VisionModel.set_upsample`` sets both.
    """

    def __init__(self, features: Sequence[FeatureInfo], num_classes: int) -> None:
        super().__init__()
        self.names = [f.name for f in features]
        self.align_corners = False
        width = sum(f.channels for f in features)
        self.last_layer = nn.Sequential(*conv_bn_relu(width, width, bias=True), nn.Conv2d(width, num_classes, 1))

    def forward(self, features: Features, image_size: tuple[int, int]) -> Tensor:
        """Named maps -> logits (B, R, H, W) at ``image_size``, in training too: there is no auxiliary output."""
        maps = [features[name] for name in self.names]
        aligned = self.align_corners
        maps = maps[:1] + [resize_bilinear(m, _size(maps[0]), align_corners=aligned) for m in maps[1:]]
        return resize_bilinear(self.last_layer(torch.cat(maps, 1)), image_size, align_corners=aligned)
