"""HRFormer as a timm model: every name is registered when this module is imported.

``timm.create_model("hrformer_small", features_only=True)`` then works as for timm's own models.
"""

# No postponed annotations here: symbolic tracing writes the annotation of ``forward`` into its code.
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import SelectAdaptivePool2d, create_classifier
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models import register_notrace_module as register_leaf
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from hrformer.fast.coat import set_grad_checkpointing
from hrformer.fast.compiled import convolutions_for_any_size
from hrformer.geometry.input_spec import IMAGENET_MEAN, IMAGENET_STD
from hrformer.models.attention import WindowAttention
from hrformer.models.fusion import FusionUnit, UpsampleMode
from hrformer.models.heads import ClassificationConfig, ClassificationHead
from hrformer.models.trunk import STEM_CHANNELS
from hrformer.zoo import VARIANTS, backbone_config, build_backbone

NAMES = tuple(name for name in VARIANTS if name.startswith("hrformer_"))

# Both choose by the size of their input, which symbolic tracing cannot follow.
register_leaf(WindowAttention)
register_leaf(FusionUnit)


class TapHead(nn.Module):
    """Stands in for the classification head of a pruned model: the features end at one of the branches.

    Args:
        branch: index of the branch, finest first.
    """

    def __init__(self, branch: int) -> None:
        super().__init__()
        self.branch = branch
        self.classifier: nn.Module = nn.Identity()

    def merge(self, maps: list[Tensor]) -> Tensor:
        """The branch itself."""
        return maps[self.branch]


class TimmHRFormer(nn.Module):
    """Classification network with timm's model interface; state-dict names equal ``create_model``'s.

    Args:
        name: one of ``NAMES``.
        num_classes: 0 leaves out the classifier.
        in_chans: channels of the input image.
        global_pool: "avg", "max", "avgmax", "catavgmax", or "" to keep the map.
        drop_rate: dropout before the classifier.
        drop_path_rate: of the last block.
        window_size, position_bias, upsample, mlp_ratio: see ``create_model``; None means the variant's own.
        device, dtype: of all parameters.
    """

    def __init__(
        self,
        name: str,
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        window_size: int | None = None,
        position_bias: bool | None = None,
        upsample: UpsampleMode | None = None,
        mlp_ratio: float | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        config = backbone_config(
            name,
            "classification",
            in_chans=in_chans,
            drop_path_rate=drop_path_rate,
            window_size=window_size,
            position_bias=position_bias,
            upsample=upsample,
            mlp_ratio=mlp_ratio,
        )
        self.in_chans = in_chans
        self.drop_rate = drop_rate
        self.only_stem = False
        self.backbone = build_backbone(config)
        branches = self.backbone.feature_info
        # The linear layer depends on the pooling, so it is made below.
        self.head: ClassificationHead | TapHead = ClassificationHead(branches, 0, ClassificationConfig())
        self.num_features = self.head.num_features
        self.global_pool = SelectAdaptivePool2d(pool_type=global_pool)
        self.reset_classifier(num_classes, global_pool)
        maps: list[dict[str, Any]] = [{"num_chs": STEM_CHANNELS, "reduction": 2, "module": "backbone.conv1"}]
        maps += [{"num_chs": f.channels, "reduction": f.stride, "module": "backbone.stage4"} for f in branches]
        self.feature_info = maps
        self.to(device=device, dtype=dtype)

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Parameter groups from input to output, for layer-wise learning rates."""
        blocks: list[tuple[str, Any]] = [(r"^backbone\.(?:layer|transition|stage)(\d)", None)]
        if not coarse:
            transitions = [(rf"^backbone\.transition{stage}", (stage, 99)) for stage in (1, 2, 3)]
            blocks = [(r"^backbone\.layer1", (0,)), (r"^backbone\.stage(\d)\.(\d+)", None), *transitions]
        return {"stem": r"^backbone\.(?:conv|bn)\d", "blocks": blocks}

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Nothing beyond 1-D parameters: the published ImageNet runs decay the bias tables."""
        return set()

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute branches in the backward pass."""
        set_grad_checkpointing(self.backbone, enable)

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        """The linear layer, or an identity without classes."""
        return self.head.classifier

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier by a fresh one; "" turns pooling off."""
        self.num_classes = num_classes
        pool = self.global_pool.pool_type if global_pool is None else global_pool
        self.global_pool, classifier = create_classifier(self.num_features, num_classes, pool)
        parameter = next(self.parameters())
        self.head.classifier = classifier.to(parameter.device, parameter.dtype).train(self.training)
        self.global_pool.train(self.training)
        self.head_hidden_size = self.num_features * self.global_pool.feat_mult()

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_chans, H, W) -> (B, 2048, ceil(H / 32), ceil(W / 32)); after pruning, the last map kept."""
        if self.only_stem:
            return self.backbone.forward_half(x)
        return self.head.merge(self.backbone.forward_stages(self.backbone.forward_stem(x)[1]))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pool, drop out, classify."""
        x = self.global_pool(x)
        x = F.dropout(x, self.drop_rate, self.training)
        return x if pre_logits else self.head.classifier(x)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_chans, H, W) -> logits (B, num_classes)."""
        if torch.jit.is_scripting():
            return self.forward_head(self.forward_features(x))
        else:
            with convolutions_for_any_size(x):
                return self.forward_head(self.forward_features(x))

    @torch.jit.ignore
    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
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
            stop_early: stop after the stem where that is all; any branch needs all others.
            output_fmt: only "NCHW".
            intermediates_only: leave out the final features.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt must be 'NCHW', got {output_fmt!r}")
        taken, last = feature_take_indices(len(self.feature_info), indices)
        with convolutions_for_any_size(x):
            if self.only_stem or (stop_early and last == 0):
                half = self.backbone.forward_half(x)
                return [half] if intermediates_only else (half, [half])
            half, quarter = self.backbone.forward_stem(x)
            branches = self.backbone.forward_stages(quarter)
            maps = [half, *branches]
            chosen = [maps[i] for i in taken]
            return chosen if intermediates_only else (self.head.merge(branches), chosen)

    @torch.jit.ignore
    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop the layers that none of the maps needs, so that data-parallel training sees no unused parameter.

        Args:
            indices: maps to keep, of the five; an int keeps the last ones.
            prune_norm: accepted for timm's sake.
            prune_head: drop the head even where the last map is kept; the features then end at that map.

        Returns:
            The indices kept, from 0.
        """
        taken, last = feature_take_indices(len(self.feature_info), indices)
        if last == 0:
            self.backbone.keep_only_half()
            self.only_stem = True
        else:
            kept = {i - 1 for i in taken if i} if prune_head or last < len(self.feature_info) - 1 else set(range(4))
            self.backbone.high_resolution_modules()[-1].fuse.drop_outputs(sorted(kept))
        if prune_head or last < len(self.feature_info) - 1:
            self.head = TapHead(last - 1).train(self.training)
            self.num_features = self.feature_info[last]["num_chs"]
            self.reset_classifier(0)
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
