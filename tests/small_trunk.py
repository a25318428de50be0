"""The smallest trunk with every kind of layer, for what takes time per operation: compilers and exporters."""

from __future__ import annotations

from torch import nn

from hrformer.models.blocks import BasicBlock, TransformerBlock
from hrformer.models.fusion import UpsampleMode
from hrformer.models.trunk import HighResolutionTrunk, TrunkConfig


def small_trunk(
    window: int, channels: tuple[int, int, int, int], *, multi_scale: bool, upsample: UpsampleMode
) -> HighResolutionTrunk:
    """All fusion units, and one block on each branch, in the last stage: earlier ones would repeat its operations.

    Args:
        window: of attention with 1, 2, 4 and 8 heads; 0 for HRNet's blocks and fusion.
        channels, multi_scale, upsample: see ``TrunkConfig``.
    """
    config = TrunkConfig(
        channels=channels,
        num_modules=(1, 1, 1),
        num_blocks=1,
        stage1_blocks=1,
        separable_fusion=window > 0,
        multi_scale=multi_scale,
        upsample=upsample,
    )

    def make_block(branch: int, depth: int) -> nn.Module:
        if depth < config.depth - 1:
            return nn.Identity()
        if window:
            return TransformerBlock(channels[branch], 2**branch, window=window)
        return BasicBlock(channels[branch])

    return HighResolutionTrunk(config, make_block)
