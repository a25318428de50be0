"""HRFormer: the trunk with transformer branches."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from hrformer.models.blocks import TransformerBlock
from hrformer.models.fusion import UpsampleMode
from hrformer.models.trunk import HighResolutionTrunk, TrunkConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class HRFormerConfig:
    """Architecture of one HRFormer (paper, table of instances; HRFormer repository, configs).

    Attributes:
        channels, num_modules, num_blocks, upsample, multi_scale, in_chans: see ``TrunkConfig``.
        num_heads: heads of branches 0 to 3.
        window: side of the attention windows, in cells, on every branch.
        mlp_ratio: hidden width of the feed-forward network over its input.
        position_bias: add the relative position bias. Official pose weights need it off.
        drop_path_rate: of the last block; rates rise linearly from 0 over the depth.
    """

    channels: tuple[int, int, int, int]
    num_heads: tuple[int, int, int, int]
    num_modules: tuple[int, int, int]
    num_blocks: int = 2
    window: int = 7
    mlp_ratio: float = 4.0
    position_bias: bool = True
    drop_path_rate: float = 0.0
    upsample: UpsampleMode = "nearest"
    multi_scale: bool = True
    in_chans: int = 3

    def __post_init__(self) -> None:
        if len(self.num_heads) != 4:
            raise ValueError(f"num_heads needs 4 values, got {self.num_heads}")
        if not 0 <= self.drop_path_rate < 1:
            raise ValueError(f"drop_path_rate must lie in [0, 1), got {self.drop_path_rate}")
        if self.window < 1:
            raise ValueError(f"window must be at least 1 cell, got {self.window}")

    @property
    def trunk(self) -> TrunkConfig:
        """The part shared with HRNet. Stage 1 has 2 bottlenecks here."""
        return TrunkConfig(
            channels=self.channels,
            num_modules=self.num_modules,
            stage1_blocks=2,
            num_blocks=self.num_blocks,
            separable_fusion=True,
            upsample=self.upsample,
            multi_scale=self.multi_scale,
            in_chans=self.in_chans,
        )


def build_hrformer(config: HRFormerConfig) -> HighResolutionTrunk:
    """Trunk with transformer blocks; drop path depends on depth only, the same on every branch."""
    trunk = config.trunk

    def make_block(branch: int, depth: int) -> nn.Module:
        return TransformerBlock(
            config.channels[branch],
            config.num_heads[branch],
            window=config.window,
            mlp_ratio=config.mlp_ratio,
            position_bias=config.position_bias,
            drop_path=config.drop_path_rate * depth / max(trunk.depth - 1, 1),
        )

    return HighResolutionTrunk(trunk, make_block)
