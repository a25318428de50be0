"""HRFormer as a timm model: every name is registered when this module is imported.

``timm.create_model("hrformer_small", features_only=True)`` then works as for timm's own models.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import create_classifier
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models import register_notrace_module as register_leaf
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from hrformer.geometry.input_spec import IMAGENET_MEAN, IMAGENET_STD
from hrformer.layers.attention import WindowAttention
from hrformer.layers.fusion import FusionUnit
from hrformer.models.heads import ClassificationConfig, ClassificationHead
from hrformer.models.trunk import STEM_CHANNELS
from hrformer.models.zoo import VARIANTS, backbone_config, build_backbone

NAMES = tuple(name for name in VARIANTS if name.startswith("hrformer_"))

# Both choose by the size of their input, which symbolic tracing cannot follow.
register_leaf(WindowAttention)
register_leaf(FusionUnit)


class TimmHRFormer(nn.Module):
    """Classification network with timm's model interface; state-dict names equal ``create_model``'s.

    Args:
        name: one of ``NAMES``.
        num_classes: 0 leaves out the classifier.
        in_chans: channels of the input image.
        global_pool: "avg", "max", "avgmax", "catavgmax", or "" to keep the map.
        drop_rate: dropout before the classifier.
        drop_path_rate: of the last block.
        **options: ``window_size``, ``position_bias``, ``upsample``, ``mlp_ratio``; see ``create_model``.
    """

    __jit_unused_properties__ = ["no_weight_decay"]

    def __init__(
        self,
        name: str,
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__()
        config = backbone_config(name, "classification", in_chans=in_chans, drop_path_rate=drop_path_rate, **options)
        self.in_chans = in_chans
        self.num_classes = num_classes
        self.drop_rate = drop_rate
        self.backbone = build_backbone(config)
        branches = self.backbone.feature_info
        self.head = ClassificationHead(branches, num_classes, ClassificationConfig())
        self.num_features = self.head_hidden_size = self.head.num_features
        self.global_pool = create_classifier(self.num_features, num_classes, global_pool)[0]
        self.head.classifier = create_classifier(self.num_features, num_classes, global_pool)[1]
        self.feature_info = [
            {"num_chs": STEM_CHANNELS, "reduction": 2, "module": "backbone.conv1"},
            *({"num_chs": f.channels, "reduction": f.stride, "module": "backbone.stage4"} for f in branches),
        ]

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Parameter groups from input to output, for layer-wise learning rates."""
        stages = r"^backbone\.(?:layer|transition|stage)(\d)" if coarse else r"^backbone\.stage(\d)\.(\d+)"
        blocks = [(stages, None)] if coarse else [(r"^backbone\.layer1", (0,)), (stages, None)]
        if not coarse:
            blocks += [(rf"^backbone\.transition{i}", (i, 99)) for i in (1, 2, 3)]
        return {"stem": r"^backbone\.(?:conv|bn)\d", "blocks": blocks}

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Nothing beyond 1-D parameters: the published ImageNet runs decay the bias tables."""
        return set()

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute branches in the backward pass."""
        self.backbone.set_grad_checkpointing(enable)

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        """The linear layer, or an identity without classes."""
        return self.head.classifier

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier by a fresh one; "" turns pooling off."""
        self.num_classes = num_classes
        pool = self.global_pool.pool_type if global_pool is None else global_pool
        device = next(self.parameters()).device
        self.global_pool, classifier = create_classifier(self.num_features, num_classes, pool)
        self.head.classifier = classifier.to(device)

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_chans, H, W) -> (B, 2048, ceil(H / 32), ceil(W / 32))."""
        return self.head.merge(self.backbone.forward_stages(self.backbone.forward_stem(x)[1]))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pool, drop out, classify."""
        x = self.global_pool(x)
        x = F.dropout(x, self.drop_rate, self.training)
        return x if pre_logits else self.head.classifier(x)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_chans, H, W) -> logits (B, num_classes)."""
        return self.forward_head(self.forward_features(x))

    @torch.jit.ignore
    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | tuple[int, ...] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """Maps of strides 2 (stem) and 4, 8, 16, 32 (branches), and the final features.

        Args:
            x: (B, in_chans, H, W).
            indices: which of the five maps; an int takes the last ones.
            norm: accepted for timm's sake; the maps carry their norm already.
            stop_early: accepted for timm's sake; all branches are needed by any of them.
            output_fmt: only "NCHW".
            intermediates_only: leave out the final features.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt must be 'NCHW', got {output_fmt!r}")
        taken, _ = feature_take_indices(len(self.feature_info), indices)
        half, quarter = self.backbone.forward_stem(x)
        branches = self.backbone.forward_stages(quarter)
        maps = [half, *branches]
        chosen = [maps[i] for i in taken]
        return chosen if intermediates_only else (self.head.merge(branches), chosen)

    @torch.jit.ignore
    def prune_intermediate_layers(
        self, indices: int | list[int] | tuple[int, ...] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop the head; the parallel branches all stay, since each needs the others."""
        taken, _ = feature_take_indices(len(self.feature_info), indices)
        if prune_head:
            self.head, self.global_pool = nn.Identity(), nn.Identity()  # type: ignore[assignment]
        return taken


def _default_cfg() -> dict[str, Any]:
    return {
        "url": "",
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": (7, 7),
        "crop_pct": 0.875,
        "interpolation": "bicubic",
        "mean": IMAGENET_MEAN,
        "std": IMAGENET_STD,
        "first_conv": "backbone.conv1",
        "classifier": "head.classifier",
        "license": "mit",
        "origin_url": "https://github.com/HRNet/HRFormer",
    }


default_cfgs = generate_default_cfgs({f"{name}.untrained": _default_cfg() for name in NAMES})


def _entry(name: str) -> Callable[..., nn.Module]:
    def entry(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        return build_model_with_cfg(
            TimmHRFormer,
            name,
            pretrained,
            name=name,
            feature_cfg={"out_indices": (0, 1, 2, 3, 4), "feature_cls": "getter"},
            **kwargs,
        )

    entry.__name__ = entry.__qualname__ = name
    entry.__doc__ = f"{name} for image classification."
    entry.__module__ = __name__
    return entry


for _name in NAMES:
    register_model(_entry(_name))
